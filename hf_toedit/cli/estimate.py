"""`hf-toedit estimate`: what an edit would take."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from ..editing.config import ToEditConfig
from ..errors import ConfigError, nearest
from ..hub.failures import hub_errors
from ..scale.estimate import SAMPLE_BYTES, Estimate, Rate, estimate_edit
from ..scale.progress import duration
from ..scale.reading import Reader
from ..scale.storage import LocalFolder
from ..transform import ToEditTransform
from .options import DataOptions, PriorOptions

SECONDS_HELP = "About how long to edit samples, in seconds."
SPEED_HELP = "The speed of one worker elsewhere, in tokens per second. Default: what is measured here."
PRICE_HELP = "The price of one worker for an hour, in any currency."
FLAVOR_HELP = "Take the price that the Hub lists for this hardware of HF Jobs, such as a100-large; one worker on each."


def estimate(
    prior: PriorOptions,
    data: DataOptions,
    config: ToEditConfig,
    seconds: Annotated[float, typer.Option(help=SECONDS_HELP, min=1)] = 60.0,
    tokens_per_second: Annotated[float | None, typer.Option(help=SPEED_HELP, min=0.001)] = None,
    price_per_hour: Annotated[float | None, typer.Option(help=PRICE_HELP, min=0)] = None,
    flavor: Annotated[str | None, typer.Option(help=FLAVOR_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Estimate what an edit would take, from a sample: tokens, rates, time, memory, output size and price."""
    if flavor is not None:
        if price_per_hour is not None:
            raise ConfigError("--price-per-hour and --flavor both set the price: leave one out")
        price_per_hour = _price_of(flavor)
    transform = ToEditTransform(prior.load(workers=1, is_asked=config.needs_prior), config, **data.what_to_edit())
    with TemporaryDirectory() as folder:
        storage = LocalFolder(folder)
        planned = data.plan(storage, SAMPLE_BYTES)
        reader = Reader(storage, planned.as_features(), planned.files, SAMPLE_BYTES, data.encoding_errors)
        if config.needs_corpus:
            transform.fit(reader.read(planned.units[0]))
        found = estimate_edit(planned, reader.read, transform, seconds)
    if tokens_per_second is not None:
        found = found.at(tokens_per_second)
    if as_json:
        price = None if price_per_hour is None else found.worker_hours.value * price_per_hour
        print(json.dumps({**found.to_dict(), "workers": data.workers, "price": price}))
        return
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for line in itertools.chain(_lines(found, data.workers), _prices(found, price_per_hour)):
        table.add_row(*line)
    table.columns[1].justify = "right"
    Console().print(table)


def _lines(found: Estimate, workers: int) -> Iterator[tuple[str, str, str]]:
    rates, hours = (found.eligible_rate, found.changed_rate), found.worker_hours
    yield "rows", _count(found.num_rows.value), _interval(found.num_rows, _count)
    yield "tokens", _count(found.num_tokens.value), _interval(found.num_tokens, _count)
    for name, rate in zip(("eligible rate", "changed rate"), rates, strict=True):
        yield name, "-" if math.isnan(rate.value) else f"{rate.value:.5f}", _interval(rate, "{:.5f}".format)
    yield "output", decimal(int(found.num_bytes.value)), "as Parquet, with the toedit column"
    yield "speed", _count(found.tokens_per_second.value), "tokens/s of one worker"
    yield "worker-hours", _hours(hours.value), _interval(hours, _hours)
    yield "time", duration(hours.value * 3600 / workers), f"with {workers:,} worker{'s' if workers > 1 else ''}"
    yield "memory", decimal(found.peak_bytes), "of one worker, as seen here"
    if found.peak_gpu_bytes is not None:
        yield "GPU memory", decimal(found.peak_gpu_bytes), "of one worker, as seen here"
    if found.batch_tokens is not None:
        yield "batch", _count(found.batch_tokens), "tokens at a time; fewer where memory runs out"
    yield "sample", _count(found.sampled_rows), f"rows, {found.sampled_tokens:,} tokens; intervals are 95%"


def _prices(found: Estimate, per_hour: float | None) -> Iterator[tuple[str, str, str]]:
    if per_hour is not None:
        price = found.worker_hours * per_hour
        said = (_interval(price, "{:,.2f}".format), f"at {per_hour:,.2f} an hour")
        yield "price", f"{price.value:,.2f}", ", ".join(filter(None, said))


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 1 else f"{hours:.3f}"


def _interval(rate: Rate, shown: object) -> str:
    assert callable(shown)
    return f"{shown(rate.low)} to {shown(rate.high)}" if rate.low < rate.high else ""


def _price_of(flavor: str) -> float:
    """The price of an hour of a flavor of HF Jobs, in US dollars, as the Hub's list has it."""
    from huggingface_hub import list_jobs_hardware

    with hub_errors(flavor, "ask for the price of"):
        hardware = {each.name: each for each in list_jobs_hardware()}
    if flavor not in hardware:
        raise ConfigError(f"--flavor {flavor!r} is unknown{nearest(flavor, hardware)}")
    minutes = {"minute": 60, "hour": 1, "second": 3600}
    return float(hardware[flavor].unit_cost_usd * minutes[hardware[flavor].unit_label])
