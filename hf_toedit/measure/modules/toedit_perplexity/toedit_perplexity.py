"""`hf_toedit.measure.Perplexity` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import Perplexity, citations
from hf_toedit.measure.modules import base


class ToeditPerplexity(base.Module):
    measured = Perplexity
    citation_of = citations.TOEDIT
    url = "https://arxiv.org/abs/2412.14689"
