"""The options that commands share: what to read, which prior to ask, and where to write."""

from __future__ import annotations

import dataclasses
import inspect
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from ..display import visible
from ..errors import ConfigError
from ..files.secret import Secret
from ..files.sources import load_source
from ..files.textfiles import EncodingErrors
from ..hub.source import Source
from ..report.files import HISTOGRAM, STATS
from ..scale.mapping import edit_rows
from ..scale.planning import Planned, plan_source
from ..scale.storage import Storage
from ..transform import ToEditTransform
from ..types import Prior, ScoreRequest

if TYPE_CHECKING:
    from datasets import DatasetDict


Engine = Literal["transformers", "vllm"]
SCORES = "toedit_score"  # a column of our own: the source may have a `toedit` one
SOURCE_HELP = (
    "A file (.jsonl, .json, .parquet, .csv, .tsv, or .txt with a row per line; also .gz), several files of one format, "
    "a quoted pattern such as 'data/*.jsonl', - for stdin (JSON Lines or text), a folder of such files, a folder "
    "written by save_to_disk or by this command, or the id of a dataset on the Hub, also with a revision, as in "
    "org/name@v1."
)
SourceNames = Annotated[list[str], typer.Argument(metavar="SOURCE", show_default=False, help=SOURCE_HELP)]
Out = Annotated[Path, typer.Option(help="The folder to write to. It must be new or empty.", show_default=False)]
OUT_HELP = (
    "The folder to write to, or the URL of one in an object store, such as s3://bucket/name or "
    "hf://buckets/owner/name/folder. It must be new or empty, or hold the same edit, which is then resumed."
)
OutOrUrl = Annotated[str, typer.Option(metavar="FOLDER", help=OUT_HELP, show_default=False)]
StatsColumn = Annotated[str, typer.Option(help="The column that records each row's status, statistics and edits.")]
Split = Annotated[str | None, typer.Option(help="Read only this split. Files have one split, train. Default: all.")]
COLUMNS_HELP = (
    "Columns to edit, as a,b or by repeating the option. Default: the first of these that the rows have: input_ids, "
    "messages, conversations, prompt and answer, text, content."
)
CONTEXT_HELP = "Columns that the prior reads before those to edit; they are not changed."
ROLES_HELP = "The roles to edit in conversations. Default: assistant."
UNIT_SIZE_HELP = (
    "About how much of the source a worker edits at a time, such as 64MB. If it dies, the work on that much is lost."
)
UnitSize = Annotated[str, typer.Option(help=UNIT_SIZE_HELP)]
ENCODING_HELP = (
    "What to do with bytes that are not UTF-8, and with lone surrogates in JSON: stop, or read them as the text "
    "\\xe9 and \\ud800."
)
Subset = Annotated[str | None, typer.Option(help="The configuration to read, of a Hub dataset with several.")]
Limit = Annotated[int | None, typer.Option(help="Read only the first rows of each split, this many.", min=1)]
Encoding = Annotated[EncodingErrors, typer.Option(help=ENCODING_HELP)]
MAX_LENGTH_HELP = "The prior's window, in tokens. Default: the model's own, up to 4,096."


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What to read, what to edit, and in what portions."""

    source: SourceNames
    split: Split = None
    subset: Subset = None
    limit: Limit = None
    columns: Annotated[list[str] | None, typer.Option(help=COLUMNS_HELP)] = None
    context: Annotated[list[str] | None, typer.Option(help=CONTEXT_HELP)] = None
    roles: Annotated[list[str] | None, typer.Option(help=ROLES_HELP)] = None
    workers: Annotated[int, typer.Option(help="Number of processes, each with its own copy of the prior.", min=1)] = 1
    batch_size: Annotated[int, typer.Option(help="Number of rows to edit at a time.", min=1)] = 1000
    encoding_errors: Encoding = "strict"

    def load(self) -> DatasetDict:
        return read_source(self.source, **self._which())

    def plan(self, storage: Storage, unit_bytes: int) -> Planned:
        """The rows in units, without empty splits; a note names these."""
        planned = plan_source(self.source, storage, unit_bytes=unit_bytes, **self._which())
        for split in planned.empty_splits:
            _note_empty(split)
        return planned

    def _which(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("split", "subset", "limit", "encoding_errors")}

    def words(self, origin: Source | None) -> list[str]:
        """The SOURCE and the options with which somebody else reads the same rows; files by their bare names."""
        is_on_the_hub = origin is not None and not origin.is_local
        words = [str(origin)] if is_on_the_hub else [Source(name).name for name in self.source]
        subset = self.subset or (origin.subset if origin is not None else None)
        options = {"split": self.split, "subset": subset, "limit": self.limit}
        if self.encoding_errors != "strict":
            options["encoding-errors"] = self.encoding_errors
        given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
        return [*words, *chain(*given)]

    def request(self) -> dict[str, Any]:
        """What a second call must ask for, too, to resume an edit."""
        return {"source": self.source, **self._which(), "batch_size": self.batch_size}

    def what_to_edit(self) -> dict[str, Any]:
        """The `columns`, `context` and `roles` of a ToEditTransform that were given."""
        return names_in(columns=self.columns, context=self.context, roles=self.roles)

    def edit(
        self, dataset: DatasetDict, transform: ToEditTransform, folder: Path, keep_columns: bool = True
    ) -> DatasetDict:
        """The splits as the transform edits them, with intermediate files in `folder`."""
        return type(dataset)(
            {
                split: edit_rows(
                    rows,
                    transform,
                    folder / f"{split}.arrow",
                    batch_size=self.batch_size,
                    num_proc=self.workers,
                    keep_columns=keep_columns,
                    title=str(split),
                )
                for split, rows in dataset.items()
            }
        )


@dataclasses.dataclass(frozen=True)
class PriorOptions:
    """The language model."""

    prior: Annotated[str, typer.Option(help="A Hub id, a folder, or 'demo', a small bundled prior.")]
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the prior on the Hub.")] = None
    device: Annotated[str, typer.Option(help="Where the prior runs: auto, cpu, cuda, cuda:1, mps, ...")] = "auto"
    dtype: Annotated[str, typer.Option(help="The prior's precision: auto, float32, bfloat16, ...")] = "auto"
    max_length: Annotated[int | None, typer.Option(help=MAX_LENGTH_HELP)] = None
    stride: Annotated[int | None, typer.Option(help="Minimum context, in tokens, beyond the first window.")] = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the prior.")
    ] = False
    engine: Annotated[Engine, typer.Option(help="The library that runs the prior in this process.")] = "transformers"
    url: Annotated[str | None, typer.Option(help="The URL of a running vLLM server that serves the prior.")] = None

    def load(self, workers: int, *, here: bool = True, is_asked: bool = True) -> Prior:
        """The prior, once it is seen to work. With several workers, or workers elsewhere, only these load its weights.

        here: whether the workers run on this machine. is_asked: whether the edit needs its weights at all.
        """
        from ..priors.server_prior import VLLMServerPrior
        from ..priors.transformers_prior import TransformersPrior
        from ..priors.vllm_prior import VLLMPrior

        kind: type[VLLMServerPrior | VLLMPrior | TransformersPrior] = (
            VLLMServerPrior if self.url else VLLMPrior if self.engine == "vllm" else TransformersPrior
        )
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("prior", "engine")}
        for name in fields.keys() - inspect.signature(kind).parameters.keys():
            if fields.pop(name) not in ("auto", None):
                raise ConfigError(f"--{name} has no effect on {kind.__name__}: leave it out")
        if kind is VLLMPrior and workers > 1 and here:
            raise ConfigError(
                f"--workers {workers} can't be combined with --engine vllm, which starts processes of its own"
            )
        if self.url and "@" in self.url:  # a login, which the file with the edit must not hold
            fields["url"] = Secret(self.url, "url")
        loaded: Prior = kind(self.prior, **fields)
        if workers > 1 or not here or not is_asked:
            _ = loaded.tokenizer, loaded.max_length
        else:
            loaded.score([ScoreRequest(np.array([0, 0]), np.array([1]))], top_k=2)
        return loaded


def names_in(**given: list[str] | None) -> dict[str, list[str]]:
    """The names in options that were given, `a,b` or repeated."""
    return {
        option: [name.strip() for value in values for name in value.split(",")]
        for option, values in given.items()
        if values
    }


def read_source(source: list[str], **options: Any) -> DatasetDict:
    """`load_source` without empty splits, which `load_dataset` could not read back; a note names them."""
    loaded = load_source(source, **options)
    for split in [split for split, rows in loaded.items() if not len(rows)]:
        del loaded[split]
        _note_empty(str(split))
    return loaded


def _note_empty(split: str) -> None:
    note(f"split {split!r} has no rows and is left out")


def note(line: str) -> None:
    """Print a note on stderr."""
    Console(stderr=True).print(Text(f"note: {line}"), soft_wrap=True)


def say_where(console: Console, out: str | Path, how: str = "") -> None:
    """Print where the output lies, and how to read it."""
    line = f"\nWrote {visible(str(out))}" + (f"; read it with {how}" if how else "")
    if (out := Path(out)).is_dir() and (out / STATS).exists() and not (out / HISTOGRAM).exists():
        line += f"\n{HISTOGRAM} needs matplotlib: pip install 'hf-toedit[plot]'"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
