"""What a benchmark case is: an estimator, a body of known truth, and the draws of independent seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from landscape.volume.multilevel import Trace
from landscape.volume.sampling import LogVolume
from landscape.volume.weights import CALIBRATED, quantile

MOST_SEEDS, FEW_SEEDS, FEWEST_SEEDS = 200, 20, 10
LARGE, HUGE = 500, 50_000


class Draw(NamedTuple):
    """One estimate of one seed."""

    value: float
    low: float
    high: float
    calibrated: bool
    sampling_se: float = np.nan
    determinant_se: float = np.nan
    bias: float = np.nan
    products: float = 0.0
    passes: float = np.nan


@dataclass(frozen=True)
class Case:
    """A benchmark case: an estimator, a body, and the draws of one seed."""

    estimator: str
    body: str
    size: int
    condition: float
    truth: float
    seeds: int
    draw: Callable[[int], Draw]


def of_volume(found: LogVolume, products: float, passes: float) -> Draw:
    """Return the draw of a sampled log volume."""
    trace = found.determinant
    sure = found.verdict == CALIBRATED
    return Draw(found.value, found.low, found.high, sure, found.sampling.se, trace.se, trace.bias, products, passes)


def of_trace(found: Trace, products: float) -> Draw:
    """Return the draw of a stochastic trace."""
    margin = quantile(found.df) * found.se + abs(found.bias) + 1e-12 * abs(found.value)
    return Draw(found.value, found.value - margin, found.value + margin, True, np.nan, found.se, found.bias, products)


def seeds_for(size: int) -> int:
    """Return 200 seeds for small bodies, 20 for large ones and 10 for huge ones, where a seed takes 12 seconds."""
    if size >= HUGE:
        return FEWEST_SEEDS
    return MOST_SEEDS if size <= LARGE else FEW_SEEDS
