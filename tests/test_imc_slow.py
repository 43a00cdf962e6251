"""One cell of the reference comparison of pruned networks, made again (``pytest -m slow``)."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, data_directory

from landscape import cli, results, store
from landscape.pruning.__main__ import main

REFERENCE = ROOT / "data" / "reference"


@pytest.mark.slow
def test_a_cell_of_the_reference_is_made_again(tmp_path: Path) -> None:
    """Conditions within the residuals of the eigenvalues; the pruned network within the error of a small test set."""
    data_directory("mnist")
    table = store.open_result(REFERENCE / "pruning_mnist.nc")
    stored = store.open_result(REFERENCE / "imc_mnist.nc")
    flags = json.loads(table.attrs["flags"])
    root = str(tmp_path / "run")
    assert cli.exit_code(main, ["imc", *flags, "--replicates", "1", "--kept", "0.8^10", "--out", root]) == 0
    again = results.open_study(tmp_path / "run", "imc").sel({"method": "imc_reconstructed", "replicate": 0})
    distance = abs(again["eigenvalue"] - stored["eigenvalue"])
    bound = again["residual"] + stored["residual"] + 1e-4 * float(stored["eigenvalue"].max())
    assert bool((distance <= bound).all())
    assert float(again["lipschitz"][0]) == pytest.approx(float(stored["lipschitz"][0]), rel=0.05)
    network = results.open_study(tmp_path / "run", "pruning").sel({"method": "imc_reconstructed_forced", "level": 10})
    wanted = table.sel({"directory": table["directory"][0], "method": "imc_reconstructed_forced", "level": 10})
    assert float(network["kept"][0]) == float(wanted["kept"])
    assert float(network["test_accuracy"][0]) == pytest.approx(float(wanted["test_accuracy"]), abs=0.03)
