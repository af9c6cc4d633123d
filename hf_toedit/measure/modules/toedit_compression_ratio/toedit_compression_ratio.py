"""`hf_toedit.measure.CompressionRatio` as a module of evaluate; see `hf_toedit.measure.modules`."""

from hf_toedit.measure import CompressionRatio
from hf_toedit.measure.modules import base


class ToeditCompressionRatio(base.Module):
    measured = CompressionRatio
