"""Direct tests that fast coordinates are slaved to slow ones: twin runs, and the steady graph of visited states.

Neither needs curvature beyond the fast directions ``V (n, K)`` that split W into q = V'W and the rest. On an inertial
manifold the difference of two runs enters the cone |Q w| <= |P w| and stays, and all states, after their transients,
lie on one graph with Lipschitz constant at most 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.dimension.metric import Point
from landscape.dimension.rates import Array
from landscape.errors import InputError
from landscape.seeds import generator, numpy_generator


@dataclass(frozen=True)
class TwinOptions:
    """How twin runs are made: full-batch gradient descent, the same for both.

    Parameters
    ----------
    lr, momentum
        Step size in parameter^2 / nat, and the heavy ball's momentum.
    steps
        Updates of each twin.
    size
        Norm of the first difference.
    kind
        ``fast``: the difference lies in Q; ``mixed``: it is isotropic.
    seed
        Of the difference.
    """

    lr: float
    steps: int = 100
    momentum: float = 0.0
    size: float = 1e-2
    kind: str = "fast"
    seed: int = 0


@dataclass(frozen=True)
class Squeezing:
    """The two sides of the difference of twin runs.

    Attributes
    ----------
    time
        Flow time, learning rate times steps, ``(T,)``.
    fast, slow
        |Q w| and |P w|, ``(T,)``.
    """

    time: Array
    fast: Array
    slow: Array

    @property
    def ratio(self) -> Array:
        """The ratio r = |Q w| / |P w|, ``(T,)``."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.fast == 0, 0.0, self.fast / self.slow)

    @property
    def entry(self) -> int | None:
        """First sample from which r stays <= 1, or None if the cone is not entered for good."""
        outside = np.flatnonzero(self.ratio > 1)
        first = int(outside[-1]) + 1 if len(outside) else 0
        return first if first < len(self.time) else None

    @property
    def decay_rate(self) -> float:
        """Smallest rate at which |Q w| falls while r > 1, to compare with the attraction rate; NaN if never outside."""
        outside = (self.ratio[:-1] > 1) & (self.ratio[1:] > 1) & (self.fast[1:] > 0)
        if not outside.any():
            return float("nan")
        return float((-np.diff(np.log(np.maximum(self.fast, 1e-300))) / np.diff(self.time))[outside].min())


def twin_runs(problem: Point, fast: Tensor, options: TwinOptions) -> Squeezing:
    """Return how the difference of two runs from neighbouring starts divides between fast and slow directions.

    Parameters
    ----------
    problem
        At the start of the first twin.
    fast
        Orthonormal ``(n, K)``.

    Notes
    -----
    Cost: two gradients per step and 2 n K multiplications. Error: none beyond rounding, as long as the difference stays
    far above it; momentum makes |Q w| oscillate, so that the entry is judged from the last sample outside.
    """
    if options.kind not in ("fast", "mixed"):
        raise InputError(f"the difference of twin runs is fast or mixed, not {options.kind!r}")
    draw = torch.randn(problem.num_params, generator=generator(options.seed, "twin"), dtype=torch.float64)
    draw = draw.to(problem.theta)
    first = fast @ (fast.T @ draw) if options.kind == "fast" else draw
    states = [problem.theta.clone(), problem.theta + options.size * first / first.norm()]
    speeds = [torch.zeros_like(state) for state in states]
    sides = [_sides(states[1] - states[0], fast)]
    for _ in range(options.steps):
        for twin in (0, 1):
            speeds[twin] = options.momentum * speeds[twin] - options.lr * problem.gradient(states[twin])
            states[twin] = states[twin] + speeds[twin]
        sides.append(_sides(states[1] - states[0], fast))
    found = np.array(sides)
    if not np.isfinite(found).all():
        raise InputError("the twin runs diverge; lower the learning rate")
    return Squeezing(options.lr * np.arange(len(found)), found[:, 0], found[:, 1])


def _sides(w: Tensor, fast: Tensor) -> tuple[float, float]:
    """Return |Q w| and |P w|."""
    inside = fast @ (fast.T @ w)
    return float(inside.norm()), float((w - inside).norm())


@dataclass(frozen=True)
class SteadyGraph:
    """The slope of the fast coordinates over the slow ones, over all pairs of states.

    Attributes
    ----------
    slope
        S = max |Q (W - W')| / |P (W - W')|; on a graph with Lipschitz constant 1 it is at most 1.
    shuffled
        The same for shuffles, in which each state has the fast coordinates of another one, ``(shuffles,)``.
    num_pairs
        Number of pairs.
    """

    slope: float
    shuffled: Array
    num_pairs: int

    @property
    def p_value(self) -> float:
        """Chance of so small a slope if fast and slow coordinates had nothing to do with each other."""
        return float((1 + (self.shuffled <= self.slope).sum()) / (1 + len(self.shuffled)))


def steady_graph(states: Tensor, fast: Tensor, shuffles: int = 99, seed: int = 0) -> SteadyGraph:
    """Return the steepest secant of the fast over the slow coordinates among states of one or more runs.

    Parameters
    ----------
    states
        ``(T, n)`` after their transients, of all runs together.
    fast
        Orthonormal ``(n, K)``.

    Notes
    -----
    Cost: T n K + T^2 n multiplications, no products. Error: a lower bound of the slope over the region. A single smooth
    run is a curve and has a finite slope even where nothing is slaved: S <= 1 is the test, the shuffles its control.
    """
    if len(states) < 3:
        raise InputError(f"the steady graph test needs at least three states, not {len(states)}")
    states = (states - states.mean(dim=0)).double()
    coordinates = states @ fast.double()
    slow = _distances(states - coordinates @ fast.double().T)
    quick = _distances(coordinates)
    upper = np.triu_indices(len(states), 1)
    if (slow[upper] == 0).any():
        raise InputError("two states have the same slow coordinates; leave repeated states out")
    random, shuffled = numpy_generator(seed, "steady graph"), []
    for _ in range(shuffles):
        order = random.permutation(len(states))
        shuffled.append((quick[np.ix_(order, order)][upper] / slow[upper]).max())
    return SteadyGraph(float((quick[upper] / slow[upper]).max()), np.array(shuffled), len(upper[0]))


def _distances(points: Tensor) -> Array:
    return np.asarray(torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").cpu())
