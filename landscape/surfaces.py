"""``python -m landscape.surfaces CKPT [CKPT CKPT]``: the loss on a line or a plane, its coordinates in known units.

Directions are random and filter-normalised, eigenvectors, or spanned by three checkpoints. A picture shows two of n
dimensions: it can show a barrier or a valley along given directions, and nothing about all the others.

References
----------
Li, Xu, Taylor, Studer, Goldstein 2018, Visualizing the loss landscape of neural nets, arXiv:1712.09913.
Garipov, Izmailov, Podoprikhin, Vetrov, Wilson 2018, Loss surfaces, mode connectivity, arXiv:1802.10026 (three points).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import checkpoints, cli, figures, identity, lanczos, operators, seeds, store
from landscape.checkpoints import ProblemOptions
from landscape.cli import option
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.sanity import describe_point

Direction = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Plane:
    """The affine plane origin + x first + y second.

    Parameters
    ----------
    markers
        Coordinates ``(m, 2)`` of points that are shown in it.
    off_plane
        Distances ``(m,)`` of these points from the plane.
    """

    first: Direction
    second: Direction
    markers: np.ndarray
    off_plane: np.ndarray


def filter_normalised(problem: Problem, seed: int, *key: int | str) -> Direction:
    """Draw a random direction on the active coordinates with the norms of the network's filters.

    Every row of a weight (a filter, the weights into a neuron) is scaled to the norm of the network's row; biases and
    normalisation, which have one axis, do not move.
    """
    stream = seeds.generator(seed, "surface", *key)
    noise = problem.unflatten(torch.randn(problem.num_params, generator=stream, dtype=torch.float64).to(problem.theta))
    direction: Direction = {}
    for name, values in noise.items():
        weight = problem.parameters[name]
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(values)
            continue
        rows, own = values.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)
        scale = torch.where(rows > 0, own / rows.clamp_min(torch.finfo(rows.dtype).tiny), torch.zeros_like(rows))
        direction[name] = values * scale.view(-1, *[1] * (values.ndim - 1))
    return direction


def along(problem: Problem, v: Tensor) -> Direction:
    """Return a vector ``(n,)`` on the active coordinates, such as an eigenvector, as a direction."""
    if v.shape != (problem.num_params,):
        raise InputError(f"a direction of shape {tuple(v.shape)} does not fit {problem.num_params} active parameters")
    return problem.unflatten(v.to(problem.theta))


def through(points: Sequence[Problem]) -> Plane:
    """Return the plane through three points: origin the first, x-axis towards the second, axes of unit length."""
    if len(points) != 3:
        raise InputError(f"a plane goes through three points, not {len(points)}")
    tensors = [p.tensors() for p in points]
    names = list(tensors[0])
    flat = [torch.cat([t[n].double().reshape(-1) for n in names]) for t in tensors]
    first, second = flat[1] - flat[0], flat[2] - flat[0]
    length = float(first.norm())
    if not length:
        raise InputError("the first two points are the same, so they span no plane")
    first = first / length
    slope = float(second @ first)
    second = second - slope * first
    height = float(second.norm())
    if height < 1e-9 * length:
        raise InputError("the three points lie on a line, so they span no plane")
    axes = [_split(axis, tensors[0]) for axis in (first, second / height)]
    markers = np.array([[0.0, 0.0], [length, 0.0], [slope, height]])
    return Plane(axes[0], axes[1], markers, np.zeros(3))


def _split(flat: Tensor, like: Direction) -> Direction:
    parts = flat.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape).to(t) for (name, t), part in zip(like.items(), parts, strict=True)}


def _at(origin: Problem, steps: Sequence[tuple[float, Direction]]) -> Problem:
    tensors = origin.tensors()
    for length, direction in steps:
        tensors |= {name: tensors[name] + length * d for name, d in direction.items()}
    return origin.with_tensors(tensors)


def line(problem: Problem, direction: Direction, x: np.ndarray) -> xr.Dataset:
    """Evaluate the loss at origin + x d.

    Returns
    -------
    ``line_loss (x)`` and, with classes, ``line_accuracy (x)``. Cost: one forward pass a point. BatchNorm: the
    statistics of the problem's policy, measured anew at every point under ``recalibrate``.
    """
    points = [_at(problem, [(float(a), direction)]) for a in x]
    return _dataset(np.array([[p.loss(), _accuracy(p)] for p in points]), {"x": x})


def plane(problem: Problem, span: Plane, x: np.ndarray, y: np.ndarray) -> xr.Dataset:
    """Evaluate the loss at origin + x first + y second.

    Returns
    -------
    ``surface_loss (x, y)``, ``surface_accuracy (x, y)``, and over ``marker`` the coordinates ``marker_x``, ``marker_y``
    and the distance from the plane ``off_plane``. Cost: len(x) len(y) forward passes.
    """
    values = []
    for a in x:
        row = [_at(problem, [(float(a), span.first), (float(b), span.second)]) for b in y]
        values.append([[p.loss(), _accuracy(p)] for p in row])
    result = _dataset(np.array(values), {"x": x, "y": y})
    if len(span.markers):
        result["marker_x"] = ("marker", span.markers[:, 0])
        result["marker_y"] = ("marker", span.markers[:, 1])
        result["off_plane"] = ("marker", span.off_plane)
    return result


def _accuracy(problem: Problem) -> float:
    accuracy = problem.accuracy()
    return float("nan") if accuracy is None else accuracy


def _dataset(values: np.ndarray, axes: dict[str, np.ndarray]) -> xr.Dataset:
    kind = "line" if len(axes) == 1 else "surface"
    data = {f"{kind}_loss": (tuple(axes), values[..., 0])}
    if np.isfinite(values[..., 1]).any():
        data[f"{kind}_accuracy"] = (tuple(axes), values[..., 1])
    return xr.Dataset(data, {name: np.asarray(axis, dtype=float) for name, axis in axes.items()})


# ---- the command ---------------------------------------------------------------------------------------------------

DESCRIPTION = "The loss around one checkpoint, on the line between two, or on the plane through three."
EXAMPLE = "python -m landscape.surfaces minimum.pt --directions eigenvectors --num-examples 10000"
TOLERANCE = 1e-3
# Options of a single checkpoint, which several decide by themselves.
ALONE = ("directions", "axes", "span")


@dataclass(frozen=True)
class SurfaceOptions:
    """Surface."""

    directions: str = option(
        "random", choices=("random", "eigenvectors"), help="filter-normalised, or the top of the Hessian"
    )
    axes: int = option(2, choices=(1, 2), help="a line or a plane around one checkpoint")
    span: float = option(
        1.0, metavar="S", help="reach on both sides: in norms of the filters, or parameters along eigenvectors"
    )
    margin: float = option(0.25, metavar="M", help="reach beyond several checkpoints, over their extent")
    num_positions: int = option(21, metavar="P", help="positions on each axis")

    def __post_init__(self) -> None:
        if not (0 < self.span < math.inf and 0 <= self.margin < math.inf) or self.num_positions < 2:
            raise InputError("a surface needs a finite span above 0, no negative margin and at least 2 positions")


@dataclass(frozen=True)
class CommandOptions:
    """All options."""

    checkpoint: tuple[Path, ...] = option(flag="CHECKPOINT", help="one, two or three checkpoints of one network")
    surface: SurfaceOptions = field(default_factory=SurfaceOptions)
    problem: ProblemOptions = field(default_factory=ProblemOptions)
    threads: int | None = option(None, help="CPU threads (default: as torch decides)", metavar="N")
    out: Path | None = option(None, help="result (default: CKPT.surface.nc beside the first)", metavar="FILE")
    figure: Path | None = option(None, help="figure (default: beside the result)", metavar="FILE")
    force: bool = option(False, help="replace a different result at the same path")
    quiet: bool = option(False, help="print nothing but the paths of what was written")


def measure(points: Sequence[Problem], options: SurfaceOptions, seed: int = 0) -> xr.Dataset:
    """Evaluate the loss around one point, on the line between two, or on the plane through three.

    Returns
    -------
    What `line` or `plane` returns; under ``eigenvectors`` the axes are unit vectors and the attribute ``eigenvalues``
    says what they belong to. Points between networks need BatchNorm statistics of their own.
    """
    if len(points) > 1:
        return _between(points, options)
    reach = np.linspace(-options.span, options.span, options.num_positions)
    attrs: dict[str, object] = {"directions": options.directions}
    if options.directions == "random":
        chosen = [filter_normalised(points[0], seed, axis) for axis in range(options.axes)]
    else:
        wanted = lanczos.EigenOptions(largest=options.axes, smallest=0, tolerance=TOLERANCE, seed=seed)
        pairs = lanczos.eigenpairs(operators.hessian(points[0]), wanted)
        chosen = [along(points[0], vector) for vector in pairs.eigenvector.T]
        attrs["eigenvalues"] = store.as_json(pairs.eigenvalue.double().tolist())
    if options.axes == 1:
        return line(points[0], chosen[0], reach).assign_attrs(attrs)
    nowhere = Plane(chosen[0], chosen[1], np.zeros((1, 2)), np.zeros(1))
    return plane(points[0], nowhere, reach, reach).assign_attrs(attrs)


def _between(points: Sequence[Problem], options: SurfaceOptions) -> xr.Dataset:
    """Evaluate the loss on what several points span, with a margin around them."""

    def axis(marks: np.ndarray) -> np.ndarray:
        extra = options.margin * float(np.ptp(marks))
        return np.linspace(marks.min() - extra, marks.max() + extra, options.num_positions)

    if len(points) == 3:
        span = through(points)
        return plane(points[0], span, axis(span.markers[:, 0]), axis(span.markers[:, 1]))
    start, end = (p.tensors() for p in points)
    step = {name: end[name] - start[name] for name in start}
    length = sum(float(v.double().square().sum()) for v in step.values()) ** 0.5
    if not length:
        raise InputError("the two points are the same, so they span no line")
    unit = {name: v / length for name, v in step.items()}
    result = line(points[0], unit, axis(np.array([0.0, length])))
    marks = {"marker_x": [0.0, length], "marker_y": [0.0, 0.0], "off_plane": [0.0, 0.0]}
    return result.assign({name: ("marker", np.array(values)) for name, values in marks.items()})


def main(argv: Sequence[str]) -> int:
    """Evaluate, write, draw."""
    options, given = cli.parse_arguments(cli.Parser("surfaces", DESCRIPTION, EXAMPLE), CommandOptions, argv)
    if len(options.checkpoint) > 3:
        raise InputError(f"a surface goes through one, two or three checkpoints, not {len(options.checkpoint)}")
    refused = [name for name in ALONE if name in given and len(options.checkpoint) > 1]
    if refused:
        raise InputError(f"several checkpoints decide the axes; leave out --{refused[0]}")
    started, threads = time.monotonic(), cli.apply_threads(options.threads)
    policy = options.problem if "batchnorm" in given else replace(options.problem, batchnorm="recalibrate")
    read = [checkpoints.read(path) for path in options.checkpoint]
    data = checkpoints.open_data(read[0], policy)
    points = [checkpoints.problem_of(checkpoint, policy, data) for checkpoint in read]
    asked = {
        "quantity": "surface",
        "checkpoints": [checkpoint.sha256 for checkpoint in read],
        "data_sha256": points[0].data_sha256,
        "problem": identity.numbers_of(policy),
        "device": points[0].device.type,
        "surface": options.surface,
        "threads": threads,
    }
    first = options.checkpoint[0]
    out = options.out or first.with_name(f"{first.stem}.surface.nc")
    picture = options.figure or out.with_suffix(".png")
    figures.check_format(picture)
    result = store.find_existing(out, store.fingerprint(asked), options.force)
    for path, point in zip(options.checkpoint, points, strict=True):
        for text in describe_point(point):
            cli.log(f"{path}: {text}", options.quiet)
    if result is None:
        store.check_writable(out)
        result = measure(points, options.surface, policy.seed)
        result.attrs |= {
            "fingerprint": store.fingerprint(asked),
            "options": store.as_json(asked),
            **identity.conditions(points[0], ",".join(str(checkpoint.sha256) for checkpoint in read), threads),
            "seconds": time.monotonic() - started,
        }
        store.write(result, out, "surface", options.force)
    figures.save(figures.surface_figure(result), picture)
    cli.show_paths(out, picture)
    return cli.DONE


if __name__ == "__main__":
    cli.run(main)
