"""`hf_toedit.measure.self_bleu` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import citations, self_bleu
from hf_toedit.measure.modules import base


class ToeditSelfBleu(base.Module):
    measured = staticmethod(self_bleu)
    citation_of = citations.TEXYGEN
    url = "https://arxiv.org/abs/1802.01886"
