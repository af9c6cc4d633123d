"""`hf_toedit.measure.TokenProbability` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import TokenProbability, citations
from hf_toedit.measure.modules import base


class ToeditTokenProbability(base.Module):
    measured = TokenProbability
    citation_of = citations.TOEDIT
    url = "https://arxiv.org/abs/2412.14689"
