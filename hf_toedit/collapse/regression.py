"""Linear regression on fixed inputs that each model labels (Kazdan et al.; Zhu et al., section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.random import Generator
from typer import Option

from ..errors import ConfigError
from ..types import FloatArray
from .regression_theory import disjoint_inflation, least_squares_error, overlapping_inflation, workflow_inflation
from .setting import Rows, RowSetting
from .workflows import (
    Accumulate,
    AccumulateSubsample,
    GrowingReplace,
    Mixture,
    RecentModels,
    Replace,
    ToEdit,
    Workflow,
    as_mixture,
)

MANY_ROWS = 50  # per dimension: where closed forms for T >> d are shown


@dataclass(frozen=True)
class LinearModel:
    """Fitted weights, one vector per run, the number of rows each was fitted to, and the design that each labels, with
    its pseudo-inverse.
    """

    weights_RD: FloatArray
    num_rows: int
    design_RTD: FloatArray
    inverse_RDT: FloatArray


@dataclass(frozen=True)
class LinearRegression(RowSetting[LinearModel]):
    """Linear regression by least squares, on rows that each generation's model relabels (arXiv 2404.01413).

    Inputs are x ~ N(0, I), the same in all generations; labels x·w* + e, with w* ~ N(0, I).
    Measures: test_error, ||w - w*||^2, which is the mean squared error on new inputs without noise.
    """

    dimensions: Annotated[int, Option(help="Dimensions of the inputs.")] = 10
    noise_variance: Annotated[float, Option(help="Variance of the labels' noise.")] = 1.0

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ConfigError(f"dimensions={self.dimensions} must be 1 or more")
        if not 0 < self.noise_variance < np.inf:
            raise ConfigError(f"noise_variance={self.noise_variance} must be a number above 0")

    def truth(self, runs: int, num_real: int, rng: Generator) -> LinearModel:
        weights_RD = rng.standard_normal((runs, self.dimensions))
        design_RTD = rng.standard_normal((runs, num_real, self.dimensions))
        return LinearModel(weights_RD, 0, design_RTD, pseudo_inverse(design_RTD))

    def sample(self, model: LinearModel, n: int, rng: Generator) -> Rows:
        runs, num_rows = model.design_RTD.shape[:2]
        if n != num_rows:
            raise ConfigError(f"n={n} must equal num_real={num_rows}: linear regression labels the same rows again")
        noise_RN1 = np.sqrt(self.noise_variance) * rng.standard_normal((runs, n, 1))
        labels_RN1 = model.design_RTD @ model.weights_RD[:, :, None] + noise_RN1
        return np.concatenate([model.design_RTD, labels_RN1], axis=2)

    def fit(self, rows: Rows, truth: LinearModel) -> LinearModel:
        inputs_RND, labels_RN1 = rows[..., :-1], rows[..., -1:]
        known = np.array_equal(inputs_RND, truth.design_RTD)
        inverse_RDN = truth.inverse_RDT if known else pseudo_inverse(inputs_RND)
        return LinearModel((inverse_RDN @ labels_RN1)[..., 0], rows.shape[1], truth.design_RTD, truth.inverse_RDT)

    def merge(self, one: LinearModel, other: LinearModel) -> LinearModel:
        total = one.num_rows + other.num_rows  # both were fitted to the same inputs
        weights_RD = (one.num_rows * one.weights_RD + other.num_rows * other.weights_RD) / total
        return LinearModel(weights_RD, total, one.design_RTD, one.inverse_RDT)

    def distance(self, model: LinearModel, truth: LinearModel, first: LinearModel) -> dict[str, FloatArray]:
        return {"test_error": ((model.weights_RD - truth.weights_RD) ** 2).sum(axis=1)}

    def expected(self, workflow: Workflow, n: int, num_real: int, generations: int) -> dict[str, FloatArray]:
        """Exact where each generation is trained on whole generations' rows. Close for ToEdit; NaN once rows are edited
        in order for the second time. Where rows are drawn from earlier generations, for n >> dimensions, and so left
        out below 50 rows per dimension.
        """
        inflation_G = expected_inflation(workflow, n, self.dimensions, generations)
        if n != num_real or inflation_G is None:
            return {}
        unreachable = max(self.dimensions - n, 0)  # what n rows can't tell about w*
        error = least_squares_error(n, self.dimensions, self.noise_variance)
        return {"test_error": unreachable + error * inflation_G}


def pseudo_inverse(inputs_RND: FloatArray) -> FloatArray:
    """The pseudo-inverse of each matrix, of any rank, by way of QR: faster than an SVD if there are many rows."""
    orthonormal_RNK, triangular_RKD = np.linalg.qr(inputs_RND)
    smallest = max(inputs_RND.shape[1:]) * np.finfo(float).eps
    inverse: FloatArray = np.linalg.pinv(triangular_RKD, rcond=smallest) @ orthonormal_RNK.transpose(0, 2, 1)
    return inverse


def expected_inflation(workflow: Workflow, n: int, dimensions: int, generations: int) -> FloatArray | None:
    """Expected test errors relative to that of generation 1, where they are known."""
    workflow, _ = as_mixture(workflow, n, n)
    if isinstance(workflow, ToEdit):
        return toedit_inflation(workflow, n, dimensions, generations)
    fractions_GG = trained_on(workflow, n, generations)
    if fractions_GG is None:
        return None
    is_whole = np.array_equal(fractions_GG, fractions_GG.round())
    sizes_G = None
    if isinstance(workflow, RecentModels):  # a model's rows are the same in all generations that train on them
        sizes_G = np.concatenate([[1.0], fractions_GG.diagonal()[1:]])
    return workflow_inflation(fractions_GG, sizes_G) if is_whole or n >= MANY_ROWS * dimensions else None


def toedit_inflation(workflow: ToEdit, n: int, dimensions: int, generations: int) -> FloatArray | None:
    """NaN from the edit that would be the second of a row, if rows are edited in order."""
    if workflow.share is None:
        return None
    shares = [round(workflow.share * workflow.decay**i * n) / n for i in range(generations - 1)]
    if workflow.overlapping:
        return overlapping_inflation(shares, n, dimensions)
    num_once = int(np.sum(np.cumsum(shares) <= 1 + 1e-9))
    inflation_G = np.full(generations, np.nan)
    inflation_G[: num_once + 1] = disjoint_inflation(shares[:num_once], n, dimensions)
    return inflation_G


def trained_on(workflow: Workflow, n: int, generations: int) -> FloatArray | None:
    """The fraction of each batch of n rows that a generation is trained on, as `workflow_inflation` takes it."""
    latest_GG = np.eye(generations)
    number_G = np.arange(1.0, generations + 1)
    all_GG = np.tri(generations)
    real_GG = np.zeros_like(all_GG)
    real_GG[:, 0] = 1
    if isinstance(workflow, Replace):
        return latest_GG
    if isinstance(workflow, GrowingReplace):
        return latest_GG * number_G
    if isinstance(workflow, Accumulate):
        return all_GG
    if isinstance(workflow, AccumulateSubsample):
        return all_GG / number_G[:, None]
    if isinstance(workflow, Mixture):
        if workflow.synthetic_share is None:
            return np.maximum(real_GG, latest_GG)
        share = round(workflow.synthetic_share * n) / n
        mixed_GG = (1 - share) * real_GG + share * latest_GG
        mixed_GG[0, 0] = 1
        return mixed_GG
    if isinstance(workflow, RecentModels):
        num_parts_G = np.minimum(number_G, workflow.window)
        recent_GG = all_GG - np.tri(generations, k=-workflow.window)
        rows_G: FloatArray = n // num_parts_G
        return recent_GG * rows_G[:, None] / n
    return None
