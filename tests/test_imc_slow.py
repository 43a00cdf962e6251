"""One cell of the reference study of pruned networks, made again (``pytest -m slow``)."""

import json
from pathlib import Path

import pytest
from helpers import ROOT, data_directory

from landscape import cli, results, store
from landscape.pruning.__main__ import main

REFERENCE = ROOT / "data" / "reference" / "pruning_mnist.nc"
METHOD = "imc_reconstructed"


@pytest.mark.slow
def test_a_cell_of_the_reference_is_made_again(tmp_path: Path) -> None:
    """Conditions within the residuals of the eigenvalues; the pruned network within the error of a small test set."""
    data_directory("mnist")
    flags = json.loads(store.open_result(REFERENCE).attrs["flags"])
    root = tmp_path / "run"
    assert cli.exit_code(main, ["imc", *flags, "--replicates", "1", "--kept", "0.8^10", "--out", str(root)]) == 0
    again, stored = (
        results.open_study(one, "imc").sel({"method": METHOD, "replicate": 0}) for one in (root, REFERENCE)
    )
    distance = abs(again["eigenvalue"] - stored["eigenvalue"])
    bound = again["residual"] + stored["residual"] + 1e-4 * float(stored["eigenvalue"].max())
    assert distance.notnull().all()
    assert bool((distance <= bound).all())
    assert float(again["lipschitz"][0]) == pytest.approx(float(stored["lipschitz"][0]), rel=0.05)
    cell = {"method": f"{METHOD}_forced", "level": 10, "replicate": 0}
    network, wanted = (results.open_study(one, "pruning").sel(cell) for one in (root, REFERENCE))
    assert float(network["kept"]) == float(wanted["kept"])
    assert float(network["test_accuracy"]) == pytest.approx(float(wanted["test_accuracy"]), abs=0.02)
