"""Selected subnetworks as a run of checkpoints, so that everything else that measures networks can measure them.

RUN/replicate_R/METHOD/level_LL/minimum.pt, where the level counts the checkpoints of the pre-training from which the
subnetwork was selected (the checkpoint holds its step), and the method is ``gfs`` or, as its null, ``random_neurons``:
as many distinct neurons, drawn at random and weighted alike. ``python -m landscape.study measure RUN`` then gives
spectra and volumes over pre-training. The networks keep their old shapes; what was not selected is masked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from landscape import checkpoints, runs
from landscape.checkpoints import Checkpoint
from landscape.errors import InputError
from landscape.pruning import gfs_baselines
from landscape.pruning.gfs import Floats
from landscape.pruning.gfs import Path as Selection
from landscape.runs import Cell, Run

METHODS = ("gfs", "random_neurons")


def masked(state: dict[str, Tensor], weight: Floats) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a ``two_layer`` network with convex weights ``(N,)`` on its neurons, and their mask.

    The network averages N neurons still, so that b_i becomes N w_i b_i.
    """
    if set(state) != {"hidden.weight", "output.weight"} or len(weight) != len(state["hidden.weight"]):
        raise InputError("subnetworks are saved of two_layer networks only")
    scale = torch.as_tensor(weight * len(weight))
    kept = scale > 0
    mask = {
        "hidden.weight": kept[:, None].expand(state["hidden.weight"].shape).clone(),
        "output.weight": kept[None].expand(state["output.weight"].shape).clone(),
    }
    scaled = state["output.weight"] * scale.to(state["output.weight"])
    return {"hidden.weight": state["hidden.weight"] * mask["hidden.weight"], "output.weight": scaled}, mask


def save(run: Run, checkpoint: Checkpoint, selection: Selection, place: tuple[int, int, int], seed: int) -> list[Path]:
    """Write the selected subnetwork of a checkpoint and its random counterpart.

    Parameters
    ----------
    place
        Replicate, number of the checkpoint, and number k of picks.
    seed
        Of the random neurons.
    """
    replicate, level, size = place
    weight = selection.weight(size)
    random = np.zeros_like(weight)
    count = int(np.count_nonzero(weight))
    random[gfs_baselines.random_order(len(weight), seed, replicate)[:count]] = 1 / count
    written = []
    for method, chosen in zip(METHODS, (weight, random), strict=True):
        state, mask = masked(checkpoint.state_dict, chosen)
        pruned = replace(
            checkpoint, state_dict=state, mask=mask, method=method, level=level, replicate=replicate, fingerprint=None
        )
        written.append(checkpoints.save(run.minimum(Cell(replicate, method, level)), pruned))
    return written


def open_run(root: Path, fingerprint: str, size: int) -> Run:
    """Make the run directory of the subnetworks of one selection, or open it."""
    return runs.create(root, {"kind": "gfs_subnetworks", "selection": fingerprint, "size": size})
