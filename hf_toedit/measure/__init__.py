"""Measurements of texts: how likely a prior finds them, how diverse they are, what an edit did to them.

    from hf_toedit.measure import NGrams, Perplexity, measure

    results = measure(ds, NGrams(), Perplexity(), prior="demo")

`one_pass` (`measure`: any number of measurements, one pass), `documents` (what they read of a row), `batches` (of
documents, whose n-grams are counted and hashed once), `reading` (rows in any format, and their scores), `containers`
(what rows come in), `measurement` (what all measurements share).

With a prior: `probability` (how likely the tokens are), `perplexity` (of each document). Of the text: `words` (what a
word is), `ngrams` (their distribution, hashed, and its shift), `distinct` (distinct n-grams), `frequencies` (of words:
entropy, Zipf's law), `compression`. Of edited rows: `edits`.

On a sample, by libraries of their own: `samples` (self-BLEU, the Vendi score, MAUVE), `features` (of texts). For
`evaluate`: `modules`. `citations`: the papers.

For `hf-toedit measure`: `tally` (all that is counted of a dataset), `intervals` (by resampling), `figures`, `verdicts`,
`side_by_side` (two datasets), `identity` (which rows were measured). For `hf-toedit filter`: `quantiles`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compression import CompressionRatio as CompressionRatio
    from .distinct import DistinctN as DistinctN
    from .documents import Document as Document
    from .edits import EditProfile as EditProfile
    from .features import text_features as text_features
    from .frequencies import WordFrequencies as WordFrequencies
    from .measurement import Measurement as Measurement
    from .modules import module_names as module_names
    from .modules import module_path as module_path
    from .ngrams import NGrams as NGrams
    from .one_pass import measure as measure
    from .perplexity import Perplexity as Perplexity
    from .probability import TokenProbability as TokenProbability
    from .reading import read_documents as read_documents
    from .samples import mauve as mauve
    from .samples import self_bleu as self_bleu
    from .samples import vendi_score as vendi_score
    from .words import words_of as words_of

_HOME = {
    "CompressionRatio": "compression",
    "DistinctN": "distinct",
    "Document": "documents",
    "EditProfile": "edits",
    "Measurement": "measurement",
    "NGrams": "ngrams",
    "Perplexity": "perplexity",
    "TokenProbability": "probability",
    "WordFrequencies": "frequencies",
    "mauve": "samples",
    "measure": "one_pass",
    "module_names": "modules",
    "module_path": "modules",
    "read_documents": "reading",
    "self_bleu": "samples",
    "text_features": "features",
    "vendi_score": "samples",
    "words_of": "words",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
