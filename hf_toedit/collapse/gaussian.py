"""Multivariate Gaussians, estimated by mean and covariance (Kazdan et al., arXiv 2410.16713).

R runs, N rows, D dimensions, K ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.random import Generator
from typer import Option

from ..errors import ConfigError
from ..types import FloatArray
from .extra import extra
from .gaussian_theory import accumulate_determinant, moments, replace_determinant
from .setting import Rows, RowSetting
from .workflows import Accumulate, Replace, Workflow


@dataclass(frozen=True)
class GaussianModel:
    """Fitted Gaussians, one per run, and the number of rows each was fitted to. covariance_RDD is biased."""

    mean_RD: FloatArray
    covariance_RDD: FloatArray
    num_rows: int

    @cached_property
    def roots(self) -> tuple[FloatArray, FloatArray]:
        """A_RKD with A' A = covariance, and the determinants [R].

        Cholesky factors with pivots. A covariance that has lost directions, because there are few rows or the run has
        collapsed, has a rank below its dimensions, and what is sampled stays within them. No variance is added.
        """
        factor = extra("scipy.linalg.lapack").dpstrf
        root_RKD = np.zeros_like(self.covariance_RDD)
        determinant_R = np.zeros(len(root_RKD))
        most = 0
        for run, covariance_DD in enumerate(self.covariance_RDD):
            upper_DD, pivots_D, rank, _ = factor(covariance_DD)
            root_RKD[run, :rank, pivots_D - 1] = np.triu(upper_DD)[:rank].T
            most = max(most, rank)
            if rank == len(pivots_D):
                determinant_R[run] = np.prod(np.diagonal(upper_DD)) ** 2
        return root_RKD[:, :most], determinant_R


@dataclass(frozen=True)
class Gaussian(RowSetting[GaussianModel]):
    """A standard normal distribution, fitted by mean and covariance (Kazdan et al., arXiv 2410.16713).

    Measures: squared_error, of the mean, summed over dimensions; trace_ratio and determinant_ratio, of the covariance
    to the true one.
    """

    dimensions: Annotated[int, Option(help="Dimensions of the data.")] = 1
    unbiased: Annotated[
        bool, Option("--unbiased", help="Divide by n - 1 in covariances, not by n as the paper's code does.")
    ] = False

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ConfigError(f"dimensions={self.dimensions} must be 1 or more")

    def truth(self, runs: int, num_real: int, rng: Generator) -> GaussianModel:
        shape = (runs, self.dimensions, self.dimensions)
        return GaussianModel(np.zeros(shape[:2]), np.broadcast_to(np.eye(self.dimensions), shape), 0)

    def sample(self, model: GaussianModel, n: int, rng: Generator) -> Rows:
        root_RKD, _ = model.roots
        runs, ranks, _ = root_RKD.shape
        rows: Rows = rng.standard_normal((runs, n, ranks)) @ (root_RKD * np.sqrt(self._scale(model)))
        rows += model.mean_RD[:, None]
        return rows

    def fit(self, rows: Rows, truth: GaussianModel) -> GaussianModel:
        mean_RD = rows.mean(axis=1)
        centred_RND = rows - mean_RD[:, None]
        return GaussianModel(mean_RD, centred_RND.transpose(0, 2, 1) @ centred_RND / rows.shape[1], rows.shape[1])

    def merge(self, one: GaussianModel, other: GaussianModel) -> GaussianModel:
        total = one.num_rows + other.num_rows
        a, b = one.num_rows / total, other.num_rows / total
        shift_RD = other.mean_RD - one.mean_RD
        between_RDD = a * b * shift_RD[:, :, None] * shift_RD[:, None]
        covariance_RDD = a * one.covariance_RDD + b * other.covariance_RDD + between_RDD
        return GaussianModel(a * one.mean_RD + b * other.mean_RD, covariance_RDD, total)

    def distance(self, model: GaussianModel, truth: GaussianModel, first: GaussianModel) -> dict[str, FloatArray]:
        scale = self._scale(model)
        return {
            "squared_error": (model.mean_RD**2).sum(axis=1),
            "trace_ratio": np.trace(model.covariance_RDD, axis1=1, axis2=2) * (scale / self.dimensions),
            "determinant_ratio": model.roots[1] * scale**self.dimensions,
        }

    def _scale(self, model: GaussianModel) -> float:
        """What the biased covariance is multiplied by. One row has no variance, biased or not."""
        return model.num_rows / (model.num_rows - 1) if self.unbiased and model.num_rows > 1 else 1.0

    def expected(self, workflow: Workflow, n: int, num_real: int, generations: int) -> dict[str, FloatArray]:
        found = {}
        if (exact := moments(workflow, n, num_real, generations, self.unbiased)) is not None:
            found = {"squared_error": self.dimensions * exact.square_G, "trace_ratio": exact.variance_G}
        for kind, determinant in {Replace: replace_determinant, Accumulate: accumulate_determinant}.items():
            if isinstance(workflow, kind):
                found["determinant_ratio"] = determinant(n, num_real, self.dimensions, generations, self.unbiased)
        return found
