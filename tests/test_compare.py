"""The comparison of pruned networks: means and errors over replicates, cost of masks, several runs, the figure."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape import figures, preconditions, results, store
from landscape.cli import exit_code
from landscape.pruning import imc, imp
from landscape.pruning.imc import Wanted
from landscape.pruning.imc_options import PRESETS, BaseOptions
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.pruning.settings import Settings
from landscape.runs import Run
from landscape.study import compare
from landscape.study.__main__ import main
from landscape.training import TrainOptions

TRAINING = TrainOptions(model="mlp", data="digits", model_arg=("widths=4",), num_examples=100, epochs=1, device="cpu")
SETTINGS = Settings(
    Recipe(TRAINING, PruneOptions()), BaseOptions(k=1, fast=3, smallest=1, depth=2, curvature_examples=50)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("compare") / "run"
    imp.train_run(root, SETTINGS.recipe, imp.Extent(levels=2, replicates=2))
    choices = {"imc_reconstructed": PRESETS["imc_reconstructed"]}
    wanted = Wanted(choices, (0.64,), ("snip", "random_layerwise"), shuffles=True, replicates=2)
    return imc.run(root, SETTINGS, wanted).run


def test_cells_of_both_commands_are_compared(run: Run) -> None:
    table = compare.compare([run.root])
    stored = store.attributes(next(results.folder(run.root, "pruning").glob("[!.i]*.nc")))
    assert {"checkpoint_sha256", "data_sha256", "dtype", "device", "threads", "batchnorm"} <= stored.keys()
    methods = {"imp", "imc_reconstructed_forced", "imc_reconstructed_forced_shuffled", "snip", "snip_shuffled"}
    assert set(table["method"].values.tolist()) == methods | {"random_layerwise"}
    at = table.sel({"directory": "run", "level": 2})
    kept = at["kept"].values
    assert np.ptp(kept) == 0  # the same exact count for every method
    assert (at["num_replicates"].values == 2).all()
    assert float(at["mask_steps"].sel({"method": "imp"})) == 2 * 1  # one step an epoch, two levels before
    assert float(at["mask_products"].sel({"method": "imp"})) == 0
    assert float(at["mask_products"].sel({"method": "imc_reconstructed_forced"})) > 0
    assert float(at["mask_gradients"].sel({"method": "snip"})) == 1


def test_means_and_errors_are_over_replicates(run: Run) -> None:
    table = compare.compare([run.root]).sel({"directory": "run", "method": "snip", "level": 2})
    values = results.open_study(run.root, "pruning").sel({"method": "snip", "level": 2})["test_accuracy"].values
    assert float(table["test_accuracy"]) == pytest.approx(values.mean())
    assert float(table["test_accuracy_se"]) == pytest.approx(values.std(ddof=1) / 2**0.5)


def test_a_compact_file_is_compared_and_judged_like_its_run(run: Run, tmp_path: Path) -> None:
    wanted = compare.compare([run.root])  # it stores the facts of imp's networks too
    file = tmp_path / "run.nc"
    assert exit_code(main, ["compact", str(run.root), "--quantities", "pruning,imc", "--out", str(file)]) == 0
    assert exit_code(main, ["compare", str(file), "--quiet"]) == 0
    found = store.open_result(tmp_path / "run.comparison.nc")
    assert set(wanted.data_vars) == set(found.data_vars)
    for name, values in wanted.data_vars.items():
        np.testing.assert_allclose(found[name].values, values.values)
    judged = [preconditions.describe(preconditions.evaluate_preconditions(root, "imc")) for root in (run.root, file)]
    assert judged[0] == judged[1]


def with_spectra(run: Run, tmp_path: Path) -> Path:
    """Return a copy of the run in which the spectra of two networks are measured, with facts of other labels."""
    root = tmp_path / "run"
    shutil.copytree(run.root, root)
    for level, trace in ((0, 3.0), (1, 5.0)):
        labels = {"method": "imp", "level": level, "replicate": 0, "point": "minimum", "control": "raw"}
        facts = {"trace": trace, "kept": 0.5, "loss": 0.25, "num_examples": 7}
        # first a variable that has a label of its own, of which the table takes one place
        data: dict[str, object] = {"eigenvalue": ("eigen", [2 * trace, trace])}
        data |= {name: np.array(value) for name, value in facts.items()}
        coords = {name: np.array(value) for name, value in {**labels, "curvature": "hessian", "eigen": [1, 2]}.items()}
        fingerprint = store.fingerprint({"quantity": "spectrum", **labels})
        result = xr.Dataset(data, coords, {"fingerprint": fingerprint, "options": "{}", "seconds": 1.0})
        store.write(result, results.folder(root, "spectrum") / f"{fingerprint}.nc", "spectrum")
    return root


def test_what_was_measured_of_the_solutions_comes_along(run: Run, tmp_path: Path) -> None:
    root = with_spectra(run, tmp_path)
    assert exit_code(main, ["compare", str(root), "--quiet"]) == 0
    table = store.open_result(root / "results" / "comparison.nc")
    found = table["solution"].sel({"directory": "run", "scalar": "trace[hessian]", "method": "imp"})
    np.testing.assert_array_equal(found.sel(level=[0, 1]), [3, 5])
    leading = table["solution"].sel({"directory": "run", "scalar": "eigenvalue[1, hessian]", "method": "imp"})
    np.testing.assert_array_equal(leading.sel(level=[0, 1]), [6, 10])
    both = compare.compare([root, shutil.copytree(run.root, tmp_path / "other")])
    assert both["solution"].sel({"directory": "other"}).isnull().all()


def test_a_spectrum_does_not_take_the_facts_of_the_pruned_networks(run: Run, tmp_path: Path) -> None:
    root, file = with_spectra(run, tmp_path), tmp_path / "small.nc"
    by_run = compare.compare([root])  # it stores the facts of imp's networks too
    wanted = results.open_study(root, "pruning")
    assert exit_code(main, ["compact", str(root), "--out", str(file), "--quiet"]) == 0
    for place in (root, file):
        study = results.open_study(place)
        there = study["pruning_kept"].sel({name: wanted[name] for name in wanted["kept"].dims})
        np.testing.assert_array_equal(there.transpose(*wanted["kept"].dims), wanted["kept"])
        assert float(study["kept"].max()) == 0.5
    found = results.open_study(file, "pruning")
    xr.testing.assert_allclose(found["kept"].drop_attrs(), wanted["kept"].drop_attrs())
    assert exit_code(preconditions.main, [str(file), "--theory", "imc", "--quiet"]) == 0
    assert exit_code(main, ["compare", str(file), "--quiet"]) == 0
    by_file = store.open_result(tmp_path / "small.comparison.nc")
    assert set(by_run.data_vars) == set(by_file.data_vars)
    assert set(by_run["scalar"].values) == set(by_file["scalar"].values)
    by_file = by_file.sel(scalar=by_run["scalar"])
    for name, values in by_run.data_vars.items():
        np.testing.assert_allclose(by_file[name].values, values.values)


def test_facts_of_equal_labels_are_one_variable_unless_the_examples_differ(tmp_path: Path) -> None:
    def write(quantity: str, level: int, examples: int, loss: float) -> None:
        labels = {"method": "imp", "level": level, "replicate": 0, "point": "minimum", "control": "raw"}
        fingerprint = store.fingerprint({"quantity": quantity, **labels})
        result = xr.Dataset(
            {"num_examples": np.array(examples), "loss": np.array(loss)},
            {name: np.array(value) for name, value in {**labels, "curvature": "hessian"}.items()},
            {"fingerprint": fingerprint, "options": "{}", "seconds": 1.0},
        )
        store.write(result, results.folder(tmp_path, quantity) / f"{fingerprint}.nc", quantity)

    write("spectrum", 0, 10, 1.0)
    write("volume", 1, 10, 2.0)
    study = results.open_study(tmp_path)
    assert study["loss"].squeeze().values.tolist() == [1.0, 2.0]
    assert "volume_loss" not in study
    write("volume", 1, 20, 2.5)
    study = results.open_study(tmp_path)
    assert float(study["loss"].sel(level=0).squeeze()) == 1.0
    assert float(study["volume_loss"].sel(level=1).squeeze()) == 2.5
    assert study["loss"].sel(level=1).isnull().all()


def test_the_command_writes_table_and_figure(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.nc"
    assert exit_code(main, ["compare", str(run.root), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "snip_shuffled" in printed
    assert printed.splitlines()[-2:] == [str(out), str(tmp_path / "table.png")]
    assert store.open_result(out).attrs["quantity"] == "comparison"


def test_a_checkpoint_is_not_replaced_by_a_table(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "ckpt.pt"
    taken.write_bytes(b"weights")
    assert exit_code(main, ["compare", str(run.root), "--out", str(taken)]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert taken.read_bytes() == b"weights"


def test_the_figure_has_a_line_a_method(run: Run) -> None:
    figure = figures.comparison_figure(compare.compare([run.root]))
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {"imp", "imc_reconstructed_forced", "snip", "random_layerwise"}
    conditions = next(iter(sorted((run.root / "results" / "imc").glob("*.nc"))))
    assert figures.conditions_figure(store.open_result(conditions)).axes[0].get_yscale() == "log"


def test_runs_of_one_name_are_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(main, ["compare", str(run.root), str(tmp_path / "run")]) == 2
    assert "same name" in capsys.readouterr().err


def test_verdicts_of_a_run(run: Run) -> None:
    judged = preconditions.evaluate_preconditions(run.root, "imc")
    text = preconditions.describe(judged)
    assert "base_near_stationary" in text
    assert "beats_shuffle" in text
    everything = results.open_study(run.root)  # the new quantities stand beside the others
    assert "imc_eigenvalue" in everything
