"""Which edit made a row: all that is needed to repeat it, and a fingerprint of that."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from tokenizers import Tokenizer

from .. import __version__
from ..editing.stats import UNKNOWN, DatasetStats
from ..errors import RowError
from ..files.secret import is_secret_name, shown
from ..types import Prior, PriorDetails

LIBRARIES = ("datasets", "numpy", "tokenizers", "torch", "transformers")
NAMES = ("prior", "stats_column")  # a folder may move and a column may be renamed: the edit is the same
# Options of transformers and vLLM that say where and how fast a prior runs.
NOT_RECORDED = {
    *("cache_dir", "download_dir", "local_files_only"),
    *("device_map", "max_memory", "low_cpu_mem_usage", "offload_folder", "gpu_memory_utilization", "cpu_offload_gb"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
    *("max_num_seqs", "max_num_batched_tokens", "swap_space", "enforce_eager", "disable_log_stats"),
}


def prior_record(prior: Prior) -> dict[str, Any]:
    """What a prior's probabilities depend on, ready for JSON. `revision` is null for a prior that has none."""
    details = PriorDetails(prior)
    return {
        "prior": details.name or type(prior).__name__,
        "prior_class": type(prior).__name__,
        "revision": details.revision,
        "prior_options": _json_ready(details.options),
        "max_length": prior.max_length,
        "stride": prior.stride,
    }


def prior_identity(prior: Prior) -> dict[str, Any]:
    """What helps to find the same prior again, but is no part of the fingerprint: its id on the Hub, its tokenizer."""
    return {"prior_hub_id": PriorDetails(prior).hub_id, "tokenizer": tokenizer_record(prior.tokenizer)}


def tokenizer_record(tokenizer: Tokenizer) -> dict[str, Any]:
    """How many tokens a tokenizer has, and a digest (16 hex characters) of all of them with their ids."""
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items())
    text = json.dumps(vocabulary)
    return {"num_tokens": len(vocabulary), "digest": hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}


def fingerprint(record: Mapping[str, Any]) -> str | None:
    """16 hex characters, a digest of a record without its NAMES; None if the prior has no revision."""
    if record["revision"] is None:
        return None
    identity = {name: value for name, value in record.items() if name not in NAMES}
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def stats_column_of(record: Mapping[str, Any]) -> str:
    """The column in which an edit is recorded. Raises RowError if there is none."""
    column: str | None = record["stats_column"]
    if column is None:
        raise RowError("with stats_column=None rows don't say which edit made them: leave it out, and edit again")
    return column


def check_made_by(record: Mapping[str, Any], stats: DatasetStats, verb: str) -> None:
    """Raise RowError if another edit made some of the rows. stats: of all rows. verb: what is done with them."""
    own = record["fingerprint"] or UNKNOWN
    if others := stats.fingerprints.keys() - {own}:
        raise RowError(
            f"another transform edited these rows (fingerprint {min(others)}; this one has {own}): "
            f"{verb} them with the one that did"
        )


def without_paths(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record without the paths of the prior and the base on this machine."""
    base = {"base": without_paths(record["base"])} if record.get("base") else {}
    prior = {} if record["prior"] is None else {"prior": bare_name(str(record["prior"]))}
    return {**record, **prior, **base}


def bare_name(name: str) -> str:
    """The name of a prior; of a folder's path, the last part alone."""
    is_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    return last_part(name) if is_path else name


def last_part(path: str) -> str:
    """The last part of a path, of this system or another."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """The versions of this package, Python and the installed libraries, by default those that take part in an edit."""
    installed = {distribution.name for distribution in metadata.distributions()}
    of_libraries = {name: metadata.version(name) for name in libraries if name in installed}
    return {"hf_toedit": __version__, "python": platform.python_version(), **of_libraries}


def _is_recorded(name: str) -> bool:
    """Whether an option is not a secret and affects the probabilities."""
    return name not in NOT_RECORDED and not is_secret_name(name)


def _json_ready(value: Any) -> Any:
    """A value ready for JSON, the same in every process: dtypes by name, configurations as dicts, objects by class."""
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
