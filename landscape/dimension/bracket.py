"""The dimension of a system with known answer as a bracket, and every rule's answer beside the right one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.dimension.chafee_infante import ChafeeInfante
from landscape.dimension.cone import collect, dense_margins
from landscape.dimension.plateau import slq_plateau
from landscape.dimension.rates import Array, Dynamics, KnownSpectrum, rates
from landscape.dimension.rules import HEURISTIC_RULES, LIPSCHITZ_RULES, gap_dimension, heuristic_dimension
from landscape.errors import InputError
from landscape.seeds import numpy_generator

_TIME_LIMIT = 80.0
_SAME = 1e-6


@dataclass(frozen=True)
class BracketOptions:
    """How the region is sampled.

    Parameters
    ----------
    num_runs
        Runs per ensemble.
    sizes
        Norm of the starts of each ensemble. The first, <= 1e-3, follows the whole unstable manifold of the origin:
        starts of size 1 alone, or a dropped transient, give too low an upper bound.
    num_pairs
        Random pairs of states; each is one segment.
    nodes
        Gauss nodes per segment; two are exact here, where the Hessian is quadratic in the state.
    seed
        Of the starts and pairs.
    """

    num_runs: int = 8
    sizes: tuple[float, ...] = (1e-3, 0.1)
    num_pairs: int = 1000
    nodes: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or not 0 < self.sizes[0] <= 1e-3:
            raise InputError("the bracket needs two ensembles, the first with starts of norm <= 1e-3")


@dataclass(frozen=True)
class Bracket:
    """A lower and an upper estimate of the dimension; the answer is resolved where they agree.

    Attributes
    ----------
    lower
        The largest number of negative eigenvalues at any verified equilibrium: its unstable manifold lies in the
        attractor.
    upper
        The first N with positive secant cone gap and attraction over all sampled segments; None if there is none.
    equilibria
        How many distinct equilibria were verified, the origin included.
    num_segments
        Sampled segments behind ``upper``, which a finer sample can only raise.
    """

    lower: int
    upper: int | None
    equilibria: int
    num_segments: int

    @property
    def dimension(self) -> int | None:
        """The dimension if resolved, else None."""
        return self.lower if self.upper == self.lower else None


def bracket(system: ChafeeInfante, options: BracketOptions | None = None) -> Bracket:
    """Return a bracket of the dimension of the system's inertial manifold from sampled runs.

    Notes
    -----
    Cost: about a second. The splittings tried are the eigenvectors of the Hessian averaged over the sample and of the
    one at a final equilibrium; any orthogonal splitting that passes will do.
    """
    options = options or BracketOptions()
    runs = sample_runs(system, options)
    states = runs.reshape(-1, system.size)
    equilibria = _equilibria(system, states, runs[-1])
    lower = max(int((np.linalg.eigvalsh(system.hessian(b)) < 0).sum()) for b in equilibria)
    segments = segment_hessians(system, *_pairs(states, options), options.nodes)
    upper: int | None = None
    for matrix in (system.hessian(states).mean(axis=0), system.hessian(runs[-1, 0])):
        found = collect([dense_margins(segments, fast_first(matrix))], system.size).dimension
        upper = min((n for n in (upper, found) if n is not None), default=None)
        if upper == lower:
            break
    return Bracket(lower, upper, len(equilibria), len(segments))


def sample_runs(system: ChafeeInfante, options: BracketOptions) -> Array:
    """Return states ``(count, runs, d)`` of all ensembles, each until growth from 1e-3 and decay are done."""
    random = numpy_generator(options.seed, "chafee-infante")
    start = random.standard_normal((len(options.sizes), options.num_runs, system.size)) / np.arange(1, system.size + 1)
    start *= np.array(options.sizes)[:, None, None] / np.linalg.norm(start, axis=2, keepdims=True)
    time = min(_TIME_LIMIT, 3 + 2 * np.log(1e3) / np.abs(system.linear).min())
    return np.concatenate([system.trajectories(ensemble, time) for ensemble in start], axis=1)


def _pairs(states: Array, options: BracketOptions) -> tuple[Array, Array]:
    """Return random pairs of different states, ``(pairs, d)`` each."""
    random = numpy_generator(options.seed, "pairs")
    first, second = random.integers(len(states), size=(2, options.num_pairs))
    apart = np.linalg.norm(states[first] - states[second], axis=1) > _SAME
    return states[first][apart], states[second][apart]


def segment_hessians(system: ChafeeInfante, start: Array, end: Array, nodes: int = 2) -> Array:
    """Return Hessians averaged over segments, ``(segments, d, d)``, by Gauss-Legendre quadrature."""
    position, weight = np.polynomial.legendre.leggauss(nodes)
    parts = [w / 2 * system.hessian(start + (1 + s) / 2 * (end - start)) for s, w in zip(position, weight, strict=True)]
    return np.sum(parts, axis=0)


def fast_first(matrix: Array) -> Array:
    """Return the eigenvectors of a symmetric matrix, the largest eigenvalue first."""
    return np.linalg.eigh(matrix)[1][:, ::-1]


def _equilibria(system: ChafeeInfante, states: Array, ends: Array) -> list[Array]:
    """Return verified equilibria: the origin, the ends of the runs, and those near the slowest states in between."""
    speed = np.linalg.norm(system.gradient(states), axis=1)
    slow = states[np.argsort(speed)[:: max(1, len(speed) // 20)]]
    found: list[Array] = []
    for guess in [np.zeros(system.size), *ends, *slow]:
        point = system.equilibrium(guess)
        if point is not None and all(np.linalg.norm(point - other) > _SAME for other in found):
            found.append(point)
    return found


def rule_table(system: ChafeeInfante, options: BracketOptions | None = None) -> dict[str, int | None]:
    """Return the answer of every rule on runs of the system, and under ``true`` the right one; None stands for none.

    ``theory`` is the first N with 2 N + 1 > 3 a. The base point is a final equilibrium, the region the sampled states.
    """
    options = options or BracketOptions()
    runs = sample_runs(system, options)
    states = runs.reshape(-1, system.size)
    segments = segment_hessians(system, *_pairs(states, options), options.nodes)
    known: dict[str, int | None] = {"true": system.true_dimension(), "theory": system.theory_dimension()}
    return known | answers(system.hessian(runs[-1, 0]), system.hessian(states), segments)


def answers(at_base: Array, hessians: Array, segments: Array) -> dict[str, int | None]:
    """Return the N of every rule from full Hessians; None stands for none.

    Parameters
    ----------
    at_base
        At the base point, ``(d, d)``: its spectrum is that of the Lipschitz rules and the heuristics.
    hessians
        At states of the region, ``(states, d, d)``: their largest difference from it is l, and ``cone_pointwise``
        judges them.
    segments
        Averaged over segments, ``(segments, d, d)``, for ``cone_segment``. Both cone rules take the better of two
        splittings, the eigenvectors of the mean Hessian and those at the base point.
    """
    size = len(at_base)
    eigenvalue = np.linalg.eigvalsh(at_base)
    ends = np.linalg.eigvalsh(hessians - at_base)
    lipschitz, oscillation = float(np.abs(ends).max()), float(ends.max() - ends.min()) / 2
    known = rates(KnownSpectrum(eigenvalue, size), Dynamics())
    found: dict[str, int | None] = {}
    for rule in LIPSCHITZ_RULES:
        found[rule] = gap_dimension(known, lipschitz, rule, oscillation).dimension
    for rule in HEURISTIC_RULES:
        found[rule] = heuristic_dimension(known, rule).dimension
    found["slq_plateau"] = round(size * (1 - slq_plateau(eigenvalue, np.ones(size))))
    splittings = [fast_first(hessians.mean(axis=0)), fast_first(at_base)]
    for name, matrices in {"cone_pointwise": hessians, "cone_segment": segments}.items():
        each = [collect([dense_margins(matrices, basis)], size).dimension for basis in splittings]
        found[name] = min((n for n in each if n is not None), default=None)
    return found
