"""The command line: `hf-toedit edit`, `score`, `revert`, `run` and `demo`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from . import __version__
from .arguments import as_names
from .config import ToEditConfig
from .editor import StatsMode
from .errors import ConfigError, RowError, StoppedError, ToEditError
from .interrupts import interruptible, outlive_readers
from .record import revert as revert_rows
from .remedies import told_afterwards
from .report import edited_rows, show_edits, show_run, visible, write_edited, write_report
from .runner import RunOptions, run_recipe
from .secret import scrubbed
from .sources import WORK_FOLDER, load_source, new_folder, save_dataset
from .stats import summarize
from .textfiles import EncodingErrors
from .transform import ToEditTransform
from .types import Prior, ScoreRequest
from .yamls import read_fields

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

NUM_SHOWN = 5
EXIT_CODE = 2
SCORES = "toedit_score"  # a column of `score` alone; the source may have a `toedit` one
Engine = Literal["transformers", "vllm"]
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Token-level data editing (ToEdit, arXiv 2412.14689) for Hugging Face datasets.",
    epilog="Exit codes: 0, done; 1, an unexpected error, with a traceback; 2, an error, reported in one line on "
    "stderr; 130, interrupted by Ctrl-C; 143, terminated. A command that fails leaves no output folder behind.",
)

Source = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="A file (.jsonl, .json, .parquet, .csv, .tsv, .txt with a row per line; also .gz), several files of one "
        "format, a quoted pattern such as 'data/*.jsonl', - for stdin (JSON Lines or text), a folder of such files, a "
        "folder written by save_to_disk or by this command, or the id of a dataset on the Hub.",
    ),
]
Out = Annotated[Path, typer.Option(help="The folder to write. It must be new or empty.", show_default=False)]
StatsColumn = Annotated[str, typer.Option(help="The column with each row's status, statistics and edits.")]
Split = Annotated[str | None, typer.Option(help="One split of the dataset; files have one, train. Default: all.")]
RECORDED = ("columns", "context", "roles")  # what `--config toedit.json` gives besides the config
CONFIG_HELP = (
    "A YAML file of the settings below, or the toedit.json of an earlier run, whose columns, context and roles are "
    "taken too (not its prior, --stats or --stats-column). Options override it."
)
COLUMNS_HELP = (
    "Columns to edit, as a,b or with the option repeated. Default: the first that the rows have of input_ids, "
    "messages, conversations, prompt and answer, text, content."
)
CONTEXT_HELP = "Columns that the prior reads in front of those to edit; they are left as they are."
ROLES_HELP = "The roles to edit in conversations. Default: assistant."
ENCODING_HELP = (
    "What to do with bytes that are not UTF-8, and with lone surrogates in JSON: stop, or read them as text, "
    "\\xe9 and \\ud800."
)
MAX_LENGTH_HELP = "Window in tokens. Default: the model's own, up to 4,096."


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What to read, and how to walk through it."""

    source: Source
    split: Split = None
    subset: Annotated[str | None, typer.Option(help="The configuration of a Hub dataset that has several.")] = None
    limit: Annotated[int | None, typer.Option(help="Only this many rows of each split, the first ones.", min=1)] = None
    columns: Annotated[list[str] | None, typer.Option(help=COLUMNS_HELP)] = None
    context: Annotated[list[str] | None, typer.Option(help=CONTEXT_HELP)] = None
    roles: Annotated[list[str] | None, typer.Option(help=ROLES_HELP)] = None
    num_proc: Annotated[int, typer.Option(help="Processes, each with its own copy of the prior.", min=1)] = 1
    batch_size: Annotated[int, typer.Option(help="How many rows are edited together.", min=1)] = 1000
    encoding_errors: Annotated[EncodingErrors, typer.Option(help=ENCODING_HELP)] = "strict"

    def load(self) -> DatasetDict:
        options = {name: getattr(self, name) for name in ("split", "subset", "limit", "encoding_errors")}
        return read_source(self.source, **options)

    def what_to_edit(self) -> dict[str, Any]:
        """`columns`, `context` and `roles` of a ToEditTransform, as far as they are given."""
        given = {"columns": self.columns, "context": self.context, "roles": self.roles}
        return {
            option: [name.strip() for value in values for name in value.split(",")]
            for option, values in given.items()
            if values
        }

    def map(
        self, dataset: DatasetDict, function: Callable[..., Any], folder: Path, remove_columns: bool = False
    ) -> DatasetDict:
        """`dataset.map`, with the intermediate files in `folder`."""
        with told_afterwards():
            mapped = {
                split: rows.map(
                    function,
                    batched=True,
                    batch_size=self.batch_size,
                    num_proc=self.num_proc if self.num_proc > 1 else None,
                    remove_columns=rows.column_names if remove_columns else None,
                    cache_file_name=str(folder / f"{split}.arrow"),
                    desc=str(split),
                )
                for split, rows in dataset.items()
            }
        return type(dataset)(mapped)


@dataclasses.dataclass(frozen=True)
class PriorOptions:
    """The language model."""

    prior: Annotated[str, typer.Option(help="A Hub id, a folder, or 'demo', a small bundled prior.")]
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the prior on the Hub.")] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto"
    max_length: Annotated[int | None, typer.Option(help=MAX_LENGTH_HELP)] = None
    stride: Annotated[int | None, typer.Option(help="Least context of a token beyond the first window.")] = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the prior.")
    ] = False
    engine: Annotated[Engine, typer.Option(help="What runs the prior in this process.")] = "transformers"
    url: Annotated[str | None, typer.Option(help="The URL of a running vLLM server that serves the prior.")] = None

    def load(self, num_proc: int) -> Prior:
        """The prior, after it has been seen to work. With worker processes these load the weights, not this one."""
        from .transformers_prior import TransformersPrior
        from .vllm_prior import VLLMPrior, VLLMServerPrior

        kind: Any = VLLMServerPrior if self.url else VLLMPrior if self.engine == "vllm" else TransformersPrior
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("prior", "engine")}
        for name in fields.keys() - inspect.signature(kind).parameters.keys():
            if fields.pop(name) not in ("auto", None):
                raise ConfigError(f"--{name} has no effect on {kind.__name__}: leave it out")
        if kind is VLLMPrior and num_proc > 1:
            raise ConfigError(
                f"--num-proc {num_proc} can't be combined with --engine vllm, which starts processes of its own"
            )
        loaded: Prior = kind(self.prior, **fields)
        if num_proc > 1:
            _ = loaded.tokenizer, loaded.max_length
        else:
            loaded.score([ScoreRequest(np.array([0, 0]), np.array([1]))], top_k=2)
        return loaded


def read_source(source: list[str], **options: Any) -> DatasetDict:
    """`load_source` without splits that have no rows, which `load_dataset` could not read back; a note names them."""
    loaded = load_source(source, **options)
    for split in [split for split, rows in loaded.items() if not len(rows)]:
        del loaded[split]
        Console(stderr=True).print(Text(f"note: split {str(split)!r} has no rows and is left out"), soft_wrap=True)
    return loaded


def field_help() -> dict[str, str]:
    """What the docstring of ToEditConfig says of each field."""
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", ToEditConfig.__doc__ or "", re.MULTILINE)
    texts = {names: re.sub(r"\s+", " ", text[0].upper() + text[1:]) for names, text in entries}
    return {name: text for names, text in texts.items() for name in names.split(", ")}


def config_parameters(names: tuple[str, ...] = ()) -> list[inspect.Parameter]:
    """`--config FILE`, and an option for each field of ToEditConfig (or for those named) that means "not given"."""
    hints, helps = get_type_hints(ToEditConfig), field_help()
    parameters = [_keyword("config", Annotated[Path | None, typer.Option(help=CONFIG_HELP)], None)]
    for field in dataclasses.fields(ToEditConfig):
        if not names or field.name in names:
            repeated = isinstance(field.default, tuple)
            kind = list[str] if repeated else hints[field.name]
            default = "none, may be repeated" if repeated else "off" if field.default is None else field.default
            text = f"{helps.get(field.name, '')} (default: {default})"
            option = typer.Option(help=text)
            parameters.append(_keyword(field.name, Annotated[kind | None, option], None))
    return parameters


def read_settings(file: Path | None) -> dict[str, Any]:
    """The settings of a `--config` file: `config`, its fields of ToEditConfig, and those of RECORDED, if it has any.

    The file holds such fields as YAML, or is the `toedit.json` of an earlier run.
    """
    if file is None:
        return {"config": {}}
    fields = read_fields(file, "threshold: 0.99")
    if isinstance(fields.get("config"), dict):
        if fields.get("chat_template"):
            fix = "use it in Python, ToEditTransform(prior, chat_template=...), or take it out of the file"
            raise ConfigError(f"{str(file)!r} has a chat template of its own, which a command can't set: {fix}")
        kept = {name: as_names(name, fields[name]) for name in RECORDED if fields.get(name)}
        return {"config": fields["config"], **kept}
    return {"config": {str(name): value for name, value in fields.items()}}


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _fields_as_parameters(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        _keyword(field.name, hints[field.name], inspect.Parameter.empty)
        if field.default is dataclasses.MISSING
        else _keyword(field.name, hints[field.name], field.default)
        for field in dataclasses.fields(kind)
    ]


def as_options(message: str, names: Sequence[str]) -> str:
    """An error's message with `stats_column=` written as `--stats-column`, for the options of a command."""
    known = "|".join(map(re.escape, names))
    return re.sub(
        rf"(?<![\w'\"/.(-])({known})=(?=(\w|['\"\[]))?",
        lambda found: f"--{found[1].replace('_', '-')}" + (" " if found[2] else ""),
        message,
    )


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command whose dataclass parameters become one option per field.

    A ToEditConfig parameter (all of it, or the fields named in its Annotated) becomes `--config` and its fields.
    A ToEditError ends the command with one line on stderr and exit code 2; Ctrl-C and SIGTERM likewise, with their own.
    """
    groups: dict[str, tuple[Any, list[inspect.Parameter]]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = getattr(parameter.annotation, "__origin__", parameter.annotation)
        if kind is ToEditConfig:
            own = config_parameters(getattr(parameter.annotation, "__metadata__", ()))
        elif dataclasses.is_dataclass(kind):
            own = _fields_as_parameters(kind)
        else:
            flat.append(_keyword(parameter.name, parameter.annotation, parameter.default))
            continue
        groups[parameter.name] = (kind, own)
        flat += own

    @functools.wraps(function)
    def run(**values: Any) -> None:
        try:
            with interruptible():
                settings = read_settings(values.get("config"))
                for name, (kind, own) in groups.items():
                    fields = {parameter.name: values.pop(parameter.name) for parameter in own}
                    given = {name: value for name, value in fields.items() if value not in (None, [])}
                    if kind is ToEditConfig:
                        given.pop("config", None)
                        values[name] = ToEditConfig.from_dict({**settings["config"], **given})
                    else:
                        recorded = {name: settings[name] for name in RECORDED if name in fields and name in settings}
                        values[name] = kind(**{**fields, **recorded, **given})
                function(**values)
        except ToEditError as error:
            line = as_options(visible(scrubbed(" ".join(str(error).split()))), [parameter.name for parameter in flat])
            Console(stderr=True).print(Text(f"error: {line}", style="bold red"), soft_wrap=True)
            raise typer.Exit(error.exit_code if isinstance(error, StoppedError) else EXIT_CODE) from error

    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    app.command()(run)
    return run


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf-toedit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    outlive_readers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?"


@command
def edit(
    prior: PriorOptions,
    data: DataOptions,
    config: ToEditConfig,
    out: Out,
    stats: Annotated[
        StatsMode, typer.Option(help="Visit only positions that may change, or all (slower).")
    ] = "sampled",
    stats_column: StatsColumn = "toedit",
) -> None:
    """Edit a dataset with a prior, into a new folder."""
    with new_folder(out) as folder:
        transform = ToEditTransform(
            prior.load(data.num_proc), config, **data.what_to_edit(), stats=stats, stats_column=stats_column
        )
        dataset = data.load()
        if config.strategy == "random":
            transform.fit(dataset)
        edited = data.map(dataset, transform, folder / WORK_FOLDER)
        statistics = summarize(edited, stats_column)
        shown = _some_edits(edited, stats_column)
        write_edited(folder, edited, statistics, transform.provenance())
    console = Console()
    show_run(console, statistics)
    show_edits(console, shown, stats_column)
    _say_where(console, out, f"load_dataset({str(out)!r})")


@command
def score(
    prior: PriorOptions,
    data: DataOptions,
    config: Annotated[ToEditConfig, "threshold", "protect"],
    out: Annotated[Path | None, typer.Option(help="A new folder for stats.json and histogram.png.")] = None,
) -> None:
    """Score all tokens of a dataset without editing it."""
    with new_folder(out) if out is not None else _work_only() as folder:
        config = dataclasses.replace(config, strategy="none")
        loaded = prior.load(data.num_proc)
        transform = ToEditTransform(loaded, config, **data.what_to_edit(), stats="full", stats_column=SCORES)
        scored = data.map(data.load(), transform, folder / WORK_FOLDER, remove_columns=True)
        statistics = summarize(scored, SCORES)
        if out is not None:
            write_report(folder, statistics, transform.provenance())
    console = Console()
    show_run(console, statistics)
    if out is not None:
        _say_where(console, out)


@command
def revert(source: Source, out: Out, split: Split = None, stats_column: StatsColumn = "toedit") -> None:
    """Undo the edits of a dataset, into a new folder."""
    with new_folder(out) as folder:
        dataset = read_source(source, split=split)
        work = folder / WORK_FOLDER
        reverted = {name: _revert(rows, stats_column, work / f"{name}.arrow") for name, rows in dataset.items()}
        save_dataset(type(dataset)(reverted), folder)
    _say_where(Console(), out, f"load_dataset({str(out)!r})")


@command
def demo(
    config: ToEditConfig,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write. Default: toedit-demo, with a number if that exists.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only this many docstrings, the first ones.", min=1)] = None,
) -> None:
    """Edit the docstrings of Python itself with the demo prior."""
    from .demo import run_demo

    console = Console()
    folder = run_demo(out, limit, config, console)
    _say_where(console, folder, f"load_dataset({str(folder)!r})")


@command
def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, or a folder with a recipe.yaml.", show_default=False)],
    options: RunOptions,
) -> None:
    """Run an experiment: load, edit, train, evaluate, report. Finished stages are skipped."""
    run_recipe(recipe, options)


def _some_edits(dataset: DatasetDict, stats_column: str) -> list[tuple[str, dict[str, Any]]]:
    found = {split: edited_rows(rows, NUM_SHOWN, stats_column) for split, rows in dataset.items()}
    return [(f"{split} {i}", row) for split, some in found.items() for i, row in some]


def _revert(rows: Dataset, stats_column: str, cache: Path) -> Dataset:
    """The rows before their edits; columns without an edit are not touched."""
    if stats_column not in rows.column_names:
        raise RowError(
            f"no column {stats_column!r} (columns: {', '.join(map(repr, rows.column_names))}): nothing to revert"
        )
    features = rows.features.copy()
    del features[stats_column]
    return rows.map(
        functools.partial(revert_rows, stats_column=stats_column),
        batched=True,
        remove_columns=[stats_column],
        features=features,
        cache_file_name=str(cache),
    )


@contextmanager
def _work_only() -> Iterator[Path]:
    """As `new_folder`, for work files alone."""
    with TemporaryDirectory() as folder:
        (Path(folder) / WORK_FOLDER).mkdir()
        yield Path(folder)


def _say_where(console: Console, out: Path, how: str = "") -> None:
    line = f"\nWrote {visible(str(out))}" + (f"; read it with {how}" if how else "")
    console.print(line, soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    app()
