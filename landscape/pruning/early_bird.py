"""When to stop pre-training: criteria that need no further training, and how good they would have been.

Early-bird tickets (You et al. 2020) are drawn once the channel masks of the last few epochs differ in few bits. Our
remarks on that distance: masks that keep the fraction 1 - p at random differ in 2 p (1 - p) of their bits, so that for
p <= 0.05 a tolerance of 0.1 is always met; the scale factors of network slimming all start at 0.5, and ``> threshold``
then keeps nothing; and a mask is also stable when nothing moves. So there is a distance in units of the random one, a
mask by rank, and a condition on the loss.

References
----------
You et al., "Drawing early-bird tickets", ICLR 2020, arXiv 1909.11957 (rules as in its released code).
Shen et al., "When to prune? A policy towards early structural pruning", CVPR 2022, arXiv 2110.12007 (layer counts; our
reconstruction from its abstract).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from landscape.errors import InputError

Mask = NDArray[np.bool_]


def channel_scales(state: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Return |gamma| of every BatchNorm layer of a state dict, by layer name."""
    layers = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    scales = {n: np.abs(np.asarray(state[f"{n}.weight"], dtype=np.float64)) for n in layers if f"{n}.weight" in state}
    if not scales:
        raise InputError("the network has no BatchNorm scale factors, by which early-bird masks are drawn")
    return scales


def threshold_mask(scales: ArrayLike, pruned: float) -> Mask:
    """Return the mask of the released code: keep what exceeds entry ``int(pruned * total)`` of the sorted scales.

    Equal scales are all dropped, so that a network at its initialisation keeps nothing.
    """
    flat = np.ravel(np.asarray(scales, dtype=np.float64))
    return flat > np.sort(flat)[int(_fraction(pruned) * len(flat))]


def rank_mask(scales: ArrayLike, pruned: float) -> Mask:
    """Return the mask that drops exactly ``int(pruned * total)`` of the smallest scales, ties from the first on."""
    flat = np.ravel(np.asarray(scales, dtype=np.float64))
    mask = np.ones(len(flat), dtype=bool)
    mask[np.argsort(flat, kind="stable")[: int(_fraction(pruned) * len(flat))]] = False
    return mask


def _fraction(pruned: float) -> float:
    if not 0 < pruned < 1:
        raise InputError(f"the pruned fraction must lie between 0 and 1, not {pruned}")
    return pruned


# ---- distances ------------------------------------------------------------------------------------------------------


def hamming(first: ArrayLike, second: ArrayLike) -> float:
    """Return the fraction of bits in which two masks differ."""
    one, two = _same_length(first, second)
    return float(np.mean(one != two))


def relative_hamming(first: ArrayLike, second: ArrayLike) -> float:
    """Return the Hamming distance in units of that of random masks of the same two sizes; 1 means unrelated."""
    one, two = _same_length(first, second)
    p, q = 1 - np.mean(one != 0), 1 - np.mean(two != 0)
    chance = float(p * (1 - q) + q * (1 - p))
    return hamming(one, two) / chance if chance else 0.0


def jaccard_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return 1 - sum min(a, b) / sum max(a, b), of masks, or of pick weights n_i / k as multisets."""
    one, two = (np.asarray(a, dtype=np.float64) for a in _same_length(first, second))
    union = float(np.maximum(one, two).sum())
    return 1 - float(np.minimum(one, two).sum()) / union if union else 0.0


def rank_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return 1 - Spearman's rank correlation of two checkpoints' importance scores; 1 if either is constant."""
    one, two = _same_length(first, second)
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return 1.0
    return float(1 - scipy.stats.spearmanr(one, two).statistic)


def count_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return the mean over layers of |n - n'| / max(n, n') for channels kept (in the sense of Shen et al.)."""
    one, two = (np.asarray(a, dtype=np.float64) for a in _same_length(first, second))
    return float(np.mean(np.abs(one - two) / np.maximum(np.maximum(one, two), 1)))


def _same_length(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    one, two = np.ravel(np.asarray(first)), np.ravel(np.asarray(second))
    if one.shape != two.shape or not len(one):
        raise InputError(f"things of {one.size} and {two.size} entries cannot be compared")
    return one, two


# ---- criteria -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StableOptions:
    """When a sequence counts as stable.

    Parameters
    ----------
    tolerance
        Largest distance of the newest to each of those before it.
    memory
        How many are compared, the newest included; so the first possible call is number ``memory``.
    progress
        The loss must have fallen below this fraction of its first value; 1 asks for nothing.
    """

    tolerance: float = 0.1
    memory: int = 5
    progress: float = 1.0


def first_stable(
    items: Sequence[ArrayLike],
    distance: Callable[[ArrayLike, ArrayLike], float] = hamming,
    options: StableOptions | None = None,
    loss: ArrayLike | None = None,
) -> int | None:
    """Return the first position whose item is close to each of the few before it, or None.

    Parameters
    ----------
    items
        Masks, pick weights, scores or layer counts, one a checkpoint.
    distance
        ``hamming`` with the default options is the released early-bird rule.
    loss
        Training loss at the checkpoints, for ``progress``.
    """
    options = options or StableOptions()
    falling = np.ones(len(items)) if loss is None else np.asarray(loss, dtype=np.float64)
    if len(falling) != len(items):
        raise InputError(f"{len(items)} checkpoints but {len(falling)} losses")
    for now in range(options.memory - 1, len(items)):
        before = items[now - options.memory + 1 : now]
        moved = loss is None or falling[now] <= options.progress * falling[0]
        if moved and all(distance(items[now], old) <= options.tolerance for old in before):
            return now
    return None


def first_below(values: ArrayLike, limit: float) -> int | None:
    """Return the first position at which a criterion is at most its limit, or None.

    For an upper bound on the pruned loss (no pruning needed), a Frank-Wolfe gap, or the loss barrier between two
    children of a checkpoint (linear mode connectivity, Frankle et al. 2020, arXiv 1912.05671, takes 2 percentage
    points of error).
    """
    hits = np.flatnonzero(np.asarray(values, dtype=np.float64) <= limit)
    return int(hits[0]) if len(hits) else None


@dataclass(frozen=True)
class DetectionScore:
    """How good a detection was.

    Attributes
    ----------
    regret
        Best final accuracy over all checkpoints minus that of the checkpoint detected.
    saved
        Fraction of the training steps that stopping there saves.
    """

    regret: float
    saved: float


def score(detected: int | None, final_accuracy: ArrayLike, step: ArrayLike) -> DetectionScore:
    """Score a detection against the oracle that knows the final accuracies.

    Parameters
    ----------
    detected
        Position of the checkpoint; None counts as the last one.
    final_accuracy
        Accuracy of the network pruned at each checkpoint, after whatever follows pruning.
    step
        Training steps of the checkpoints.
    """
    accuracy, steps = np.asarray(final_accuracy, dtype=np.float64), np.asarray(step, dtype=np.float64)
    if len(accuracy) != len(steps) or not len(steps):
        raise InputError(f"{len(steps)} checkpoints but {len(accuracy)} accuracies")
    at = len(steps) - 1 if detected is None else detected
    return DetectionScore(float(accuracy.max() - accuracy[at]), float(1 - steps[at] / steps[-1]) if steps[-1] else 0.0)
