"""Verdicts of inertial-manifold conditions: planted cases hold and fail, sampled evidence stays not resolved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from landscape import preconditions, results, runs, schemas, store
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED
from landscape.dimension import DimensionOptions, Effort, Training, Trajectory, measure, testbed
from landscape.manifold_claims import CLAIMS, evaluate

CUBIC = testbed.TwoModeCubic(mu=0.3, stiff=5.0, c=1.0)


def of_cubic(size: float, region: str = "adversarial", radius: tuple[float, ...] = ()) -> xr.Dataset:
    """Measure the cubic system along a run that starts at a distance ``size`` from its minimum."""
    problem = testbed.problem(CUBIC)
    start = size * torch.tensor([0.6, -0.8], dtype=torch.float64)
    path = testbed.flow(problem, start, np.linspace(0, 5, 21))
    options = DimensionOptions(
        fast=1, smallest=1, nodes=0, num_probes=0, depth=2, region=region, radius=radius, ascent_steps=12
    )
    return measure(problem, options, Effort(), Training(Trajectory(path, np.arange(21))))


@pytest.fixture(scope="module")
def verdicts() -> dict[float, xr.Dataset]:
    return {size: evaluate(of_cubic(size)) for size in (0.5, 1.5, 2.8)}


def word(found: xr.Dataset, claim: str) -> str:
    return str(found["verdict"].sel(claim=claim).item())


def test_every_condition_is_judged(verdicts: dict[float, xr.Dataset]) -> None:
    for found in verdicts.values():
        assert found["claim"].values.tolist() == [name for name, _ in CLAIMS]
        assert set(found["verdict"].values.tolist()) <= {HOLDS, FAILS, NOT_RESOLVED}


@pytest.mark.parametrize(("size", "expected"), [(0.5, HOLDS), (1.5, FAILS), (2.8, FAILS)])
def test_the_gap_condition_holds_up_to_its_radius(
    verdicts: dict[float, xr.Dataset], size: float, expected: str
) -> None:
    assert word(verdicts[size], "gap_2l") == expected  # its radius is 1.018
    assert word(verdicts[size], "coverage_gap") == expected
    statistic = float(verdicts[size]["statistic"].sel(claim="gap_2l"))
    assert statistic == pytest.approx(CUBIC.gap_radius() / size, rel=0.01)


@pytest.mark.parametrize(("size", "expected"), [(0.5, HOLDS), (1.5, HOLDS), (2.8, FAILS)])
def test_the_cone_condition_holds_farther_out(verdicts: dict[float, xr.Dataset], size: float, expected: str) -> None:
    assert word(verdicts[size], "cone_gap") == expected  # its radius is 2.35
    assert word(verdicts[size], "coverage_cone") == expected
    assert word(verdicts[size], "attraction") == HOLDS  # the stiff curvature is constant
    statistic = float(verdicts[size]["statistic"].sel(claim="cone_gap"))
    assert statistic == pytest.approx((4.7 - 2 * size) / 5, abs=0.01)


def test_slaving_is_seen_in_the_states(verdicts: dict[float, xr.Dataset]) -> None:
    assert word(verdicts[0.5], "slaving") == HOLDS
    assert word(verdicts[0.5], "steady_graph") == HOLDS
    assert word(verdicts[0.5], "stationarity") == HOLDS


def test_sampled_evidence_alone_does_not_hold_but_a_violation_is_definite() -> None:
    found = evaluate(of_cubic(0.5, "trajectory"))
    assert word(found, "gap_2l") == NOT_RESOLVED
    assert found["reason"].sel(claim="gap_2l").item() == "sampled without adversarial search"
    assert word(evaluate(of_cubic(2.8, "trajectory")), "gap_2l") == FAILS


def changed(result: xr.Dataset, **values: Any) -> xr.Dataset:
    result = result.copy(deep=True)
    for name, value in values.items():
        result[name] = (result[name].dims, np.full(result[name].shape, value))
    return result


def test_a_region_that_the_run_leaves_proves_nothing() -> None:
    found = evaluate(of_cubic(1.5, "ball", (0.5,)))
    assert found["reason"].sel(claim="gap_2l").item() == "the sampled region does not reach the farthest state"
    assert found["reason"].sel(claim="coverage_gap").item() == "some states lie outside the sampled region"
    assert word(found, "gap_2l") == word(found, "coverage_gap") == NOT_RESOLVED


def test_what_stands_in_the_way_is_named() -> None:
    result = of_cubic(0.5)
    grown = evaluate(changed(result, lipschitz_half=0.9 * result["lipschitz"].values))
    assert "two halves" in grown["reason"].sel(claim="gap_2l").item()
    hidden = changed(of_cubic(2.8), unknown_low=0.1, unknown_high=4.0)
    found = evaluate(hidden)
    assert word(found, "gap_2l") == NOT_RESOLVED
    assert "(0.1, 4)" in found["reason"].sel(claim="gap_2l").item()
    unsure = evaluate(changed(result, gap_ratio_lo=0.9, gap_ratio_hi=1.3))
    assert "within the error" in unsure["reason"].sel(claim="gap_2l").item()
    shuffled = evaluate(changed(result, steady_p_value=0.4))
    assert "shuffled states" in shuffled["reason"].sel(claim="steady_graph").item()
    constant = evaluate(changed(result, aim_defect=1.0))
    assert word(constant, "slaving") == FAILS


def test_a_study_is_judged_cell_by_cell() -> None:
    near, far = of_cubic(0.5), of_cubic(2.8)
    absent = changed(near, **{name: np.nan for name, values in near.data_vars.items() if values.dtype == float})
    study = xr.concat([near, far, absent], xr.DataArray([0, 4, 7], dims="level", name="level"), data_vars="all")
    found = evaluate(study)
    assert found["verdict"].dims == ("claim", "level")
    assert found["verdict"].sel(claim="gap_2l").values.tolist() == [HOLDS, FAILS, NOT_RESOLVED]
    assert found["reason"].sel(claim="gap_2l", level=7).item() == "not measured"


def test_the_verdicts_of_a_run_come_from_its_stored_results(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "run", {"model": "cubic"})
    for level, result in ((0, of_cubic(0.5)), (4, of_cubic(2.8, radius=(0.5, 2.8)))):
        labels = {"method": "imp", "level": level, "replicate": 0, "point": "minimum"}
        result = result.assign_coords(labels)
        result.attrs |= {"fingerprint": f"f{level}", "options": "{}"}
        store.write(result, results.folder(run.root, "dimension") / f"f{level}.nc", "dimension")
    judged = preconditions.evaluate_preconditions(run.root, "inertial_manifold")
    schemas.check(judged, "preconditions")
    words = judged["verdict"].sel(claim="gap_2l").squeeze()
    assert words["level"].values.tolist() == [0, 4]
    assert words.values.tolist() == [HOLDS, FAILS]
    assert "gap_2l" in preconditions.describe(judged)


def test_what_was_not_measured_is_not_resolved() -> None:
    problem = testbed.problem(CUBIC)
    options = DimensionOptions(fast=1, smallest=1, num_probes=0, depth=2, radius=(0.1,), rule=("gap_2l",))
    found = evaluate(measure(problem, options, Effort()))
    for claim in ("cone_gap", "attraction", "coverage_gap", "steady_graph", "slaving"):
        assert found["reason"].sel(claim=claim).item() == "not measured"
