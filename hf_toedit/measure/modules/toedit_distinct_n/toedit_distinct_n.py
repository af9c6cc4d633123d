"""`hf_toedit.measure.DistinctN` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import DistinctN, citations
from hf_toedit.measure.modules import base


class ToeditDistinctN(base.Module):
    measured = DistinctN
    citation_of = citations.DISTINCT_N
    url = "https://aclanthology.org/N16-1014"
