"""Studies on several processes: the same results as on one, and what a killed worker costs."""

import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import xarray as xr
from test_study import EXTENT, FEW, HERE, OPTIONS, RECIPE, check_same, variables

from landscape import store
from landscape.pruning import imp
from landscape.runs import Run
from landscape.study import Effort, expand, measure
from landscape.tasks import TaskOptions


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = imp.train_run(tmp_path_factory.mktemp("workers") / "run", RECIPE, EXTENT)
    measure(run, FEW, OPTIONS, HERE)
    return run


WORKERS = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_study import FEW, OPTIONS
from landscape import runs
from landscape.study import Effort, measure
from landscape.tasks import TaskOptions
measure(runs.read(Path(sys.argv[1])), FEW, OPTIONS, Effort(TaskOptions(workers=2)))
"""


def kill_a_worker(parent: int, root: Path) -> bool:
    """Kill a process below ``parent`` that holds the lock of a result, and is thus measuring it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        locks = {str(path) for path in (root / "results").rglob(".*.lock")}
        for child in psutil.Process(parent).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any(file.path in locks for file in child.open_files()):
                    child.kill()
                    return True
        time.sleep(0.005)
    return False


@pytest.mark.distributed
def test_a_worker_killed_within_a_study_loses_only_its_task(measured: Run, tmp_path: Path) -> None:
    twin = imp.train_run(tmp_path / "run", RECIPE, EXTENT)
    command = [sys.executable, "-c", WORKERS, str(twin.root)]
    with subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent) as process:
        assert kill_a_worker(process.pid, twin.root)
        assert process.wait(timeout=300) == 0
    assert len(variables(twin.root)) == len(expand(twin, FEW))
    check_same(twin.root, measured.root)


@pytest.mark.distributed
def test_two_workers_measure_the_same(measured: Run, tmp_path: Path) -> None:
    few = replace(FEW, quantities=("spectrum",), controls=("raw",))
    twin = imp.train_run(tmp_path / "run", RECIPE, EXTENT)
    paths = measure(twin, few, OPTIONS, Effort(TaskOptions(workers=2))).written
    assert len(paths) == 2
    for path in paths:
        same = measured.root / path.relative_to(twin.root)
        xr.testing.assert_identical(store.open_result(path).drop_attrs(), store.open_result(same).drop_attrs())
