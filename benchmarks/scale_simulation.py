"""A million units on many workers that fail: how long it takes, what is lost, and how often a person has to act.

    python benchmarks/scale_simulation.py run       # some minutes; writes results/scale-simulation.json
    python benchmarks/scale_simulation.py table benchmarks/results/scale-simulation.json

An event-driven simulation of what `hf_toedit/scale` does. A worker has one unit at a time, and a unit counts once its
manifest is written, so a death loses one unit at most. A unit whose worker died is tried again, and reported as failed
after three deaths, while all others go on. What is missing at the end is done by the next call of the command.

"pool" (one machine, Ray): a parent gives each worker its next unit, and replaces workers that die. "array" (Slurm):
each task has a share of neighbouring units, and starts a process for it. One that dies is replaced, and the task of a
lost node starts again by itself and skips what is done. The shares halve, as those of `hf_toedit.scale.launches`; many
workers are divided among several arrays, which do not help one another.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections import deque
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import typer

from hf_toedit.scale.launches import ROUNDS, divided, halving

RESULTS = Path(__file__).parent / "results/scale-simulation.json"
HOUR, DAY = 3600.0, 86400.0
MOST_TRIES = 3
NUM_UNITS = 1_000_000
MOST_TASKS = 1000  # of an array, as in hf_toedit.scale.slurm
MOST_WORKERS = MOST_TASKS // ROUNDS

Policy = Literal["pool", "array"]

app = typer.Typer(add_completion=False, help=__doc__)


@dataclasses.dataclass(frozen=True)
class World:
    """How long things take, in seconds, and how often they fail.

    unit_seconds: one unit on a worker of usual speed; units differ by up to the share `spread` in either direction.
    crashes: deaths of one worker process, such as for lack of memory, per hour.
    node_losses, preemptions: of a node with all its workers, per day.
    lost_node_seconds, preempted_seconds: until the scheduler has replaced the node.
    start_seconds: until a new process has loaded its prior.
    poison: the share of units that kill their worker on every try.
    lost_manifests: the share of manifests that the store loses after it has accepted them.
    slow_nodes, slow_speed: the share of nodes that are slower, and their speed.
    person_seconds: until somebody has noticed that a call ended with units missing, and calls again.
    requeue: the scheduler replaces lost nodes. Without it, each waits for a person.
    """

    unit_seconds: float = 300.0
    spread: float = 0.2
    crashes: float = 1 / 500
    node_losses: float = 0.0038
    preemptions: float = 0.05
    lost_node_seconds: float = 1800.0
    preempted_seconds: float = 900.0
    start_seconds: float = 60.0
    poison: float = 1e-5
    lost_manifests: float = 1e-6
    slow_nodes: float = 0.02
    slow_speed: float = 0.5
    workers_per_node: int = 8
    person_seconds: float = 4 * HOUR
    requeue: bool = True


NO_FAILURES = World(
    spread=0.0,
    crashes=0.0,
    node_losses=0.0,
    preemptions=0.0,
    start_seconds=0.0,
    poison=0.0,
    lost_manifests=0.0,
    slow_nodes=0.0,
)


@dataclasses.dataclass
class Outcome:
    """What happened.

    makespan, ideal, waiting: seconds on the clock: in all, of as many workers of usual speed that never fail, and for
        a person between calls.
    useful, lost, doubled: seconds of work at usual speed: that counts, that a death threw away, and that was done again
        because its manifest was lost.
    deaths: of workers with a unit. given_up: units reported as failed. unlucky: those of them that are not poison.
    calls: of the command. nodes_called_back: nodes that a person had to start again.
    """

    num_units: int
    num_workers: int
    ideal: float
    makespan: float = 0.0
    waiting: float = 0.0
    useful: float = 0.0
    lost: float = 0.0
    doubled: float = 0.0
    attempts: int = 0
    deaths: int = 0
    done: int = 0
    given_up: int = 0
    unlucky: int = 0
    lost_manifests: int = 0
    calls: int = 0
    nodes_called_back: int = 0


class Node:
    """A machine. Its outages are drawn as far as they are asked for."""

    def __init__(self, world: World, draws: np.random.Generator) -> None:
        self.world, self.draws = world, draws
        self.speed = world.slow_speed if draws.random() < world.slow_nodes else 1.0
        self.outages: list[tuple[float, float]] = []

    def outage(self, number: int) -> tuple[float, float]:
        """When the outage of this number begins, and when it ends."""
        world = self.world
        per_day = world.node_losses + world.preemptions
        if not per_day:
            return np.inf, np.inf
        while len(self.outages) <= number:
            begin = (self.outages[-1][1] if self.outages else 0.0) + self.draws.exponential(DAY / per_day)
            is_loss = self.draws.random() < world.node_losses / per_day
            length = world.lost_node_seconds if is_loss else world.preempted_seconds
            self.outages.append((begin, begin + (length if world.requeue else world.person_seconds)))
        return self.outages[number]


class Worker:
    """A place for one process at a time, on a node. crash: when its process will die by itself. units: its share."""

    def __init__(self, node: Node, world: World, draws: np.random.Generator) -> None:
        self.node, self.world, self.draws = node, world, draws
        self.num_outages, self.crash = 0, 0.0
        self.units: deque[int] = deque()

    def start(self, now: float) -> float:
        """When a new process, asked for now, can begin a unit: once its node is there and its prior is loaded."""
        world = self.world
        begin, end = self.node.outage(self.num_outages)
        while begin <= now + world.start_seconds:
            now, self.num_outages = max(now, end), self.num_outages + 1
            begin, end = self.node.outage(self.num_outages)
        now += world.start_seconds
        self.crash = now + self.draws.exponential(HOUR / world.crashes) if world.crashes else np.inf
        return now

    @property
    def node_loss(self) -> float:
        return self.node.outage(self.num_outages)[0]

    @property
    def death(self) -> float:
        return min(self.crash, self.node_loss)


class Event(NamedTuple):
    """What a worker comes to next: the end of a unit, or, if `unit` is None, of its start.

    dies: the unit ends because the process dies.
    """

    time: float
    worker: int
    unit: int | None
    dies: bool
    began: float


class Simulation:
    """One output: calls of the command until every unit is done or reported as failed."""

    def __init__(
        self,
        num_units: int,
        num_workers: int,
        world: World,
        policy: Policy = "pool",
        *,
        seed: int = 0,
    ) -> None:
        self.world, self.policy = world, policy
        self.draws = np.random.default_rng(seed)
        factors = 1 + world.spread * (2 * self.draws.random(num_units) - 1)
        self.seconds = (world.unit_seconds * factors).tolist()
        self.is_poison = (self.draws.random(num_units) < world.poison).tolist()
        self.tries = bytearray(num_units)
        self.nodes = [Node(world, self.draws) for _ in range(-(-num_workers // world.workers_per_node))]
        self.workers = [Worker(self.nodes[i // world.workers_per_node], world, self.draws) for i in range(num_workers)]
        self.outcome = Outcome(num_units, num_workers, ideal=sum(self.seconds) / num_workers)

    def run(self) -> Outcome:
        out, now = self.outcome, 0.0
        to_do = list(range(out.num_units))
        while to_do:
            out.calls += 1
            out.makespan, to_do = self._call(to_do, now)
            now = out.makespan + self.world.person_seconds
        out.waiting = (out.calls - 1) * self.world.person_seconds
        if not self.world.requeue:
            out.nodes_called_back = sum(begin < out.makespan for node in self.nodes for begin, _ in node.outages)
        return out

    def _queues(self, to_do: list[int]) -> tuple[list[deque[deque[int]]], list[int]]:
        """What processes get at a time: a unit, or the share of a task; and the queue that each worker takes it from.

        A pool has one queue; of Slurm, each array is one.
        """
        if self.policy == "pool":
            return [deque(deque([unit]) for unit in to_do)], [0] * len(self.workers)
        num_workers = min(len(self.workers), len(to_do))
        num_arrays = -(-num_workers // MOST_WORKERS)
        workers_of = [len(share) for share in divided(range(num_workers), num_arrays)]
        parts = zip(divided(to_do, num_arrays), workers_of, strict=True)
        queues = [deque(map(deque, halving(part, workers))) for part, workers in parts]
        return queues, [array for array, workers in enumerate(workers_of) for _ in range(workers)]

    def _call(self, to_do: list[int], now: float) -> tuple[float, list[int]]:
        """One call, until nothing is left to try. Returns its end, and the units that have no manifest."""
        out, missing = self.outcome, list[int]()
        queues, queue_of = self._queues(to_do)
        idle: list[list[int]] = [[] for _ in queues]
        settled, end = out.done + out.given_up, now
        ready = [worker.start(now) if self.policy == "pool" else now for worker in self.workers[: len(queue_of)]]
        events = [Event(when, number, None, False, now) for number, when in enumerate(ready)]
        heapq.heapify(events)
        while out.done + out.given_up + len(missing) < settled + len(to_do):
            now, number, unit, dies, began = heapq.heappop(events)
            worker, of_queue = self.workers[number], idle[queue_of[number]]
            queue = queues[queue_of[number]]
            if unit is not None:
                end = now
                if dies:
                    self._died(unit, now, began, worker, queue)
                elif not self._commit(unit):
                    missing.append(unit)
            if worker.units:  # the rest of its own share
                heapq.heappush(events, self._next(number, now))
            else:
                of_queue.append(number)
            while queue and of_queue:
                heapq.heappush(events, self._begin(of_queue.pop(), queue, now))
        return end, missing

    def _begin(self, number: int, queue: deque[deque[int]], now: float) -> Event:
        """What a worker without work comes to next: in a pool its next unit, in an array the start of a task."""
        worker = self.workers[number]
        is_there = (worker.death if self.policy == "pool" else worker.node_loss) > now
        if is_there:
            worker.units = queue.popleft()
        if is_there and self.policy == "pool":
            return self._next(number, now)
        return Event(worker.start(now), number, None, False, now)

    def _next(self, number: int, now: float) -> Event:
        """What a worker comes to next: the next unit of its share or, if its process has died, the start of another."""
        worker = self.workers[number]
        if worker.death <= now:
            return Event(worker.start(now), number, None, False, now)
        unit = worker.units.popleft()
        self.outcome.attempts += 1
        ends = now + self.seconds[unit] / worker.node.speed
        if self.is_poison[unit]:
            worker.crash = min(worker.crash, now + (ends - now) * self.draws.random())
        return Event(min(ends, worker.death), number, unit, worker.death < ends, now)

    def _died(self, unit: int, now: float, began: float, worker: Worker, queue: deque[deque[int]]) -> None:
        """A process died within a unit: what becomes of the unit. A task keeps the rest of its share."""
        out = self.outcome
        out.deaths += 1
        out.lost += (now - began) * worker.node.speed
        self.tries[unit] += 1
        if self.tries[unit] < MOST_TRIES:
            worker.units.appendleft(unit)
        else:
            out.given_up += 1
            out.unlucky += not self.is_poison[unit]
        if self.policy == "pool" and worker.units:
            queue.append(worker.units)
            worker.units = deque()

    def _commit(self, unit: int) -> bool:
        """Count a finished unit. Returns whether the store has kept its manifest."""
        if self.draws.random() < self.world.lost_manifests:
            self.outcome.lost_manifests += 1
            self.outcome.doubled += self.seconds[unit]
            return False
        self.outcome.done += 1
        self.outcome.useful += self.seconds[unit]
        return True


# what the page shows

USUAL = "usual"
USUAL_SEEDS = (0, 1, 2)  # the other cases have one run each
ALL_TOGETHER: list[tuple[str, int, Policy, dict[str, Any]]] = [
    *((USUAL, number, policy, {}) for policy in ("pool", "array") for number in (8, 64, 512, 4096)),
    ("spot nodes, preempted twice a day", 512, "pool", {"preemptions": 2.0}),
    ("a process crashes every 20 hours", 512, "pool", {"crashes": 1 / 20}),
    ("one unit in 1,000 is poison", 512, "pool", {"poison": 1e-3}),
    ("the store loses one manifest in 1,000", 512, "pool", {"lost_manifests": 1e-3}),
    ("nobody replaces lost nodes but a person", 512, "pool", {"requeue": False}),
    ("the same work in units of an hour", 512, "pool", {"unit_seconds": HOUR}),
]


@app.command()
def run() -> None:
    """Simulate all that the page shows, and write it to a file."""
    found: dict[str, Any] = {"world": dataclasses.asdict(World()), "cases": []}
    for title, num_workers, policy, changes in ALL_TOGETHER:
        world = dataclasses.replace(World(), **changes)
        num_units = round(NUM_UNITS * World.unit_seconds / world.unit_seconds)
        seeds = USUAL_SEEDS if title == USUAL else USUAL_SEEDS[:1]
        runs = [
            dataclasses.asdict(Simulation(num_units, num_workers, world, policy, seed=seed).run()) for seed in seeds
        ]
        found["cases"].append({"title": title, "policy": policy, "runs": runs})
        print(row_of(found["cases"][-1]), flush=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


@app.command()
def table(file: Path) -> None:
    """Print the table of a file of figures."""
    print(table_of(json.loads(file.read_text(encoding="utf-8"))))


def table_of(found: dict[str, Any]) -> str:
    headings = (
        "workers",
        "days",
        "over ideal",
        "of it waiting",
        "work lost",
        "done twice",
        "tries a unit",
        "failed",
        "calls",
    )
    lines = [f"| a million units of {World.unit_seconds / 60:.0f} minutes | {' | '.join(headings)} |"]
    lines.append("|---|" + "---:|" * len(headings))
    return "\n".join([*lines, *map(row_of, found["cases"])])


def row_of(case: dict[str, Any]) -> str:
    """Figures of the run with the median makespan; of several runs, also the least and the largest makespan."""
    runs = sorted(case["runs"], key=lambda run: run["makespan"] / run["ideal"])
    run, ratios = runs[len(runs) // 2], [f"{run['makespan'] / run['ideal']:.2f}" for run in runs]
    cells = (
        f"{case['policy']}: {USUAL}" if case["title"] == USUAL else case["title"],
        f"{run['num_workers']:,}",
        f"{run['makespan'] / DAY:.1f}",
        ratios[len(runs) // 2] + (f" ({ratios[0]} to {ratios[-1]})" if ratios[0] != ratios[-1] else ""),
        f"{run['waiting'] / run['ideal']:.2f}",
        f"{run['lost'] / run['useful']:.3%}",
        f"{run['doubled'] / run['useful']:.4%}",
        f"{run['attempts'] / run['num_units']:.4f}",
        f"{run['given_up']:,}",
        f"{run['calls']:,}" + (f" + {run['nodes_called_back']:,} nodes" if run["nodes_called_back"] else ""),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
