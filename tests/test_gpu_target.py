"""``make gpu``: the same commands as on a CUDA machine, at tiny sizes on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, data_directory

from landscape import store


def run_make(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = ["make", *flags, "gpu", "DEVICE=cpu", "SMALL=1", f"GPU_PYTHON={sys.executable}", f"GPU={folder}"]
    environment = {**os.environ, "LANDSCAPE_DATA": str(data_directory()), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_every_part_resumes_and_writes_below_one_folder(tmp_path: Path) -> None:
    commands = [line for line in run_make(tmp_path, "-n").stdout.splitlines() if " -m landscape." in line]
    assert len(commands) >= 7
    for line in commands:
        assert f"--out {tmp_path}/" in line
        assert "--device cpu" in line
        assert "--resume" in line or ".pruning imp" in line or ".study run" in line  # these two always resume


@pytest.mark.slow
def test_dry_run(tmp_path: Path) -> None:
    data_directory("mnist", "cifar-10-batches-py")
    done = run_make(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gradients a product" in done.stdout
    for name in ("lenet.top", "lenet.density", "resnet20.top", "resnet20.density", "pruned.dense"):
        assert store.open_result(tmp_path / f"{name}.nc").attrs["device"] == "cpu"
    assert (tmp_path / "study" / "report.html").is_file()
    assert run_make(tmp_path).returncode == 0
