"""The simulation in benchmarks/scale_simulation.py agrees with what can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from scale_simulation import HOUR, MOST_TRIES, MOST_WORKERS, NO_FAILURES, ROUNDS, Simulation, World

POLICIES = ("pool", "array")
HOSTILE = World(crashes=1.0, node_losses=2.0, preemptions=4.0, poison=0.01, lost_manifests=0.01)


def outcome(num_units, num_workers, policy="pool", *, seed=0, **changes):
    return Simulation(num_units, num_workers, dataclasses.replace(NO_FAILURES, **changes), policy, seed=seed).run()


@pytest.mark.parametrize(("num_units", "policy"), [(1003, "pool"), *((1024, policy) for policy in POLICIES)])
def test_without_failures_every_round_takes_as_long_as_a_unit(num_units, policy):
    out = outcome(num_units, 8, policy)
    assert out.attempts == out.done == num_units
    assert out.calls == 1
    assert out.makespan == pytest.approx(math.ceil(num_units / 8) * 300)
    assert (out.lost, out.doubled, out.given_up) == (0, 0, 0)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("requeue", [True, False])
def test_every_unit_is_done_or_reported_once(policy, requeue):
    simulation = Simulation(3000, 64, dataclasses.replace(HOSTILE, requeue=requeue), policy)
    out = simulation.run()
    assert out.done + out.given_up == 3000
    assert out.useful == pytest.approx(
        sum(seconds for unit, seconds in enumerate(simulation.seconds) if simulation.tries[unit] < MOST_TRIES)
    )
    assert out.attempts == out.done + out.lost_manifests + out.deaths
    assert out.given_up >= sum(simulation.is_poison) > 0
    assert out.unlucky == out.given_up - sum(simulation.is_poison)
    assert max(simulation.tries) == MOST_TRIES
    assert out.calls > 1


def test_crashes_cost_what_the_exponential_distribution_says():
    """A unit of d hours survives crashes at a rate c with probability exp(-c d). Of one that does not, the mean time
    until the crash is 1/c - d exp(-c d) / (1 - exp(-c d)): half the unit, if crashes are rare."""
    crashes, hours = 0.6, 300 / HOUR
    out = outcome(40_000, 32, crashes=crashes)
    dies = -math.expm1(-crashes * hours)
    assert out.deaths / out.attempts == pytest.approx(dies, rel=0.05)
    mean = 1 / crashes - hours * (1 - dies) / dies
    assert out.lost / out.deaths / HOUR == pytest.approx(mean, rel=0.03)
    assert mean == pytest.approx(hours / 2, rel=0.01)
    # Tries are a geometric distribution, cut off after three: 1 + q + q^2 of them, and q^3 units are given up.
    assert out.attempts / out.num_units == pytest.approx(1 + dies + dies**2, rel=0.005)
    assert out.given_up == out.unlucky == pytest.approx(40_000 * dies**MOST_TRIES, abs=5 * (40_000 * dies**3) ** 0.5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_poison_unit_costs_three_workers_and_no_other_unit(policy):
    out = outcome(20_000, 16, policy, poison=1e-3)
    assert out.given_up == out.deaths / MOST_TRIES > 10
    assert out.unlucky == 0
    assert out.attempts == out.done + out.deaths
    assert out.lost / out.deaths == pytest.approx(300 / 2, rel=0.3)
    assert out.calls == 1


def test_lost_manifests_are_done_again_by_the_next_call():
    out = outcome(20_000, 16, lost_manifests=0.05, person_seconds=1000.0)
    assert out.attempts / out.num_units == pytest.approx(1 / (1 - 0.05), rel=0.005)
    assert out.doubled == out.lost_manifests * 300
    assert out.calls == pytest.approx(math.log(20_000) / math.log(20), abs=2)
    assert out.waiting == (out.calls - 1) * 1000.0
    assert out.makespan == pytest.approx(out.waiting + (out.attempts / 16) * 300, rel=0.05)


def test_lost_nodes_take_their_workers_down_for_a_while():
    """A node that is lost every m hours for b hours works m / (m + b) of the time; each loss ends 8 units half-way."""
    out = outcome(40_000, 64, preemptions=24.0, preempted_seconds=1800.0)
    assert out.makespan / out.ideal == pytest.approx((1 + 0.5 + 300 / HOUR / 2) / 1, rel=0.1)
    assert out.lost / out.deaths == pytest.approx(300 / 2, rel=0.05)


def test_slow_nodes_take_as_long_as_their_speed_says():
    out = outcome(20_000, 64, slow_nodes=1.0, slow_speed=0.5)
    assert out.makespan / out.ideal == pytest.approx(2, rel=0.02)


def test_each_task_of_an_array_starts_a_process():
    """With 128 units a worker, the shares have 64, 32, ..., 2 and 2 units."""
    out = outcome(1024, 8, "array", start_seconds=60.0)
    assert out.makespan == pytest.approx(128 * 300 + ROUNDS * 60)


@pytest.mark.parametrize("seed", range(3))
def test_workers_of_an_array_end_within_the_time_of_a_last_share(seed):
    """Which has 16 of a worker's 1,000 units. Half of the nodes are slow; with four equal shares, it would be 250."""
    world = dataclasses.replace(NO_FAILURES, slow_nodes=0.5, slow_speed=0.5)
    simulation = Simulation(64_000, 64, world, "array", seed=seed)
    out = simulation.run()
    together = 64_000 * 300 / sum(worker.node.speed for worker in simulation.workers)
    assert together <= out.makespan <= together + 16 * 300 / 0.5


def test_several_arrays_take_as_long_as_one():
    out = outcome(64_000, 2 * MOST_WORKERS, "array")
    assert out.makespan == pytest.approx(out.ideal, rel=0.01)
