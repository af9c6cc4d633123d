"""`hf_toedit.measure.WordFrequencies` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import WordFrequencies
from hf_toedit.measure.modules import base


class ToeditWordFrequencies(base.Module):
    measured = WordFrequencies
