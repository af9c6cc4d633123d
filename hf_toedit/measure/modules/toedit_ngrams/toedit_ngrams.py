"""`hf_toedit.measure.NGrams` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import NGrams, citations
from hf_toedit.measure.modules import base


class ToeditNgrams(base.Module):
    measured = NGrams
    citation_of = citations.DSIR
    url = "https://arxiv.org/abs/2302.03169"
