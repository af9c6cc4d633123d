"""`hf-toedit collapse SETTING`: what happens to models that are trained on what earlier models wrote."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__
from ..collapse import safe_amount
from ..collapse.categorical import Categorical
from ..collapse.extra import extra
from ..collapse.gaussian import Gaussian
from ..collapse.kernel_density import KernelDensity
from ..collapse.next_token import NextToken
from ..collapse.plots import plot
from ..collapse.regression import LinearRegression
from ..collapse.setting import Setting
from ..collapse.simulation import CONFIDENCE, Simulation, simulate, table_of
from ..collapse.workflows import (
    Accumulate,
    AccumulateSubsample,
    GrowingReplace,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    Workflow,
    name_of,
)
from ..display import plain_table
from ..errors import ConfigError, ToEditWarning, nearest
from ..files.outputs import new_folder
from ..report.files import write_json
from .command import command

if TYPE_CHECKING:
    from pandas import DataFrame

WORKFLOWS: dict[str, type[Workflow]] = {
    name_of(kind): kind
    for kind in (Replace, GrowingReplace, Accumulate, AccumulateSubsample, Mixture, RecentModels, ToEdit)
}
TABLE, SETTINGS, PICTURE = "table.csv", "settings.json", "collapse.png"
DEFAULT = ["replace", "accumulate", "accumulate-subsample"]
WORKFLOW_HELP = (
    f"What each generation trains on: {', '.join(WORKFLOWS)}. May be repeated. Default: {', '.join(DEFAULT)}."
)
TOLERANCE_HELP = "How far models may drift from the one trained on real rows alone: a mean L1 distance, below 2."
ZIPF_HELP = "Assume probabilities ~ 1/rank^ZIPF. 0, equally likely tokens, is the most cautious."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
collapse = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Simulate models that are trained on what earlier models wrote.",
)


@dataclasses.dataclass(frozen=True)
class WorkflowOptions:
    """Which workflows to run, and their settings. None: not given."""

    workflow: Annotated[list[str] | None, typer.Option(help=WORKFLOW_HELP)] = None
    synthetic_share: Annotated[
        float | None,
        typer.Option(help="mixture: train on n rows, this share of them synthetic. Default: all real rows and n more."),
    ] = None
    window: Annotated[int | None, typer.Option(help="recent-models: how many of the latest models. Default: 5.")] = None
    anew: Annotated[
        bool | None, typer.Option("--anew", help="toedit: edit the real rows each time, not the rows of the last edit.")
    ] = None

    def all(self) -> list[Workflow]:
        """Raises ConfigError for an unknown workflow, and for an option of a workflow that is not run."""
        names = self.workflow or DEFAULT
        for name in names:
            if name not in WORKFLOWS:
                raise ConfigError(f"workflow={name!r} is unknown{nearest(name, WORKFLOWS)}")
        given = {name: value for name, value in vars(self).items() if name != "workflow" and value is not None}
        fields = {name: _names(kind) for name, kind in WORKFLOWS.items()}
        for option in given:
            [owner] = [name for name in WORKFLOWS if option in fields[name]]
            if owner not in names:
                spelled = option.replace("_", "-")
                raise ConfigError(f"--{spelled} is for another workflow: add --workflow {owner}, or leave it out")
        return [
            WORKFLOWS[name](**{option: value for option, value in given.items() if option in fields[name]})
            for name in dict.fromkeys(names)
        ]


@dataclasses.dataclass(frozen=True)
class RowWorkflowOptions(WorkflowOptions):
    """The workflows where rows are numbers and ToEdit resamples a share of them."""

    share: Annotated[
        float | None, typer.Option(help="toedit: the share of the rows to resample, in the first edit if it decays.")
    ] = None
    overlapping: Annotated[
        bool | None, typer.Option("--overlapping", help="toedit: choose the rows to edit at random each time.")
    ] = None
    decay: Annotated[
        float | None, typer.Option(help="toedit: multiply the share by this after each edit. Default: 1.")
    ] = None


@dataclasses.dataclass(frozen=True)
class SimulationOptions:
    """How much to simulate, and where to write it."""

    n: Annotated[int, typer.Option("--n", help="Synthetic rows from each model.")] = 100
    num_real: Annotated[int | None, typer.Option(help="Real rows. Default: n.")] = None
    generations: Annotated[
        int, typer.Option(help="Models to train, one after the other; the first sees only real rows.")
    ] = 20
    runs: Annotated[int, typer.Option(help="Independent repetitions.")] = 100
    seed: Annotated[int, typer.Option(help="Equal seeds give equal tables.", min=0)] = 0
    workers: Annotated[int, typer.Option(help="Processes. The results do not depend on their number.")] = 1
    out: Annotated[
        Path | None, typer.Option(help=f"A new folder for {TABLE}, {PICTURE} and {SETTINGS}. Default: print only.")
    ] = None
    as_json: AsJson = False

    def sizes(self) -> dict[str, Any]:
        """What the results depend on."""
        return {name: getattr(self, name) for name in ("n", "num_real", "generations", "runs", "seed")}


def gaussian(setting: Gaussian, workflows: RowWorkflowOptions, options: SimulationOptions) -> None:
    """A Gaussian, fitted by mean and covariance. After Kazdan et al."""
    run("gaussian", setting, workflows, options)


def kernel_density(setting: KernelDensity, workflows: RowWorkflowOptions, options: SimulationOptions) -> None:
    """Kernel density estimates of moons and other shapes. After Kazdan et al."""
    run("kernel-density", setting, workflows, options)


def regression(setting: LinearRegression, workflows: RowWorkflowOptions, options: SimulationOptions) -> None:
    """Linear regression on labels that models write. After Gerstgrasser et al. and Zhu et al."""
    run("regression", setting, workflows, options)


def categorical(setting: Categorical, workflows: RowWorkflowOptions, options: SimulationOptions) -> None:
    """A discrete distribution, fitted by frequencies. After Seddik et al. and Kazdan et al."""
    run("categorical", setting, workflows, options)


def next_token(setting: NextToken, workflows: RowWorkflowOptions, options: SimulationOptions) -> None:
    """Next-token distributions, one for each context. After Seddik et al."""
    run("next-token", setting, workflows, options)


def budget(
    real: Annotated[int, typer.Option(help="Real rows per context: how often the context occurs.")],
    vocabulary: Annotated[int, typer.Option(help="Tokens that can follow the context.")],
    tolerance: Annotated[float, typer.Option(help=TOLERANCE_HELP)],
    zipf: Annotated[float, typer.Option(help=ZIPF_HELP)] = 0.0,
    runs: Annotated[int, typer.Option(help="Independent repetitions; fewer with a large vocabulary.")] = 1000,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal answers.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """How many synthetic rows are safe beside the real ones."""
    extra("scipy.stats")
    found = safe_amount.budget(real, vocabulary, tolerance, zipf=zipf, runs=runs, seed=seed)
    if as_json:
        values = {name: _or_none(value) for name, value in found.to_dict().items()}
        print(json.dumps(values, indent=2, allow_nan=False))
    else:
        print(found)


for function in (gaussian, kernel_density, regression, categorical, next_token, budget):
    command(function, collapse)


def run(name: str, setting: Setting[Any, Any], workflows: WorkflowOptions, options: SimulationOptions) -> None:
    """Simulate the workflows in a setting, print the last generation and write the files."""
    for package in ("scipy.stats", "pandas"):
        extra(package)
    chosen = workflows.all()
    with nullcontext() if options.out is None else new_folder(options.out) as folder:
        simulations = [
            simulate(setting, each, **options.sizes(), workers=options.workers, progress=True) for each in chosen
        ]
        settings = settings_of(name, setting, chosen, options)
        show(simulations, settings, as_json=options.as_json)  # first: the disk may be full
        if folder is not None:
            write_files(folder, simulations, settings)


def write_files(folder: Path, simulations: Sequence[Simulation], settings: Mapping[str, Any]) -> None:
    """The table of all generations, the settings and, if matplotlib is installed, the plot."""
    table_of(simulations).to_csv(folder / TABLE, index=False, lineterminator="\n")
    write_json(folder / SETTINGS, settings)
    if find_spec("matplotlib"):
        plot(simulations, folder / PICTURE)
    else:
        what = f"there is no {PICTURE}: it needs matplotlib, pip install 'hf-toedit[collapse]'"
        warnings.warn(what, ToEditWarning, stacklevel=2)


def show(simulations: Sequence[Simulation], settings: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the last generation."""
    table = table_of(simulations)
    if as_json:
        last = table[table["generation"] == table["generation"].max()]
        rows = [{key: _or_none(value) for key, value in row.items()} for row in last.to_dict("records")]
        print(json.dumps({**settings, "last_generation": rows}, indent=2, allow_nan=False))
    else:
        print(f"{simulations[0].title}\n\n{_shown(table)}")


def settings_of(
    name: str, setting: Setting[Any, Any], workflows: list[Workflow], options: SimulationOptions
) -> dict[str, Any]:
    """What `settings.json` holds: all that the table depends on, and the command that reproduces it."""
    fields = _fields(setting)
    chosen = [{"name": name_of(type(each)), **_fields(each)} for each in workflows]
    words = [f"hf-toedit collapse {name}", *_words(fields)]
    for each in chosen:
        words += [f"--workflow {each['name']}", *_words({key: value for key, value in each.items() if key != "name"})]
    words += _words(options.sizes())
    return {
        "command": " ".join(words),
        "hf_toedit": __version__,
        "setting": {"name": name, **fields},
        "workflows": chosen,
        "simulation": options.sizes(),
    }


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as on the command line; those without a value are left out."""
    for name, value in options.items():
        if value is True:
            yield f"--{name.replace('_', '-')}"
        elif value is not None and value is not False:
            yield f"--{name.replace('_', '-')} {shlex.quote(str(value))}"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _names(value)}


def _names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _shown(table: DataFrame) -> str:
    """The last generation beside the first, measure by measure."""
    last = table["generation"].max()
    first = table[table["generation"] == 1].set_index(["measure", "workflow"])["mean"]
    cells = [["generation", "1", f"{last:,}", f"{CONFIDENCE:.0%} interval", "closed form"]]
    for measure, rows in table[table["generation"] == last].groupby("measure", sort=False):
        cells += [[""] * 5, [str(measure), *[""] * 4]]
        for row in rows.itertuples():
            interval = "" if math.isnan(row.low) else f"[{_number(row.low)}, {_number(row.high)}]"
            numbers = [_number(first[measure, row.workflow]), _number(row.mean)]
            cells.append([f"  {row.workflow}", *numbers, interval, _number(row.expected)])
    return plain_table(cells, right=range(1, 5))


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
