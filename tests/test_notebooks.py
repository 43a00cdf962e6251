"""Every notebook runs from top to bottom, and is committed as it ran: with outputs, small, without errors."""

import os
from pathlib import Path

import pytest
from helpers import ROOT, data_directory

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 300_000


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_committed_executed_and_small(path: Path) -> None:
    size = path.stat().st_size
    assert size <= MOST_BYTES, f"{path.name} has {size} bytes, at most {MOST_BYTES}: draw smaller figures"
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None, f"{path.name} was committed without being run:\n{cell.source}"
            assert all(output.output_type != "error" for output in cell.outputs)


@pytest.mark.filterwarnings("ignore")  # of the Jupyter machinery; what the notebook shows is its own business
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_DATA", str(data_directory()))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    assert len(nbformat.writes(notebook)) <= MOST_BYTES, f"{path.name} makes outputs that are too large"
