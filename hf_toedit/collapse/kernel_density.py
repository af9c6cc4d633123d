"""Kernel density estimates of plane and spatial data (Kazdan et al., arXiv 2410.16713).

R runs, N rows, D dimensions, M held-out real rows, B rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.random import Generator
from typer import Option

from ..errors import ConfigError, nearest
from ..types import FloatArray, IntArray
from .extra import extra
from .gaussian_theory import chosen_rows, pooled_moments
from .setting import Rows, RowSetting, gathered
from .workflows import Workflow, as_mixture

Dataset = Literal["blobs", "circles", "moons", "swiss_roll"]
NOISE = 0.05
NUM_BLOBS = 3
BOX = 10.0  # centres of blobs are within (-10, 10), as scikit-learn draws them
NUM_HELD_OUT = 500
PAIRS_AT_A_TIME = 2**20
RULES = ("scott", "silverman")


@dataclass(frozen=True)
class Densities:
    """Kernel density estimates, one for each run. Without rows, what the real data comes from.

    parts: the rows [R, N, D] in one array or more. log_density_RM: at the held-out rows [R, M, D]. centres: of blobs.
    mean_RD, spread_R: of the rows; their variance (with 1/n) is averaged over dimensions.
    """

    parts: tuple[Rows, ...]
    bandwidth: float
    held_out_RMD: FloatArray
    log_density_RM: FloatArray
    centres: FloatArray
    mean_RD: FloatArray
    spread_R: FloatArray

    @property
    def num_rows(self) -> int:
        return sum(rows.shape[1] for rows in self.parts)


@dataclass(frozen=True)
class KernelDensity(RowSetting[Densities]):
    """Datasets of scikit-learn and Gaussian kernels (Kazdan et al., arXiv 2410.16713).

    Measures: nll, the mean negative log density of 500 held-out real rows, in nats; variance, of the estimate, the mean
    over dimensions, in squared units of the data.
    """

    dataset: Annotated[Dataset, Option(help="What the real data comes from.")] = "moons"
    bandwidth: Annotated[str, Option(help="Standard deviation of the kernels, or a rule: scott or silverman.")] = "0.5"

    def __post_init__(self) -> None:
        known = get_args(Dataset)
        if self.dataset not in known:
            raise ConfigError(f"unknown dataset {self.dataset!r}{nearest(self.dataset, known)}")
        self.bandwidth_of(2)

    @property
    def dimensions(self) -> int:
        return 3 if self.dataset == "swiss_roll" else 2

    def bandwidth_of(self, num_rows: int) -> float:
        """As in scikit-learn, whose rules of Scott and Silverman ignore the scale of the data."""
        d = self.dimensions
        if self.bandwidth == "scott":
            return float(num_rows ** (-1 / (d + 4)))
        if self.bandwidth == "silverman":
            return float((num_rows * (d + 2) / 4) ** (-1 / (d + 4)))
        try:
            width = float(self.bandwidth)
        except ValueError:
            width = 0.0
        if not 0 < width < np.inf:
            raise ConfigError(f"bandwidth={self.bandwidth!r} must be a number above 0, 'scott' or 'silverman'")
        return width

    def truth(self, runs: int, num_real: int, rng: Generator) -> Densities:
        centres = rng.uniform(-BOX, BOX, (runs, NUM_BLOBS, 2))
        held_out_RMD = self._real(centres, NUM_HELD_OUT, rng)
        log_density_RM, mean_RD = np.zeros(held_out_RMD.shape[:2]), np.zeros((runs, self.dimensions))
        return Densities((), 0.0, held_out_RMD, log_density_RM, centres, mean_RD, np.zeros(runs))

    def _real(self, centres: FloatArray, n: int, rng: Generator) -> Rows:
        make = getattr(extra("sklearn.datasets"), f"make_{self.dataset}")
        seeds = rng.integers(2**31, size=len(centres)).tolist()
        if self.dataset == "blobs":
            made = [make(n, centers=own, random_state=seed) for own, seed in zip(centres, seeds, strict=True)]
        else:
            made = [make(n, noise=NOISE, random_state=seed) for seed in seeds]
        return np.stack([rows for rows, _ in made])

    def sample(self, model: Densities, n: int, rng: Generator) -> Rows:
        if not model.parts:
            return self._real(model.centres, n, rng)
        runs = len(model.centres)
        chosen_RN: IntArray = rng.integers(model.num_rows, size=(runs, n))
        return gathered(model.parts, chosen_RN) + model.bandwidth * rng.standard_normal((runs, n, self.dimensions))

    def fit(self, rows: Rows, truth: Densities) -> Densities:
        bandwidth = self.bandwidth_of(rows.shape[1])
        log_density_RM = log_densities(rows, truth.held_out_RMD, bandwidth)
        mean_RD, spread_R = rows.mean(axis=1), rows.var(axis=1).mean(axis=1)
        return Densities((rows,), bandwidth, truth.held_out_RMD, log_density_RM, truth.centres, mean_RD, spread_R)

    def merge(self, one: Densities, other: Densities) -> Densities:
        """The density of pooled rows is the weighted mean of the densities, so old rows need no second visit."""
        parts = (*one.parts, *other.parts)
        if self.bandwidth in RULES:  # the bandwidth changes with the number of rows
            return replace(self.fit(self.pool(parts), one), parts=parts)
        a = one.num_rows / (one.num_rows + other.num_rows)
        log_density_RM = np.logaddexp(np.log(a) + one.log_density_RM, np.log(1 - a) + other.log_density_RM)
        between_R = ((one.mean_RD - other.mean_RD) ** 2).mean(axis=1)
        spread_R = a * one.spread_R + (1 - a) * other.spread_R + a * (1 - a) * between_R
        mean_RD = a * one.mean_RD + (1 - a) * other.mean_RD
        return replace(one, parts=parts, log_density_RM=log_density_RM, mean_RD=mean_RD, spread_R=spread_R)

    def distance(self, model: Densities, truth: Densities, first: Densities) -> dict[str, FloatArray]:
        return {"nll": -model.log_density_RM.mean(axis=1), "variance": model.spread_R + model.bandwidth**2}

    def expected(self, workflow: Workflow, n: int, num_real: int, generations: int) -> dict[str, FloatArray]:
        if self.bandwidth in RULES:
            return {}
        first = self.real_spread(num_real)
        variance_G = kernel_variance(workflow, first, self.bandwidth_of(1), n, num_real, generations)
        return {} if variance_G is None else {"variance": variance_G}

    def real_spread(self, num_real: int) -> float:
        """The expected variance (with 1/n) of `num_real` real rows, the mean over dimensions.

        Moons and circles: points at even distances, and noise. Blobs: centres uniform in a square, rows around them of
        variance 1, in equal numbers. Swiss roll: rows along (t cos t, 21 u, t sin t) for uniform t and u, and noise.
        """
        noise = NOISE**2 * (1 - 1 / num_real)
        if self.dataset == "blobs":
            shares = np.array([(num_real + NUM_BLOBS - 1 - blob) // NUM_BLOBS for blob in range(NUM_BLOBS)]) / num_real
            return float(1 - 1 / num_real + BOX**2 / 3 * (1 - (shares**2).sum()))
        if self.dataset == "swiss_roll":
            share = (np.arange(100_000) + 0.5) / 100_000
            angle = 1.5 * np.pi * (1 + 2 * share)
            curve = np.stack([angle * np.cos(angle), 21 * share, angle * np.sin(angle)])
            return float(curve.var(axis=1).mean() * (1 - 1 / num_real) + noise)
        points, _ = getattr(extra("sklearn.datasets"), f"make_{self.dataset}")(num_real)
        return float(points.var(axis=0).mean() + noise)


def kernel_variance(
    workflow: Workflow, first: float, bandwidth: float, n: int, num_real: int, generations: int
) -> FloatArray | None:
    """The exact variance of the estimates of generations 1, 2, ...: [G]; None where it is not known.

    first: the variance of the real rows, with 1/n. All are per dimension. With bandwidth h, replace takes the variance
    from v to (1 - 1/n) v + h^2: it grows by h^2 a generation at first, and tends to n h^2. Accumulate adds about h^2/g
    in generation g, without a limit. Ours; Kazdan et al. (arXiv 2410.16713) say that the estimate diverges slowly.
    """
    chosen = chosen_rows(*as_mixture(workflow, n, num_real), num_real, generations)
    if chosen is None:
        return None
    gap = first * num_real / max(num_real - 1, 1)
    return pooled_moments(*chosen, gap=gap, added=bandwidth**2).variance_G


def replace_kernel_variance(first: float, bandwidth: float, n: int, generation: IntArray | int) -> FloatArray:
    """`kernel_variance` under replace: n h^2 + (v - n h^2) (1 - 1/n)^(generation - 1), with v that of generation 1.

    first: as in `kernel_variance`; v = first + h^2. It tends to n h^2, whatever the real data is.
    """
    limit = n * bandwidth**2
    return limit + (first + bandwidth**2 - limit) * (1 - 1 / n) ** (np.asarray(generation) - 1.0)


def log_densities(rows: Rows, points_RMD: FloatArray, bandwidth: float) -> FloatArray:
    """Log of the mean of Gaussian kernels around the rows [R, N, D], at the points: [R, M], in nats.

    Equals scikit-learn's `KernelDensity(bandwidth=bandwidth).fit(rows[r]).score_samples(points_RMD[r])` for each run r.
    """
    runs, num_rows, dimensions = rows.shape
    a = np.ascontiguousarray(rows.transpose(0, 2, 1)) / bandwidth
    b = points_RMD.transpose(0, 2, 1) / bandwidth
    log_sum_RM = np.empty(points_RMD.shape[:2])
    step = max(1, PAIRS_AT_A_TIME // (num_rows * points_RMD.shape[1]))
    for start in range(0, runs, step):
        here = slice(start, start + step)
        distance_BMN = (b[here, 0, :, None] - a[here, 0, None]) ** 2
        for axis in range(1, dimensions):
            distance_BMN += (b[here, axis, :, None] - a[here, axis, None]) ** 2
        nearest_BM = distance_BMN.min(axis=2)
        distance_BMN -= nearest_BM[:, :, None]
        distance_BMN *= -0.5
        np.exp(distance_BMN, out=distance_BMN)
        log_sum_RM[here] = np.log(distance_BMN.sum(axis=2)) - nearest_BM / 2
    log_sum_RM -= np.log(num_rows) + dimensions * np.log(bandwidth * np.sqrt(2 * np.pi))
    return log_sum_RM
