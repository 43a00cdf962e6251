"""Thresholds: exact where the trajectory is planted, ordered in every run, and read off on three axes."""

import math

import numpy as np
import pytest
import torch
import xarray as xr

from landscape import schemas
from landscape.errors import InputError
from landscape.pretraining import thresholds
from landscape.pretraining.laws import SlopeOptions, exponent, log_slope
from landscape.pruning.gfs import SelectOptions
from landscape.pruning.gfs_convex import ConvexLoss
from landscape.pruning.gfs_measure import RIVALS, MeasureOptions, measure
from landscape.pruning.gfs_neurons import Neurons

EPS, SIDE, TARGET = 2.0, 0.3, 0.5


def cell(results, steps, **labels):
    """Join the checkpoints of one training into a ``gfs`` Dataset of one cell."""
    joined = xr.concat(results, xr.Variable("step", steps)).expand_dims("cell").transpose("cell", "step", ...)
    labels = {"num_examples": 100, "batch_size": 10, "replicate": 0, "num_neurons": 2, "input_size": 3} | labels
    joined = joined.assign({name: ("cell", np.array([value])) for name, value in labels.items()})
    joined = joined.assign(smoothness=("cell", [1.0])).assign_coords(cell=[0])
    return joined.assign_attrs(greedy_bounds=1)


def planted(rho, steps, sizes=(2, 8, 32, 128), **labels):
    """Two neurons y +- a, and their mean off y by rho^t: the loss of even k is (rho^t eps)^2."""
    results = []
    for t in steps:
        fall = -(rho**t) * EPS
        matrix = torch.tensor([[SIDE, -SIDE], [fall, fall], [fall, fall]], dtype=torch.float64)
        neurons = Neurons(matrix * math.sqrt(3), torch.ones(2, 1, dtype=torch.float64))
        zero = torch.zeros(3, 1, dtype=torch.float64)
        results.append(measure(neurons, ConvexLoss("mse", zero, zero), MeasureOptions(sizes))[0])
    return cell(results, np.asarray(steps), **labels)


def random_run(seed, name="mse", options=None):
    """A training that moves random neurons towards a target, with a few checkpoints."""
    rng = np.random.default_rng(seed)
    hidden, target, output = rng.normal(size=(20, 12)), rng.normal(size=(20, 1)), rng.normal(size=(12, 1))
    y = torch.tensor((target > 0).astype(float)) if name == "bce" else torch.tensor(target)
    results = []
    for t in (0, 1, 2, 4, 8):
        moved = Neurons(torch.tensor(hidden * 0.7**t + (1 - 0.7**t) * target / output.mean()), torch.tensor(output))
        results.append(
            measure(moved, ConvexLoss(name, y, torch.zeros(20, 1).double()), options or MeasureOptions((2, 8)))[0]
        )
    run = cell(results, [0, 1, 2, 4, 8], num_neurons=12, num_examples=20)
    return run.assign(smoothness=("cell", [0.25 if name == "bce" else 1.0]))


def test_threshold_of_the_planted_trajectory_is_exact_and_logarithmic_in_k():
    rho = 0.95
    run = planted(rho, range(80))
    found = thresholds.thresholds(run, TARGET / run["size"])
    k = run["size"].values
    exact = np.ceil(np.log(EPS**2 * k / TARGET) / (-2 * math.log(rho)) - 1e-12)
    np.testing.assert_array_equal(found["t_emp_hi"].values[0], exact)
    np.testing.assert_array_equal(found["t_emp_lo"].values[0], exact - 1)
    slope = log_slope(thresholds.intervals(found, "emp", found["size"], found["replicate"]))
    assert slope.lo <= 1 / (-2 * math.log(rho)) <= slope.hi


@pytest.mark.parametrize(("law", "power"), [(lambda m: 0.9 + 0 * m, 0), (lambda m: 1 - 4e3 / m**2, 2)])
def test_planted_dependence_on_the_data_size_is_recovered(law, power):
    sizes = [1000, 2000, 4000, 8000, 16000, 32000]
    steps = np.unique(np.round(2 ** (np.arange(0, 48) / 2))).astype(int)
    runs = [planted(law(m), [0, *steps], (2, 32), num_examples=m) for m in sizes]
    found = thresholds.thresholds(xr.concat(runs, "cell"), TARGET / xr.concat(runs, "cell")["size"]).isel(size=1)
    for axis, shift in (("steps", 0), ("samples", 0), ("epochs", -1)):
        data = thresholds.intervals(found, "emp", found["num_examples"], found["replicate"], axis)
        p = exponent(data, SlopeOptions(num_bootstrap=10))
        assert p.lo <= power + shift <= p.hi
        assert p.hi - p.lo < 0.5


@pytest.mark.parametrize("name", ["mse", "bce"])
@pytest.mark.parametrize("seed", range(4))
def test_thresholds_are_ordered_in_every_run(seed, name):
    run = random_run(seed, name)
    for tau in (0.02, 0.1, 0.3, 0.6):
        found = thresholds.thresholds(run, tau)
        assert (found["t_nec_hi"] <= found["t_emp_hi"]).all()
        assert (found["t_emp_hi"] <= found["t_suff_hi"]).all()
        assert (found["t_nec_lo"] <= found["t_emp_lo"]).all()
        assert (found["t_emp_lo"] <= found["t_suff_lo"]).all()


@pytest.mark.parametrize(("name", "factor"), [("loss", 100.0), ("loss", 1e-3), ("hull_loss_lo", 50.0)])
def test_a_run_that_breaks_the_order_is_not_accepted(name, factor):
    run = random_run(0)
    with pytest.raises(ArithmeticError, match="selected subnetwork lies"):
        thresholds.thresholds(run.assign({name: run[name] * factor + 0.0}), 0.1)


def test_without_replacement_there_is_no_upper_bound():
    options = MeasureOptions((2, 8), select=SelectOptions(replacement=False))
    assert not options.greedy_bounds
    run = random_run(1, options=options).assign_attrs(greedy_bounds=0)
    assert "t_suff_hi" not in thresholds.thresholds(run, 0.1)


def test_first_hit_brackets_and_censors():
    step = [0, 1, 4, 16]
    rows = np.array([[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    lo, hi = thresholds.first_hit(xr.DataArray(rows, {"step": step}, ("cell", "step")))
    assert list(lo.values) == [1, 0, 16, 4]
    assert list(hi.values) == [4, 1, np.inf, 16]
    with pytest.raises(InputError, match="order of training"):
        thresholds.first_hit(xr.DataArray(rows, {"step": step[::-1]}, ("cell", "step")))


def test_random_dense_and_printed_thresholds_follow_their_formulas():
    run = random_run(2).isel(cell=[0])
    tau = float(run["dense_loss"].isel(step=2)[0]) * 1.0001
    found = thresholds.thresholds(run, tau)
    k, total = run["size"], 12
    random = run["dense_loss"] + run["variance"] / (2 * k) * (total - k) / (total - 1)
    np.testing.assert_allclose(run["random_loss"], random.transpose("cell", "step", "size"))
    assert (found["t_dense_hi"] == 2).all()
    for name, curve, ceiling in (
        ("random", random, tau),
        ("printed", run["dense_loss"], (run["first_loss"] + run["diameter"] ** 2 / 2) / (k - 1)),
    ):
        first = (curve <= ceiling).argmax("step")
        expected = run["step"].values[np.maximum(first.values, 1)]
        np.testing.assert_array_equal(found[f"t_{name}_hi"].values.ravel(), expected.ravel())


def test_accuracy_criteria():
    accuracy = xr.DataArray([[0.5, 0.7, 0.9, 0.95], [0.5, 0.6, 0.7, 0.8]], {"step": [0, 1, 2, 4]}, ("cell", "step"))
    lo, hi = thresholds.accuracy_threshold(accuracy, xr.DataArray([100, 1000], dims="cell"))
    assert (float(lo[0]), float(hi[0])) == (1, 2)
    assert np.isinf(hi[1])
    lo, hi = thresholds.settling_time(accuracy, within=0.06)
    assert list(hi.values) == [2, 4]


def test_contraction_is_the_slope_of_the_log_loss_inside_the_window():
    step = np.arange(0, 300, 5.0)
    loss = 3 * 0.9**step + 3e-5  # which ends on a floor
    assert thresholds.contraction(step, loss) == pytest.approx(0.9, rel=1e-3)
    assert np.isnan(thresholds.contraction(step[:1], loss[:1]))


def test_the_printed_formula_is_a_power_of_the_data_size_far_from_its_pole():
    m = np.array([1e4, 2e4])
    for order in (1, 2):
        t = thresholds.printed_time(m, 100, 5.0, order)
        assert t[1] / t[0] == pytest.approx(2**order, rel=1e-3)
    with pytest.raises(InputError, match="c d"):
        thresholds.printed_time(10, 5, 200.0)


def test_measurements_follow_the_schema_and_rivals_are_what_they_say():
    rng = np.random.default_rng(5)
    neurons = Neurons(torch.tensor(rng.normal(size=(30, 10))), torch.tensor(rng.normal(size=(10, 2))))
    loss = ConvexLoss("mse", torch.tensor(rng.normal(size=(30, 2))), torch.zeros(30, 2).double())
    result, path = measure(neurons, loss, MeasureOptions((1, 4, 20), rivals=RIVALS), importance=np.arange(10))
    full = cell([result, result], [0, 1])
    schemas.check(full, "gfs")
    rival = result["rival_loss"]
    assert float(rival.sel(rival="no_replacement", size=20)) == pytest.approx(float(result["dense_loss"]))
    assert float(rival.sel(rival="backward", size=20)) == pytest.approx(float(result["dense_loss"]))
    average = neurons.response(np.where(np.arange(10) < 4, 0.25, 0.0))
    assert float(rival.sel(rival="magnitude", size=4)) == pytest.approx(loss.value(average))
    assert (rival.sel(rival="refit") <= result["loss"] + 1e-12).all()
    assert (rival.sel(rival="line_search", size=1) == result["loss"].sel(size=1)).all()
    assert list(result["num_distinct"].values) == list(path.num_distinct[[0, 3, 19]])
    with pytest.raises(InputError, match="incoming weights"):
        measure(neurons, loss, MeasureOptions((1,), rivals=("magnitude",)))
    with pytest.raises(InputError, match="unknown rivals"):
        MeasureOptions(rivals=("best",))
    with pytest.raises(InputError, match="rising"):
        MeasureOptions((4, 2))


def test_cross_entropy_measurements_carry_error_bars_and_certificates():
    run = random_run(3, "bce", MeasureOptions((2, 8), num_random=5))
    schemas.check(run, "gfs")
    assert (run["random_loss_se"] > 0).any()
    assert run["certified"].all()
    assert (run["hull_loss_lo"] <= run["loss"]).all()
    assert (run["accuracy"] <= 1).all()
    with pytest.raises(InputError, match="under --loss mse"):
        random_run(3, "bce", MeasureOptions((2,), rivals=("refit",)))
