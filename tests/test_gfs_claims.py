"""Verdicts on planted studies: each claim holds once, fails once, and is not resolved where the data cannot tell."""

import numpy as np
import pytest
import xarray as xr

from landscape import cli, preconditions, runs, store
from landscape.errors import InputError
from landscape.pretraining import claims
from landscape.pretraining.claims import ClaimOptions, evaluate

SIZES = (250, 500, 1000, 2000, 4000, 8000, 16000)
STEPS = np.array([0, *sorted({round(2 ** (j / 2)) for j in range(25)})])
K = 2 ** np.arange(2, 9)
FAST = ClaimOptions(bootstrap=10)


def study(time=lambda m, n: 0.02 * m, widths=(64,), sizes=SIZES, replicates=3, **change):
    """Return a study whose losses fall as exp(-t / time(m, N)); ``change`` gives other curves, in that time."""
    rng, cells = np.random.default_rng(0), []
    for n in widths:
        for m in sizes:
            for r in range(replicates):
                scale = time(m, n) * np.exp(0.1 * rng.normal())

                def curve(factor, scale=scale):
                    return np.exp(-STEPS / (scale * factor))

                dense, drop = curve(change.get("dense", 1.0)), curve(change.get("selected", 1.0))
                loss = change.get("level", 0.5) * drop[:, None] + 0 * K
                cells.append(
                    {
                        "loss": loss,
                        "dense_loss": dense,
                        "random_loss": curve(change.get("random", 2.0))[:, None] + 0 * K,
                        "random_loss_distinct": change.get("advantage", 1.5) * np.exp(0.05 * rng.normal()) * loss,
                        "first_loss": np.ones(len(STEPS)),
                        "variance": np.full(len(STEPS), 0.01),
                        "diameter": np.full(len(STEPS), change.get("diameter", 1.0)),
                        "empty_loss": np.ones(len(STEPS)),
                        "hull_loss_lo": change.get("hull", 0.1) * drop,
                        "labels": (m, n, r),
                    }
                )
    data = {}
    for name in cells[0]:
        dims = ("cell", "step", "size") if np.ndim(cells[0][name]) == 2 else ("cell", "step")
        if name != "labels":
            data[name] = (dims, np.stack([c[name] for c in cells]))
    labels = np.array([c["labels"] for c in cells]).T
    data |= {
        name: ("cell", row) for name, row in zip(("num_examples", "num_neurons", "replicate"), labels, strict=True)
    }
    data |= {"arm": ("cell", ["data"] * len(cells)), "batch_size": ("cell", np.full(len(cells), 32))}
    data["input_size"] = ("cell", np.full(len(cells), 784))
    data["smoothness"] = ("cell", np.ones(len(cells)))
    return xr.Dataset(data, {"step": STEPS, "size": K}, {"greedy_bounds": 1})


def verdicts(result, options=FAST):
    table = evaluate(result, options).isel(method=0)
    return dict(zip(table["claim"].values.tolist(), table["verdict"].values.tolist(), strict=True))


def test_thresholds_proportional_to_the_data_size():
    found = verdicts(study())
    expected = {
        "ordered": "holds",
        "assumptions": "fails",
        "printed_bound": "holds",
        "bound_informative": "holds",
        "target_outside_hull": "holds",
        "beats_random": "holds",
        "log_k": "holds",
        "before_random": "holds",
        "before_dense": "holds",
        "grows_steps": "holds",
        "grows_epochs": "not resolved",
        "grows_samples": "holds",
        "logarithmic_in_m": "fails",
        "printed_power_sgd": "fails",
        "printed_power_gd": "holds",
        "as_dense": "holds",
        "width_independent": "not resolved",
    }
    assert found == expected


POWER_TWO = {"time": lambda m, n: 2e-5 * m**2}
LOGARITHM = {"time": lambda m, n: -60 + 12 * np.log(m)}
FALLING = {"time": lambda m, n: 2e4 / m}
SLOW = {"random": 0.3, "advantage": 0.7, "dense": 3.0, "hull": 0.0}


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        (LOGARITHM, {"logarithmic_in_m": "holds", "printed_power_gd": "fails"}),
        (POWER_TWO, {"printed_power_sgd": "holds", "printed_power_gd": "fails", "grows_epochs": "holds"}),
        ({"time": lambda m, n: 20.0}, {"grows_epochs": "fails", "logarithmic_in_m": "fails"}),
        (FALLING, {"grows_steps": "fails", "grows_samples": "fails", "grows_epochs": "fails"}),
        (SLOW, {"before_random": "fails", "beats_random": "fails", "log_k": "fails", "target_outside_hull": "fails"}),
        ({"widths": (32, 128), "sizes": SIZES[1:5]}, {"width_independent": "holds"}),
        (
            {"widths": (32, 128), "sizes": SIZES[2:4], "time": lambda m, n: 2e-4 * m * n},
            {"width_independent": "fails"},
        ),
    ],
)
def test_each_claim_can_hold_and_fail(planted, expected):
    found = verdicts(study(**planted))
    assert {claim: found[claim] for claim in expected} == expected


@pytest.mark.parametrize(
    ("claim", "planted", "variance"),
    [
        ("ordered", {"hull": 2.0}, 0.0),
        ("bound_informative", {"time": lambda m, n: 1e8}, 1.0),
        ("printed_bound", {"diameter": 0.0, "level": 1.05, "time": lambda m, n: 1e8}, 2.0),
        ("before_dense", {"dense": 0.5, "level": 1.0}, 100.0),
    ],
)
def test_conditions_can_fail(claim, planted, variance):
    """A large variance makes the upper bound hold, so that only the claim at hand decides."""
    result = study(**planted, sizes=SIZES[:2])
    assert verdicts(result.assign(variance=result["variance"] + variance))[claim] == "fails"


def test_assumptions_hold_for_wide_networks_and_more_examples_than_inputs():
    wide = study(widths=(2000,), sizes=(1000, 1200))
    assert verdicts(wide)["assumptions"] == "holds"
    assert verdicts(wide.drop_vars("input_size"))["assumptions"] == "not resolved"


def test_as_dense_fails_where_selection_has_a_law_of_its_own():
    result = study()
    dense = study(time=lambda m, n: 20.0 + 0 * m)["dense_loss"]
    assert verdicts(result.assign(dense_loss=dense, variance=result["variance"] + 1e4))["as_dense"] == "fails"


def test_log_k_is_not_credited_to_selection_that_random_neurons_match():
    assert verdicts(study(advantage=1.0))["log_k"] == "not resolved"


def test_too_few_sizes_and_targets_that_are_not_crossed_are_not_resolved():
    found = verdicts(study(sizes=SIZES[:4]))
    assert found["grows_steps"] == found["logarithmic_in_m"] == "not resolved"
    assert verdicts(study(time=lambda m, n: 1e9))["before_dense"] == "not resolved"
    reasons = evaluate(study(sizes=SIZES[:4]), FAST)["reason"].sel(claim="grows_steps").item()
    assert "6 sizes" in reasons


def test_the_claim_of_every_size_names_the_sizes():
    reasons = evaluate(study(sizes=SIZES[:2]), FAST)["reason"].sel(claim="beats_random").item()
    assert reasons == "sizes 4, 8, 16, 32, 64, 128, 256"


def test_the_error_of_a_mean_over_cells_does_not_depend_on_rows_without_a_second_replicate():
    rows = [np.array([0.0, 2.0]), np.array([1.0, 3.0]), *[np.array([5.0])] * 5]
    assert claims._standard_error(rows, 9) == pytest.approx(2**0.5 / 3)


def test_exponents_of_the_axes_differ_by_one():
    table = evaluate(study(), FAST).isel(method=0)["statistic"]
    steps, epochs, samples = (float(table.sel(claim=f"grows_{a}")) for a in ("steps", "epochs", "samples"))
    assert steps == pytest.approx(1, abs=0.05)
    assert epochs == pytest.approx(steps - 1, abs=5e-3)
    assert samples == pytest.approx(steps, abs=5e-3)


def test_sizes_and_widths_that_were_not_measured_are_refused():
    with pytest.raises(InputError, match="5 picks"):
        evaluate(study(), ClaimOptions(size=5))
    with pytest.raises(InputError, match="7 neurons"):
        evaluate(study(), ClaimOptions(width=7))


def test_verdicts_of_a_run_are_written_by_the_command(tmp_path, capsys):
    run = tmp_path / "run"
    runs.create(run, {"kind": "gfs"})
    result = study(sizes=SIZES[:2])
    result.attrs |= {"fingerprint": "0", "options": "{}"}
    store.write(result, run / "gfs.nc", "gfs")
    assert cli.exit_code(preconditions.main, [str(run), "--theory", "gfs"]) == 0
    printed = capsys.readouterr().out
    assert "beats_random" in printed
    table = store.open_result(run / "results" / "preconditions_gfs.nc")
    assert table["verdict"].sel(claim="ordered").values.tolist() == ["holds"]
    assert set(np.unique(table["verdict"].values)) <= {"holds", "fails", "not resolved"}
