"""Token-level data editing (ToEdit, arXiv 2412.14689) for the Hugging Face libraries.

    from datasets import load_dataset
    from hf_toedit import ToEditTransform, show, summarize

    ds = load_dataset("json", data_files="texts.jsonl", split="train")
    edited = ds.map(ToEditTransform("demo"), batched=True)
    show(edited)
    print(summarize(edited))

Importing this package loads none of torch, transformers and datasets; names are fetched when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback import ToEditCallback as ToEditCallback
    from .editing.config import ToEditConfig as ToEditConfig
    from .editing.selection import LossSelection as LossSelection
    from .editing.selection_stats import SelectionStats as SelectionStats
    from .editing.selection_stats import summarize_selection as summarize_selection
    from .editing.stats import DatasetStats as DatasetStats
    from .editing.stats import summarize as summarize
    from .errors import ConfigError as ConfigError
    from .errors import PriorError as PriorError
    from .errors import RowError as RowError
    from .errors import SourceError as SourceError
    from .errors import ToEditError as ToEditError
    from .errors import ToEditWarning as ToEditWarning
    from .hub.patches import load_edited as load_edited
    from .hub.push import push_dataset as push_dataset
    from .priors.server_prior import VLLMServerPrior as VLLMServerPrior
    from .priors.static_prior import StaticPrior as StaticPrior
    from .priors.transformers_prior import TransformersPrior as TransformersPrior
    from .priors.vllm_prior import VLLMPrior as VLLMPrior
    from .report.edits import show as show
    from .rows.oasst import oasst_threads as oasst_threads
    from .rows.revert import revert as revert
    from .selective_labels import SelectiveLabels as SelectiveLabels
    from .transform import ToEditTransform as ToEditTransform
    from .types import Prior as Prior
    from .types import ScoreRequest as ScoreRequest
    from .types import Scores as Scores

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "errors",
    "DatasetStats": "editing.stats",
    "LossSelection": "editing.selection",
    "Prior": "types",
    "PriorError": "errors",
    "RowError": "errors",
    "ScoreRequest": "types",
    "Scores": "types",
    "SelectionStats": "editing.selection_stats",
    "SelectiveLabels": "selective_labels",
    "SourceError": "errors",
    "StaticPrior": "priors.static_prior",
    "ToEditCallback": "callback",
    "ToEditConfig": "editing.config",
    "ToEditError": "errors",
    "ToEditTransform": "transform",
    "ToEditWarning": "errors",
    "TransformersPrior": "priors.transformers_prior",
    "VLLMPrior": "priors.vllm_prior",
    "VLLMServerPrior": "priors.server_prior",
    "load_edited": "hub.patches",
    "oasst_threads": "rows.oasst",
    "push_dataset": "hub.push",
    "revert": "rows.revert",
    "show": "report.edits",
    "summarize": "editing.stats",
    "summarize_selection": "editing.selection_stats",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
