"""The figures F1 to F5 on results made up with known answers, and on results that are not there."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import figures
from landscape.figures.paper import Arms, MissingResultsError

LEVELS, REPLICATES, EIGEN = [0, 1, 2], [0, 1], list(range(1, 13))
METHODS = ["imp", "fine_tune", "retrained", "random_mask_layerwise"]
POINTS = ["minimum", "projected", "restricted"]
# log of the eigenvalues relative to imp's minimum at the same level
SHIFT = {
    ("imp", "minimum"): 0.0,
    ("imp", "restricted"): -0.5,
    ("imp", "projected"): 1.5,
    ("fine_tune", "minimum"): -0.3,
}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


def spectra() -> xr.Dataset:
    """Eigenvalues 2^-k; chain and methods differ by the factors of SHIFT, at every level alike."""
    labels = {"method": METHODS, "level": LEVELS, "replicate": REPLICATES, "point": POINTS}
    coords = {**labels, "control": ["raw"], "curvature": ["hessian"], "eigen": EIGEN}
    shape = [len(values) for values in coords.values()]
    study = xr.Dataset(coords=coords)
    study["eigenvalue"] = (list(coords), np.full(shape, np.nan))
    for method in METHODS:
        for point in POINTS if method == "imp" else ["minimum"]:
            factor = np.exp(SHIFT.get((method, point), 0.0))
            study["eigenvalue"].loc[{"method": method, "point": point}] = factor * 2.0 ** -np.array(EIGEN)
    study["relative_gap"] = study["eigenvalue"] * 0 + np.array(EIGEN) / 10
    study["gap"] = study["eigenvalue"] / 2
    study["gap_se"] = study["gap"] / 8
    study["outlier_count"] = (study["eigenvalue"].isel(eigen=0, drop=True) * 0) + 3
    study["num_examples"] = study["outlier_count"] * 0 + 1000.0
    return study


def curves(methods: list[str]) -> xr.Dataset:
    coords = {"method": methods, "level": LEVELS, "replicate": REPLICATES, "epoch": [0, 1, 2]}
    values = np.broadcast_to([0.1, 0.8, 0.9], [len(v) for v in coords.values()]).copy()
    values[:, 2] -= 0.1
    return xr.Dataset({"test_accuracy": (list(coords), values)}, coords)


def lines(ax: Axes) -> dict[str, np.ndarray]:
    """The data of the error bars of a panel by label."""
    return {str(bars.get_label()): bars.lines[0].get_xydata() for bars in ax.containers}


def panels(figure: Figure) -> list[Axes]:
    return list(figure.axes)


@pytest.mark.parametrize("name", list(figures.PAPER_FIGURES))
def test_without_results_every_figure_says_what_to_run(name: str) -> None:
    draw, caption = figures.PAPER_FIGURES[name]
    for arms in ({}, {"relu": {}}):
        with pytest.raises(MissingResultsError, match=r"F\d is not drawn for lack of results: python -m landscape\."):
            draw(arms)
    assert caption.startswith(f"{name[:2]}. ")


def test_a_missing_arm_is_named_in_the_figure() -> None:
    arms: Arms = {"relu": {"spectrum": spectra()}, "gelu": {}}
    figure = figures.spectra_figure(arms)
    assert figure.get_suptitle().endswith("2 replicates, 1,000 examples; levels 0, 1, 2\nnot measured: gelu")
    assert len(panels(figure)) == 4


def test_a_step_of_the_chain_that_lacks_levels_is_named() -> None:
    study = spectra()
    blank = study["eigenvalue"].where((study["point"] != "restricted") | (study["level"] != 2))
    figure = figures.chain_figure({"": {"spectrum": study.assign(eigenvalue=blank)}})
    assert figure.get_suptitle().endswith("not measured: mask at 2, displacement at 2")
    assert "not measured" not in figures.chain_figure({"": {"spectrum": study}}).get_suptitle()


def test_points_that_were_not_measured_are_named() -> None:
    study = spectra().sel({"method": ["imp"], "point": ["minimum", "projected"]})
    assert (
        figures.spectra_figure({"": {"spectrum": study}})
        .get_suptitle()
        .endswith("not measured: restricted, random masks")
    )


def test_gaps_are_those_below_the_cut_with_four_standard_errors() -> None:
    _, *gaps = panels(figures.spectra_figure({"": {"spectrum": spectra()}}, num_classes=5))
    for ax, cut in zip(gaps, (4, 5, 3), strict=True):
        drawn = lines(ax)
        assert set(drawn) == {"restricted", "projected", "minimum", "random masks"}
        np.testing.assert_allclose(drawn["minimum"][:, 1], cut / 10)
        dotted = [line.get_ydata() for line in ax.lines if line.get_linestyle() == ":"]
        np.testing.assert_allclose(dotted, 0.5 * cut / 10)


def test_the_chain_adds_up() -> None:
    found = [lines(ax)["raw"][:, 1] for ax in panels(figures.chain_figure({"": {"spectrum": spectra()}}))]
    for step, change in zip(found, (-0.5, 2.0, -1.8, 0.3), strict=True):
        np.testing.assert_allclose(step, change)
    np.testing.assert_allclose(sum(step[-1] for step in found), 0.0, atol=1e-12)


def test_what_a_panel_lacks_is_said_in_it() -> None:
    study = spectra().sel({"method": ["imp"]})
    *_, rewinding = panels(figures.chain_figure({"": {"spectrum": study}}))
    assert [text.get_text() for text in rewinding.texts] == ["not measured:\nfine tune minimum\nto imp minimum"]


def volumes() -> xr.Dataset:
    coords = {"method": ["imp", "retrained"], "level": LEVELS, "replicate": REPLICATES, "point": ["minimum"]}
    coords |= {"control": ["raw"], "curvature": ["ggn"], "sampler": ["preconditioned"]}
    shape = [len(v) for v in coords.values()]
    tolerance = np.broadcast_to(np.array([0.1, 0.05, 0.02])[None, :, None, None, None, None, None], shape)
    verdict = np.full(shape, "calibrated", dtype=object)
    verdict[:, 2, 1] = "lower bound"
    study = xr.Dataset({"relative_noise_tolerance": (list(coords), tolerance)}, coords)
    study["log_volume_verdict"] = (list(coords), verdict)
    study["num_examples"] = 500.0
    return study


def test_volumes_stand_beside_the_test_error_of_the_same_networks() -> None:
    arms: Arms = {"": {"volume": volumes(), "curves": curves(["imp", "retrained"])}}
    over_levels, prunable, beside = panels(figures.basins_figure(arms))
    np.testing.assert_allclose(lines(over_levels)["minimum"][:, 1], [0.1, 0.05, 0.02])
    assert prunable.texts[0].get_text() == "not measured:\nprunable fractions"
    imp, retrained = beside.collections
    np.testing.assert_allclose(imp.get_offsets(), [[0.02, 20.0], [0.02, 20.0]])
    assert beside.get_ylabel() == "test error at level 2 (%)"
    assert [tuple(np.round(c, 2)) for c in retrained.get_facecolors()][1] == (1.0, 1.0, 1.0, 1.0)


def dimensions() -> xr.Dataset:
    coords = {"method": ["imp"], "level": LEVELS, "replicate": REPLICATES, "point": ["minimum"], "control": ["raw"]}
    coords |= {"rule": ["gap_2l"], "shell": [0, 1], "step": [0, 10]}
    labels = list(coords)[:5]
    shape = [len(coords[name]) for name in labels]
    study = xr.Dataset(coords=coords)
    study["rho"] = ((*labels, "shell"), np.broadcast_to([0.1, 1.0], (*shape, 2)))
    study["distance"] = ((*labels, "step"), np.broadcast_to([2.0, 0.0], (*shape, 2)))
    study["gap_ratio"] = ((*labels, "rule", "shell"), np.broadcast_to([3.0, 0.5], (*shape, 1, 2)))
    fast = np.full((*shape, 1, 2), 7.0)
    fast[0, 1] = np.nan
    study["num_fast"] = ((*labels, "rule", "shell"), fast)
    study["entry_step"] = ((*labels, "rule"), np.full((*shape, 1), np.nan))
    study["num_examples"] = 300.0
    return study


def test_levels_without_an_answer_are_hatched() -> None:
    gaps, fast, entry = panels(figures.manifold_figure({"relu": {"dimension": dimensions()}}))
    np.testing.assert_allclose(gaps.lines[0].get_xydata(), [[0.05, 3.0], [0.5, 0.5]])
    np.testing.assert_allclose(lines(fast)["relu"], [[0, 7], [2, 7]])
    assert [patch.get_x() for patch in fast.patches] == [0.6]
    assert len(entry.patches) == len(LEVELS)


def networks() -> xr.Dataset:
    """Error in % at levels 1, 2: imp 10, 20; snip 15 (kept forced), its shuffle 25, random 30; theory chose 0.9."""
    methods = ["imp", "random_layerwise", "snip", "snip_shuffled", "theory"]
    coords = {"method": methods, "level": [1, 2], "replicate": REPLICATES}
    shape = [len(v) for v in coords.values()]
    error = np.array([[0.1, 0.2], [0.3, 0.3], [0.15, 0.15], [0.25, 0.25], [0.4, np.nan]])
    study = xr.Dataset(coords=coords)
    study["test_accuracy"] = (list(coords), 1 - np.broadcast_to(error[:, :, None], shape) + np.array([0.01, -0.01]))
    kept = study["test_accuracy"].notnull() * np.array([0.8, 0.64])[:, None]
    study["kept"] = kept.where(kept > 0)
    study["kept_effective"] = study["kept"] / 2
    forced = np.array([np.nan, 1, 1, 1, 0])[:, None, None]
    return study.assign(forced=(list(coords), np.broadcast_to(forced, shape)))


def conditions() -> xr.Dataset:
    study = xr.Dataset(coords={"method": ["theory"], "replicate": REPLICATES, "shell": [0]})
    study["gap_ratio"] = (("method", "replicate", "shell"), [[[0.01], [0.02]]])
    study["rho"] = study["gap_ratio"] * 0 + 0.01
    return study.assign(newton_displacement=(("method", "replicate"), [[0.1, 0.2]]))


def test_pruned_networks_stand_at_what_they_keep_on_a_path() -> None:
    arms: Arms = {"": {"pruning": networks(), "imc": conditions()}}
    error, ranking, failing = panels(figures.pruning_figure(arms))
    drawn = lines(error)
    np.testing.assert_allclose(drawn["snip"], [[40.0, 15.0], [32.0, 15.0]])
    np.testing.assert_allclose(drawn["imp"], [[40.0, 10.0], [32.0, 20.0]])
    looks = {str(b.get_label()): b.lines[0] for b in error.containers}
    assert looks["snip_shuffled"].get_markerfacecolor() == "white"
    assert [name for name, line in looks.items() if line.get_marker() == "*"] == ["theory"]
    assert [text.get_text() for text in error.texts] == ["theory"]
    assert ranking.get_xlabel() == "test error at 64.0 % kept (%)"
    assert [text.get_text() for text in ranking.get_yticklabels()] == ["snip", "imp", "random layerwise"]
    np.testing.assert_allclose(lines(ranking)["snip_shuffled"], [[25.0, 0]])
    np.testing.assert_allclose(lines(ranking)["imp"], [[20.0, 1]])
    assert ranking.patches[0].get_x() == pytest.approx(30.0)
    np.testing.assert_allclose(failing.lines[0].get_xdata(), [0.1, 0.05])
    np.testing.assert_allclose(failing.lines[1].get_xdata(), [0.01, 0.02])
    assert failing.patches


def test_errors_are_over_replicates() -> None:
    """Accuracies that differ by 2 % between two replicates: a standard error of 1 %."""
    *_, ranking, _ = panels(figures.pruning_figure({"": {"pruning": networks()}}))
    (bars,) = (b for b in ranking.containers if b.get_label() == "snip")
    (segment,) = bars.lines[2][0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [14.0, 16.0])


def test_networks_without_a_path_and_without_imp_are_named() -> None:
    study = networks()
    study["kept_effective"].loc[{"method": "snip", "level": 2}] = 0.0
    study["test_accuracy"].loc[{"method": "snip", "level": 1, "replicate": 1}] = np.nan
    figure = figures.pruning_figure({"": {"pruning": study.isel(method=slice(1, None))}})
    assert figure.get_suptitle().endswith("not measured: imp, some replicates (no bar where there is one)")
    error, _, failing = panels(figure)
    assert "no path left: snip" in [text.get_text() for text in error.texts]
    assert failing.texts[0].get_text() == "not measured:\nconditions of IMC"
