"""Everything that is measured at one checkpoint: the path, its bounds' ingredients, certificates and rivals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.pretraining.bounds import random_subset_loss
from landscape.pruning import gfs_baselines
from landscape.pruning.gfs import Floats, Integers, Path, Products, SelectOptions, select
from landscape.pruning.gfs_convex import ConvexLoss, select_convex
from landscape.pruning.gfs_hull import HullLoss, HullOptions, certificate, hull_loss, hull_loss_convex
from landscape.pruning.gfs_neurons import Neurons
from landscape.pruning.gfs_shape import diameter2, statistics

MOST_FOR_DIAMETER = 4096  # neurons; beyond it the O(mN^2) of the exact diameter is left out
MOST_PASSES = 100  # over the activations, in search of the best cross entropy in the hull
RIVALS = (
    "line_search",
    "first_order",
    "no_replacement",
    "top_norm",
    "magnitude",
    "backward",
    "matching_pursuit",
    "refit",
)


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured at a checkpoint.

    Parameters
    ----------
    sizes
        Numbers k of picks, rising.
    select
        How neurons are selected; its number of picks is the largest size.
    rivals
        Other choices of k neurons to compare with (``RIVALS``), for mse.
    hull
        When the search for the best loss in the hull stops.
    num_random
        Random subsets drawn where their expected loss has no closed form (cross entropies).
    seed
        Of these draws.
    """

    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    select: SelectOptions = field(default_factory=SelectOptions)
    rivals: tuple[str, ...] = ()
    hull: HullOptions = field(default_factory=HullOptions)
    num_random: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that do not rise and rivals that do not exist."""
        if not self.sizes or min(self.sizes) < 1 or list(self.sizes) != sorted(set(self.sizes)):
            raise InputError(f"--sizes must be rising positive numbers, not {self.sizes}")
        unknown = set(self.rivals) - set(RIVALS)
        if unknown:
            raise InputError(f"unknown rivals {', '.join(sorted(unknown))}; there are {', '.join(RIVALS)}")

    @property
    def selection(self) -> SelectOptions:
        """The options of the one selection from which all sizes are read."""
        return replace(self.select, num_picks=self.sizes[-1])

    @property
    def greedy_bounds(self) -> bool:
        """Whether the upper bounds hold for this selection: each pick the best, with replacement, weighted 1/k."""
        return self.select.replacement and self.select.weighting == "uniform" and self.select.rule == "exact"


def measure(
    neurons: Neurons, loss: ConvexLoss, options: MeasureOptions, importance: Integers | None = None
) -> tuple[xr.Dataset, Path]:
    """Measure the selections of all sizes at one checkpoint.

    Parameters
    ----------
    importance
        Order of the neurons by magnitude, ``(N,)``, for the rival of that name.

    Returns
    -------
    tuple
        Variables of a ``gfs`` Dataset over ``size`` and ``rival``, without cell and step; and the path.
    """
    if loss.name == "mse":
        values, path, hull = _measure_square(neurons, loss, options, importance)
    else:
        values, path, hull = _measure_convex(neurons, loss, options)
    index = np.array(options.sizes) - 1
    uniform = neurons.response(np.full(neurons.num_neurons, 1 / neurons.num_neurons))
    values |= {
        "loss": ("size", path.loss[index]),
        "num_distinct": ("size", path.num_distinct[index].astype(np.int64)),
        "empty_loss": loss.value(uniform * 0),
        "hull_loss": hull.loss,
        "hull_loss_lo": hull.lower,
    }
    dense = loss.accuracy(uniform)
    if dense is not None:
        selected = [loss.accuracy(neurons.response(path.weight(k))) for k in options.sizes]
        values |= {"dense_accuracy": dense, "accuracy": ("size", np.array(selected, dtype=np.float64))}
    return xr.Dataset(values, coords={"size": np.array(options.sizes)}), path


def _measure_square(
    neurons: Neurons, loss: ConvexLoss, options: MeasureOptions, importance: Integers | None
) -> tuple[dict[str, object], Path, HullLoss]:
    """Measure under mse, where everything follows from inner products."""
    products = neurons.products(loss.target.to(loss.offset.dtype) - loss.offset, options.sizes[-1])
    path, shape = select(products, options.selection), statistics(products)
    sizes = np.array(options.sizes)
    distinct = path.num_distinct[sizes - 1]
    total = neurons.num_neurons
    values: dict[str, object] = {
        "dense_loss": shape.dense_loss,
        "variance": shape.variance,
        "radius": shape.radius,
        "first_loss": shape.first_loss,
        "selection_gap": ("size", np.array([certificate(products, path.weight(k)).gap for k in options.sizes])),
    }
    for name, number in (("random_loss", np.minimum(sizes, total)), ("random_loss_distinct", distinct)):
        values[name] = ("size", random_subset_loss(shape.dense_loss, shape.variance, number, total))
    if total <= MOST_FOR_DIAMETER:
        values["diameter"] = float(np.sqrt(diameter2(products)))
    if options.rivals:
        rows = [_rival(name, products, options, path, importance) for name in options.rivals]
        values["rival_loss"] = (("rival", "size"), np.stack(rows))
        values["rival"] = np.array(options.rivals)
    return values, path, hull_loss(products, options.hull)


def _rival(name: str, products: Products, options: MeasureOptions, path: Path, importance: Integers | None) -> Floats:
    """Return the losses of a rival at all sizes; a size beyond what it has keeps its last loss."""
    most, total = options.sizes[-1], products.num_neurons
    few = min(most, total)
    if name == "refit":
        firsts = [path.picks[np.sort(np.unique(path.picks[:k], return_index=True)[1])] for k in options.sizes]
        return np.array([gfs_baselines.refit(products, first)[1] for first in firsts])
    if name == "magnitude" and importance is None:
        raise InputError("the rival magnitude needs the incoming weights of the neurons")
    runs: dict[str, Callable[[], Floats]] = {
        "line_search": lambda: select(products, SelectOptions(most, weighting="line_search")).loss,
        "first_order": lambda: select(products, SelectOptions(most, rule="first_order")).loss,
        "no_replacement": lambda: select(products, SelectOptions(few, replacement=False)).loss,
        "top_norm": lambda: gfs_baselines.prefixes(products, gfs_baselines.top_norm_order(products)[:few]).loss,
        "magnitude": lambda: gfs_baselines.prefixes(products, np.asarray(importance)[:few]).loss,
        "backward": lambda: gfs_baselines.prefixes(products, gfs_baselines.backward_order(products)[:few]).loss,
        "matching_pursuit": lambda: gfs_baselines.matching_pursuit(products, few)[1],
    }
    losses = runs[name]()
    if not len(losses):
        return np.full(len(options.sizes), products.target_norm2 / 2)
    return losses[np.minimum(options.sizes, len(losses)) - 1]


def _measure_convex(
    neurons: Neurons, loss: ConvexLoss, options: MeasureOptions
) -> tuple[dict[str, object], Path, HullLoss]:
    """Measure under a cross entropy: random subsets are drawn, the hull loss has its own search."""
    if options.rivals:
        raise InputError(f"rivals are compared under --loss mse, not {loss.name}")
    path = select_convex(neurons, loss, options.selection)
    shape = statistics(neurons.products(loss.offset * 0))
    index, total = np.array(options.sizes) - 1, neurons.num_neurons
    assert path.certified is not None
    values: dict[str, object] = {
        "dense_loss": loss.value(neurons.response(np.full(total, 1 / total))),
        "variance": shape.variance,
        "radius": shape.radius,
        "first_loss": float(path.loss[0]),
        "certified": ("size", np.logical_and.accumulate(path.certified)[index]),
        "selection_gap": ("size", np.array([_gap(neurons, loss, path.weight(k)) for k in options.sizes])),
    }
    for name, number in (
        ("random_loss", np.minimum(index + 1, total)),
        ("random_loss_distinct", path.num_distinct[index]),
    ):
        draws = np.array(
            [[_random(neurons, loss, int(k), options.seed, r) for k in number] for r in range(options.num_random)]
        )
        values[name] = ("size", draws.mean(0))
        values[f"{name}_se"] = ("size", draws.std(0, ddof=1) / np.sqrt(options.num_random))
    hull = replace(options.hull, max_steps=min(options.hull.max_steps, MOST_PASSES))
    return values, path, hull_loss_convex(neurons, loss, path.weight(options.sizes[-1]), hull)


def _gap(neurons: Neurons, loss: ConvexLoss, weight: Floats) -> float:
    """Return the Frank-Wolfe gap at convex weights."""
    slope = neurons.project(loss.gradient(neurons.response(weight)))
    return max(float(slope @ weight - slope.min()), 0.0)


def _random(neurons: Neurons, loss: ConvexLoss, size: int, seed: int, draw: int) -> float:
    """Return the loss of the plain average of ``size`` random distinct neurons."""
    chosen = gfs_baselines.random_order(neurons.num_neurons, seed, draw)[:size]
    weight = np.zeros(neurons.num_neurons)
    weight[chosen] = 1 / size
    return loss.value(neurons.response(weight))
