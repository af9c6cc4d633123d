"""Which edit made a row: what one must know to do it again, and a fingerprint of that."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from .. import __version__
from ..files.secret import is_secret_name, shown
from ..types import Prior

LIBRARIES = ("datasets", "numpy", "tokenizers", "torch", "transformers")
NAMES = ("prior", "stats_column")  # a folder may move and a column be called otherwise: it is the same edit
# Options of transformers and vLLM that say where and how fast a prior runs.
NOT_RECORDED = {
    *("cache_dir", "download_dir", "local_files_only"),
    *("device_map", "max_memory", "low_cpu_mem_usage", "offload_folder", "gpu_memory_utilization", "cpu_offload_gb"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
    *("max_num_seqs", "max_num_batched_tokens", "swap_space", "enforce_eager", "disable_log_stats"),
}


def prior_record(prior: Prior) -> dict[str, Any]:
    """What decides a prior's probabilities, JSON-ready. `revision` is null for a prior that has none."""
    options = getattr(prior, "options", {})
    return {
        "prior": getattr(prior, "name", type(prior).__name__),
        "prior_class": type(prior).__name__,
        "revision": getattr(prior, "revision", None),
        "prior_options": _json_ready(options) if isinstance(options, Mapping) else {},
        "max_length": prior.max_length,
        "stride": prior.stride,
    }


def fingerprint(record: Mapping[str, Any]) -> str | None:
    """16 hex characters over a record, its NAMES aside; None where nothing says which revision of a prior it was."""
    if record["revision"] is None:
        return None
    identity = {name: value for name, value in record.items() if name not in NAMES}
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Of this package, Python and the libraries that are installed; by default those that have a part in an edit."""
    installed = {distribution.name for distribution in metadata.distributions()}
    found = {name: metadata.version(name) for name in libraries if name in installed}
    return {"hf_toedit": __version__, "python": platform.python_version(), **found}


def _is_recorded(name: str) -> bool:
    """Whether an option may be written down and has a part in the probabilities."""
    return name not in NOT_RECORDED and not is_secret_name(name)


def _json_ready(value: Any) -> Any:
    """JSON-ready, the same in every process: dtypes by their names, configurations as dicts, other objects by class."""
    if isinstance(value, Mapping):
        return {str(key): _json_ready(inner) for key, inner in value.items() if _is_recorded(str(key))}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json_ready(inner) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return shown(value).removeprefix("torch.") if isinstance(value, str) else value
    if hasattr(value, "to_dict"):
        return {"class": type(value).__name__, **_json_ready(value.to_dict())}
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text.removeprefix("torch.")
