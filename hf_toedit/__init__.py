"""Token-level data editing (ToEdit, arXiv 2412.14689) for the Hugging Face libraries.

    from datasets import load_dataset
    from hf_toedit import ToEditTransform

    ds = load_dataset("json", data_files="texts.jsonl", split="train")
    ds = ds.map(ToEditTransform("demo"), batched=True)

Importing this package loads none of torch, transformers and datasets; names are fetched when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback import ToEditCallback as ToEditCallback
    from .config import ToEditConfig as ToEditConfig
    from .errors import ConfigError as ConfigError
    from .errors import PriorError as PriorError
    from .errors import RowError as RowError
    from .errors import SourceError as SourceError
    from .errors import ToEditError as ToEditError
    from .errors import ToEditWarning as ToEditWarning
    from .record import revert as revert
    from .rendering import oasst_threads as oasst_threads
    from .static_prior import StaticPrior as StaticPrior
    from .stats import DatasetStats as DatasetStats
    from .stats import summarize as summarize
    from .transform import ToEditTransform as ToEditTransform
    from .transformers_prior import TransformersPrior as TransformersPrior
    from .types import Prior as Prior
    from .types import ScoreRequest as ScoreRequest
    from .types import Scores as Scores
    from .vllm_prior import VLLMPrior as VLLMPrior
    from .vllm_prior import VLLMServerPrior as VLLMServerPrior

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "errors",
    "DatasetStats": "stats",
    "Prior": "types",
    "PriorError": "errors",
    "RowError": "errors",
    "ScoreRequest": "types",
    "Scores": "types",
    "SourceError": "errors",
    "StaticPrior": "static_prior",
    "ToEditCallback": "callback",
    "ToEditConfig": "config",
    "ToEditError": "errors",
    "ToEditTransform": "transform",
    "ToEditWarning": "errors",
    "TransformersPrior": "transformers_prior",
    "VLLMPrior": "vllm_prior",
    "VLLMServerPrior": "vllm_prior",
    "oasst_threads": "rendering",
    "revert": "record",
    "summarize": "stats",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
