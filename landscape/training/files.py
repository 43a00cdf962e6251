"""A training from its start to its files: start, every epoch, chosen steps, curves, end; and how it is resumed.

In a directory: ``start.pt``, ``epoch_EEE.pt``, ``step_SSSSSS.pt``, ``curves.nc`` and, last, ``minimum.pt``, whose
existence means that the training is finished. For ``FILE.pt``: ``FILE.curves.nc`` and ``FILE.pt``. Until then
``state.pt`` (``FILE.state.pt``) holds what the next epoch starts from: weights, buffers, optimiser, curves. All
randomness of an epoch comes from streams that are named by seed and epoch, so that no generator has to be stored.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from landscape import checkpoints, cli, datasets, loading, masks, models, store
from landscape.checkpoints import Checkpoint
from landscape.checkpoints.problems import check_inputs
from landscape.datasets import Data, Sample
from landscape.errors import InputError
from landscape.training.loop import Loop, Subspace, deterministic, evaluate, loss_of
from landscape.training.options import TrainOptions, check

STATE_FORMAT = "landscape-training-1"
SUFFIXES = (".pt", ".pth")


@dataclass(frozen=True, eq=False)
class Branch:
    """Where a training starts, under which mask, with which randomness, and what it is called.

    Parameters
    ----------
    start
        Weights and buffers; fresh ones from ``init_seed`` where None. Pruned entries are set to zero.
    mask
        Parameter name -> bool tensor; pruned weights stay exactly zero.
    first_step
        Steps that count as done (rewinding to step k): schedule, order of the data and numbers go on from there.
    init_seed, data_seed
        Seeds of the initialisation, and of order, augmentation and dropout; ``TrainOptions.seed`` where None.
    method, level, replicate
        Recorded in the checkpoints.
    subspace
        Where all parameters move; None for everywhere.
    """

    start: Mapping[str, Tensor] | None = None
    mask: Mapping[str, Tensor] | None = None
    first_step: int = 0
    init_seed: int | None = None
    data_seed: int | None = None
    method: str | None = None
    level: int = 0
    replicate: int = 0
    subspace: Subspace | None = None


@dataclass(frozen=True)
class Control:
    """How a training is run; nothing here changes a tensor (``on_epoch`` may end it early).

    Parameters
    ----------
    resume
        Continue from the state that an interrupted training left.
    force
        Replace what a different training wrote.
    on_epoch
        Called with the epoch and the network after it (not to be changed); True ends the training there.
    """

    resume: bool = False
    force: bool = False
    quiet: bool = True
    on_epoch: Callable[[int, nn.Module], bool | None] | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """The end of a training: its checkpoint, its curves over ``epoch`` (0 is the start) and the files written."""

    checkpoint: Checkpoint
    curves: xr.Dataset
    paths: tuple[Path, ...] = ()


def train(
    options: TrainOptions,
    out: str | Path | None = None,
    branch: Branch | None = None,
    data: tuple[Data, Data | None] | None = None,
    control: Control | None = None,
) -> Trained:
    """Train a network; the same options give the same tensors, bit by bit, at equal thread count.

    Parameters
    ----------
    out
        ``FILE.pt`` for the end only, a directory for every epoch and chosen steps, or None for no files.
    data
        Training and test data that were loaded before (:func:`load_data`); loaded here where None.

    Returns
    -------
    The end of training; at once where the files show that it was trained before.

    Raises
    ------
    InputError
        If an option is wrong, the loss becomes NaN, or ``out`` holds something else.
    """
    check(options)
    session = Session(options, None if out is None else Path(out), branch or Branch(), control or Control())
    return session.finished(data) or session.run()


def load_data(options: TrainOptions) -> tuple[Data, Data | None]:
    """Return training and test data; the test data are None where the source has none."""
    sample = Sample(options.num_examples, options.examples, options.seed)
    training = datasets.load(options.data, "train", sample, options.normalize)
    try:
        return training, datasets.load(options.data, "test", normalize=options.normalize)
    except datasets.NoTestSplitError:
        return training, None


class Session:
    """One training: what it needs in memory and where its files go."""

    def __init__(self, options: TrainOptions, out: Path | None, branch: Branch, control: Control) -> None:
        self.options, self.branch, self.control = options, branch, control
        self.folder = out if out is not None and out.suffix not in SUFFIXES else None
        if options.checkpoint_steps and self.folder is None:
            raise InputError("--checkpoint-steps writes several files: give a directory, --out RUN/")
        self.final, self.state, self.curves_path = _paths(out, self.folder)
        self.init_seed = options.seed if branch.init_seed is None else branch.init_seed
        self.data_seed = options.seed if branch.data_seed is None else branch.data_seed
        self.device = checkpoints.resolve_device(options.device)
        self.rows: list[dict[str, float | None]] = []
        self.seconds = 0.0

    def finished(self, data: tuple[Data, Data | None] | None) -> Trained | None:
        """Load the data, and return the outcome that stands at ``out`` if it is that of this very training."""
        self.data, self.test = data or load_data(self.options)
        if self.final is None or self.control.force or not self.final.exists():
            return None
        there = checkpoints.read(self.final)
        if there.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.final} holds {_difference(there.options, self._options_json)}; "
                "choose another --out, or --force to replace it"
            )
        assert self.curves_path is not None
        return Trained(there, store.open_result(self.curves_path), (self.curves_path, self.final))

    def run(self) -> Trained:
        """Train, or continue, to the end."""
        self._prepare()
        started = time.perf_counter() - self.seconds
        state = self._saved_state()
        if state is None:
            self._begin()
        else:
            self._restore(state)
        steps = self.loop.steps_per_epoch
        total, done = self.options.epochs * steps, max(self.branch.first_step, (self.next_epoch - 1) * steps)
        bar: tqdm[int]
        with (
            cli.progress(total, "training", self.control.quiet, done=done, unit="step") as bar,
            deterministic(self.device),
        ):

            def after_step(step: int) -> None:
                bar.update()
                self._after_step(step)

            for epoch in range(self.next_epoch, self.options.epochs + 1):
                self.loop.run_epoch(epoch, after_step)
                self._record()
                bar.set_postfix({k: f"{v:.4g}" for k, v in self.rows[-1].items() if v is not None}, refresh=False)
                self.seconds = time.perf_counter() - started
                stop = self.control.on_epoch is not None and bool(self.control.on_epoch(epoch, self.model))
                self._save_epoch(epoch, stop)
                if stop:
                    break
        return self._finish()

    # ---- parts -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Build the network, its start and its mask."""
        self.arguments = {"input_shape": self.data.input_shape, "num_outputs": self.data.num_outputs}
        self.arguments |= models.parse_arguments(self.options.model_arg)
        self.model = models.build(self.options.model, self.init_seed, **self.arguments)
        if self.branch.start is not None:
            checkpoints.load_state(self.model, self.branch.start, self.options.model)
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        self.mask = masks.validate(self.branch.mask or {}, shapes)
        self.loss = loss_of(self.options.loss)
        check_inputs(self.model, self.options.model, self.data)
        self.model.to(self.device)
        self.tensors = self._placed(self.data)
        self.test_tensors = None if self.test is None else self._placed(self.test)
        first, inside = self.branch.first_step, self.branch.subspace
        self.loop = Loop(self.model, self.loss, self.tensors, self.options, self.mask, self.data_seed, first, inside)
        last = self.loop.steps_per_epoch * self.options.epochs
        if not 0 <= first <= last:
            raise InputError(f"the training has {last} steps and cannot start from step {first}")
        for step in self.options.checkpoint_steps:
            if not first <= step <= last:
                raise InputError(f"--checkpoint-steps {step}: the training goes from step {first} to step {last}")
        self.start_epoch = first // self.loop.steps_per_epoch
        self.next_epoch = self.start_epoch + 1

    def _placed(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return inputs and targets on the device, in the dtype of the weights."""
        x = models.as_inputs(self.model, data.x)
        dtype = next((p.dtype for p in self.model.parameters()), x.dtype)
        return x.to(self.device, dtype if x.is_floating_point() else None), data.y.to(self.device)

    @cached_property
    def _options_json(self) -> str:
        """Return what decides the tensors, as JSON; data, start and mask by their checksums."""
        what = asdict(replace(self.options, device=self.device.type))
        what |= {"init_seed": self.init_seed, "data_seed": self.data_seed, "threads": torch.get_num_threads()}
        what |= {name: getattr(self.branch, name) for name in ("method", "level", "replicate", "first_step")}
        what |= {"start_sha256": _sha256(self.branch.start), "mask_sha256": _sha256(self.branch.mask)}
        what |= {"data_sha256": self.data.sha256, "test_sha256": None if self.test is None else self.test.sha256}
        if (inside := self.branch.subspace) is not None:
            what |= {"subspace_sha256": _sha256({"vectors": inside.vectors}), "complement": inside.complement}
        return store.as_json(what)

    @property
    def fingerprint(self) -> str:
        """The name of everything that decides the tensors."""
        return store.fingerprint(json.loads(self._options_json))

    def _begin(self) -> None:
        """Write the files of the start."""
        self.rows = []
        self._record()
        if self.folder is not None:
            self._save(self.folder / "start.pt", self.start_epoch, self.branch.first_step)
        self._after_step(self.branch.first_step)

    def _record(self) -> None:
        """Add the losses and accuracies at this moment to the curves."""
        row: dict[str, float | None] = {}
        for split, tensors in (("train", self.tensors), ("test", self.test_tensors)):
            if tensors is not None:
                row[f"{split}_loss"], row[f"{split}_accuracy"] = evaluate(self.model, self.loss, *tensors)
        self.rows.append(row)

    def _after_step(self, step: int) -> None:
        if step in self.options.checkpoint_steps and self.folder is not None:
            self._save(self.folder / f"step_{step:06d}.pt", step // self.loop.steps_per_epoch, step)

    def _checkpoint(self, epoch: int, step: int) -> Checkpoint:
        options = self.options
        return Checkpoint(
            state_dict={name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()},
            mask=self.mask or None,
            model=options.model,
            model_args=self.arguments,
            data=str(Path(options.data).resolve()) if options.data.endswith(".npz") else options.data,
            normalize=self.data.normalize,
            loss=options.loss,
            method=self.branch.method,
            level=self.branch.level,
            replicate=self.branch.replicate,
            epoch=epoch,
            step=step,
            seed=options.seed,
            options=self._options_json,
            fingerprint=self.fingerprint,
        )

    def _save(self, path: Path, epoch: int, step: int) -> None:
        checkpoints.save(path, self._checkpoint(epoch, step))

    def _save_epoch(self, epoch: int, stopped: bool) -> None:
        """Write the checkpoint of an epoch and then the state from which the next one can start."""
        if self.folder is not None:
            self._save(self.folder / f"epoch_{epoch:03d}.pt", epoch, epoch * self.loop.steps_per_epoch)
        if self.state is None:
            return
        content = {
            "format": STATE_FORMAT,
            "fingerprint": self.fingerprint,
            "options": self._options_json,
            "epoch": epoch,
            "stopped": stopped,
            "model": self.model.state_dict(),
            "optimizer": self.loop.optimizer.state_dict(),
            "rows": self.rows,
            "seconds": self.seconds,
        }
        with store.atomic_path(self.state) as temporary:
            torch.save(content, temporary)

    def _saved_state(self) -> dict[str, Any] | None:
        """Return the state that an interrupted training left, if it is wanted and of this training."""
        if self.state is None or not self.state.exists():
            return None
        if not self.control.resume:
            cli.log(f"{self.state} of an interrupted training is not used; --resume continues it", self.control.quiet)
            return None
        state = loading.torch_file(self.state, "state of a training")
        if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
            raise InputError(f"{self.state} is not the state of a training; delete it to start anew")
        if state["fingerprint"] != self.fingerprint:
            raise InputError(
                f"{self.state} is that of {_difference(state['options'], self._options_json)}; "
                "give the same options, or start anew without --resume"
            )
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.loop.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.seconds = state["rows"], state["seconds"]
        self.next_epoch = (self.options.epochs if state["stopped"] else state["epoch"]) + 1
        cli.log(f"continuing after epoch {state['epoch']}", self.control.quiet)

    def _curves(self) -> xr.Dataset:
        """Return the curves as a Dataset over ``epoch``; what was not measured is absent."""
        names = [name for name, value in self.rows[0].items() if value is not None]
        variables = {name: ("epoch", [row[name] for row in self.rows]) for name in names}
        attrs = {
            "fingerprint": self.fingerprint,
            "options": self._options_json,
            "checkpoint_sha256": json.loads(self._options_json)["start_sha256"],
            "data_sha256": self.data.sha256,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "batchnorm": "running",
            "world_size": 1,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "seconds": self.seconds,
        }
        return xr.Dataset(variables, {"epoch": [self.start_epoch + row for row in range(len(self.rows))]}, attrs)

    def _finish(self) -> Trained:
        """Write curves and end, and then remove the state."""
        epoch = self.start_epoch + len(self.rows) - 1
        step = max(self.branch.first_step, epoch * self.loop.steps_per_epoch)
        curves, checkpoint = self._curves(), self._checkpoint(epoch, step)
        if self.final is None or self.curves_path is None or self.state is None:
            return Trained(checkpoint, curves)
        # Without its end, what stands here is left over from an interrupted training.
        store.write(curves, self.curves_path, "training", force=True)
        checkpoints.save(self.final, checkpoint)
        self.state.unlink(missing_ok=True)
        return Trained(checkpoint, curves, (self.curves_path, self.final))


def _paths(out: Path | None, folder: Path | None) -> tuple[Path | None, Path | None, Path | None]:
    """Return where the end, the state and the curves go."""
    if out is None:
        return None, None, None
    if folder is not None:
        return folder / "minimum.pt", folder / "state.pt", folder / "curves.nc"
    return out, out.with_name(f"{out.stem}.state.pt"), out.with_name(f"{out.stem}.curves.nc")


def _sha256(tensors: Mapping[str, Tensor] | None) -> str | None:
    if tensors is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _difference(there: str | None, here: str) -> str:
    """Describe the first option in which another training differs from this one."""
    if there is None:
        return "a checkpoint that this trainer did not write"
    old, new = json.loads(there), json.loads(here)
    for name in new:
        if old.get(name) != new[name]:
            return f"another training ({name} was {old.get(name)!r} and is {new[name]!r} here)"
    return "a training of another version of this program"
