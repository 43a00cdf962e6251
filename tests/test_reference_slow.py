"""Numbers of the canonical study, made again from its committed file (``pytest -m slow``)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, data_directory

from landscape import results, store
from landscape.pruning import imp
from landscape.pruning.imp import Extent
from landscape.runs import Cell
from landscape.study import Effort, file, measure
from landscape.tasks import TaskOptions

REFERENCE = ROOT / "data" / "reference"
DENSE = Cell(0, "imp", 0)
# Arm, quantity, the file that holds it, and numbers of it that the rest stands on.
CELLS = [
    ("relu", "spectrum", "imp_mnist.nc", ("eigenvalue", "gradient_norm", "loss", "accuracy")),
    ("relu", "volume", "volume_mnist.nc", ("section_stiffness", "occam_factor", "log_volume", "prunable_fraction")),
    ("gelu", "spectrum", "lenet_mnist/gelu_imp.nc", ("eigenvalue", "gradient_norm", "loss", "accuracy")),
    ("gelu", "dimension", "lenet_mnist/gelu_dimension.nc", ("eigenvalue", "lipschitz", "rho")),
    ("mse", "spectrum", "lenet_mnist/mse_imp.nc", ("eigenvalue", "gradient_norm", "loss", "accuracy")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "quantity", "stored_in", "names"), CELLS, ids=lambda value: str(value)[:12])
def test_the_dense_network_is_measured_again(
    tmp_path: Path, arm: str, quantity: str, stored_in: str, names: tuple[str, ...]
) -> None:
    """Its training repeats to the last bit where torch is the same; elsewhere another network is measured."""
    data_directory("mnist")
    chosen = next(one for one in file.read("lenet_mnist").arms if one.name == arm)
    run = imp.train_run(tmp_path / "run", chosen.recipe, Extent(levels=0, replicates=1))
    planned = next(
        m for m in chosen.measurements if quantity in m.selection.quantities and "minimum" in m.selection.points
    )
    selection = replace(planned.selection, quantities=(quantity,), points=("minimum",), levels=(0,), replicates=None)
    measure(run, replace(selection, controls=("raw",), methods=("imp",)), planned.options, Effort(TaskOptions()))
    cell = {"method": "imp", "level": 0, "replicate": 0, "point": "minimum", "control": "raw"}
    again = results.open_study(run.root, quantity).sel(cell)
    stored = results.open_study(REFERENCE / stored_in, quantity).sel(cell)
    kept = store.open_result(run.folder(DENSE) / "curves.nc")["train_loss"][-1]
    known = results.open_study(REFERENCE / stored_in.replace("volume", "imp").replace("dimension", "imp"), "curves")
    before = float(known["train_loss"].sel({"method": "imp", "level": 0, "replicate": 0})[-1])
    same = float(kept) == pytest.approx(before, rel=1e-6)
    print(f"{arm} {quantity}: trained to {'the same bits' if same else 'another end'}")
    for name in names:
        new = again[name].squeeze(drop=True)
        old = stored[name].sel({d: again[d] for d in ("curvature",) if d in stored[name].dims}).squeeze(drop=True)
        new, old = (value.dropna(value.dims[0]) if value.ndim == 1 else value for value in (new, old))
        # Residuals are below 1e-3 of the largest eigenvalue; the rest is deterministic at one thread.
        np.testing.assert_allclose(new, old, rtol=1e-6 if same else 0.5, atol=1e-3 * float(np.abs(old).max()))
