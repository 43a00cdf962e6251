"""The study of pre-training end to end on the digits: cells, resumption, joined result, thresholds in order."""

import numpy as np
import pytest
import torch
import xarray as xr

from landscape import cli, models, schemas, store
from landscape.errors import InputError
from landscape.pretraining import thresholds
from landscape.pruning import gfs_cells, gfs_detect, gfs_networks, gfs_sweep
from landscape.pruning.gfs_cells import PretrainOptions, Spec, grid, run_cell
from landscape.pruning.gfs_measure import MeasureOptions

SMALL = [
    *("--data", "digits", "--loss", "mse", "--steps", "8", "--sizes", "2,4", "--lr", "0.001"),
    *("--num-examples", "20,40", "--widths", "12", "--replicates", "1", "--threads", "1", "--quiet"),
]


def run(tmp_path, *extra):
    return cli.exit_code(gfs_sweep.main, [*SMALL, "--out", str(tmp_path / "run"), *extra])


def test_sweep_writes_cells_and_joins_them_and_does_nothing_twice(tmp_path, monkeypatch, capsys):
    assert run(tmp_path) == 0
    assert capsys.readouterr().out.strip().endswith("gfs.nc")
    joined = store.open_result(tmp_path / "run" / "gfs.nc")
    schemas.check(joined, "gfs")
    assert list(joined["num_examples"].values) == [20, 40]
    assert list(joined["step"].values) == [0, 1, 2, 3, 4, 6, 8]
    found = thresholds.thresholds(joined, 0.55)
    assert (found["t_nec_hi"] <= found["t_emp_hi"]).all()
    assert (found["t_emp_hi"] <= found["t_suff_hi"]).all()

    monkeypatch.setattr(gfs_sweep, "run_cell", lambda *_: pytest.fail("a finished cell was computed again"))
    assert run(tmp_path) == 0
    again = store.open_result(tmp_path / "run" / "gfs.nc")
    xr.testing.assert_identical(again.drop_attrs(), joined.drop_attrs())


def test_sweep_can_be_extended_and_cut_by_a_budget(tmp_path, capsys):
    argv = [part for part in SMALL if part != "--quiet"]
    assert cli.exit_code(gfs_sweep.main, [*argv, "--out", str(tmp_path / "run"), "--budget", "0"]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "missing, beyond --budget: data_m20" in told.err
    assert not (tmp_path / "run" / "gfs.nc").exists()
    argv[argv.index("20,40")] = "20"
    assert cli.exit_code(gfs_sweep.main, [*argv, "--out", str(tmp_path / "run")]) == 0
    assert "digits" not in capsys.readouterr().out
    argv[argv.index("20")] = "20,30"
    assert cli.exit_code(gfs_sweep.main, [*argv, "--out", str(tmp_path / "run"), "--budget", "0"]) == 0
    captured = capsys.readouterr()
    assert "missing, beyond --budget: data_m30_n12_r0" in captured.err
    assert "data_m20_n12_r0" in captured.out


def test_another_recipe_wants_another_directory(tmp_path, capsys):
    assert run(tmp_path, "--num-examples", "20") == 0
    assert run(tmp_path, "--num-examples", "20", "--sizes", "2,8") == 2
    assert "another description" in capsys.readouterr().err


def test_cells_are_reproducible_and_differ_between_replicates():
    options, measuring = PretrainOptions(data="digits", loss="cross_entropy", steps=4), MeasureOptions((2, 4))
    first, again, other = (
        run_cell(Spec("data", 24, 10, r), options, measuring, torch.device("cpu")) for r in (0, 0, 1)
    )
    xr.testing.assert_identical(first, again)
    assert not np.array_equal(first["dense_loss"], other["dense_loss"])


def test_smaller_samples_are_parts_of_larger_ones():
    options = PretrainOptions(data="digits", loss="cross_entropy")
    few, many = (set(gfs_cells.arm_data(Spec("data", m, 10, 1), options)[0].index.tolist()) for m in (20, 50))
    assert few < many
    other = set(gfs_cells.arm_data(Spec("data", 20, 10, 2), options)[0].index.tolist())
    assert other != few


def test_arms_are_what_they_say():
    options = PretrainOptions(data="digits", loss="cross_entropy")
    plain, shuffled = (gfs_cells.arm_data(Spec(a, 60, 40, 0), options) for a in ("data", "random_labels"))
    assert sorted(plain[0].y.tolist()) == sorted(shuffled[0].y.tolist())
    assert plain[0].y.tolist() != shuffled[0].y.tolist()
    assert shuffled[1] is None
    taught, held = gfs_cells.arm_data(Spec("teacher", 60, 40, 0), PretrainOptions(data="digits", loss="mse"))
    assert taught.num_outputs == 1
    assert float(taught.y.std(correction=0)) == pytest.approx(0.5, rel=1e-4)
    assert held is not None
    for arm, width, loss in (("teacher", 8, "mse"), ("teacher", 40, "cross_entropy"), ("noise", 40, "mse")):
        with pytest.raises(InputError, match="arm"):
            gfs_cells.arm_data(Spec(arm, 20, width, 0), PretrainOptions(data="digits", loss=loss))


def test_fine_tuning_is_recorded_beside_the_pruned_accuracy():
    options = PretrainOptions(data="digits", loss="cross_entropy", steps=4, fine_tune_steps=30, lr=0.05)
    cell = run_cell(Spec("data", 60, 30, 0), options, MeasureOptions((2, 20)), torch.device("cpu"))
    tuned, pruned = (cell[n].isel(step=-1, size=-1).item() for n in ("tuned_accuracy", "accuracy"))
    assert tuned > pruned
    assert (cell["test_accuracy"] <= 1).all()
    assert float(cell["pick_overlap"][0, -1].min()) == 1.0


def test_grid_doubles_every_two_checkpoints_and_ends_at_the_last_step():
    assert grid(8) == [0, 1, 2, 3, 4, 6, 8]
    assert grid(100)[-3:] == [64, 91, 100]


def test_the_pruned_network_computes_the_selected_average():
    model = models.build("two_layer", input_shape=(5,), num_outputs=3, width=7).double()
    x, weight = torch.randn(4, 5, dtype=torch.float64), np.array([0, 0.5, 0, 0.25, 0.25, 0, 0])
    neurons = gfs_networks.neurons_of(model, x)
    pruned = gfs_networks.subnetwork(model, weight)
    assert pruned.hidden.out_features == 3
    torch.testing.assert_close(pruned(x), neurons.response(weight))
    torch.testing.assert_close(model(x), neurons.response(np.full(7, 1 / 7)))
    with pytest.raises(InputError, match="no neuron"):
        gfs_networks.subnetwork(model, weight * 0)
    with pytest.raises(InputError, match="two_layer"):
        gfs_networks.neurons_of(torch.nn.Linear(2, 2), x)
    size = model.hidden.weight.norm(dim=1) * model.output.weight.norm(dim=0)
    np.testing.assert_allclose(gfs_networks.importance_of(model), size.detach())


def test_detections_are_read_off_a_cell_and_scored():
    options = PretrainOptions(data="digits", loss="cross_entropy", steps=64, lr=0.05)
    cell = run_cell(Spec("data", 200, 20, 0), options, MeasureOptions((5, 10), num_random=2), torch.device("cpu"))
    cell = cell.assign(smoothness=("cell", [0.5])).assign_attrs(greedy_bounds=1)
    found = gfs_detect.detect(cell, 10)
    assert set(found["criterion"].values) == {"gap", "bound", "picks", "ranks", "accuracy"}
    assert (found["regret"] >= 0).all()
    assert ((found["saved"] >= 0) & (found["saved"] <= 1)).all()
    accuracy = cell["test_accuracy"].sel(size=10).values[0]
    near = np.flatnonzero(cell["accuracy"].sel(size=10).values[0] >= 0.98 * cell["dense_accuracy"].values[0])[0]
    row = found.sel(criterion="accuracy").isel(cell=0)
    assert float(row["detected_step"]) == cell["step"].values[near]
    assert float(row["regret"]) == pytest.approx(accuracy.max() - accuracy[near])
    assert float(cell["pick_drift"].isel(step=slice(0, 4)).min()) == 1.0  # fewer than four checkpoints before
    assert float(cell["score_drift"].isel(step=-1)[0]) < 1.0
    with pytest.raises(InputError, match="no selection has 7"):
        gfs_detect.detect(cell, 7)
    with pytest.raises(InputError, match="not measured"):
        gfs_detect.detect(cell.drop_vars([n for n in gfs_detect.FINAL if n in cell]), 10)
