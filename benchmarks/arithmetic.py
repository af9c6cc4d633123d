"""What billions and trillions of tokens take: the tables of docs/concepts/arithmetic.md.

    python benchmarks/arithmetic.py                     # all tables
    python benchmarks/arithmetic.py --set gpu_price=2.2 --set unit_mib=256

Whatever was measured comes from the files in results/; every other number is a field of Assumptions.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

RESULTS = Path(__file__).parent / "results"
TOTALS = {"6 billion": 6e9, "1 trillion": 1e12, "15 trillion": 15e12}
UNIT_SIZES_MIB = (64, 128, 256)
PRIORS = {"0.5B, 152k": "0.5B", "1.2B, 128k": "1.2B", "8B, 128k": "8B"}
CPU_PRIOR = "512 x 24, 128k"  # 152 million parameters
HOURS_PER_DAY, HOURS_PER_WEEK = 24, 168
MINUTE, HOUR, DAY = 60, 3600, 86400
SHARES_PER_WORKER = 7  # ROUNDS in hf_toedit.scale.launches

LLAMA_3 = "[Llama 3](https://arxiv.org/abs/2407.21783), 419 unplanned interruptions of 16,384 GPUs in 54 days"
HUB_FILES = "[the Hub's recommendations](https://huggingface.co/docs/hub/storage-limits)"


def assumed(value: float, meaning: str, source: str) -> Any:
    return dataclasses.field(default=value, metadata={"meaning": meaning, "source": source})


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """The inputs that were not measured. Each can be replaced; see `--set`."""

    unit_mib: float = assumed(128, "size of a unit, MiB of text", "the default of `hf-toedit edit`")
    document_tokens: float = assumed(1000, "tokens of a document", "web pages; shorter rows cost more column")
    changed_rate: float = assumed(0.0056, "changed tokens", "one token in eight eligible, defaults")
    gpus_per_node: float = assumed(8, "GPUs of a node", "usual")
    weeks: float = assumed(1, "weeks until all should be done", "an example")
    gpu_price: float = assumed(3.0, "$ for an hour of a GPU", "an example: use yours")
    egress_price: float = assumed(0.09, "$ for a GB that leaves a cloud", "an example: use yours")
    gpu_hours_per_node_loss: float = assumed(16384 * 54 * 24 / 419, "GPU-hours for each node lost", LLAMA_3)
    preemptions_per_node_day: float = assumed(0.05, "preemptions of a node, a day", "assumed; spot nodes differ widely")
    crashes_per_worker_hour: float = assumed(1 / 500, "crashes of a worker, an hour", "assumed: memory, drivers")
    hub_folder_files: float = assumed(10_000, "files in a folder of the Hub", HUB_FILES)
    hub_repository_files: float = assumed(100_000, "files in a repository of the Hub", HUB_FILES)
    hub_commits_per_hour: float = assumed(128, "commits to a repository, an hour", "what the Hub answers beyond that")
    push_shard_mb: float = assumed(500, "MB of a shard that `push` writes, in memory", "its default")
    files_per_commit: float = assumed(
        90, "files in a commit", "what `hf-toedit push` sends; the Hub asks for under 100"
    )
    slurm_tasks: float = assumed(10_000, "tasks of arrays that Slurm keeps", "its `MaxJobCount` by default")
    readers: float = assumed(16, "manifests read at a time", "as `hf-toedit edit` does")
    look_ms: float = assumed(1, "milliseconds of a look at a file on a network disk", "assumed")
    request_ms: float = assumed(30, "milliseconds of a request to an object store", "assumed")
    listed: float = assumed(1000, "names in a listing of an object store", "S3's limit")
    requests: float = assumed(4, "requests for a unit that is asked for by its name", "its manifest and its shard")
    texts_compared: float = assumed(20e6, "texts among which a card finds equal ones", "a limit, for memory")
    shared_disk_gbs: float = assumed(10, "GB/s that a shared disk gives all readers together", "assumed")
    batch_tokens: float = assumed(1_000_000, "tokens of a batch, which a worker reports", "1,000 rows, the default")

    @property
    def unit_bytes(self) -> float:
        return self.unit_mib * 2**20


def measured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Everything that follows from the assumptions and the measurements.

    units, gpu, cpu, patch: the files of figures of unit_bytes.py, gpu.py, compare.py and patch_size.py.
    """

    given: Assumptions
    units: dict[str, Any]
    gpu: dict[str, Any]
    cpu: dict[str, Any]
    patch: dict[str, Any]

    @classmethod
    def from_results(cls, given: Assumptions) -> Arithmetic:
        return cls(given, *map(measured, ("unit-bytes", "gpu-h200", "x86_64-cpu", "patch-size")))

    # one unit

    def unit_tokens(self, unit_mib: float | None = None) -> float:
        size = self.given.unit_mib if unit_mib is None else unit_mib
        return size * 2**20 / float(self.units["text_bytes_per_token"])

    def num_units(self, tokens: float, unit_mib: float | None = None) -> int:
        return -int(-tokens // self.unit_tokens(unit_mib))

    def rate(self, prior: str) -> float:
        """Tokens per second of one GPU."""
        return float(self.gpu["shapes"][prior]["ways"]["ours"]["tokens_per_second"])

    def unit_seconds(self, prior: str) -> float:
        return self.unit_tokens() / self.rate(prior)

    # bytes

    @property
    def stored_text(self) -> float:
        """Bytes of a token's text in Parquet."""
        return float(self.units["stored_text_bytes_per_token"])

    @property
    def column(self) -> float:
        """Bytes of a token's share of the `toedit` column."""
        of_rows = self.units["column_bytes_per_row"] / self.given.document_tokens
        return float(of_rows + self.units["column_bytes_per_edit"] * self.given.changed_rate)

    @property
    def patch_share(self) -> float:
        return float(self.patch["long rows"]["ratio"])

    # looking at all units

    @property
    def disk_seconds(self) -> float:
        """Of a call for each unit, on a network disk: a look at its shard, and its manifest while others are read."""
        return (1 + 1 / self.given.readers) * self.given.look_ms / 1000

    @property
    def store_seconds(self) -> float:
        """Of a call for each unit, in an object store: its part of two listings, and its manifest."""
        return (2 / self.given.listed + 1 / self.given.readers) * self.given.request_ms / 1000

    @property
    def finish_seconds(self) -> float:
        """Of the end of an edit for each unit, in an object store: twice all that is asked for by its name."""
        return 2 * self.given.requests / self.given.readers * self.given.request_ms / 1000

    # hours

    def gpu_hours(self, tokens: float, prior: str) -> float:
        return tokens / self.rate(prior) / 3600

    def num_gpus(self, tokens: float, prior: str) -> int:
        """GPUs that are done in the given weeks; at least one."""
        return max(1, round(self.gpu_hours(tokens, prior) / (self.given.weeks * HOURS_PER_WEEK)))

    # failures

    def failures(self, tokens: float, prior: str) -> dict[str, float]:
        """Expected numbers of events, and the share of the work that they cost: half a unit of each worker they end."""
        hours, given = self.gpu_hours(tokens, prior), self.given
        losses = hours / given.gpu_hours_per_node_loss
        preemptions = hours / given.gpus_per_node / HOURS_PER_DAY * given.preemptions_per_node_day
        crashes = hours * given.crashes_per_worker_hour
        ended = (losses + preemptions) * given.gpus_per_node + crashes
        return {
            "losses": losses,
            "preemptions": preemptions,
            "crashes": crashes,
            "lost": ended * self.unit_seconds(prior) / 2 / 3600 / hours,
        }

    # the Hub

    def files(self, tokens: float) -> int:
        """Shards that `push` writes."""
        return -int(-tokens * self.units["memory_bytes_per_token"] // (self.given.push_shard_mb * 1e6))

    def push_seconds(self, tokens: float) -> float:
        """Seconds in which one process writes all rows again."""
        return float(tokens * self.units["memory_bytes_per_token"] / self.units["spooled_bytes_per_second"])

    def commits(self, tokens: float) -> int:
        return -int(-self.files(tokens) // self.given.files_per_commit)


# tables


def table_of_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def short(number: float, digits: int = 2) -> str:
    """A number with two digits that count, or more before the point: 0.016, 3.4, 340, 12,000."""
    if not number:
        return "0"
    text = f"{float(f'{number:.{digits}g}'):,.6f}".rstrip("0").rstrip(".")
    return text


def as_bytes(number: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{short(number / size)} {unit}"
    return f"{number:.0f} B"


def as_time(seconds: float) -> str:
    for unit, size in (("year", 365 * DAY), ("day", DAY), ("hour", 60 * MINUTE), ("minute", MINUTE)):
        if seconds >= size * (2 if unit == "year" else 1):
            number = short(seconds / size)
            return f"{number} {unit}{'' if number == '1' else 's'}"
    return f"{short(seconds)} seconds"


def as_tokens(number: float) -> str:
    name, size = ("trillion", 1e12) if number >= 1e12 else ("billion", 1e9) if number >= 1e9 else ("million", 1e6)
    return f"{short(number / size)} {name}"


def table_of_inputs(sums: Arithmetic) -> str:
    rows = [
        (
            f"`{field.name}`",
            field.metadata["meaning"],
            short(getattr(sums.given, field.name), 3),
            field.metadata["source"],
        )
        for field in dataclasses.fields(Assumptions)
    ]
    lines = ["| input | meaning | value | source |", "|---|---|---:|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def table_of_units(sums: Arithmetic) -> str:
    rows = [
        (
            f"{size} MiB",
            f"{as_tokens(sums.unit_tokens(size))}",
            *(f"{sums.num_units(t, size):,}" for t in TOTALS.values()),
        )
        for size in UNIT_SIZES_MIB
    ]
    return table_of_rows(("units of", "tokens of a unit", *TOTALS), rows)


def table_of_books(sums: Arithmetic) -> str:
    manifest, plan = sums.units["manifest_bytes"], sums.units["plan_bytes_per_unit"]
    numbers = [sums.num_units(tokens) for tokens in TOTALS.values()]
    found: dict[str, Callable[[int], str]] = {
        "units, manifests, files of the output": lambda n: f"{n:,}",
        "`plan.json`": lambda n: as_bytes(n * plan),
        "read by a worker in": lambda n: as_time(n / sums.units["plan_units_per_second"]),
        "manifests": lambda n: as_bytes(n * manifest),
        "... in blocks of 4 KiB": lambda n: as_bytes(n * 4096),
        "all looked at, on a local disk": lambda n: as_time(n / sums.units["manifests_per_second"]),
        "... on a network disk": lambda n: as_time(n * sums.disk_seconds),
        "... in an object store": lambda n: as_time(n * sums.store_seconds),
        "... when the edit is finished there": lambda n: as_time(n * sums.finish_seconds),
    }
    return table_of_rows(("", *TOTALS), [(name, *map(cell, numbers)) for name, cell in found.items()])


def table_of_hours(sums: Arithmetic) -> str:
    rows = []
    for prior, name in PRIORS.items():
        seconds = sums.unit_seconds(prior)
        cells = [f"{short(sums.gpu_hours(tokens, prior), 3)} GPU-hours" for tokens in TOTALS.values()]
        rows.append((f"{name}, {sums.rate(prior):,.0f} tokens/s", as_time(seconds), *cells))
        price = [f"${short(sums.gpu_hours(tokens, prior) * sums.given.gpu_price)}" for tokens in TOTALS.values()]
        rows.append(("... price", "", *price))
        gpus = [f"{sums.num_gpus(tokens, prior):,}" for tokens in TOTALS.values()]
        rows.append((f"... GPUs for {as_time(sums.given.weeks * 7 * DAY)}", "", *gpus))
    cpu = float(sums.cpu["shapes"][CPU_PRIOR]["ways"]["ours"]["tokens_per_second"])
    cells = [f"{short(tokens / cpu / 3600, 3)} hours" for tokens in TOTALS.values()]
    rows.append(
        (f"0.15B on {sums.cpu['threads']} CPU cores, {cpu:,.0f} tokens/s", as_time(sums.unit_tokens() / cpu), *cells)
    )
    return table_of_rows((f"prior, on one {sums.gpu['device']}", "one unit", *TOTALS), rows)


def table_of_storage(sums: Arithmetic) -> str:
    stored, column, price = sums.stored_text, sums.column, sums.given.egress_price
    found: dict[str, Callable[[float], str]] = {
        "read: text in Parquet": lambda t: as_bytes(t * stored),
        "written: edited text and its column": lambda t: as_bytes(t * (stored + column)),
        "... of it the `toedit` column": lambda t: as_bytes(t * column),
        "a [patch](../guide/patches.md) instead": lambda t: as_bytes(t * (stored + column) * sums.patch_share),
        "the output leaves a cloud once": lambda t: f"${short(t * (stored + column) / 1e9 * price)}",
    }
    return table_of_rows(("", *TOTALS), [(name, *map(cell, TOTALS.values())) for name, cell in found.items()])


def table_of_failures(sums: Arithmetic) -> str:
    total, tokens = list(TOTALS.items())[-1]
    rows = []
    for prior, name in PRIORS.items():
        found = sums.failures(tokens, prior)
        counts = [short(found[what]) for what in ("losses", "preemptions", "crashes")]
        rows.append((name, *counts, f"{found['lost']:.3%}"))
    headings = (f"{total} tokens, prior", "nodes lost", "nodes preempted", "workers crashed", "work lost")
    return table_of_rows(headings, rows)


def table_of_hub(sums: Arithmetic) -> str:
    given = sums.given
    found: dict[str, Callable[[float], str]] = {
        "shards": lambda t: f"{sums.files(t):,}",
        "commits": lambda t: f"{sums.commits(t):,}",
        "at the limit of commits": lambda t: as_time(sums.commits(t) / given.hub_commits_per_hour * 3600),
        "folders (configs), by their files": lambda t: f"{-int(-sums.files(t) // given.hub_folder_files):,}",
        "repositories, by their files": lambda t: f"{-int(-sums.files(t) // given.hub_repository_files):,}",
        "one process writes them in": lambda t: as_time(sums.push_seconds(t)),
    }
    return table_of_rows(("", *TOTALS), [(name, *map(cell, TOTALS.values())) for name, cell in found.items()])


def breaks_by_tokens(sums: Arithmetic) -> list[tuple[str, str, str]]:
    """What breaks as tokens grow, where, and what to do then."""
    given, units = sums.given, sums.units

    def at_units(number: float) -> str:
        return f"{short(number)} units: {as_tokens(number * sums.unit_tokens())} tokens"

    spooled = DAY * units["spooled_bytes_per_second"] / units["text_bytes_per_token"]
    shard_tokens = given.push_shard_mb * 1e6 / units["memory_bytes_per_token"]
    return [
        (
            "a card: equal texts are found among so many, and counted once in its intervals",
            f"{as_tokens(given.texts_compared * given.document_tokens)} tokens",
            "nothing: beyond that, they count as different",
        ),
        (
            "the Hub: files in a folder",
            f"{as_tokens(given.hub_folder_files * shard_tokens)} tokens",
            "several configs, each with a folder of its own",
        ),
        (
            "`push`: one process loads all rows and writes them again, as shards",
            f"{as_tokens(DAY / sums.push_seconds(1))} tokens: a day, and disk for two more copies",
            "several outputs, each pushed as a config",
        ),
        (
            "a source that is neither Parquet nor JSON Lines: one process copies it to Parquet first",
            f"{as_tokens(spooled)} tokens: a day, and disk for two more copies",
            "convert it in many processes before",
        ),
        (
            "an object store: all units are asked for by their names when an edit is finished",
            f"{at_units(HOUR / sums.finish_seconds)}: an hour",
            "larger units; several outputs",
        ),
        (
            "the Hub: files in a repository",
            f"{as_tokens(given.hub_repository_files * shard_tokens)} tokens",
            "several repositories",
        ),
        (
            "an object store: each call lists all units and reads their manifests",
            f"{at_units(HOUR / sums.store_seconds)}: an hour",
            "larger units; several outputs",
        ),
        (
            "a network disk: each call looks at all units",
            f"{at_units(HOUR / sums.disk_seconds)}: an hour",
            "larger units; several outputs",
        ),
        (
            "`plan.json`, which each worker reads when it starts",
            f"{at_units(MINUTE * units['plan_units_per_second'])}: a minute",
            "larger units; several outputs",
        ),
    ]


def breaks_by_workers(sums: Arithmetic) -> list[tuple[str, str, str]]:
    """What breaks as workers grow, where, and what to do then."""
    given, (small, *_, large) = sums.given, PRIORS
    loading = 10 * MINUTE * given.shared_disk_gbs * 1e9 / sums.gpu["shapes"][large]["weight_bytes"]
    reports = sums.units["messages_per_second"] * given.batch_tokens / sums.rate(small)
    return [
        (
            f"the {PRIORS[large]} prior, which all workers load from one shared disk at once",
            f"{short(loading)} workers: 10 minutes",
            "copy it to the disk of each node first",
        ),
        (
            f"Slurm: tasks of arrays, {SHARES_PER_WORKER} for each worker, of which it keeps so many",
            f"{short(given.slurm_tasks / SHARES_PER_WORKER)} workers",
            "a higher `MaxJobCount`; several outputs, one after the other; Ray",
        ),
        (
            "one parent that hears from all workers (Ray)",
            f"{short(reports)} workers with the {PRIORS[small]} prior",
            "several outputs",
        ),
    ]


def table_of_breaks(sums: Arithmetic) -> str:
    lines = ["| what | breaks at about | what to do |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {' | '.join(row)} |" for row in (*breaks_by_tokens(sums), *breaks_by_workers(sums)))]
    )


TABLES: dict[str, Callable[[Arithmetic], str]] = {
    "inputs": table_of_inputs,
    "units": table_of_units,
    "hours": table_of_hours,
    "storage": table_of_storage,
    "books": table_of_books,
    "failures": table_of_failures,
    "hub": table_of_hub,
    "breaks": table_of_breaks,
}


def sentences(sums: Arithmetic) -> list[str]:
    """What the page says in prose."""
    given = sums.given
    small, *_, large = PRIORS
    total, tokens = list(TOTALS.items())[1]
    hours, written = sums.gpu_hours(tokens, small), tokens * (sums.stored_text + sums.column)
    start = sums.gpu["two_processes"][small]["seconds_to_start"]["first_batch"]
    busy = [as_time(sums.unit_seconds(prior)) for prior in (small, large)]
    lost = [sums.failures(tokens, prior)["lost"] for prior in (small, large)]
    return [
        f"Editing {total} tokens with a {PRIORS[small]} prior takes {short(hours, 3)} hours of one "
        f"{sums.gpu['device']}, ${short(hours * given.gpu_price)} at ${short(given.gpu_price)} an hour; it reads "
        f"{as_bytes(tokens * sums.stored_text)} and writes {as_bytes(written)}.",
        f"A unit of {given.unit_mib:.0f} MiB holds {as_tokens(sums.unit_tokens())} tokens and keeps a GPU busy for "
        f"{busy[0]} ({PRIORS[small]}) to {busy[1]} ({PRIORS[large]}).",
        f"A GPU with the {PRIORS[small]} prior reads {as_bytes(sums.rate(small) * sums.stored_text)} a second.",
        f"A worker with the {PRIORS[small]} prior has its first batch done {short(start)} seconds after its start.",
        f"A token's share of the `toedit` column is {short(sums.column)} bytes, {sums.column / sums.stored_text:.0%} "
        "of its text.",
        f"Half a unit for each worker that a failure ends makes {lost[0]:.3%} ({PRIORS[small]}) to {lost[1]:.3%} "
        f"({PRIORS[large]}) of the work, whatever the number of tokens.",
    ]


def main(
    only: Annotated[str, typer.Option(help=f"One table: {', '.join(TABLES)}.")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="An assumption, as NAME=NUMBER.")] = None,
) -> None:
    """Print the tables."""
    names = {field.name for field in dataclasses.fields(Assumptions)}
    given = {}
    for change in changes or []:
        name, _, value = change.partition("=")
        if name not in names:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(sorted(names))}")
        given[name] = float(value)
    sums = Arithmetic.from_results(Assumptions(**given))
    for name, table in TABLES.items():
        if only in ("", name):
            print(f"{name}\n\n{table(sums)}\n")
    if not only:
        print(*sentences(sums), sep="\n")


if __name__ == "__main__":
    typer.run(main)
