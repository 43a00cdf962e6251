"""Figures of selection studies say what the planted study says."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from test_gfs_claims import study

from landscape import cli, figures, store
from landscape.figures.__main__ import main
from landscape.pretraining import targets
from landscape.pretraining.laws import Intervals, compare, curve, fit
from landscape.pretraining.thresholds import sufficient_loss


@pytest.fixture
def ax():
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def test_fitted_laws_are_drawn_where_they_were_fitted():
    m = np.array([250, 500, 1000, 2000, 4000, 8000.0])
    for law in (lambda m: 0.05 * m, lambda m: -50 + 12 * np.log(m), lambda m: -20 / np.log(1 - 6e4 / m**2)):
        t = law(m)
        data = Intervals(m, 0.98 * t, 1.02 * t, np.zeros(len(m), int))
        best = compare(data)[0]
        np.testing.assert_allclose(curve(best, data, m[1:4]), t[1:4], rtol=0.03)
    assert curve(fit("printed_sgd", data), data, m[5:])[0] == pytest.approx(t[5], rel=0.03)


def test_common_loss_is_crossed_by_every_cell():
    cells = study()
    target = targets.common_loss(cells, 256)
    at = cells["loss"].sel(size=256)
    assert (at.isel(step=0) > target).all()
    assert (at.isel(step=-1) < target).all()
    assert targets.common_loss(cells.isel(step=slice(0, 1)), 256) is None


def test_slopes_in_log_k_are_those_of_the_dense_decay():
    """The loss is half the dense one and falls as exp(-t / T): the target C/k is met T later a factor e in k.

    With so large a C that every first checkpoint is good enough, there is nothing to see.
    """
    cells = study(time=lambda m, n: 150.0, sizes=(250,), replicates=2)
    found = targets.size_slopes(cells, constant=4.0)
    assert (abs(found["predicted"] / 150 - 1) < 0.3).all()
    assert (abs(found["slope"] / found["predicted"] - 1) < 0.25).all()
    assert ((found["slope_lo"] < found["slope"]) & (found["slope"] < found["slope_hi"])).all()
    assert np.isnan(targets.size_slopes(cells, constant=1e4)["slope"]).all()


def test_slack_is_loss_over_bound(ax):
    cells = study(sizes=(500, 1000))
    figures.plot_slack(cells, ax)
    largest = cells.isel(cell=cells["num_examples"].values == 1000)
    expected = (largest["loss"] / sufficient_loss(largest)).mean("cell").transpose("size", "step")
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()).reshape(expected.shape), expected)


def test_losses_are_those_of_the_last_checkpoint_at_the_largest_m(ax):
    cells = study(sizes=(500, 1000))
    figures.plot_selected_loss(cells, ax)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    largest = cells.isel(cell=cells["num_examples"].values == 1000, step=-1)
    np.testing.assert_allclose(lines["greedy"], largest["loss"].mean("cell"))
    np.testing.assert_allclose(lines["random, as many distinct"], largest["random_loss_distinct"].mean("cell"))
    assert {"dense", "B1 (printed)", "B2, B3"} <= set(lines)


def test_rivals_are_drawn_relative_to_greedy(ax):
    cells = study(sizes=(500, 1000))
    rivals = xr.concat([2 * cells["loss"], 0.5 * cells["loss"]], xr.Variable("rival", ["worse", "better"]))
    cells = cells.assign(rival_loss=rivals.transpose("cell", "step", "rival", "size"))
    figures.plot_rivals(cells, ax)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(lines["worse"], 2)
    np.testing.assert_allclose(lines["better"], 0.5)


def test_thresholds_are_drawn_as_intervals_with_their_exponent(ax):
    figures.plot_examples_law(study(), ax)
    label = ax.get_legend().get_texts()[0].get_text()
    assert label.startswith("data, $p$ = ")
    assert float(label.split()[3]) == pytest.approx(1, abs=0.1)
    segments = np.concatenate([c.get_segments() for c in ax.collections if hasattr(c, "get_segments")])
    assert len(segments) == study().sizes["cell"]
    assert (segments[:, 0, 1] < segments[:, 1, 1]).all()


def test_whole_figure_and_its_command(tmp_path, capsys):
    one = study(sizes=(250, 1000, 4000), replicates=1)
    both = xr.concat([one, one.assign(arm=("cell", ["teacher"] * 3))], "cell")
    both.attrs["greedy_bounds"] = 1
    figure = figures.gfs_figure(both)
    assert len([ax for ax in figure.axes if ax.get_title(loc="left")]) == 4
    assert "6 pre-trainings of 64 neurons on 250 to 4,000 examples" in figure.get_suptitle()
    plt.close(figure)
    stored = both.assign_coords(cell=range(both.sizes["cell"]))
    stored.attrs |= {"fingerprint": "f", "options": "{}"}
    store.write(stored, tmp_path / "gfs.nc", "gfs")
    assert cli.exit_code(main, [str(tmp_path / "gfs.nc"), "--out", str(tmp_path / "gfs.png")]) == cli.DONE
    assert capsys.readouterr().out == f"{tmp_path / 'gfs.png'}\n"
    single = figures.gfs_figure(study(sizes=(250,), replicates=1).isel(step=[-1], size=[-1]))
    assert len(single.axes) == 1
    plt.close(single)
