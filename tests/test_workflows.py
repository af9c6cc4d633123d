"""What each workflow trains on, in settings that tell where a row came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from hf_toedit import ConfigError
from hf_toedit.collapse import (
    Accumulate,
    AccumulateSubsample,
    Categorical,
    Gaussian,
    LinearRegression,
    Mixture,
    RecentModels,
    Replace,
    RowSetting,
    ToEdit,
    budget,
    cardinality,
    collapse_time,
    simulate,
)
from hf_toedit.collapse.generations import first_generation, next_generation, rng_of

N, GENERATIONS = 12, 5


@dataclass(frozen=True)
class Origins(RowSetting):
    """Each row is (number of the model it came from, its position); the real rows come from model 0."""

    def truth(self, runs, num_real, rng):
        return np.zeros(runs, dtype=int), None

    def sample(self, model, n, rng):
        number_R, _ = model
        position_RN = np.broadcast_to(np.arange(n), (len(number_R), n))
        return np.stack([np.broadcast_to(number_R[:, None], position_RN.shape), position_RN], axis=2)

    def fit(self, rows, truth):
        return rows[..., 0].max(axis=1) + 1, rows

    def distance(self, model, truth, first):
        return {"largest": model[0].astype(float)}


def trained_on(workflow, generations=GENERATIONS, runs=2):
    """The rows that each generation is trained on."""
    setting = Origins()
    truth = setting.truth(runs, N, rng_of(0))
    state = first_generation(setting, truth, N, rng_of(0, 1))
    found = [state.model[1]]
    for number in range(2, generations + 1):
        state = next_generation(setting, workflow, state, truth, N, rng_of(0, number))
        found.append(state.model[1])
    return found


def origins(rows):
    return {int(number): int((rows[0, :, 0] == number).sum()) for number in np.unique(rows[0, :, 0])}


def test_replace_trains_on_the_latest_rows():
    assert [origins(rows) for rows in trained_on(Replace())] == [{0: 12}, {1: 12}, {2: 12}, {3: 12}, {4: 12}]


def test_accumulate_trains_on_all_rows():
    assert origins(trained_on(Accumulate())[-1]) == dict.fromkeys(range(5), 12)


def test_a_subsample_has_n_rows_none_twice():
    for rows in trained_on(AccumulateSubsample(), generations=3, runs=50):
        assert rows.shape[1] == N
        assert all(len(set(map(tuple, of_run))) == N for of_run in rows)


def test_a_subsample_takes_each_row_equally_often():
    latest = trained_on(AccumulateSubsample(), generations=3, runs=4000)[-1]
    counts = np.bincount(latest[..., 0].ravel(), minlength=3) / (4000 * N)
    assert counts == pytest.approx(np.full(3, 1 / 3), abs=0.01)


@pytest.mark.parametrize(("share", "expected"), [(None, {0: 12, 4: 12}), (0.25, {0: 9, 4: 3}), (0.0, {0: 12})])
def test_a_mixture_keeps_real_rows(share, expected):
    workflow = Mixture(share)
    numbers = origins(trained_on(workflow)[-1])
    assert sorted(numbers.values()) == sorted(expected.values())
    assert numbers[0] == expected[0]


def test_recent_models_give_equal_parts():
    assert origins(trained_on(RecentModels(window=3))[-1]) == {2: 4, 3: 4, 4: 4}


def test_disjoint_edits_leave_earlier_ones_alone():
    rows = trained_on(ToEdit(0.25))[-1]
    assert rows[0, :, 0].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert (rows[..., 1] == np.arange(N)).all()


def test_disjoint_edits_go_through_the_real_rows_whatever_n_is():
    setting, workflow, num_real = Origins(), ToEdit(0.25), 8
    truth = setting.truth(1, num_real, rng_of(0))
    state = first_generation(setting, truth, num_real, rng_of(0, 1))
    for number in range(2, GENERATIONS + 1):
        state = next_generation(setting, workflow, state, truth, 3, rng_of(0, number))
    assert state.model[1][0, :, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_edits_anew_start_from_the_real_rows():
    for number, rows in enumerate(trained_on(ToEdit(0.25, anew=True), runs=30)[1:], start=1):
        numbers = rows[..., 0]
        assert ((numbers > 0).sum(axis=1) == 3).all()
        assert set(np.unique(numbers)) == {0, number if number < 2 else numbers.max()}
        assert (rows[..., 1] == np.arange(N)).all()


def test_overlapping_edits_add_up():
    rows = trained_on(ToEdit(0.25, overlapping=True), runs=500)[-1]
    untouched = (rows[..., 0] == 0).mean()
    assert untouched == pytest.approx(0.75**4, abs=0.03)


@pytest.mark.parametrize(
    ("setting", "n", "measure"),
    [
        (Gaussian(2), 20, "trace_ratio"),
        (Categorical(outcomes=8), 20, "sum_squares"),
        (LinearRegression(3), 300, "test_error"),
    ],
    ids=["gaussian", "categorical", "regression"],
)
def test_edits_anew_are_a_mixture(setting, n, measure):
    """Their closed form is that of the mixture, and simulation agrees; that of edits which add up does not."""
    generations = 8
    anew = simulate(setting, ToEdit(0.5, anew=True), n=n, generations=generations, runs=3000, seed=1)
    mixture = simulate(setting, Mixture(0.5), n=n, generations=generations, runs=2, seed=1)
    assert anew.expected_G[measure] == pytest.approx(mixture.expected_G[measure])
    _, low_G, high_G = anew.interval(measure, confidence=1 - 0.01 / generations)
    expected_G = anew.expected_G[measure]
    assert ((low_G <= expected_G) & (expected_G <= high_G)).all()
    added_up = simulate(setting, ToEdit(0.5, overlapping=True), n=n, generations=generations, runs=2).expected_G[
        measure
    ]
    assert not low_G[-1] <= added_up[-1] <= high_G[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 2}, r"share=2 must be between 0 and 1"),
        ({"share": 0.5, "decay": -1}, r"decay=-1 must be between 0 and 1"),
        ({"share": 0.5, "anew": True, "decay": 0.9}, r"decay= is for edits of edited rows"),
        ({"share": 0.5, "anew": True, "overlapping": True}, r"overlapping= is for edits of edited rows"),
    ],
)
def test_bad_edits_are_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ToEdit(**arguments)


def test_settings_that_need_a_share_say_so():
    with pytest.raises(ConfigError, match=r"set share=, such as 0\.125"):
        simulate(Gaussian(), ToEdit(), n=10, generations=2, runs=2)


@dataclass(frozen=True)
class Draws(RowSetting):
    """Its measures are the random numbers that were drawn: of the truth, and of the rows."""

    def truth(self, runs, num_real, rng):
        return rng.random(runs), np.zeros(runs)

    def sample(self, model, n, rng):
        return rng.random((len(model[0]), n))

    def fit(self, rows, truth):
        return truth[0], rows[:, 0]

    def distance(self, model, truth, first):
        return dict(zip(("truth", "row"), model, strict=True))


def test_no_two_runs_or_generations_share_random_numbers():
    values_RG = simulate(Draws(), Replace(), n=2, generations=4, runs=250).values_RG
    drawn = np.concatenate([values_RG["truth"][:, 0], values_RG["row"].ravel()])
    assert len(np.unique(drawn)) == 250 * 5


def test_a_negative_seed_is_one_line():
    for start in (
        lambda: simulate(Gaussian(), Replace(), n=5, generations=2, runs=2, seed=-1),
        lambda: budget(10, 5, 0.1, seed=-1),
        lambda: collapse_time(Categorical(2), 3, seed=-1),
        lambda: cardinality(Gaussian(), num_real=[2], num_synthetic=[0], runs=2, seed=-1),
    ):
        with pytest.raises(ConfigError, match=r"^seed=-1 must be 0 or more$"):
            start()


def test_classes_in_place_of_instances_are_one_line():
    with pytest.raises(ConfigError, match=r"Replace is a class: give an instance, such as Replace\(\)"):
        simulate(Gaussian(), Replace, n=5, generations=2)
    with pytest.raises(ConfigError, match=r"Gaussian is a class"):
        simulate(Gaussian, Replace(), n=5, generations=2)
