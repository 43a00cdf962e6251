"""A measurement that is killed goes on with ``--resume`` and ends with the same bits; an interrupt keeps its state."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import ROOT
from torch import nn

from landscape import cli, operators
from landscape.journal import Journal
from landscape.problem import Problem
from landscape.spectrum import Effort
from landscape.spectrum.__main__ import main
from landscape.spectrum.layers import layer_table

# The process kills itself (or is interrupted) in the middle of the given product; every state is written at once.
PROGRAM = """
import os, signal, sys
from landscape import cli, journal, operators
from landscape.spectrum.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background has it ignored
journal.SHORTEST_PAUSE, journal.WRITING_SHARE = 0.0, float("inf")
plain, number = operators.LinearOperator.__matmul__, [0]
def counted(self, v):
    number[0] += 1
    if number[0] == int(sys.argv[1]):
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
    return plain(self, v)
operators.LinearOperator.__matmul__ = counted
cli.run(lambda _: main(sys.argv[3:]))
"""


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    source = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(source.normal(size=tuple(p.shape))))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    np.savez(tmp_path / "data.npz", x=source.normal(size=(60, 6)), y=source.integers(0, 3, 60))
    (tmp_path / "kill_factory.py").write_text(
        "from torch import nn\n\n"
        "def make(**_):\n    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return ["weights.pt", "--model", "kill_factory:make", "--data", "data.npz", "--largest", "4", "--smallest", "2",
            "--num-probes", "4", "--depth", "20", "--per-layer", "--cross-fit", "--threads", "1",
            "--quiet"]  # fmt: skip


def start(product: int, name: str, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", PROGRAM, str(product), name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("product", "name", "code"), [(25, "SIGKILL", -9), (45, "SIGINT", 130), (110, "SIGKILL", -9)])
def test_stopped_at_any_moment_it_ends_with_the_same_bits(
    product: int, name: str, code: int, arguments: list[str]
) -> None:
    # By then the process is in the eigenpairs, in the density, or in the halves of the data.
    assert cli.exit_code(main, [*arguments, "--out", "whole.nc"]) == cli.DONE
    stopped = start(product, name, [*arguments, "--out", "stopped.nc"])
    assert stopped.returncode == code
    assert not Path("stopped.nc").exists()
    if name == "SIGINT":
        assert stopped.stderr.startswith("error: interrupted")
        assert stopped.stderr.count("\n") == 1
    assert cli.exit_code(main, [*arguments, "--out", "stopped.nc", "--resume"]) == cli.DONE
    with xr.open_dataset("whole.nc") as whole, xr.open_dataset("stopped.nc") as resumed:
        assert resumed.identical(whole.assign_attrs(resumed.attrs))
        assert resumed.attrs["num_products_this_process"] < whole.attrs["num_products_this_process"] - 20
    assert not list(Path().glob(".*state*"))


def test_the_state_of_other_options_is_not_continued(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    start(25, "SIGKILL", [*arguments, "--out", "s.nc"])
    assert cli.exit_code(main, [*arguments, "--out", "s.nc", "--seed", "1", "--resume"]) == cli.BAD_INPUT
    assert "without --resume" in capsys.readouterr().err
    assert cli.exit_code(main, [*arguments, "--out", "s.nc", "--seed", "1"]) == cli.DONE


def test_a_finished_stage_is_kept_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state", "name")
    save = journal.saver("stage")
    assert save is not None
    save(lambda: {"value": 1})  # too soon after the start to pay
    assert Journal(tmp_path / "state", "name", resume=True).load("stage") is None
    save(lambda: {"value": 2}, True)
    assert Journal(tmp_path / "state", "name", resume=True).load("stage") == {"value": 2}


def test_layers_that_were_done_are_not_done_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    data = (torch.ones(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1]))
    problem = Problem.from_model(model, "cross_entropy", data)
    operator = operators.hessian(problem)
    first = layer_table(problem, operator, 2, 1e-3, Effort(journal=Journal(tmp_path / "s", "name")), 2**30)
    spent = operator.num_products
    again = layer_table(problem, operator, 2, 1e-3, Effort(journal=Journal(tmp_path / "s", "name", resume=True)), 2**30)
    assert again.identical(first)
    assert operator.num_products == spent
