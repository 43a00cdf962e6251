"""The accessor: what it draws is what ``landscape.figures`` draws."""

import matplotlib.pyplot as plt
import pytest
import xarray as xr
from helpers import ROOT

import landscape
from landscape import figures
from landscape.errors import InputError


@pytest.fixture(scope="module")
def spectrum() -> xr.Dataset:
    return landscape.open_result(ROOT / "data/reference/lenet_mnist.spectrum.nc")


def test_a_result_draws_itself(spectrum: xr.Dataset) -> None:
    for name in ("plot_density", "plot_eigenvalues", "plot_gaps"):
        drawn = getattr(spectrum.landscape, name)()
        with figures.style():
            wanted = getattr(figures, name)(spectrum, plt.figure().subplots())
        assert drawn.get_xlabel() == wanted.get_xlabel()
        assert [line.get_xydata().tolist() for line in drawn.lines] == [
            line.get_xydata().tolist() for line in wanted.lines
        ]
    plt.close("all")


def test_axes_and_options_are_handed_on(spectrum: xr.Dataset) -> None:
    _, ax = plt.subplots()
    assert spectrum.landscape.plot_eigenvalues(ax=ax, most=5) is ax
    assert len(ax.collections[-1].get_offsets()) <= 5
    plt.close("all")


def test_the_figure_of_a_result(spectrum: xr.Dataset) -> None:
    assert len(spectrum.landscape.figure().axes) == 3
    with pytest.raises(InputError, match="there is no figure of a Dataset without a quantity"):
        xr.Dataset().landscape.figure()
    plt.close("all")


def test_other_names_do_not_exist(spectrum: xr.Dataset) -> None:
    assert "plot_density" in dir(spectrum.landscape)
    with pytest.raises(AttributeError, match="there is no 'plot_everything'; there are figure and plot_"):
        _ = spectrum.landscape.plot_everything
