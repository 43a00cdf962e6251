"""Every rule on every system with a known answer: which ones are right, and how the others go wrong.

``compare_rules()`` is the table that should be read before any rule's answer on a network is. Only the cone gap over
segments is right wherever there is an answer; ``gap_2l`` and ``gap_4l`` are sufficient, so they say too much or
``none``; the heuristics look at the spectrum alone and cannot know of the nonlinearity; the historical plateau rule
answers the fraction of positive eigenvalues.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from landscape.dimension import testbed
from landscape.dimension.bracket import BracketOptions, answers, rule_table
from landscape.dimension.chafee_infante import ChafeeInfante
from landscape.dimension.rates import Array
from landscape.dimension.testbed import System
from landscape.seeds import numpy_generator

_SEGMENTS = 400
REACTIONS = (2.0, 5.0, 10.0)


@dataclass(frozen=True)
class KnownCase:
    """A system within a region.

    Attributes
    ----------
    name
        The system and the region.
    true
        The number of slow modes of its manifold; None if no number is preferred, or none is known.
    system
        The loss; its base point is the minimum or saddle of the analysis.
    states
        Sampled states of the region, ``(states, n)``.
    """

    name: str
    true: int | None
    system: System
    states: Array


def cases() -> Iterator[KnownCase]:
    """Yield the small systems: two scales and none, the cubic at four radii, the factorisation, the double well."""
    # unrotated, so that equal eigenvalues are equal in the last digit: any gap is admissible where nothing is bent
    for name, true, system in (
        ("two scales, 6 slow of 10", 6, testbed.two_scale(6, 4)),
        ("no gap, 30 modes", None, testbed.no_gap(30)),
    ):
        yield KnownCase(name, true, system, np.zeros((1, len(system.base))))
    cubic = testbed.TwoModeCubic()
    for radius in (0.4, 0.9, 1.5, 2.8):
        true = 1 if radius < cubic.cone_radius() else None
        yield KnownCase(f"cubic within {radius:g}", true, cubic, _disc(radius))
    factors = testbed.Factorisation()
    yield KnownCase("factorisation", 1, factors, factors.base.numpy() + _disc(0.3))
    well = testbed.DoubleWell()
    slow = well.slow_direction().numpy()
    yield KnownCase("double well", 1, well, np.linspace(-1.2, 1.2, 25)[:, None] * slow)


def _disc(radius: float) -> Array:
    """Return points on circles in the plane, ``(points, 2)``."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([scale * radius * circle for scale in (0.25, 0.5, 0.75, 1.0)])


def judge(case: KnownCase) -> dict[str, int | None]:
    """Return the answers of all rules on a case; segments join random pairs of its states."""
    number = _SEGMENTS if len(case.states) > 1 else 1
    first, second = numpy_generator(0, "segments").integers(len(case.states), size=(2, number))
    nodes, weights = np.polynomial.legendre.leggauss(3)
    segments = sum(
        w / 2 * hessians(case.system, case.states[first] + (1 + s) / 2 * (case.states[second] - case.states[first]))
        for s, w in zip(nodes, weights, strict=True)
    )
    at_base = hessians(case.system, case.system.base.numpy()[None])[0]
    return answers(at_base, hessians(case.system, case.states), np.asarray(segments))


def hessians(system: System, states: Array) -> Array:
    """Return the full Hessians at states ``(s, n)``, as ``(s, n, n)``."""
    found: Array = torch.vmap(torch.func.hessian(system))(torch.as_tensor(states)).numpy()
    return found


def compare_rules(options: BracketOptions | None = None) -> xr.Dataset:
    """Return the answers of all rules on all systems.

    Parameters
    ----------
    options
        How the Chafee-Infante equation is sampled.

    Returns
    -------
    xarray.Dataset
        ``dimension`` over (``system``, ``rule``), NaN for none; ``true_dimension`` over ``system``, NaN where no number
        is preferred or known; ``right`` over both: whether the two agree.

    Notes
    -----
    The Kuramoto-Sivashinsky equation is not among them: it is no gradient system, so that no rule here applies; its
    exponents are those of ``landscape.dimension.lyapunov``. Cost: a few seconds.
    """
    rows: dict[str, tuple[int | None, dict[str, int | None]]] = {}
    for case in cases():
        rows[case.name] = case.true, judge(case)
    for a in REACTIONS:
        found = rule_table(ChafeeInfante(a), options)
        rows[f"Chafee-Infante, a = {a:g}"] = found.pop("true"), {k: v for k, v in found.items() if k != "theory"}
    rules = list(next(iter(rows.values()))[1])

    def number(value: int | None) -> float:
        return np.nan if value is None else float(value)

    table = xr.Dataset(
        {
            "dimension": (("system", "rule"), [[number(found[rule]) for rule in rules] for _, found in rows.values()]),
            "true_dimension": ("system", [number(true) for true, _ in rows.values()]),
        },
        {"system": list(rows), "rule": rules},
    )
    both = table["dimension"].isnull() & table["true_dimension"].isnull()
    return table.assign(right=(table["dimension"] == table["true_dimension"]) | both)
