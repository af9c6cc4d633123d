"""How a function becomes a command: options from dataclasses, settings from a file, errors in one line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.text import Text

from ..arguments import as_names
from ..display import visible
from ..editing.config import ToEditConfig, field_help
from ..errors import ConfigError, StoppedError, ToEditError, ToEditWarning
from ..files.secret import scrubbed
from ..files.yamls import read_fields
from ..scale.interrupts import interruptible

EXIT_CODE = 2
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Token-level data editing (ToEdit, arXiv 2412.14689) for Hugging Face datasets.",
    epilog="Exit codes: 0, success; 1, an unexpected error, with a traceback; 2, an error, reported in one line on "
    "stderr; 130, interrupted by Ctrl-C; 143, terminated. A command that fails leaves no output folder behind, with "
    "three exceptions: `edit` keeps its finished units and `run` its finished stages, to resume from, and `edit "
    "--push` keeps the rows it could not push. If the prior fails on some rows, `edit` still finishes the output, and "
    "then exits with 2: see its --retry-failed.",
)
SPELLED = {
    "private=False": "--public",
    "anew=True": "--anew",
    "overlapping=True": "--overlapping",
    "transform=[first, second]": "--record FIRST --record SECOND",
}
RECORDED = ("columns", "context", "roles")  # what `--config toedit.json` sets besides the config
CONFIG_HELP = (
    "A YAML file with the settings below, or the toedit.json of an earlier run, whose columns, context and roles are "
    "used too (but not its prior, --stats or --stats-column). Options override it."
)


def config_parameters(names: tuple[str, ...] = ()) -> list[inspect.Parameter]:
    """`--config FILE`, and an option for each field of ToEditConfig (or for those named) that means "not given"."""
    hints, helps = get_type_hints(ToEditConfig), field_help()
    parameters = [_keyword("config", Annotated[Path | None, typer.Option(help=CONFIG_HELP)], None)]
    for field in dataclasses.fields(ToEditConfig):
        if not names or field.name in names:
            repeated = isinstance(field.default, tuple)
            kind = list[str] if repeated else hints[field.name]
            default = "none, may be repeated" if repeated else "off" if field.default is None else field.default
            text = helps[field.name]
            option = typer.Option(help=f"{text[0].upper()}{text[1:]} (default: {default})")
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
    """An error's message with `stats_column=` and other options of a command written as `--stats-column`.

    Arguments that are spelled otherwise are those of SPELLED.
    """
    known = "|".join(map(re.escape, names))
    for argument, option in SPELLED.items():
        message = message.replace(argument, option)
    message = re.sub(
        rf"(?<![\w'\"/.(-])({known})=\[([^\]]*)\]",
        lambda match: f"{match[1]}={match[2].replace(', ', ',')}".replace("'", ""),
        message,
    )
    return re.sub(
        rf"(?<![\w'\"/.(-])({known})=(?=([\w'\"\[-]))?",
        lambda match: f"--{match[1].replace('_', '-')}" + (" " if match[2] else ""),
        message,
    )


def _in_one_line(message: object, names: Sequence[str]) -> str:
    """The message of an error or a warning, with the options of a command."""
    return as_options(visible(scrubbed(" ".join(str(message).split()))), names)


def _notes(error: BaseException | None) -> list[str]:
    """What was added to an error, or to one that it came from, on its way here."""
    while error is not None:
        if notes := getattr(error, "__notes__", None):
            return list(notes)
        error = error.__cause__ or error.__context__
    return []


@contextmanager
def _plain_warnings(names: Sequence[str]) -> Iterator[None]:
    """Print our warnings as one line on stderr, without the place in the code. names: the options of the command."""
    from tqdm import tqdm

    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if not issubclass(category, ToEditWarning):
                return others(message, category, *place)
            line = Text(f"warning: {_in_one_line(message, names)}", style="yellow")
            with tqdm.external_write_mode(file=sys.stderr):  # not on the line of a progress bar
                return Console(stderr=True).print(line, soft_wrap=True)

        warnings.showwarning = show  # type: ignore[assignment]
        yield


def command(function: Callable[..., None], group: typer.Typer = app) -> Callable[..., None]:
    """Turn a function into a command of a group, with an option for each field of its dataclass parameters.

    A ToEditConfig parameter (all of it, or the fields named in its Annotated) becomes `--config` and its fields.
    A ToEditError ends the command with one line on stderr and exit code 2; so do Ctrl-C and SIGTERM, with their own
    exit codes.
    """
    groups: dict[str, tuple[Any, list[inspect.Parameter]]] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = getattr(parameter.annotation, "__origin__", parameter.annotation)
        if kind is ToEditConfig:
            options = config_parameters(getattr(parameter.annotation, "__metadata__", ()))
        elif dataclasses.is_dataclass(kind):
            options = _fields_as_parameters(kind)
        else:
            flat.append(_keyword(parameter.name, parameter.annotation, parameter.default))
            continue
        groups[parameter.name] = (kind, options)
        flat += options
    names = [parameter.name for parameter in flat]

    @functools.wraps(function)
    def run(**values: Any) -> None:
        try:
            with interruptible(), _plain_warnings(names):
                settings = read_settings(values.get("config"))
                for name, (kind, options) in groups.items():
                    fields = {parameter.name: values.pop(parameter.name) for parameter in options}
                    given = {name: value for name, value in fields.items() if value not in (None, [])}
                    if kind is ToEditConfig:
                        given.pop("config", None)
                        values[name] = ToEditConfig.from_dict({**settings["config"], **given})
                    else:
                        recorded = {name: settings[name] for name in RECORDED if name in fields and name in settings}
                        values[name] = kind(**{**fields, **recorded, **given})
                function(**values)
                sys.stdout.flush()  # its disk may be full
        except ToEditError as error:
            message = "; ".join([str(error), *_notes(error)])
            line = Text(f"error: {_in_one_line(message, names)}", style="bold red")
            Console(stderr=True).print(line, soft_wrap=True)
            raise typer.Exit(error.exit_code if isinstance(error, StoppedError) else EXIT_CODE) from error

    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    group.command()(run)
    return run
