"""Bad input to the command: one line that says what is wrong, an exit code, and no file that was not there before."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from landscape import cli
from landscape.errors import InputError
from landscape.spectrum.__main__ import main
from landscape.spectrum.options import SpectrumOptions, check_given

FACTORY = """
from torch import nn

def make(**_):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
"""
SOURCE = np.random.default_rng(0)
X, Y = SOURCE.normal(size=(30, 4)), SOURCE.integers(0, 3, 30)


class Hostile:
    """Unpickling this writes a file."""

    def __reduce__(self) -> Any:
        return Path.write_text, (Path("owned"), "")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("input_factory.py").write_text(FACTORY)
    torch.save(weights(), "weights.pt")
    np.savez("data.npz", x=X, y=Y)
    return tmp_path


def weights(change: Callable[[dict[str, torch.Tensor]], object] = lambda _: None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = dict(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).state_dict())
    change(state)
    return state


def measure(*more: str) -> int:
    argv = ["weights.pt", "--model", "input_factory:make", "--data", "data.npz", "--num-probes", "2", "--depth", "4",
            "--largest", "2", "--smallest", "0", "--quiet", *more]  # fmt: skip
    return cli.exit_code(main, argv)


def truncate() -> None:
    whole = Path("weights.pt").read_bytes()
    Path("weights.pt").write_bytes(whole[: len(whole) // 2])


def hostile() -> None:
    Path("weights.pt").write_bytes(pickle.dumps({"state_dict": Hostile()}))


def save_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], object]:
    return lambda: torch.save(weights(change), "weights.pt")


def save_data(**arrays: np.ndarray) -> Callable[[], object]:
    return lambda: np.savez("data.npz", **arrays)


def save_mask(value: Any) -> Callable[[], object]:
    return lambda: np.savez("mask.npz", **{"0.weight": value})


NO_MASK, WITH_MASK = (), ("--mask", "mask.npz")


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda: Path("weights.pt").unlink(), (), "there is no checkpoint"),
        (truncate, (), "truncated"),
        (hostile, (), "weights_only"),
        (save_weights(lambda s: s.pop("2.bias")), (), "the model wants '2.bias'"),
        (save_weights(lambda s: s.update({"2.bias": torch.ones(7)})), (), "2.bias has the shape (7,)"),
        (save_weights(lambda s: s["0.weight"].fill_(torch.nan)), (), "0.weight holds NaN"),
        (save_weights(lambda s: s["0.bias"].fill_(torch.inf)), (), "0.bias holds NaN or infinite"),
        (save_weights(lambda s: s["2.weight"].fill_(3e38)), (), "the loss is"),
        (save_data(x=X[:0], y=Y[:0]), (), "empty"),
        (save_data(x=X, y=Y[:7]), (), "have the shapes"),
        (save_data(x=X, y=Y + 3), (), "3 classes"),
        (save_data(x=X * np.nan, y=Y), (), "NaN"),
        (save_data(x=X.astype("U8"), y=Y), (), "not numbers"),
        (save_data(x=X * 1j, y=Y), (), "complex"),
        (save_data(x=X[:, :3], y=Y), (), "does not take inputs of shape (3,)"),
        (lambda: Path("data.npz").write_text("no archive"), (), "data.npz"),
        (save_mask(np.full((5, 4), 0.5)), WITH_MASK, "0"),
        (save_mask(np.ones((4, 5))), WITH_MASK, "shape"),
        (save_mask(np.zeros((5, 4))), WITH_MASK, "zero everywhere"),
        (lambda: None, ("--largest", "44"), "more eigenpairs than there are"),
        (lambda: None, ("--largest", "40", "--smallest", "4"), "overlap"),
        (lambda: None, ("--largest", "0", "--num-probes", "0"), "nothing is left to measure"),
        (lambda: None, ("--engine", "pyhessian"), "cannot honour --num-probes"),
        (lambda: None, ("--engine", "dense", "--num-probes", "0"), "cannot honour --depth"),
        (lambda: None, ("--figure", "s.txt"), "suffix"),
        (lambda: None, ("--out", "data.npz/s.nc"), "cannot write"),
        (lambda: None, ("--figure", "/proc/nowhere/s.png"), "cannot write"),
        (lambda: None, ("--memory", "-1"), "--memory must be"),
        (lambda: None, ("--device", "tpu"), "invalid choice: 'tpu'"),
        (lambda: None, ("--threads", "0"), "--threads"),
        (lambda: None, ("--seed", "-1"), "--seed must be at least 0"),
        (lambda: None, ("--no-such-flag",), "--no-such-flag"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path,
    prepare: Callable[[], object],
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare()
    before = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    try:
        code = measure(*options)
    except SystemExit as left:
        code = int(left.code or 0)
    told = capsys.readouterr()
    assert code == cli.BAD_INPUT, told.err
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert message in told.err
    assert told.out == ""
    assert {path.name for path in folder.iterdir() if path.name != "__pycache__"} == before


def test_other_class_weights_in_the_same_file_are_another_measurement(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("w.npy", np.array([1.0, 2.0, 3.0]))
    assert measure("--class-weights", "w.npy") == cli.DONE
    assert measure("--class-weights", "w.npy") == cli.DONE
    np.save("w.npy", np.array([3.0, 2.0, 1.0]))
    assert measure("--class-weights", "w.npy") == cli.BAD_INPUT
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("engine", "name", "message"),
    [
        ("dense", "largest", "needs --engine krylov or pyhessian"),
        ("dense", "smallest", "needs --engine krylov"),
        ("dense", "num_probes", "needs --engine krylov"),
        ("dense", "depth", "needs --engine krylov"),
        ("pyhessian", "per_layer", "needs --engine krylov or dense"),
        ("pyhessian", "depth", "needs --engine krylov"),
    ],
)
def test_an_engine_refuses_what_it_does_not_read(engine: str, name: str, message: str) -> None:
    options = SpectrumOptions(engine=engine, largest=1, smallest=1, num_probes=1)
    with pytest.raises(InputError, match=f"--engine {engine} cannot honour --{name.replace('_', '-')}.*{message}"):
        check_given(options, {name})
    check_given(replace(options, smallest=0, num_probes=0), {"smallest", "num_probes", "tolerance"})
    check_given(replace(options, engine="krylov"), {name})


def test_too_little_memory_is_said_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("--memory", "0.01") == cli.OUT_OF_MEMORY
    told = capsys.readouterr().err
    assert "needs at least 0.20" in told
    assert "0.01 GiB are given" in told
    assert told.count("\n") == 1
    assert not (folder / "weights.spectrum.nc").exists()


def test_the_smallest_alone_are_measured_and_drawn(folder: Path) -> None:
    assert measure("--largest", "0", "--smallest", "3", "--num-probes", "0") == cli.DONE
    assert (folder / "weights.spectrum.png").is_file()
