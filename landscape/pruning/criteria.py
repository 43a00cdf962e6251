"""Which weights go: exact counts, one tie rule, masks that nest.

A mask is parameter name -> bool tensor, True where a weight is kept, and holds exactly the prunable parameters. One
pruning step removes ``round(fraction * remaining)`` of the remaining prunable weights (Python's rounding, half to
even), over all tensors together (``global``) or in every tensor on its own (``layerwise``). Among equal scores the
weight that comes first goes first: parameters in the order of the model, entries in row-major order.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError

SCOPES = ("global", "layerwise")

Mask = dict[str, Tensor]


def prunable(parameters: Mapping[str, Tensor], pattern: str = "weights") -> list[str]:
    """Return the names of the prunable parameters.

    Parameters
    ----------
    pattern
        ``weights``: every parameter with two or more axes, which leaves out biases and normalisation; ``all``; or a
        glob of names.
    """
    if pattern == "weights":
        names = [name for name, p in parameters.items() if p.ndim >= 2]
    elif pattern == "all":
        names = list(parameters)
    else:
        names = [name for name in parameters if fnmatchcase(name, pattern)]
    if not names:
        raise InputError(f"no parameter matches --prunable {pattern!r}; there are {', '.join(list(parameters)[:6])}")
    return names


def dense(parameters: Mapping[str, Tensor], names: list[str]) -> Mask:
    """Return the mask that keeps everything."""
    return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in names}


def num_removed(remaining: int, fraction: float) -> int:
    """Return how many of the remaining weights one pruning step removes."""
    if not 0 < fraction < 1:
        raise InputError(f"--fraction must lie between 0 and 1, not {fraction}")
    return round(fraction * remaining)


def counts(size: int, fraction: float, level: int) -> list[int]:
    """Return the numbers of weights kept at levels 0, ..., ``level`` of ``size`` weights under the global scope."""
    kept = [size]
    for _ in range(level):
        kept.append(kept[-1] - num_removed(kept[-1], fraction))
    return kept


def num_kept(mask: Mapping[str, Tensor]) -> int:
    """Return the number of weights that a mask keeps."""
    return sum(int(m.sum()) for m in mask.values())


def remove_smallest(scores: Mapping[str, Tensor], mask: Mapping[str, Tensor], removed: int) -> Mask:
    """Remove the ``removed`` kept weights of smallest score, over all tensors together.

    Parameters
    ----------
    scores
        Parameter name -> score, in the shapes of the mask; only the entries that the mask keeps count.

    Raises
    ------
    InputError
        If there are fewer weights than are to go, or a score is NaN.
    """
    names = list(mask)
    keep = torch.cat([mask[name].reshape(-1) for name in names])
    flat = torch.cat([scores[name].detach().to(keep.device).reshape(-1) for name in names])
    places = keep.nonzero().squeeze(1)
    if removed > len(places):
        raise InputError(f"{removed} weights cannot be removed from {len(places)}")
    if bool(flat[places].isnan().any()):
        raise InputError("a weight has the score NaN, so the weights have no order")
    order = torch.sort(flat[places], stable=True).indices
    keep = keep.clone()
    keep[places[order[:removed]]] = False
    parts = keep.split([mask[name].numel() for name in names])
    return {name: part.reshape(mask[name].shape) for name, part in zip(names, parts, strict=True)}


def step(scores: Mapping[str, Tensor], mask: Mapping[str, Tensor], fraction: float, scope: str = "global") -> Mask:
    """Return the next mask: one pruning step by score, nested in ``mask``."""
    if scope == "global":
        return remove_smallest(scores, mask, num_removed(num_kept(mask), fraction))
    if scope != "layerwise":
        raise InputError(f"unknown --scope {scope!r}; use one of {', '.join(SCOPES)}")
    pruned: Mask = {}
    for name, kept in mask.items():
        pruned |= remove_smallest(scores, {name: kept}, num_removed(int(kept.sum()), fraction))
    return pruned


def to_counts(scores: Mapping[str, Tensor], mask: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Mask:
    """Prune ``mask`` by score in one shot until every tensor keeps as many weights as ``target`` keeps there."""
    pruned: Mask = {}
    for name, kept in mask.items():
        pruned |= remove_smallest(scores, {name: kept}, int(kept.sum()) - int(target[name].sum()))
    return pruned


def magnitude(parameters: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the score |w| of the prunable weights."""
    return {name: parameters[name].detach().abs() for name in mask}


def uniform(mask: Mapping[str, Tensor], seed: int, *key: int | str) -> dict[str, Tensor]:
    """Return random scores: pruning by them picks uniformly among masks of equal counts."""
    stream = seeds.generator(seed, *key)
    return {name: torch.rand(m.shape, generator=stream, dtype=torch.float64) for name, m in mask.items()}


def threshold(scores: Mapping[str, Tensor], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Return the largest score among the weights that went from ``before`` to ``after`` (NaN where none went)."""
    gone = torch.cat([scores[name][before[name] & ~after[name]].reshape(-1) for name in after])
    return float(gone.max()) if len(gone) else float("nan")
