"""`measure`: any number of measurements in one pass over the rows."""

from __future__ import annotations

from typing import Any, Unpack

from ..errors import ConfigError
from .batches import in_batches
from .compression import CompressionRatio
from .distinct import DistinctN
from .frequencies import WordFrequencies
from .measurement import Measurement
from .ngrams import NGrams
from .perplexity import Perplexity
from .probability import TokenProbability
from .reading import ReadingOptions, read_documents


def measure(data: Any, *measurements: Measurement, **options: Unpack[ReadingOptions]) -> dict[str, dict[str, Any]]:
    """Measure a dataset; return the results by name of the measurement.

        measure(ds)
        measure(ds, NGrams(), Perplexity(), prior="demo")["perplexity"]["median"]

    Each row is read and scored once, in batches, however many measurements there are: a stream larger than memory is
    fine. The measurements themselves are updated, too, so that they can be merged and compared.

    data: a Dataset, an IterableDataset or a dict of splits; a pandas or Arrow table; a file or a folder of files, also
        that of a large edit while it runs; a row, a batch (a dict of lists), or any iterable of rows or of texts.
    measurements: by default all of a text; with a prior, also TokenProbability and Perplexity.
    prior: as in ToEditTransform: a Hub id, a folder, "demo", a (model, tokenizer) pair or a Prior object.
    columns, context, roles, chat_template: what to read and score of a row, as in ToEditTransform.
    tokenizer: the tokenizer that made `input_ids`, to read them as text; not needed with a prior.
    stats_column: the column that records the edits.

    Rows that can't be read or scored are counted by status, under `skipped`. Raises ConfigError, PriorError,
    SourceError, and RowError for a missing column.
    """
    chosen = measurements or default_measurements(with_prior=options.get("prior") is not None)
    for measurement in chosen:
        if not isinstance(measurement, Measurement):
            raise ConfigError(
                f"{_named(measurement)} is not a measurement: measure(data, NGrams(), Perplexity(), prior='demo')"
            )
    names = [measurement.name for measurement in chosen]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"there are two measurements called {twice!r}: measure them in two calls")
    for batch in in_batches(read_documents(data, **options)):
        for measurement in chosen:
            measurement.add_batch(batch)
    return {measurement.name: measurement.result() for measurement in chosen}


def default_measurements(*, with_prior: bool) -> tuple[Measurement, ...]:
    """All measurements of a text; with a prior, also of how likely it is."""
    of_text = (NGrams(), DistinctN(), WordFrequencies(), CompressionRatio())
    return (*of_text, TokenProbability(), Perplexity()) if with_prior else of_text


def _named(value: object) -> str:
    """What was passed, in a few words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return repr(value) if isinstance(value, str) else type(value).__name__
