"""Curvature along the epochs of a training: at the last one it is that of the minimum."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_study import EXTENT, HERE, OPTIONS, RECIPE

from landscape import checkpoints, dense, operators, results
from landscape.errors import InputError
from landscape.pruning import imp
from landscape.runs import Cell
from landscape.study import Selection, measure


def test_eigenvalues_at_every_epoch_are_those_of_its_checkpoint(tmp_path: Path) -> None:
    run = imp.train_run(tmp_path / "run", RECIPE, replace(EXTENT, levels=1))
    measure(run, Selection(quantities=("trajectory",), methods=("imp",), levels=(1,)), OPTIONS, HERE)
    found = results.open_study(run.root, "trajectory").squeeze(["method", "level", "replicate"])
    assert found["epoch"].values.tolist() == [1, 2, 3]
    assert found["epoch_converged"].all()
    for epoch in (1, 3):
        problem = checkpoints.load(run.epoch(Cell(0, "imp", 1), epoch), OPTIONS.problem)
        exact = np.linalg.eigvalsh(dense.matrix(operators.hessian(problem)))[::-1][:4]
        one = found.sel(epoch=epoch)
        np.testing.assert_allclose(one["epoch_eigenvalue"], exact, atol=1e-4 * exact[0])
        assert float(one["epoch_loss"]) == pytest.approx(problem.loss())
    assert not np.allclose(found["epoch_eigenvalue"].sel(epoch=1), found["epoch_eigenvalue"].sel(epoch=3))
    for file in run.folder(Cell(0, "imp", 0)).glob("epoch_*.pt"):
        file.unlink()
    with pytest.raises(InputError, match="no checkpoints of its epochs"):
        measure(run, Selection(quantities=("trajectory",), levels=(0,)), OPTIONS, HERE)
