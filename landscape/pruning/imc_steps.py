"""The first four steps of IMC pruning: base point, spectrum, Lipschitz constant, gap. Each is kept in the run.

1. ``base_point``: W*, and how far it is from stationary.
2. ``spectrum``: eigenpairs of H(W*) at both ends, markers of the bulk, the density.
3. ``remainder``: Hessian differences at displacements of growing length in the norm p: l(rho), a lower bound; for the
   cone gap its margins at the same points.
4. ``decide``: the number of modes by a rule, at the neighbourhood eps and at every larger radius up to the distance
   that the dense training travels.

Fifth is the mask (``imc_masks``), sixth the training (``settings``). Steps 1 to 3 do not depend on the choice of rule
and are shared by all presets of a base point; they lie in ``RUN/replicate_R/imc/BASE_POINT``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import cli, seeds, store
from landscape.dimension import DimensionOptions, answers
from landscape.dimension.answers import ConeSamples, Evidence
from landscape.dimension.base import Base, measure_base
from landscape.dimension.cone import margins
from landscape.dimension.lipschitz import LipschitzSamples, SampleOptions, sample
from landscape.dimension.metric import curvature
from landscape.dimension.rates import Dynamics, rates
from landscape.dimension.rules import GapResult
from landscape.dimension.sampling import each
from landscape.journal import Journal
from landscape.problem import Problem
from landscape.pruning import settings as shared
from landscape.pruning.imc_options import BaseOptions
from landscape.pruning.settings import Settings
from landscape.runs import Run

# Radii: eps, then the distance that the dense training travels, with steps in between.
SHARES = (0.01, 0.1, 1.0)


@dataclass(frozen=True, eq=False)
class BasePoint:
    """W* as a problem, with the ends of the displacements that are of interest.

    Attributes
    ----------
    problem
        On the sample of the curvature.
    state
        All tensors of the network.
    start
        theta at the initialisation, ``(n,)``.
    end
        theta at the end of the dense training, ``(n,)``.
    step
        Training steps to W*.
    """

    problem: Problem
    state: Mapping[str, Tensor]
    start: Tensor
    end: Tensor
    step: int

    @property
    def away(self) -> Tensor:
        """From W* to the end of the dense training, or, where W* is that end, to its start; ``(n,)``."""
        ahead = self.end - self.problem.theta
        return ahead if bool(ahead.any()) else self.start - self.problem.theta

    def travel(self, p: float) -> float:
        """Length of that way in the norm p."""
        return float(torch.linalg.vector_norm(self.away.double(), ord=p))


def folder(run: Run, replicate: int, base: BaseOptions) -> Path:
    """Return where the steps of a base point are kept."""
    return run.root / f"replicate_{replicate}" / "imc" / base.name


def journal(run: Run, replicate: int, base: BaseOptions) -> Journal:
    """Return the kept steps of a base point; they are not mixed with those of other options."""
    asked = {"run": run.fingerprint, "replicate": replicate, "base": base}
    remedy = "give the options of the base point that it was started with, or choose another --out"
    return Journal(folder(run, replicate, base), store.fingerprint(asked), resume=True, remedy=remedy)


def base_point(run: Run, settings: Settings, replicate: int) -> BasePoint:
    """Find W*: the initialisation, the network after k steps, or the trained one.

    Raises
    ------
    InputError
        If the training diverges before W* is reached.
    """
    base, end = settings.base, shared.dense(run, settings, replicate)
    start = shared.after_steps(run, settings, replicate, 0)
    if base.base_point == "converged":
        found = end
    else:
        found = shared.after_steps(run, settings, replicate, base.k if base.base_point == "k_steps" else 0)
    problem = shared.problem_at(settings, found.state_dict)

    def theta(state: Mapping[str, Tensor]) -> Tensor:
        return problem.flatten({n: state[n].to(problem.parameters[n]) for n in problem.parameters})

    return BasePoint(problem, found.state_dict, theta(start.state_dict), theta(end.state_dict), found.step or 0)


def spectrum(problem: Problem, base: BaseOptions, kept: Journal, quiet: bool = True) -> Base:
    """Measure eigenpairs and density at W*.

    Notes
    -----
    Cost: 4 to 10 products for each eigenpair, 80 for the markers of the bulk and 80 for the density (one random vector,
    as in the public code).
    """
    options = DimensionOptions(fast=base.fast, smallest=base.smallest, tolerance=base.tolerance, num_probes=1)
    bar: Any
    with cli.progress(0, "eigenpairs", quiet, unit="product") as bar:
        found = measure_base(problem, options, 0, kept, bar.update)
    if kept.folder is not None:
        for stage in ("eigenpairs", "density"):  # states on the way to it, large ones
            (kept.folder / f"{stage}.pt").unlink(missing_ok=True)
    return found


def displacements(point: BasePoint, vectors: Tensor, base: BaseOptions) -> list[tuple[str, float, Tensor]]:
    """Return (kind, radius in the norm p, displacement): four directions at every radius.

    The directions are those of the training that follows, of steepest descent, of the top eigenvector, and a random
    one.
    """
    theta = point.problem.theta
    noise = torch.randn(len(theta), generator=seeds.generator(0, "imc", "isotropic"), dtype=torch.float64)
    ways = [
        ("trajectory", point.away),
        ("gradient", -point.problem.gradient()),
        ("eigenvector", vectors[:, 0]),
        ("isotropic", noise.to(theta)),
    ]
    found = []
    for radius in radii(point, base):
        for kind, way in ways:
            length = float(torch.linalg.vector_norm(way.double(), ord=base.p))
            if length > 0:
                found.append((kind, radius, (radius / length) * way))
    return found


def radii(point: BasePoint, base: BaseOptions) -> list[float]:
    """Return the radii in the norm p: eps first, then shares of the distance to the end of the dense training."""
    travel = point.travel(base.p)
    return [base.eps, *(share * travel for share in SHARES if share * travel > base.eps)]


def remainder(point: BasePoint, found: Base, base: BaseOptions, kept: Journal, quiet: bool = True) -> LipschitzSamples:
    """Sample |H(W* + u) - H(W*)|, whose supremum over |u|_p <= rho is the Lipschitz constant of B on that ball.

    Returns
    -------
    Samples whose ``radius`` is that of the norm p. Cost: 2 ``depth`` products for each of about 16 displacements.
    """
    items, how = displacements(point, found.vectors, base), SampleOptions(base.depth)
    here = functools.cache(lambda: curvature(point.problem, base.depth * len(items)))  # not where all is kept

    def one(position: int) -> dict[str, Any]:
        kind, _, u = items[position]
        got = sample(point.problem, [(kind, u)], how, here())
        return {"low": float(got.low[0]), "high": float(got.high[0]), "num_products": got.num_products}

    bar: Any
    with cli.progress(len(items), "Hessian differences", quiet) as bar:
        parts = each(kept, "remainder", len(items), one, bar.update)
    return LipschitzSamples(
        radius=np.array([radius for _, radius, _ in items]),
        low=np.array([part["low"] for part in parts]),
        high=np.array([part["high"] for part in parts]),
        kind=np.array([kind for kind, _, _ in items], dtype=str),
        search=np.arange(len(items)),
        num_products=sum(part["num_products"] for part in parts),
    )


def cone(point: BasePoint, found: Base, base: BaseOptions, kept: Journal, quiet: bool = True) -> ConeSamples:
    """Sample the cone gap at W* and along two of the directions.

    Notes
    -----
    Cost: ``fast + depth`` products for each of about 9 points.
    """
    along = [item for item in displacements(point, found.vectors, base) if item[0] in ("trajectory", "gradient")]
    items = [("base", 0.0, torch.zeros_like(point.problem.theta)), *along]

    def one(position: int) -> dict[str, Any]:
        operator = curvature(point.problem.at(point.problem.theta + items[position][2]))
        got = margins(operator, found.vectors, base.depth)
        numbers = torch.as_tensor(np.stack([got.attraction, got.ceiling, got.residual]))
        return {"margins": numbers, "num_products": got.num_products}

    bar: Any
    with cli.progress(len(items), "cone gaps", quiet) as bar:
        parts = each(kept, "cone", len(items), one, bar.update)
    table = np.stack([part["margins"].numpy() for part in parts])
    radius = np.array([radius for _, radius, _ in items])
    return ConeSamples(radius, table[:, 0], table[:, 1], table[:, 2], sum(part["num_products"] for part in parts))


def evidence_of(found: Base, samples: LipschitzSamples, points: ConeSamples | None, retain: str) -> Evidence:
    """Return what the rules answer from, under gradient flow."""
    return Evidence(found, rates(found.known, Dynamics("flow")), samples, points, None, retain)


def decide(rule: str, evidence: Evidence, radius: float) -> GapResult:
    """Return the number of modes by a rule, for the ball of a radius in the norm p."""
    return answers.answer(rule, radius, evidence)


@dataclass(frozen=True, eq=False)
class Measured:
    """Steps 1 to 3 of a base point."""

    point: BasePoint
    base: Base
    samples: LipschitzSamples
    cone: ConeSamples | None
    seconds: float = 0.0

    @property
    def num_products(self) -> int:
        """Curvature products of all of them."""
        return self.base.num_products + self.samples.num_products + (self.cone.num_products if self.cone else 0)

    def evidence(self, retain: str) -> Evidence:
        """Return what the rules answer from."""
        return evidence_of(self.base, self.samples, self.cone, retain)


def measure(run: Run, settings: Settings, replicate: int, with_cone: bool, quiet: bool = True) -> Measured:
    """Take steps 1 to 3, or find them done; ``seconds`` are those of the process that did them."""
    kept, base = journal(run, replicate, settings.base), settings.base
    started = time.perf_counter()
    point = base_point(run, settings, replicate)
    base = replace(base, fast=min(base.fast, max(point.problem.num_params - 1, 1)))
    found = spectrum(point.problem, base, kept, quiet)
    samples = remainder(point, found, base, kept, quiet)
    points = cone(point, found, base, kept, quiet) if with_cone else None
    stage = "seconds_with_cone" if with_cone else "seconds"
    if (spent := kept.load(stage)) is None:
        spent = {"seconds": time.perf_counter() - started}
        kept.save(stage, spent)
    return Measured(point, found, samples, points, float(spent["seconds"]))
