"""The files of a training, and what an interruption at any moment leaves: the same bits in the end."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from test_training import OPTIONS, random_mask, same
from torch import nn

from landscape import checkpoints, store
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.training import Branch, TrainOptions, train
from landscape.training.files import Control, load_data


@pytest.fixture(scope="module")
def data() -> tuple[Data, Data | None]:
    return load_data(OPTIONS)


def test_files_of_a_run(data: tuple[Data, Data | None], tmp_path: Path) -> None:
    options = replace(OPTIONS, checkpoint_steps=(0, 1, 2, 4, 8))
    branch = Branch(method="imp", level=2, replicate=1)
    trained = train(options, tmp_path, branch, data)
    steps = [f"step_{step:06d}.pt" for step in (0, 1, 2, 4, 8)]
    epochs = [f"epoch_{epoch:03d}.pt" for epoch in (1, 2, 3)]
    assert sorted(os.listdir(tmp_path)) == sorted(["start.pt", "minimum.pt", "curves.nc", *steps, *epochs])
    assert trained.paths == (tmp_path / "curves.nc", tmp_path / "minimum.pt")
    files = {name: checkpoints.read(tmp_path / name) for name in os.listdir(tmp_path) if name.endswith(".pt")}
    assert same(files["start.pt"], files["step_000000.pt"])
    assert same(files["epoch_001.pt"], files["step_000004.pt"])  # 100 examples are 4 steps of 32
    assert same(files["epoch_003.pt"], files["minimum.pt"])
    assert [(files[n].epoch, files[n].step) for n in ("start.pt", "step_000002.pt", "minimum.pt")] == [
        (0, 0),
        (0, 2),
        (3, 12),
    ]
    conditions = {"data_sha256", "dtype", "device", "world_size", "threads", "seconds", "batchnorm", "fingerprint"}
    assert conditions <= store.attributes(tmp_path / "curves.nc").keys()
    last = files["minimum.pt"]
    assert (last.method, last.level, last.replicate, last.seed) == ("imp", 2, 1, 0)
    assert (last.model, last.data, last.normalize, last.loss) == ("mlp", "digits", "standard", "cross_entropy")
    problem = checkpoints.load(tmp_path / "minimum.pt", checkpoints.ProblemOptions(num_examples=100))
    assert problem.loss() == pytest.approx(float(trained.curves.train_loss[-1]), rel=1e-6)


class KilledError(Exception):
    """Stands for a process that ends between two writes."""


@pytest.mark.parametrize("moment", range(1, 12))
def test_an_interrupted_training_ends_with_the_same_bits(
    moment: int, data: tuple[Data, Data | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at each of its writes in turn: before the rename, so that the file is not there."""
    options = replace(OPTIONS, checkpoint_steps=(2, 6), augment="flip_crop", optimizer="adam", momentum=0.0, lr=0.01)
    whole = train(options, data=data, out=tmp_path / "whole", control=Control())
    replace_path, count = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == moment:
            raise KilledError
        return replace_path(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KilledError):
        train(options, tmp_path / "run", data=data)
    monkeypatch.undo()
    assert not (tmp_path / "run" / "minimum.pt").exists()
    torch.manual_seed(moment)
    resumed = train(options, tmp_path / "run", data=data, control=Control(resume=True))
    assert same(resumed.checkpoint, whole.checkpoint)
    assert resumed.curves.drop_attrs().identical(whole.curves.drop_attrs())
    for name in os.listdir(tmp_path / "whole"):
        if name.endswith(".pt"):
            assert same(*(checkpoints.read(tmp_path / folder / name) for folder in ("run", "whole")))
    assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(tmp_path / "whole"))


def test_killed_from_outside_it_continues_from_the_last_finished_epoch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "landscape.training", "--model", "mlp", "--data", "digits", "--threads", "1"]
    command += ["--momentum", "0.9", "--lr", "0.02", "--model-arg", "widths=32", "--quiet"]
    command += ["--epochs", "60", "--out", str(tmp_path / "run.pt"), "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run.state.pt").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.1)
        assert process.poll() is None, "it ended too early to be killed"
        process.send_signal(signal.SIGKILL)
    reached = torch.load(tmp_path / "run.state.pt", weights_only=True)["epoch"]
    assert 1 <= reached < 60
    assert not (tmp_path / "run.pt").exists()
    options = TrainOptions("mlp", "digits", ("widths=32",), epochs=60, momentum=0.9, lr=0.02)
    epochs: list[int] = []

    def note(epoch: int, model: nn.Module) -> None:
        epochs.append(epoch)

    resumed = train(options, tmp_path / "run.pt", control=Control(resume=True, on_epoch=note))
    assert epochs == list(range(reached + 1, 61))
    assert same(resumed.checkpoint, train(options).checkpoint)
    assert not (tmp_path / "run.state.pt").exists()


def test_a_finished_training_is_not_repeated(data: tuple[Data, Data | None], tmp_path: Path) -> None:
    first = train(OPTIONS, tmp_path / "a.pt", data=data)
    before = (tmp_path / "a.pt").stat().st_mtime_ns
    again = train(OPTIONS, tmp_path / "a.pt", data=data)
    assert (tmp_path / "a.pt").stat().st_mtime_ns == before
    assert same(first.checkpoint, again.checkpoint)
    assert again.curves.drop_attrs().equals(first.curves.drop_attrs())
    other = replace(OPTIONS, lr=0.2)
    with pytest.raises(InputError, match=r"another training \(lr was 0.1 and is 0.2 here\)"):
        train(other, tmp_path / "a.pt", data=data)
    train(other, tmp_path / "a.pt", data=data, control=Control(force=True))
    with pytest.raises(InputError, match=r"lr was 0\.2"):
        train(OPTIONS, tmp_path / "a.pt", data=data)
    for branch in (Branch(data_seed=1), Branch(mask=random_mask()), Branch(start=first.checkpoint.state_dict)):
        with pytest.raises(InputError, match="another training"):
            train(other, tmp_path / "a.pt", branch, data)
    checkpoints.save(tmp_path / "b.pt", checkpoints.Checkpoint({"w": torch.ones(1)}))
    with pytest.raises(InputError, match="this trainer did not write"):
        train(OPTIONS, tmp_path / "b.pt", data=data)


def test_the_state_of_another_training_is_not_continued(data: tuple[Data, Data | None], tmp_path: Path) -> None:
    def stop(epoch: int, model: nn.Module) -> bool:
        if epoch == 2:
            raise KilledError
        return False

    with pytest.raises(KilledError):
        train(OPTIONS, tmp_path / "a.pt", data=data, control=Control(on_epoch=stop))
    assert (tmp_path / "a.state.pt").exists()
    with pytest.raises(InputError, match=r"weight_decay was 0\.001 and is 0 here"):
        train(replace(OPTIONS, weight_decay=0.0), tmp_path / "a.pt", data=data, control=Control(resume=True))
    fresh = train(OPTIONS, tmp_path / "a.pt", data=data)  # without --resume it starts anew
    assert same(fresh.checkpoint, train(OPTIONS, data=data).checkpoint)
    (tmp_path / "b.state.pt").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is not a state of a training"):
        train(OPTIONS, tmp_path / "b.pt", data=data, control=Control(resume=True))
    torch.save({"weights": 3}, tmp_path / "b.state.pt")
    with pytest.raises(InputError, match="not the state of a training; delete it"):
        train(OPTIONS, tmp_path / "b.pt", data=data, control=Control(resume=True))


def test_training_may_end_early(data: tuple[Data, Data | None], tmp_path: Path) -> None:
    stopped = train(OPTIONS, tmp_path, data=data, control=Control(on_epoch=lambda epoch, model: epoch == 2))
    assert (stopped.checkpoint.epoch, len(stopped.curves.epoch)) == (2, 3)
    assert same(stopped.checkpoint, checkpoints.read(tmp_path / "epoch_002.pt"))


@pytest.mark.parametrize("first", [2, 4, 7])
def test_training_can_start_at_any_step(first: int, data: tuple[Data, Data | None], tmp_path: Path) -> None:
    """Without momentum, going on from the weights of step k is the rest of the whole training."""
    options = replace(OPTIONS, momentum=0.0, schedule="cosine", checkpoint_steps=(first,), augment="flip_crop")
    whole = train(options, tmp_path, data=data)
    start = checkpoints.read(tmp_path / f"step_{first:06d}.pt").state_dict
    rest = train(options, tmp_path / "rest", Branch(start=start, first_step=first), data)
    assert same(rest.checkpoint, whole.checkpoint)
    assert rest.curves.epoch.values.tolist() == list(range(first // 4, 4))
    assert (rest.checkpoint.epoch, rest.checkpoint.step) == (3, 12)
    assert checkpoints.read(tmp_path / "rest" / "start.pt").step == first
