"""What is stored of a pruned network: what its mask keeps and cost, and where its training ended (``pruning``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn

from landscape import loading, models, results, store
from landscape.checkpoints import Checkpoint
from landscape.errors import InputError
from landscape.pruning import flow, methods
from landscape.pruning.flow import Flow
from landscape.pruning.methods import PruneOptions
from landscape.runs import Cell, Run


def mask_facts(mask: Mapping[str, Tensor], network: Flow | None) -> xr.Dataset:
    """Return what a mask keeps, in all, on paths, and of every parameter.

    Parameters
    ----------
    network
        The flow through the network; None leaves ``kept_effective`` out.
    """
    size = sum(m.numel() for m in mask.values())
    kept = sum(int(m.sum()) for m in mask.values())
    facts: dict[str, Any] = {
        "kept": kept / size,
        "num_kept": kept,
        "num_weights": size,
        "num_collapsed": float(len(flow.collapsed(mask))),
        "layer_num_kept": ("layer", np.array([int(m.sum()) for m in mask.values()])),
        "layer_size": ("layer", np.array([m.numel() for m in mask.values()])),
    }
    if network is not None:
        facts["kept_effective"] = sum(int(m.sum()) for m in flow.on_path(network, mask).values()) / size
    return xr.Dataset(facts, {"layer": np.array(list(mask), dtype=object)})


def write(run: Run, cell: Cell, extra: Mapping[str, Any] | None = None, model: nn.Module | None = None) -> Path:
    """Store the facts of a finished cell, or find them stored, and return the file.

    Parameters
    ----------
    extra
        Cost and alignment of the mask; for cells of imp's command the cost follows from the graph of trainings.
    model
        The network, where its name in the checkpoint is code of the user's.
    """
    end = methods.read(run.minimum(cell))
    asked = {"quantity": "pruning", "run": run.fingerprint, "cell": str(cell), "checkpoint": end.fingerprint}
    name = store.fingerprint(asked)
    file = results.folder(run.root, "pruning") / f"{name}.nc"
    if store.find_existing(file, name) is not None:
        return file
    pruning = PruneOptions(**{str(k): v for k, v in run.description.get("pruning", {}).items()})
    found = mask_facts(end.mask or methods.everything(end, pruning), flow_of(end, model))
    curves = store.open_result(run.folder(cell) / "curves.nc").isel(epoch=-1)
    for variable, value in curves.data_vars.items():
        found[variable] = float(value)
    for variable, value in (training_cost(run, cell) if extra is None else extra).items():
        found[variable] = value if isinstance(value, bool) else float(value)
    labels = {"method": np.array(cell.method), "level": np.array(cell.level), "replicate": np.array(cell.replicate)}
    found = found.assign_coords(labels)
    trained = {key: curves.attrs[key] for key in results.CONDITIONS if key in curves.attrs}
    found.attrs = {**trained, "fingerprint": name, "options": store.as_json(asked), "checkpoint_sha256": end.sha256}
    return store.write(found, file, "pruning", force=True)


def flow_of(end: Checkpoint, model: nn.Module | None = None) -> Flow | None:
    """Return the flow through the network of a checkpoint; None where only code of the user's could build it."""
    shape = end.model_args.get("input_shape")
    if shape is None or (model is None and (end.model is None or loading.is_code(end.model))):
        return None
    network = models.build(str(end.model), **end.model_args) if model is None else model
    try:
        return Flow(network, tuple(shape))
    except (RuntimeError, InputError):
        return None


def training_cost(run: Run, cell: Cell) -> dict[str, Any]:
    """Return the cost of a mask of imp's command: the steps of all trainings before it, and no curvature."""
    step = int(run.description.get("pruning", {}).get("rewind_step", 0))
    before = 0
    if cell.level:
        last = 1 if cell.method == "one_shot" else cell.level
        ends = [run.minimum(Cell(cell.replicate, "imp", level)) for level in range(last)]
        before = sum((methods.read(end).step or 0) - (step if level else 0) for level, end in enumerate(ends))
    return {"mask_gradients": 0, "mask_products": 0, "mask_steps": before}
