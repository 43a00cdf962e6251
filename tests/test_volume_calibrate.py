"""The calibration: rows say what the draws did, interrupted runs go on, the command writes table and figure."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import ROOT, assert_close

from landscape import cli, figures, schemas, store
from landscape.journal import Journal
from landscape.tasks import Task
from landscape.volume import bodies, calibrate
from landscape.volume.benchmark import Case, Draw


def planted(spread: float, width: float, size: int = 10, name: str = "planted") -> Case:
    """Draws around a truth of 3 with the given spread, in intervals of ``width`` standard deviations."""

    def draw(seed: int) -> Draw:
        value = 3.0 + spread * float(np.random.default_rng(seed).standard_normal())
        return Draw(value, value - width * spread, value + width * spread, True, spread, products=7.0, passes=5.0)

    return Case(name, "ball", size, 1.0, 3.0, 200, draw)


@pytest.mark.parametrize(("width", "low", "high"), [(1.96, 0.90, 0.99), (0.5, 0.3, 0.45), (4.0, 0.99, 1.0)])
def test_coverage_width_and_error_of_a_planted_estimator(width: float, low: float, high: float) -> None:
    case = planted(0.1, width)
    row = calibrate.summarise(case, [case.draw(seed) for seed in range(case.seeds)])
    assert low <= float(row["coverage"]) <= high
    assert row["width_ratio"] == pytest.approx(width / 1.96, rel=0.1)
    assert row["error_per_weight"] == pytest.approx(1.96 * 0.1 / 10, rel=0.15)
    assert abs(float(row["bias"])) < 3 * 0.1 / np.sqrt(200)
    assert (row["products"], row["passes"]) == (7.0, 5.0)


def test_secants_are_held_against_bisection_to_the_same_tolerance() -> None:
    small, large = calibrate.bisection_passes(50), calibrate.bisection_passes(50_000)
    assert large == pytest.approx(small + np.log2(1000), abs=1)


def test_no_two_cases_share_a_label() -> None:
    """Cases are found by their labels, so the second of two would stand for both."""
    labels = [calibrate.label(case) for case in bodies.cases()]
    assert len(set(labels)) == len(labels)


def test_the_ranges_are_the_worst_of_the_calibrated_cases() -> None:
    """Two calibrated bodies, one of them exact, and one that is said to be a lower bound."""
    cases = [planted(0.1, 1.96), planted(0.4, 1.0, 40), planted(0.0, 1.0, 500)]
    rows = [calibrate.summarise(case, [case.draw(seed) for seed in range(50)]) for case in cases]
    rows.append({**rows[1], "calibrated_share": 0.0, "bias": -7.0, "body": "trained network"})
    first, second = calibrate.valid_ranges(calibrate.table(rows))[2:]
    worst = max(float(row["error_per_weight"]) for row in rows)
    low, high = sorted(round(100 * float(row["coverage"])) for row in rows[:2])
    assert first == f"| `planted` | balls | 10-500 | 1 | {worst:.2g} | {low}-{high} % | 1.0 | none |"
    assert second == "| `planted` | trained network | - | - | - | - | - | 1 of 1, by up to 7 nats |"


@pytest.fixture(scope="module")
def reference() -> xr.Dataset:
    return store.open_result(ROOT / "data" / "reference" / "volume_calibration.nc").load()


def test_the_readme_states_the_ranges_that_were_measured(reference: xr.Dataset) -> None:
    stated = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in calibrate.valid_ranges(reference) if line not in stated] == []


def test_the_reference_reaches_what_is_promised(reference: xr.Dataset) -> None:
    """0.005 nats a weight from 3,000 products up to 5,000 dimensions, intervals that cover, few passes."""
    chosen = (reference["body"] == "ellipsoid") & reference["estimator"].isin(["exact", "polynomial"])
    near = reference.isel(case=(chosen & (reference["dimension_of_body"] <= 5000)).values)
    assert near.sizes["case"] == 12
    assert (near["error_per_weight"] <= 0.005).all()
    assert (near["products"] <= 3000).all()
    assert (near["calibrated_share"] == 1).all()
    random = reference.isel(case=((reference["calibrated_share"] >= 0.5) & reference["width_ratio"].notnull()).values)
    assert (random["width_ratio"] <= 2).all()
    repeated = random.isel(case=(random["repetitions"] >= 200).values)
    assert repeated.sizes["case"] >= 10
    assert ((repeated["coverage"] >= 0.90) & (repeated["coverage"] <= 0.99)).all()
    timed = reference.isel(case=reference["passes"].notnull().values)
    assert (timed["passes"] <= 8).all()
    assert (timed["passes"] < timed["bisection_passes"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("only", ["gaussian_mass: ball at 1", "occam: linear regression"])
def test_the_reference_is_what_the_code_gives(reference: xr.Dataset, only: str) -> None:
    for name in calibrate.chosen_cases(only):
        row, stored = calibrate.measure(name, only, 200), reference.sel(case=name)
        for key in ("truth", "bias", "spread", "coverage", "products"):
            assert_close(float(row[key]), float(stored[key]), rtol=1e-6, atol=1e-6)


def test_an_interrupted_calibration_goes_on(tmp_path: Path) -> None:
    drawn = []

    def failing(seed: int) -> Draw:
        drawn.append(seed)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return Draw(3.0, 2.0, 4.0, True)

    def row(case: Case) -> calibrate.Row:
        return calibrate.summarise(case, [case.draw(seed) for seed in range(case.seeds)])

    def of(name: str) -> Task:
        return Task(name, row, (Case(name, "ball", 10, 1.0, 3.0, 2, failing),))

    with pytest.raises(KeyboardInterrupt):
        calibrate.calibrate([of("first"), of("second")], journal=Journal(tmp_path / "state", "f", resume=True))
    assert drawn == [0, 1, 0]
    last = Task("planted", row, (planted(0.1, 2.0),))
    found = calibrate.calibrate([of("first"), last], journal=Journal(tmp_path / "state", "f", resume=True))
    assert drawn == [0, 1, 0], "the first case was done"
    assert found["estimator"].values.tolist() == ["first", "planted"]
    schemas.check(found, "calibration")


def test_two_processes_find_the_rows_of_one(tmp_path: Path) -> None:
    argv = ["--only", "gaussian_mass: ball at 1", "--seeds", "3", "--quiet"]
    paths = [tmp_path / "one.nc", tmp_path / "two.nc"]
    for path, workers in zip(paths, ("1", "2"), strict=True):
        assert cli.exit_code(calibrate.main, [*argv, "--workers", workers, "--out", str(path)]) == cli.DONE
    one, two = (store.open_result(path).load() for path in paths)
    assert one.sizes["case"] == 2
    xr.testing.assert_identical(one.drop_attrs(), two.drop_attrs())


def test_the_command_runs_the_cases_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate.bodies, "cases", lambda: iter([planted(0.1, 2.0, 50), planted(0.1, 2.0, 5, "other")]))
    monkeypatch.setattr(calibrate.references, "cases", lambda: iter([]))
    monkeypatch.setattr(calibrate, "chosen_cases", calibrate.chosen_cases.__wrapped__)
    out = tmp_path / "calibration.nc"
    argv = ["--only", "planted", "--seeds", "20", "--out", str(out), "--quiet"]
    assert cli.exit_code(calibrate.main, argv) == cli.DONE
    found = store.open_result(out)
    assert found["repetitions"].values.tolist() == [20]
    assert found.attrs["command"].startswith("python -m landscape.volume.calibrate --only planted")
    for bad in (["--seeds", "1"], ["--only", "no such case"], ["--workers", "-1"]):
        assert cli.exit_code(calibrate.main, [*bad, "--out", str(out), "--force"]) == cli.BAD_INPUT
    assert found["estimator"].values.tolist() == ["planted"]
    assert out.with_suffix(".png").is_file()
    assert len(figures.calibration_figure(found).axes) == 3
