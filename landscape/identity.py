"""What was asked, as provenance: the options that decide the numbers, and the attributes of the result."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from landscape import parallel, schemas, store
from landscape.checkpoints import ProblemOptions
from landscape.problem import Problem


def numbers_of(options: ProblemOptions) -> dict[str, Any]:
    """Return the options of a problem that decide its numbers; files enter by their content, not their path."""
    values = dataclasses.asdict(options)
    del values["device"]
    for name in ("mask", "subspace"):
        value = values[name]
        if value not in (None, "auto", "none"):
            values[name] = store.file_sha256(value)
    if (weights := values["class_weights"]) is not None and weights.endswith(".npy"):
        values["class_weights"] = store.file_sha256(weights)
    return values


def attributes(problem: Problem, asked: Mapping[str, Any], fingerprint: str, threads: int) -> dict[str, Any]:
    """Return the attributes that every result carries."""
    return {
        "fingerprint": fingerprint,
        "options": store.as_json(asked),
        **conditions(problem, asked["checkpoint_sha256"], threads),
    }


def conditions(problem: Problem, checkpoint_sha256: str | None, threads: int) -> dict[str, Any]:
    """Return the attributes that say of what a result was measured, and on what."""
    return {
        "checkpoint_sha256": checkpoint_sha256,
        "data_sha256": problem.data_sha256,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "device": device_name(problem.device),
        "world_size": parallel.world(),
        "threads": threads,
        "batchnorm": problem.batchnorm,
    }


def labelled(result: xr.Dataset, problem: Problem, quantity: str, asked: Mapping[str, Any]) -> xr.Dataset:
    """Return a result of an in-memory model with its provenance, and the meaning of its variables."""
    threads = torch.get_num_threads()
    names = {"checkpoint_sha256": state_sha256(problem), "data_sha256": problem.data_sha256, "threads": threads}
    whole = {**asked, **names}
    name = store.fingerprint({"quantity": quantity, **whole})
    result.attrs |= {**store.provenance(), **attributes(problem, whole, name, threads)}
    return schemas.describe(result, quantity)


def device_name(device: torch.device) -> str:
    """Return the device in words: the name of the card, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def state_sha256(problem: Problem) -> str:
    """Return the SHA-256 of the weights and buffers of an in-memory network: its name in place of a file's."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**problem.constants, **problem.parameters}.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if problem.index is not None:
        digest.update(problem.index.cpu().numpy().tobytes())
    return digest.hexdigest()
