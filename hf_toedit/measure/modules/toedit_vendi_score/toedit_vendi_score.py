"""`hf_toedit.measure.vendi_score` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import citations, vendi_score
from hf_toedit.measure.modules import base


class ToeditVendiScore(base.Module):
    measured = staticmethod(vendi_score)
    citation_of = citations.VENDI
    url = "https://arxiv.org/abs/2210.02410"
