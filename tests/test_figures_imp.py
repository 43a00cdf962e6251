"""Figures over levels show means and errors of the study they are given, and say what is missing."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes

from landscape import cli, figures, store
from landscape.errors import InputError
from landscape.figures.__main__ import main

METHODS, LEVELS, REPLICATES = ["imp", "fine_tune", "one_shot", "random_mask_layerwise"], [0, 1, 4, 10], [0, 1, 2]
CELL = ("method", "level", "replicate")
MATRIX = ("first_level", "second_level")
PAIRS = ["rewind -> minimum", "rewind -> projected", "projected -> minimum", "previous -> minimum", "dense -> minimum"]


def study(seed: int = 0) -> xr.Dataset:
    """A study of all quantities whose numbers mean nothing."""
    rng = np.random.default_rng(seed)
    shape = (len(METHODS), len(LEVELS), len(REPLICATES))
    point = (*shape, 3, 1, 1)
    at = (*CELL, "point", "control", "curvature")
    top = np.linspace(3, 0, 12)[:, None, None, None, None, None, None]
    node, weight = np.sort(rng.standard_normal((2, 6, *point)), 1), rng.random((2, 6, *point))
    data = {
        "train_loss": (("epoch", *CELL), rng.random((3, *shape)) + 0.1),
        "projected_loss": (("epoch", *CELL), rng.random((3, *shape)) + 0.1),
        "test_accuracy": (("epoch", *CELL), 0.9 + 0.1 * rng.random((3, *shape))),
        "shared_distance": (("pair", *CELL), rng.random((5, *shape))),
        "rms_distance": (("pair", *CELL), rng.random((5, *shape))),
        "point_error": (("split", "at", *CELL), np.full((2, 1, *shape), 0.02)),
        "barrier_error": (("split", "pair", *CELL), 0.01 * rng.random((2, 5, *shape))),
        "matrix_barrier_error": (("split", *MATRIX, "method", "replicate"), np.ones((2, 4, 4, 4, 3))),
        "fraction_below": (("at", *CELL), rng.random((1, *shape))),
        "eigenvalue": (("eigen", *at), np.exp(top + 0.1 * rng.standard_normal((12, *point)))),
        "converged": (("eigen", *at), np.ones((12, *point))),
        "ritz_value": (("probe", "node", *at), node),
        "ritz_weight": (("probe", "node", *at), weight / weight.sum(1, keepdims=True)),
        "num_params": (at, np.full(point, 1000.0)),
        "num_examples": (at, np.full(point, 500.0)),
        "rank_bound": (at, np.full(point, 4500.0)),
        "epoch_eigenvalue": (("epoch", "eigen", *CELL), rng.random((3, 12, *shape)) + 1),
        "overlap": (("cut", *CELL), rng.random((2, *shape))),
        "principal_cosine": (("cut", "angle", *CELL), np.sort(rng.random((2, 4, *shape)), 1)[:, ::-1]),
    }  # fmt: skip
    coords = {
        "method": METHODS, "level": LEVELS, "replicate": REPLICATES, "epoch": [0, 1, 2], "pair": PAIRS,
        "split": ["train", "test"], "at": ["minimum"], "first_level": LEVELS, "second_level": LEVELS,
        "eigen": np.arange(1, 13), "point": ["minimum", "projected", "restricted"], "control": ["raw"],
        "curvature": ["hessian"], "probe": [0, 1], "node": np.arange(6), "cut": [1, 9], "angle": np.arange(1, 5),
    }  # fmt: skip
    return xr.Dataset(data, coords, {"fingerprint": "f", "options": "{}"})


@pytest.fixture
def ax() -> Iterator[Axes]:
    yield plt.subplots()[1]
    plt.close("all")


def bars(ax: Axes) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Levels, heights and half lengths of the error bars of every line with error bars."""
    found = []
    for container in ax.containers:
        line, _, (segments, *_) = container
        ends = np.array(segments.get_segments())
        found.append((np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), (ends[:, 1, 1] - ends[:, 0, 1]) / 2))
    return found


@pytest.mark.parametrize(
    ("draw", "name", "labels", "scale"),
    [
        (figures.plot_train_loss, "train_loss", {"epoch": 2}, 1),
        (figures.plot_test_accuracy, "test_accuracy", {"epoch": 2}, 100),
        (figures.plot_distances, "shared_distance", {"pair": "rewind -> minimum"}, 1),
        (figures.plot_rms_distances, "rms_distance", {"pair": "rewind -> minimum"}, 1),
        (figures.plot_barriers, "barrier_error", {"pair": "previous -> minimum", "split": "test"}, 100),
        (figures.plot_renewal, "fraction_below", {"at": "minimum"}, 100),
        (figures.plot_overlap, "overlap", {"cut": 9}, 1),
    ],
)
def test_the_first_line_is_imp_with_the_standard_error_over_replicates(ax, draw, name, labels, scale) -> None:
    data = study()
    draw(data, ax)
    wanted = scale * data[name].sel({**labels, "method": "imp"})
    levels, height, half = bars(ax)[0]
    assert levels.tolist() == LEVELS
    np.testing.assert_allclose(height, wanted.mean("replicate"))
    np.testing.assert_allclose(half, wanted.std("replicate", ddof=1) / 3**0.5)
    assert ax.get_xlabel()
    assert ax.get_ylabel()


def test_missing_cells_are_gaps_and_not_zeros(ax) -> None:
    data = study()
    data["train_loss"].loc[{"method": "imp", "level": 4}] = np.nan
    data["train_loss"].loc[{"method": "fine_tune", "level": [0, 1, 4]}] = np.nan
    figures.plot_train_loss(data, ax)
    first, second = bars(ax)[:2]
    assert first[0].tolist() == [0, 1, 10]
    assert second[0].tolist() == [10]


def test_ways_compare_the_methods_at_level_ten(ax) -> None:
    data = study()
    figures.plot_ways_loss(data, ax)
    assert "level 10" in ax.get_xlabel()
    assert [text.get_text() for text in ax.get_yticklabels()][:2] == ["IMP", "fine-tuning"]
    dots = np.asarray(ax.lines[0].get_xdata())
    np.testing.assert_allclose(dots, data["train_loss"].sel({"method": "imp", "level": 10, "epoch": 2}))


def test_methods_and_levels_that_were_not_measured_do_not_stop_the_others(ax) -> None:
    data = study()
    data["train_loss"].loc[{"method": "one_shot"}] = np.nan
    figures.plot_ways_loss(data, ax)
    assert "one-shot" not in [text.get_text() for text in ax.get_yticklabels()]
    data["eigenvalue"].loc[{"level": 4, "point": "projected"}] = np.nan
    drawn, missing = figures.study_figures(data)
    assert "eigenvalues" not in missing
    labels = [ax.get_legend().get_texts()[0].get_text() for ax in drawn["eigenvalues"].axes if ax.get_visible()]
    assert labels == ["minimum, level 1", "minimum, level 10"]


def test_projected_curves_are_both_drawn(ax) -> None:
    data = study()
    figures.plot_projected_curve(data, ax, 4)
    for line, name in zip(ax.lines, ("train_loss", "projected_loss"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), data[name].sel({"method": "imp", "level": 4}).mean("replicate"))
    with pytest.raises(InputError, match="train_loss at level 3"):
        figures.plot_projected_curve(data, ax, 3)


def test_unconverged_eigenvalues_are_left_out(ax) -> None:
    data = study()
    data["converged"].loc[{"eigen": 12}] = 0.0
    figures.plot_top_eigenvalues(data, ax, 4)
    assert len(ax.lines) == 6
    for number, point in ((0, "minimum"), (4, "projected")):
        chosen = (
            data["eigenvalue"].sel({"method": "imp", "level": 4, "point": point, "replicate": number % 3}).squeeze()
        )
        np.testing.assert_allclose(np.asarray(ax.lines[number].get_ydata()), chosen[:11])


def test_the_chain_shows_geometric_means_of_eigenvalues_that_all_points_have(ax) -> None:
    data = study()
    data["eigenvalue"].loc[{"eigen": [11, 12], "method": "fine_tune"}] = np.nan
    figures.plot_chain(data, ax)
    assert "top 10" in ax.get_ylabel()
    wanted = np.exp(np.log(data["eigenvalue"].sel({"method": "imp", "point": "minimum"})[:10]).mean("eigen")).squeeze()
    np.testing.assert_allclose(bars(ax)[-1][1], wanted.mean("replicate"))


def test_trajectories_are_geometric_means_by_level(ax) -> None:
    data = study()
    figures.plot_trajectory(data, ax)
    values = np.exp(np.log(data["epoch_eigenvalue"].sel({"method": "imp", "level": 0})).mean("eigen"))
    np.testing.assert_allclose(bars(ax)[0][1], values.mean("replicate"))
    np.testing.assert_allclose(bars(ax)[0][2], values.std("replicate", ddof=1) / 3**0.5)
    assert "top 12" in ax.get_ylabel()


def test_the_matrix_says_its_levels_and_numbers(ax) -> None:
    figures.plot_barrier_matrix(study(), ax)
    assert {text.get_text() for text in ax.texts} == {"100.0"}
    assert len(ax.texts) == 12
    assert [text.get_text() for text in ax.get_xticklabels()] == [str(level) for level in LEVELS]


def test_principal_angles_are_degrees_by_level(ax) -> None:
    data = study()
    figures.plot_principal_angles(data, ax)
    cosines = data["principal_cosine"].sel({"method": "imp", "cut": 9, "level": 0})
    np.testing.assert_allclose(bars(ax)[0][1], np.degrees(np.arccos(cosines.values)).mean(-1))


def test_rows_of_the_ridge_are_hatched_where_examples_are_too_few(ax) -> None:
    data = study()
    data["rank_bound"].loc[{"level": [0, 1]}] = 2999.0
    figures.plot_ridge(data, ax)
    assert [text.get_text() for text in ax.get_yticklabels()] == [str(level) for level in LEVELS]
    assert [bool(c.get_hatch()) for c in ax.collections[:4]] == [True, True, False, False]


def test_every_figure_of_a_whole_study_is_drawn_and_a_poor_one_says_what_to_measure() -> None:
    drawn, missing = figures.study_figures(study())
    assert not missing
    assert {"levels", "ways", "distances", "projected_curves", "eigenvalues", "ridge", "barrier_matrix"} <= drawn.keys()
    poor, missing = figures.study_figures(study()[["train_loss", "test_accuracy"]])
    assert set(poor) == {"levels", "ways"}
    assert "--quantities alignment" in missing["eigenspaces"]
    assert "--quantities spectrum" in missing["ridge"]
    plt.close("all")


def test_the_command_draws_a_compact_study_into_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = study()[["train_loss", "test_accuracy"]]
    store.write(small, tmp_path / "study.nc", "study")
    assert cli.exit_code(main, [str(tmp_path / "study.nc"), "--out", str(tmp_path / "figures")]) == cli.DONE
    printed = capsys.readouterr()
    assert [Path(line).name for line in printed.out.splitlines()] == [
        "levels.pdf",
        "levels.png",
        "ways.pdf",
        "ways.png",
    ]
    assert (tmp_path / "figures" / "ways.png").read_bytes().startswith(b"\x89PNG")
    assert "no figure of barriers: not measured" in printed.err
