"""The command under torchrun: R processes on shares of the data give the answer of one."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import ROOT
from torch import nn

from landscape import cli, parallel, sanity, spectrum
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.spectrum.__main__ import main

FACTORY = """
from torch import nn

def make(**_):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.manual_seed(0)
    source = np.random.default_rng(0)
    torch.save(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).state_dict(), tmp_path / "weights.pt")
    np.savez(tmp_path / "data.npz", x=source.normal(size=(50, 4)), y=source.integers(0, 3, 50))
    (tmp_path / "ranks_factory.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


OPTIONS = ["weights.pt", "--model", "ranks_factory:make", "--data", "data.npz", "--examples", "first",
           "--dtype", "float64", "--largest", "3", "--smallest", "2", "--num-probes", "3", "--depth", "8",
           "--per-layer", "--cross-fit", "--batch-size", "14", "--threads", "1"]  # fmt: skip


def torchrun(*arguments: str, ranks: int = 2) -> "subprocess.CompletedProcess[str]":
    """Run the command as so many processes of this machine."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *launch, "-m", "landscape.spectrum", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.distributed
def test_ranks_give_the_answer_of_one_process(folder: Path) -> None:
    # Three ranks share four batches of 14, 14, 14 and 8, so that their shares differ in number and in size.
    found = torchrun(*OPTIONS, "--out", "ranks.nc", ranks=3)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-2:] == ["ranks.nc", "ranks.png"]
    assert cli.exit_code(main, [*OPTIONS, "--out", "one.nc", "--quiet"]) == cli.DONE
    with xr.open_dataset("ranks.nc") as ranks, xr.open_dataset("one.nc") as one:
        assert set(ranks) == set(one)
        assert (ranks.attrs["world_size"], one.attrs["world_size"]) == (3, 1)
        assert ranks.attrs["data_sha256"] == one.attrs["data_sha256"]
        for name in set(one) - {"residual", "layer_residual"}:
            np.testing.assert_allclose(ranks[name], one[name], rtol=1e-8, atol=1e-10, err_msg=str(name))
        for name in ("trace", "frobenius_norm", "loss", "accuracy"):
            np.testing.assert_allclose(ranks[name], one[name], rtol=1e-10, err_msg=name)
        distance = np.abs(ranks["eigenvalue"] - one["eigenvalue"])
        assert (distance <= ranks["residual"] + one["residual"] + 1e-14).all()


@pytest.mark.distributed
def test_errors_under_torchrun_are_told_once(folder: Path) -> None:
    np.savez("data.npz", x=np.zeros((1, 4)), y=np.zeros(1, dtype=int))  # the second rank has nothing to do
    found = torchrun(*OPTIONS, "--out", "ranks.nc")
    assert found.returncode != 0
    assert [line for line in found.stderr.splitlines() if line.startswith("error:")] == [
        "error: --cross-fit needs at least two examples"
    ]
    assert not (folder / "ranks.nc").exists()


def test_a_peer_of_one_process_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.from_model(nn.Linear(4, 3), "cross_entropy", (torch.ones(6, 4), torch.zeros(6).long()))
    monkeypatch.setattr(parallel, "world", lambda: 2)  # it would differentiate this rank's share of the data only
    with pytest.raises(InputError, match="without torchrun"):
        spectrum.measure(problem, spectrum.SpectrumOptions(engine="pyhessian"), spectrum.Effort())


def test_chance_level_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (torch.ones(4, 2), torch.tensor([0, 0, 0, 1]))
    problem = Problem.from_model(nn.Linear(2, 3), "cross_entropy", data)
    alone = sanity.chance_level(problem)
    assert alone is not None
    assert alone > 0.75
    monkeypatch.setattr(parallel, "gather", lambda counts: [counts, Counter({1: 3, 0: 1})])
    everywhere = sanity.chance_level(problem)
    assert everywhere == pytest.approx(0.5 + 3 * (0.25 / 8) ** 0.5)
    monkeypatch.setattr(parallel, "gather", lambda counts: [counts, None])  # other targets on another rank
    assert sanity.chance_level(problem) is None
