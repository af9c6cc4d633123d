"""`hf_toedit.measure.NGrams.shift` as a module of evaluate; see `hf_toedit.measure.modules`."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_toedit.measure import NGrams, citations
from hf_toedit.measure.modules import base


class ToeditNgramShift(base.Module):
    measured = NGrams
    described = staticmethod(NGrams.shift)
    inputs = ("predictions", "references")
    citation_of = citations.DSIR
    url = "https://arxiv.org/abs/2302.03169"

    def figures(self, columns: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The shift from the references to the predictions."""
        before, after = (NGrams(**settings).update(columns[name]) for name in ("references", "predictions"))
        return dict(before.shift(after))
