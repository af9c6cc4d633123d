"""Many simulations in one table; what real and synthetic rows are worth together; and subsamples without copies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    Categorical,
    Gaussian,
    KernelDensity,
    Replace,
    cardinality,
    simulate,
    sweep,
)
from hf_toedit.collapse.setting import gathered
from hf_toedit.errors import ConfigError


def test_a_sweep_is_its_simulations():
    settings, workflows, sizes = [Gaussian(1), KernelDensity()], [Replace(), AccumulateSubsample()], [5, 8]
    table = sweep(settings, workflows, sizes, generations=3, runs=4, seed=1)
    assert list(table.columns[:3]) == ["setting", "workflow", "n"]
    for (setting, workflow, n), cell in table.groupby(["setting", "workflow", "n"]):
        chosen = next(one for one in settings if repr(one) == setting)
        way = AccumulateSubsample() if workflow == "accumulate-subsample" else Replace()
        alone = simulate(chosen, way, n=n, generations=3, runs=4, seed=1).table()
        pd.testing.assert_frame_equal(cell[alone.columns].reset_index(drop=True), alone)
    assert len(table.groupby(["setting", "workflow", "n"])) == 8
    with pytest.raises(ConfigError, match="at least one setting"):
        sweep(settings, [], sizes, generations=3)


@pytest.mark.slow
def test_the_table_does_not_depend_on_the_number_of_processes():
    tables = [sweep([Gaussian(30)], [Accumulate()], [50, 90], generations=5, runs=9, workers=w) for w in (1, 2)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_rows_are_gathered_as_from_their_concatenation(shape):
    rng = np.random.default_rng(0)
    parts = [rng.random((4, n, *shape)) for n in (3, 0, 7, 1)]
    whole = np.concatenate(parts, axis=1)
    chosen = rng.integers(11, size=(4, 9))
    assert (gathered(parts, chosen) == whole[np.arange(4)[:, None], chosen]).all()


def test_subsamples_are_without_replacement_and_uniform():
    rng = np.random.default_rng(1)
    parts = [np.arange(4.0)[None].repeat(3000, axis=0), np.arange(4.0, 10)[None].repeat(3000, axis=0)]
    found = Gaussian().subsample(parts, 3, rng)
    assert (np.diff(np.sort(found, axis=1)) > 0).all()
    assert np.bincount(found.astype(int).ravel()) / 3000 == pytest.approx(np.full(10, 0.3), abs=0.04)


def test_cardinality_of_gaussians_is_the_closed_form():
    """The squared error of r of N real rows and s rows of their generator: (r + s + s(s - 1)/N + 2rs/N) / (r + s)^2."""
    table = cardinality(
        Gaussian(20), num_real=[0, 10, 40], num_synthetic=[0, 15, 60], generator_rows=40, runs=400, seed=2
    )
    table = table[table.measure == "squared_error"]
    assert len(table) == 8  # all but no rows at all
    for row in table.itertuples():
        r, s, N = row.num_real, row.num_synthetic, 40
        expected = 20 * (r + s + (s * (s - 1) + 2 * r * s) / N) / (r + s) ** 2
        off = abs(row.mean - expected) / ((row.high - row.low) / 2)
        assert off < 3.3 / 2.59, (r, s)  # 99% over 8 cells
        if s:
            assert abs(row.mean - 20 / (r + s)) / ((row.high - row.low) / 2) > 2, (r, s)  # as if they were real
        if r:
            alone = table[(table.num_real == r) & (table.num_synthetic == 0)]["mean"].item()
            assert row.change == pytest.approx(row.mean - alone)


def test_cardinality_measures_from_the_truth_and_from_the_generator():
    """All of the generator's real rows give the generator itself, which is not the truth."""
    table = cardinality(Categorical(5), num_real=[7], num_synthetic=[0], runs=20).set_index("measure")
    assert table["mean"]["l1_first"] == 0
    assert table["low"]["l1_truth"] > 0


@pytest.mark.parametrize("setting", [Categorical(), KernelDensity(bandwidth="0.1"), Gaussian(2)], ids=repr)
def test_cardinality_takes_any_setting_and_is_reproducible(setting):
    def run(seed):
        return cardinality(setting, num_real=[4, 8], num_synthetic=[0, 6], runs=5, seed=seed)

    pd.testing.assert_frame_equal(run(0), run(0))
    assert not run(0).equals(run(1))


def test_bad_cardinalities():
    for given, message in [
        ({"num_real": [], "num_synthetic": [1]}, "need numbers"),
        ({"num_real": [3], "num_synthetic": [-1]}, "need numbers"),
        ({"num_real": [0], "num_synthetic": [0]}, "nothing to train on"),
        ({"num_real": [9], "num_synthetic": [0], "generator_rows": 5}, "at least the largest of num_real, 9"),
        ({"num_real": [9], "num_synthetic": [0], "runs": 0}, "runs=0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            cardinality(Gaussian(), **given)
