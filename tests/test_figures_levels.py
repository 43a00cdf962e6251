"""Figures over levels: what they draw of a planted study, and which levels they mark."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from test_volume_claims import planted

from landscape import figures
from landscape.errors import InputError
from landscape.figures import levels, manifolds, volumes


def heights(ax: plt.Axes, number: int = 0) -> list[float]:
    return [float(y) for y in ax.containers[number].lines[0].get_ydata()]


def test_a_level_has_mean_and_standard_error_of_its_replicates() -> None:
    values = xr.DataArray([[1.0, 3.0], [5.0, np.nan], [np.nan, np.nan]], dims=("level", "replicate"))
    values = values.assign_coords(level=[0, 4, 7])
    _, ax = plt.subplots()
    levels.plot_level(values, ax, "x", sure=xr.full_like(values, 1.0).where(values != 5, 0))
    assert heights(ax) == [2.0, 5.0]
    (segments,) = (bar.get_segments() for bar in ax.containers[0].lines[2])
    assert [float(np.ptp(s[:, 1])) / 2 for s in segments] == pytest.approx([1.0, 0.0])
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[4]]
    plt.close("all")


def test_volumes_over_levels() -> None:
    study = planted(1.0, noise=0.0).assign(num_examples=(("level",), np.full(3, 2000.0)))
    figure = figures.volume_levels_figure(study)
    assert len(figure.axes) == 4
    occam, section = figure.axes[1], figure.axes[3]
    assert heights(occam, 0) == pytest.approx([1.0, 1.0, 1.0])
    assert heights(section, 1) == pytest.approx([0.01, 0.01, 0.01])
    plt.close("all")
    with pytest.raises(InputError, match="no volumes over levels"):
        figures.volume_levels_figure(study.drop_vars(list(study.data_vars)))


def test_levels_with_too_few_examples_are_grey() -> None:
    _, ax = plt.subplots()
    found = planted(rank=1400).sel({"method": "imp", "point": "minimum", "control": "raw", "curvature": "ggn"})
    levels.shade_limited(found, ax)
    (patch,) = ax.patches
    assert patch.get_x() == -0.5
    assert patch.get_x() + patch.get_width() == 1.5
    volumes.plot_occam_levels(planted(rank=10_000), ax)
    assert len(ax.patches) == 1
    plt.close("all")


def conditions(scale: float) -> xr.Dataset:
    """A planted study of dimensions at levels 0 and 4 of one replicate."""
    labels = ("method", "level", "replicate", "point", "control")
    shape = (1, 2, 1, 1, 1)
    ones = np.ones(shape)
    numbers = {
        "rho": (("shell", *labels), np.stack([0.1 * ones, ones])),
        "gap_ratio": (("rule", "shell", *labels), scale * np.ones((2, 2, *shape))),
        "radius_upper": (("rule", *labels), np.stack([0.5 * scale * ones, 2 * scale * ones])),
        "distance": (("step", *labels), np.stack([4 * ones, ones])),
        "cone_gap": (("fast", *labels), np.stack([-ones, scale * ones])),
        "cone_attraction": (("fast", *labels), np.stack([ones, 3 * ones])),
        "eigenvalue": (("eigen", *labels), np.stack([10 * ones, ones])),
        "aim_defect": (("iteration", *labels), np.stack([0.9 * ones, 0.8 * ones])),
        "num_examples": (labels, 100 * ones),
    }
    coords = {"method": ["imp"], "level": [0, 4], "replicate": [0], "point": ["minimum"], "control": ["raw"]}
    return xr.Dataset(numbers, {**coords, "rule": ["gap_2l", "cone_gap"]})


def test_dimensions_over_levels_side_by_side() -> None:
    figure = figures.dimension_levels_figure({"relu": conditions(1.0), "gelu": conditions(2.0)})
    assert len(figure.axes) == 4
    assert [heights(figure.axes[1], k)[0] for k in range(4)] == [0.125, 0.5, 0.25, 1.0]
    assert [heights(figure.axes[2], k)[0] for k in range(2)] == [0.1, 0.2]  # the smaller side of the best number
    plt.close("all")
    with pytest.raises(InputError, match="no dimensions"):
        manifolds.plot_coverage_levels({"": conditions(1.0).assign_coords(method=["one_shot"])}, plt.gca())
    plt.close("all")
