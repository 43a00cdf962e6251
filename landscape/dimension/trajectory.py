"""The states that a training went through, from its checkpoints."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape import checkpoints
from landscape.checkpoints import Checkpoint
from landscape.errors import InputError
from landscape.problem import Problem

_PATTERNS = ("start.pt", "step_*.pt", "epoch_*.pt", "minimum.pt")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States in the order of training, on the active coordinates.

    Attributes
    ----------
    states
        ``(T, n)``.
    step
        Training step of each, ``(T,)``; positions where the checkpoints do not say.
    """

    states: Tensor
    step: NDArray[np.int64]

    @classmethod
    def of(cls, states: Sequence[Tensor], steps: Sequence[int | None]) -> Trajectory:
        """Return states ``(n,)`` in the order of their steps (of their positions if one has none), without repeats."""
        step = np.arange(len(steps)) if None in steps else np.array(steps, dtype=np.int64)
        order = np.argsort(step, kind="stable")
        keep = [
            i
            for position, i in enumerate(order)
            if not position or not torch.equal(states[i], states[order[position - 1]])
        ]
        return cls(torch.stack([states[i] for i in keep]), step[keep].astype(np.int64))

    def away_from(self, theta: Tensor) -> Trajectory:
        """Return the states that differ from ``theta (n,)``."""
        apart = (self.states != theta).any(dim=1)
        return Trajectory(self.states[apart], self.step[apart.cpu().numpy()])


def find(source: str, checkpoint: Path | None = None) -> list[Path]:
    """Return the checkpoints that a directory, a run or a pattern means.

    Parameters
    ----------
    source
        A directory with ``start.pt``, ``epoch_*.pt`` and so on; the root of a run, which means the cell in which
        ``checkpoint`` lies; or a pattern such as ``"checkpoints/*.pt"``.

    Raises
    ------
    InputError
        If there are fewer than two.
    """
    folder = Path(source)
    if (folder / "run.json").is_file():
        if checkpoint is None or folder.resolve() not in checkpoint.resolve().parents:
            raise InputError(
                f"{source} is a run, but the checkpoint does not lie in it; give the folder of the training"
            )
        folder = checkpoint.parent
    if folder.is_dir():
        found = [path for pattern in _PATTERNS for path in sorted(folder.glob(pattern))]
    else:
        found = [Path(name) for name in sorted(glob.glob(source))]
    if len(found) < 2:
        raise InputError(f"--trajectory {source} has {len(found)} checkpoints, but a trajectory needs at least two")
    return found


def read(paths: Sequence[Path], problem: Problem) -> Trajectory:
    """Read the states of a training as points of a problem.

    Raises
    ------
    InputError
        If names or shapes do not fit the problem, a state has weights where the mask prunes, or is not finite.
    """
    states, steps = [], []
    for path in paths:
        checkpoint = checkpoints.read(path)
        states.append(_state(path, checkpoint, problem))
        steps.append(checkpoint.step)
    return Trajectory.of(states, steps)


def _state(path: Path, checkpoint: Checkpoint, problem: Problem) -> Tensor:
    tensors = {}
    for name, p in problem.parameters.items():
        found = checkpoint.state_dict.get(name)
        if found is None or found.shape != p.shape:
            shape = "is missing" if found is None else f"has the shape {tuple(found.shape)}"
            raise InputError(f"{path} does not fit the checkpoint that is measured: its {name} {shape}")
        tensors[name] = found.to(p)
    state = problem.flatten(tensors)
    if not bool(torch.isfinite(state).all()):
        raise InputError(f"{path} holds NaN or infinite weights")
    total = sum(float(tensor.double().square().sum()) for tensor in tensors.values())
    if checkpoint.mask is not None and total - float(state.double().square().sum()) > 1e-6 * total:
        raise InputError(f"{path} has weights where the measured checkpoint is pruned: it is of another level")
    return state


def training_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return ``lr``, ``momentum`` and ``time`` (lr * steps / (1 - momentum)) that a checkpoint of our own records.

    Only plain SGD has a learning rate in the sense of the theory; ``time`` only where its schedule is constant.
    """
    if checkpoint.options is None:
        return {}
    recorded = json.loads(checkpoint.options)
    if recorded.get("optimizer", "sgd") != "sgd" or "lr" not in recorded:
        return {}
    lr, momentum = float(recorded["lr"]), float(recorded.get("momentum", 0.0))
    constant = recorded.get("schedule", "constant") == "constant" and not recorded.get("warmup")
    time = lr * checkpoint.step / (1 - momentum) if constant and checkpoint.step else None
    return {"lr": lr, "momentum": momentum, "time": time}


def preconditioner(path: Path, problem: Problem) -> Tensor:
    """Read the diagonal D of a preconditioner, ``(n,)``: a ``.npz`` or ``.pt`` of arrays by parameter name.

    Raises
    ------
    InputError
        If a parameter is missing, has another shape, or is not positive and finite.
    """
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: torch.as_tensor(archive[name]) for name in archive.files}
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"--preconditioner {path}: this is no .npz file") from error
    else:
        arrays = checkpoints.read(path).state_dict
    for name, p in problem.parameters.items():
        if name not in arrays or arrays[name].shape != p.shape:
            raise InputError(f"--preconditioner {path} has no array {name!r} of shape {tuple(p.shape)}")
    diagonal = problem.flatten({name: arrays[name].to(p) for name, p in problem.parameters.items()})
    if not bool((torch.isfinite(diagonal) & (diagonal > 0)).all()):
        raise InputError(f"--preconditioner {path} must be positive and finite (for Adam: sqrt(v) + eps)")
    return diagonal
