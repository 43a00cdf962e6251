"""How trained networks are connected: distances, barriers on the segment between them, disagreement.

`measure` compares pairs of points of one architecture on the same examples; the points are embedded in R^D, pruned
weights at zero. How a segment is walked is in `landscape.connectivity.barriers`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from landscape import identity
from landscape.batches import Batch, as_batches
from landscape.connectivity.barriers import PathOptions, Predictions, predict, summarise, walk
from landscape.errors import InputError
from landscape.losses import CrossEntropy, ExampleLoss
from landscape.problem import Problem, ProblemSettings

Pair = tuple[str, str]


# ---- distances and functions ---------------------------------------------------------------------------------------


def _distances(first: Problem, second: Problem, reference: Problem | None) -> dict[str, Any]:
    """Return the distances of a pair, over all parameters and over the coordinates active at both, in float64."""
    start, end = ({n: t.double() for n, t in p.tensors().items()} for p in (first, second))
    ones = [p.unflatten(torch.ones(p.num_params, dtype=torch.float64, device=p.device)) for p in (first, second)]
    both = {name: ones[0][name] * ones[1][name] for name in start if name in ones[0] and name in ones[1]}
    squares = {name: float((end[name] - start[name]).square().sum()) for name in start}
    distance = sum(squares.values()) ** 0.5
    shared = sum(float(((end[n] - start[n]) * m).square().sum()) for n, m in both.items()) ** 0.5
    size = sum(float(m.sum()) for m in both.values())
    norm = sum(float(t.square().sum()) for t in start.values()) ** 0.5
    result = {
        "distance": distance,
        "relative_distance": distance / norm if norm else float("nan"),
        "shared_distance": shared,
        "rms_distance": shared / size**0.5 if size else float("nan"),
        "layer_distance": np.sqrt(list(squares.values())),
    }
    if reference is not None:
        origin = reference.tensors()
        steps = [torch.cat([(t[n] - origin[n]).reshape(-1) for n in start]) for t in (start, end)]
        norms = float(steps[0].norm() * steps[1].norm())
        result["cosine"] = float(steps[0] @ steps[1]) / norms if norms else float("nan")
    return result


def disagreement(first: Predictions, second: Predictions, loss: ExampleLoss) -> dict[str, float]:
    """Return in how far two networks compute different functions on the same examples.

    Returns
    -------
    ``output_distance`` = mean |f - f'|^2 / 2; for class outputs also ``disagreement``, the fraction of examples with
    different argmax, and for cross entropy ``symmetric_kl`` = mean KL(p || p') + KL(p' || p), in nats.
    """
    a, b = first.outputs.double(), second.outputs.double()
    result = {"output_distance": float((a - b).square().reshape(len(a), -1).sum(1).mean()) / 2}
    if first.errors is not None and a.ndim == 2 and a.shape[1] > 1:
        result["disagreement"] = float((a.argmax(1) != b.argmax(1)).double().mean())
    if isinstance(loss, CrossEntropy) and a.ndim == 2:
        log_a, log_b = a.log_softmax(1), b.log_softmax(1)
        result["symmetric_kl"] = float(((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(1).mean())
    return result


# ---- the measurement -----------------------------------------------------------------------------------------------


def choose_pairs(names: Sequence[str], which: str) -> list[Pair]:
    """Return the pairs of points: ``all``, ``successive`` in the order given, or each with the ``first``."""
    if which == "all":
        return list(combinations(names, 2))
    if which == "successive":
        return list(pairwise(names))
    if which == "first":
        return [(names[0], name) for name in names[1:]]
    raise InputError(f"unknown pairs {which!r}; use all, successive or first")


def measure(
    points: Mapping[str, Problem],
    pairs: Sequence[Pair],
    options: PathOptions | None = None,
    test: Sequence[Batch] = (),
    reference: str | None = None,
) -> xr.Dataset:
    """Measure distances, barriers and disagreement of pairs of points.

    Parameters
    ----------
    points
        Name -> problem; one model, one loss, the same data.
    pairs
        The pairs of names that are compared.
    test
        Batches on which everything is evaluated beside the data of the problems (dim ``split``).
    reference
        Name of the point from which the displacements are taken whose ``cosine`` is stored.

    Returns
    -------
    Over ``pair``: ``distance`` (all parameters), ``shared_distance`` and ``rms_distance`` (coordinates active at both),
    ``relative_distance`` (over the norm of the first), ``layer_distance``, ``cosine``; ``position (pair, place)``;
    over ``split``: ``path_loss``, ``path_error (split, pair, place)``, ``barrier_*``, ``instability_*`` with ``_se``,
    ``_lo``, ``_hi``, ``disagreement``, ``symmetric_kl``, ``output_distance``. Over ``at``: ``point_loss``,
    ``point_error``, ``point_norm``.

    Notes
    -----
    Cost: (num_positions + num_refinements) forward passes a pair. Error: the bootstrap is over examples; it knows
    nothing of the noise of training. The supremum of noisy values is biased upwards, and a spike narrower than the
    grid is missed. ``recalibrate`` measures BatchNorm statistics anew at every position, on the train data;
    ``running`` statistics do not exist between two networks, and are refused.
    """
    options = options or PathOptions()
    _check(points, pairs)
    model = next(iter(points.values()))
    splits: dict[str, Sequence[Batch]] = {"train": model.batches, **({"test": tuple(test)} if test else {})}
    ends = {name: {s: predict(point, batches) for s, batches in splits.items()} for name, point in points.items()}
    rows = []
    for first, second in pairs:
        positions, nodes = walk(points[first], points[second], splits, options)
        row: dict[str, Any] = {"position": positions}
        row |= _distances(points[first], points[second], None if reference is None else points[reference])
        for split in splits:
            values = summarise(positions, nodes[split], options)
            loss = points[first].loss_function
            assert isinstance(loss, ExampleLoss)
            values |= disagreement(ends[first][split], ends[second][split], loss)
            row |= {(name, split): value for name, value in values.items()}
        rows.append(row)
    return _dataset(rows, pairs, points, ends, list(model.tensors()))


def _check(points: Mapping[str, Problem], pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise InputError("connectivity needs at least two points")
    first = next(iter(points.values()))
    shapes = {name: tuple(t.shape) for name, t in first.tensors().items()}
    for name, point in points.items():
        if {n: tuple(t.shape) for n, t in point.tensors().items()} != shapes:
            raise InputError(f"{name} has parameters of other names or shapes; only equal architectures are connected")
        if point.data_sha256 != first.data_sha256:
            raise InputError(f"{name} is measured on other examples; compare points on the same data")
    if first.weight_decay:
        raise InputError("connectivity compares data losses; leave out --weight-decay")
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in first.model.modules())
    if norms and first.batchnorm == "running":
        raise InputError(
            "between two networks there are no running BatchNorm statistics; use --batchnorm recalibrate or batch"
        )


def _dataset(
    rows: list[dict[Any, Any]], pairs: Sequence[Pair], points: Any, ends: Any, layers: list[str]
) -> xr.Dataset:
    """Collect the rows of the pairs into one Dataset."""
    splits = list(dict.fromkeys(key[1] for key in rows[0] if isinstance(key, tuple)))
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    extra = {"position": ("place",), "layer_distance": ("layer",), "path_loss": ("place",), "path_error": ("place",)}
    for key in rows[0]:
        if not isinstance(key, tuple):
            data[key] = (("pair", *extra.get(key, ())), np.array([row[key] for row in rows], dtype=float))
    for name in dict.fromkeys(key[0] for key in rows[0] if isinstance(key, tuple)):
        values = np.array([[row[(name, split)] for row in rows] for split in splits], dtype=float)
        data[name] = (("split", "pair", *extra.get(name, ())), values)
    table = [[ends[name][split] for name in points] for split in splits]
    data["point_loss"] = (("split", "at"), np.array([[p.loss for p in row] for row in table]))
    if table[0][0].errors is not None:
        data["point_error"] = (("split", "at"), np.array([[p.error for p in row] for row in table], dtype=float))
    norms = [sum(float(t.double().square().sum()) for t in p.tensors().values()) ** 0.5 for p in points.values()]
    data["point_norm"] = (("at",), np.array(norms))
    first, second = zip(*pairs, strict=True)
    coords = {
        "pair": [f"{a} -> {b}" for a, b in pairs],
        "first": ("pair", list(first)),
        "second": ("pair", list(second)),
        "split": splits,
        "layer": layers,
        "at": list(points),
    }
    return xr.Dataset(data, coords)


def measure_connectivity(
    models: Sequence[nn.Module] | Mapping[str, nn.Module],
    loss: Any,
    data: Any,
    masks: Sequence[Mapping[str, Tensor] | None] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Measure how models of one architecture are connected.

    Parameters
    ----------
    models
        Two or more, in a list or by name.
    masks
        The pruning mask of every model, in their order.
    options
        ``test_data``; ``pairs`` (``all``, ``successive``, ``first``, or a list of pairs of names); ``batchnorm``
        (default ``recalibrate``), ``dtype``, ``device``, ``batch_size``; the fields of `PathOptions`.

    Examples
    --------
    >>> a, b = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    >>> a.weight.data.fill_(0.0), b.weight.data.fill_(2.0)  # doctest: +SKIP
    >>> result = measure_connectivity([a, b], "mse", (torch.ones(1, 1), torch.ones(1, 1)))  # loss (w - 1)^2 / 2
    >>> float(result.distance)  # doctest: +SKIP
    2.0
    """
    named = dict(models) if isinstance(models, Mapping) else {str(i): model for i, model in enumerate(models)}
    fields = {key: options.pop(key) for key in ("batchnorm", "dtype", "device", "batch_size") if key in options}
    settings = ProblemSettings(**{"batchnorm": "recalibrate", **fields})
    test_data, which = options.pop("test_data", None), options.pop("pairs", "all")
    chosen = masks if masks is not None else [None] * len(named)
    points = {
        name: Problem.from_model(model, loss, data, mask, settings)
        for (name, model), mask in zip(named.items(), chosen, strict=True)
    }
    pairs = choose_pairs(list(points), which) if isinstance(which, str) else list(which)
    if not pairs:
        raise InputError("connectivity needs at least two points")
    first = next(iter(points.values()))
    test = () if test_data is None else as_batches(test_data, settings.batch_size, first.dtype, first.device)
    try:
        parsed = PathOptions(**options)
    except TypeError as error:
        raise InputError(f"unknown option: {error}") from error
    started = time.monotonic()
    result = measure(points, pairs, parsed, tuple(test))
    asked = {"path": parsed, "pairs": pairs, "points": {name: identity.state_sha256(p) for name, p in points.items()}}
    result = identity.labelled(result, first, "connectivity", asked)
    names = ",".join(identity.state_sha256(point) for point in points.values())
    result.attrs |= {"quantity": "connectivity", "checkpoint_sha256": names, "seconds": time.monotonic() - started}
    return result
