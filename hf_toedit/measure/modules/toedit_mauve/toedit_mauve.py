"""`hf_toedit.measure.mauve` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import citations, mauve
from hf_toedit.measure.modules import base


class ToeditMauve(base.Module):
    measured = staticmethod(mauve)
    inputs = ("predictions", "references")
    citation_of = citations.MAUVE
    url = "https://arxiv.org/abs/2102.01454"
