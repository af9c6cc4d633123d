"""`hf_toedit.measure.EditProfile` as a module of evaluate; see `hf_toedit.measure.modules`."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_toedit.measure import Document, EditProfile, citations
from hf_toedit.measure.modules import base
from hf_toedit.rows.column import struct_type


class ToeditEditProfile(base.Module):
    measured = EditProfile
    inputs = ("predictions", "toedit")
    citation_of = citations.TOEDIT
    url = "https://arxiv.org/abs/2412.14689"

    def _features(self) -> Any:
        import datasets
        import pyarrow as pa

        columns = pa.schema([("predictions", pa.string()), ("toedit", struct_type())])
        features = datasets.Features.from_arrow_schema(columns)
        for name in ("fingerprint", "digest"):  # evaluate takes None for a large_string, but not for a string
            features["toedit"][name] = datasets.Value("large_string")
        return features

    def figures(self, columns: Mapping[str, Sequence[Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The figures of rows that have one edited text each, in whichever column it was."""
        profile = EditProfile(**settings)
        for text, struct in zip(columns["predictions"], columns["toedit"], strict=True):
            edits = struct["edits"] if struct else []
            row = {edit["column"]: text for edit in edits if edit["kind"] != "ids"}  # a text has no places of ids
            profile.add(Document(text or "", edit=struct, row=row))
        return profile.result()

    def add(self, *, toedit: Any = None, **columns: Any) -> None:
        """Add one text and its struct."""
        super().add(toedit=_measured(toedit), **columns)

    def add_batch(self, *, toedit: Any = None, **columns: Any) -> None:
        """Add texts and their structs."""
        super().add_batch(toedit=None if toedit is None else [_measured(struct) for struct in toedit], **columns)


def _measured(struct: Any) -> Any:
    """A struct without the field that only some edits have: evaluate takes one type."""
    if not isinstance(struct, Mapping):
        return struct
    return {name: value for name, value in struct.items() if name != "added"}
