"""How every quantity of a study is computed from the checkpoints of a run.

A computation is given a job and returns a Dataset without coordinates; it reads what it needs through ``points``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse.linalg
import xarray as xr

from landscape import (
    alignment,
    connectivity,
    controls,
    dimension,
    identity,
    lanczos,
    masks,
    models,
    operators,
    renewal,
    store,
    volume,
)
from landscape.alignment import Frame
from landscape.batches import Batch, as_batches
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.datasets import NoTestSplitError
from landscape.dimension.options import with_training
from landscape.dimension.trajectory import Trajectory, training_of
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.pruning import criteria
from landscape.runs import Cell, Run
from landscape.spectrum import Effort
from landscape.spectrum import measure as measure_spectrum
from landscape.study.points import OWN_START, Point, controlled, open_data, point_of, problem_of, read, sources
from landscape.study.requests import Job, MeasureOptions

# Products that a Newton decrement may take.
NEWTON_STEPS = 50


def point_quantity(measure: Callable[[Problem, Job], xr.Dataset]) -> Callable[[Job], xr.Dataset]:
    """Make the computation of a quantity of a point, with what a control did to the point."""

    def compute(job: Job) -> xr.Dataset:
        request = job.request
        point = _point(job)
        result = measure(point.problem, job)
        for name, value in point.facts.items():
            result[name] = value
        result.attrs |= facts(point, job)
        result.attrs["point"] = request.point
        return result

    return compute


def _point(job: Job) -> Point:
    request = job.request
    if request.control in (None, "raw"):
        return point_of(job.run, request.cell, str(request.point), job.options.problem)
    return controlled(job.run, request.cell, str(request.control), job.options.problem)


def facts(point: Point, job: Job) -> dict[str, Any]:
    """Return the attributes that every result carries about its inputs."""
    return identity.conditions(point.problem, point.sha256, job.options.threads)


def spectrum_of(problem: Problem, job: Job) -> xr.Dataset:
    """Measure the curvature spectrum of a point, and the spread of its outputs for the normalised control."""
    options = job.options
    effort = Effort(options.problem.seed, options.memory, job.journal)
    result = measure_spectrum(problem, options.spectrum, effort)
    result["output_spread"] = controls.output_spread(problem)
    return result.assign_coords(curvature=options.spectrum.curvature)


def convergence_of(problem: Problem, job: Job) -> xr.Dataset:
    """Measure how far a point is from a minimum: gradient norm and Newton decrement g'(G + delta)^-1 g.

    G is the Gauss-Newton matrix, which has no negative eigenvalues, and delta a thousandth of |G g| / |g|. Half the
    decrement is the loss that a Newton step would save. Cost: at most `NEWTON_STEPS` products.
    """
    del job
    gradient = problem.gradient().double().cpu().numpy()
    norm = float(np.linalg.norm(gradient))
    operator = operators.ggn(problem).to_scipy()
    delta = 1e-3 * float(np.linalg.norm(operator.matvec(gradient.astype(operator.dtype)))) / norm if norm else 0.0
    shifted = scipy.sparse.linalg.LinearOperator(
        operator.shape, matvec=lambda v: operator.matvec(v) + delta * v, dtype=operator.dtype
    )
    step, stopped = scipy.sparse.linalg.cg(shifted, gradient.astype(operator.dtype), rtol=1e-2, maxiter=NEWTON_STEPS)
    values = {
        "gradient_norm": norm,
        "newton_decrement": float(gradient @ step),
        "newton_damping": delta,
        "newton_converged": float(stopped == 0),
        "loss": problem.loss(),
        "num_params": problem.num_params,
        "num_examples": problem.num_examples,
    }
    return xr.Dataset(values)


def volume_of(problem: Problem, job: Job) -> xr.Dataset:
    """Measure the basin volume of a point; all points of a study share their directions."""
    options = job.options
    effort = volume.Effort(options.problem.seed, options.memory, job.journal)
    result = volume.measure(problem, options.volume, effort)
    facts = {name: result.attrs[name] for name in ("neighbourhood", "cutoff")}  # attributes are no part of an index
    return result.assign(facts).assign_coords(curvature=result.attrs["curvature"])


def dimension_of(problem: Problem, job: Job) -> xr.Dataset:
    """Measure the conditions of a slow manifold around a point, along the training that led to it."""
    options = job.options
    end, path = _path(problem, job)
    known = training_of(end)
    chosen = with_training(options.dimension, *(known.get(name) for name in ("lr", "momentum", "time")))
    effort = dimension.Effort(options.problem.seed, options.memory, job.journal)
    return dimension.measure(problem, chosen, effort, dimension.Training(path))


def _path(problem: Problem, job: Job) -> tuple[Checkpoint, Trajectory]:
    """Return the last checkpoint of the training behind a point, and all of its states on the point's coordinates.

    A projected or restricted point comes from imp's training of the level before; what its mask prunes is left out.
    """
    run, cell = job.run, job.request.cell
    if job.request.point in ("projected", "restricted"):
        cell = Cell(cell.replicate, "imp", cell.level - 1)
    found = [read(path) for path in (run.start(cell), *run.trajectory(cell), run.minimum(cell)) if path.exists()]
    states = [
        problem.flatten({name: c.state_dict[name].to(p) for name, p in problem.parameters.items()}) for c in found
    ]
    return found[-1], Trajectory.of(states, [c.step for c in found])


def test_batches(job: Job, like: Problem) -> Sequence[Batch]:
    """Return the whole test split in the precision of a problem; none where the data have none."""
    options = replace(job.options.problem, split="test", num_examples=None)
    own = read(job.run.minimum(job.request.cell))
    try:
        data = open_data(own, options)
    except NoTestSplitError:
        return ()
    x = models.as_inputs(like.model, data.x)
    return tuple(as_batches((x, data.y), options.batch_size, like.dtype, like.device))


def connectivity_of(job: Job) -> xr.Dataset:
    """Measure the segments that end in a cell's minimum."""
    run, cell = job.run, job.request.cell
    options = replace(job.options.problem, batchnorm=_between_networks(job.options.problem))
    dense, twin = Cell(cell.replicate, "imp", 0), Cell(cell.replicate, "imp", cell.level)
    # Fresh and perturbed starts are as far from everything as they were made: distances are taken from m_L * W_rewind.
    places = {"minimum": (cell, "minimum"), "rewind": (twin if cell.method in OWN_START else cell, "rewind")}
    wanted = [("rewind", "minimum")]
    if cell.level:
        places["projected"] = (twin, "projected")
        places["previous"] = (Cell(cell.replicate, "imp", cell.level - 1), "minimum")
        wanted += [("projected", "minimum"), ("previous", "minimum"), ("rewind", "projected")]
    if cell != dense:
        places["dense"] = (dense, "minimum")
        wanted.append(("dense", "minimum"))
    if cell != twin and twin != dense:
        places["imp"] = (twin, "minimum")
        wanted.append(("imp", "minimum"))
    # An adopted run may lack some of them.
    places = {name: place for name, place in places.items() if all(f.exists() for f in sources(run, *place))}
    pairs = [pair for pair in wanted if set(pair) <= places.keys()]
    if not pairs:
        raise InputError(f"{cell} has nothing to be compared with")
    found = {name: point_of(run, *place, options) for name, place in places.items()}
    problems = {name: point.problem for name, point in found.items()}
    test = test_batches(job, problems["minimum"])
    reference = "rewind" if "rewind" in places else None
    result = connectivity.measure(problems, pairs, job.options.path, test, reference)
    result.attrs |= facts(found["minimum"], job)
    return result


def _between_networks(options: ProblemOptions) -> str:
    """Return the BatchNorm policy of interpolants: stored statistics do not exist between networks."""
    return "recalibrate" if options.batchnorm == "running" else options.batchnorm


def barrier_matrix_of(job: Job) -> xr.Dataset:
    """Measure the segments between all minima of imp at the levels of the request."""
    run, replicate = job.run, job.request.cell.replicate
    options = replace(job.options.problem, batchnorm=_between_networks(job.options.problem))
    found = {
        f"level {level}": point_of(run, Cell(replicate, "imp", level), "minimum", options)
        for level in job.request.levels
    }
    problems = {name: point.problem for name, point in found.items()}
    pairs = connectivity.choose_pairs(list(problems), "all")
    test = test_batches(job, next(iter(problems.values())))
    measured = connectivity.measure(problems, pairs, job.options.path, test)
    result = _matrices(measured, job.request.levels)
    result.attrs |= facts(next(iter(found.values())), job)
    return result


def _matrices(measured: xr.Dataset, levels: Sequence[int]) -> xr.Dataset:
    """Turn values over pairs of levels into symmetric matrices with zero diagonal."""
    places = [(i, j) for i in range(len(levels)) for j in range(i + 1, len(levels))]  # the order of `choose_pairs`
    result = xr.Dataset(coords={"first_level": list(levels), "second_level": list(levels)})
    for name, values in measured.data_vars.items():
        if values.dims[-1:] != ("pair",) or str(name) == "relative_distance":
            continue
        outer = values.shape[:-1]
        matrix = np.zeros((*outer, len(levels), len(levels)))
        for column, (i, j) in enumerate(places):
            matrix[..., i, j] = matrix[..., j, i] = values.values[..., column]
        result[f"matrix_{name}"] = ((*values.dims[:-1], "first_level", "second_level"), matrix)
    return result.assign_coords(split=measured["split"].values)


def curves_of(job: Job) -> xr.Dataset:
    """Collect the train loss over a level's training and, of imp, of its mask times every epoch of the level before.

    Other methods have no such curve: with imp's mask it is imp's, and with another no published claim is about it.
    """
    run, cell = job.run, job.request.cell
    curves = store.open_result(run.folder(cell) / "curves.nc")
    result = xr.Dataset(curves.data_vars, curves.coords)
    own = read(run.minimum(cell))
    point = Point(problem_of(own, job.options.problem), str(own.sha256), {})
    if cell.level and cell.method == "imp" and own.mask is not None:
        before = Cell(cell.replicate, "imp", cell.level - 1)
        files = [run.start(before), *(run.epoch(before, epoch) for epoch in run.epochs(before))]
        # By epoch, not by place: after a rewind past the first epoch the level before began earlier than this one.
        places = {int(epoch): place for place, epoch in enumerate(result["epoch"].values)}
        projected = np.full(len(places), np.nan)
        for file in files:
            checkpoint = read(file)
            if checkpoint.epoch in places:
                placed = replace(checkpoint, state_dict=masks.apply(checkpoint.state_dict, own.mask), mask=own.mask)
                projected[places[checkpoint.epoch]] = problem_of(placed, job.options.problem).loss()
        result["projected_loss"] = ("epoch", projected)
    result.attrs = facts(point, job)
    return result


def renewal_of(job: Job) -> xr.Dataset:
    """Measure how training refills the region below the threshold that created a cell's mask."""
    run, cell = job.run, job.request.cell
    before, own = read(run.minimum(Cell(cell.replicate, "imp", cell.level - 1))), read(run.minimum(cell))
    if own.mask is None:
        raise InputError(f"{cell} has no mask")
    mask = {name: m.bool() for name, m in own.mask.items()}
    imp = read(run.minimum(Cell(cell.replicate, "imp", cell.level)))
    ticket = {name: m.bool() for name, m in (imp.mask or mask).items()}
    old = {name: m.bool() for name, m in (before.mask or criteria.dense(before.state_dict, list(mask))).items()}
    tau = renewal.thresholds(before.state_dict, old, ticket)
    points = {"projected": masks.apply(before.state_dict, mask), "minimum": own.state_dict}
    if run.rewind(cell.replicate).exists():
        points["rewind"] = read(run.rewind(cell.replicate)).state_dict
    following = None
    if not run.adopted:
        fraction, scope = (run.description["pruning"][name] for name in ("fraction", "scope"))
        following = {
            name: criteria.step(criteria.magnitude(tensors, mask), mask, fraction, scope)
            for name, tensors in points.items()
        }
    result = renewal.renewal(points, mask, tau, following)
    result.attrs |= facts(Point(problem_of(own, job.options.problem), str(own.sha256), {}), job)
    return result


def frame_of(problem: Problem, options: MeasureOptions) -> Frame:
    """Return the top eigenvectors of the Hessian at a point, with the gaps that its residuals resolve."""
    n = problem.num_params
    size = min(options.alignment.num_aligned + 1, n)
    pairs = lanczos.eigenpairs(
        operators.hessian(problem),
        lanczos.EigenOptions(
            largest=size,
            smallest=0,
            tolerance=options.alignment.alignment_tolerance,
            seed=options.problem.seed,
            memory=options.memory,
        ),
    )
    values, residuals = pairs.eigenvalue.double().cpu().numpy(), pairs.residual.double().cpu().numpy()
    resolved = np.append(values[:-1] - values[1:] > residuals[:-1] + residuals[1:], False)
    places = np.arange(n) if problem.index is None else problem.index.cpu().numpy()
    keep = min(options.alignment.num_aligned, size)
    return Frame(pairs.eigenvector[:, :keep].double().cpu().numpy(), places, resolved[:keep])


def alignment_of(job: Job) -> xr.Dataset:
    """Compare the top eigenspaces of imp's minimum a level before and of a cell's minimum."""
    run, cell, options = job.run, job.request.cell, job.options
    before = point_of(run, Cell(cell.replicate, "imp", cell.level - 1), "minimum", options.problem)
    after = point_of(run, cell, "minimum", options.problem)
    earlier, later = frame_of(before.problem, options), frame_of(after.problem, options)
    problem = before.problem
    classes = problem.outputs(problem.parameters, problem.batches[0]).shape[-1]
    cuts = sorted({1, 2, 5, classes - 1, classes, options.alignment.num_aligned})
    gradient = problem.gradient().double()
    moved = problem.flatten({n: after.problem.tensors()[n] for n in problem.parameters}).double()
    step = -problem.theta.double() * _removed(run, cell, problem)
    directions = {"gradient": gradient, "pruning_step": step, "displacement": moved - problem.theta.double()}
    size = int(earlier.places.max()) + 1
    full = {name: _embed(v.cpu().numpy(), earlier.places, size) for name, v in directions.items()}
    result = alignment.measure(earlier, later, cuts, full)
    result.attrs |= facts(after, job)
    return result


def _embed(v: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    full = np.zeros(size)
    full[places] = v
    return full


def _removed(run: Run, cell: Cell, problem: Problem) -> Any:
    """Return 1 on the active coordinates of a point that the cell's mask removes, else 0, ``(n,)``."""
    mask = read(run.minimum(cell)).mask or {}
    ones = {name: p.new_zeros(p.shape, dtype=p.dtype) for name, p in problem.parameters.items()}
    for name, m in mask.items():
        if name in ones:
            ones[name] = (~m.bool()).to(ones[name])
    return problem.flatten(ones).double()


def pruning_steps_of(job: Job) -> xr.Dataset:
    """Measure what the pruning step that leads to a cell costs, against random and largest weights."""
    run, cell, options = job.run, job.request.cell, job.options
    before = point_of(run, Cell(cell.replicate, "imp", cell.level - 1), "minimum", options.problem)
    own, earlier = read(run.minimum(cell)), read(run.minimum(Cell(cell.replicate, "imp", cell.level - 1)))
    after = {name: m.bool() for name, m in (own.mask or {}).items()}
    mask = {n: m.bool() for n, m in (earlier.mask or criteria.dense(earlier.state_dict, list(after))).items()}
    steps = renewal.removals(before.problem, mask, after, options.problem.seed)
    frame = frame_of(before.problem, options)
    result = renewal.pruning_steps(before.problem, operators.hessian(before.problem), steps, frame)
    result.attrs |= facts(before, job)
    return result
