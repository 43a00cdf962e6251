"""Figures say what the Dataset says; drawn from stored results alone."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from landscape import cli, figures, gaps, store
from landscape.errors import InputError
from landscape.figures.__main__ import draw_study, main


def result(converged: bool = True) -> xr.Dataset:
    labels = [1, 2, 3, 4, -2, -1]
    value = np.array([9.0, 5.0, 4.9, 1.0, -0.1, -0.5])
    columns = {
        "eigenvalue": ("eigen", value),
        "residual": ("eigen", np.full(6, 1e-6)),
        "converged": ("eigen", [converged, True, True, True, True, True]),
        "eigenvalue_se": ("eigen", np.full(6, 0.2)),
        "ritz_value": (("probe", "node"), np.array([[9.0, 0.1, -0.4], [8.9, 0.2, -0.5]])),
        "ritz_weight": (("probe", "node"), np.array([[0.1, 0.8, 0.1], [0.1, 0.7, 0.2]])),
        "num_params": 50,
        "num_examples": 1000,
        "kept": 0.5,
        "loss": 0.25,
        "outlier_count": 1,
    }
    dataset = gaps.add_gaps(xr.Dataset(columns, {"eigen": labels}, {"fingerprint": "f", "options": "{}"}))
    dataset["gap_se"] = ("eigen", [0.1, 0.1, 0.1, np.nan, 0.1, np.nan])
    dataset["eigenvalue_se_valid"] = ("eigen", gaps.are_safe(dataset))
    return dataset


def test_gap_bars_have_the_relative_gaps_and_tell_clear_from_unclear() -> None:
    _, ax = plt.subplots()
    figures.plot_gaps(result(), ax)
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in ax.patches}
    assert heights[1] == pytest.approx(4.0 / 5.0)
    assert heights[2] == pytest.approx(0.1 / 4.9)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["gap above 4 s.e.", "gap below 4 s.e."]
    plt.close("all")


def test_eigenvalues_that_did_not_converge_are_hollow() -> None:
    _, ax = plt.subplots()
    figures.plot_eigenvalues(result(converged=False), ax)
    hollow = [
        c
        for c in ax.collections
        if c.get_offsets().size and len(c.get_facecolors()) and (c.get_facecolors()[0] == 1).all()
    ]
    assert sum(len(c.get_offsets()) for c in hollow) == 1
    plt.close("all")


def test_every_panel_has_labelled_axes_and_the_title_says_what_was_measured() -> None:
    figure = figures.spectrum_figure(result())
    assert len(figure.axes) == 3
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in figure.axes)
    assert "50 parameters (0.5 kept), 1,000 examples" in figure.get_suptitle()
    plt.close(figure)


def test_the_command_draws_a_stored_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.nc"
    stored = result().assign_coords(eigen=("eigen", np.array([1, 2, 3, 4, -2, -1])))
    store.write(stored, path, "spectrum")
    assert cli.exit_code(main, [str(path), "--out", str(tmp_path / "s.png")]) == cli.DONE
    assert capsys.readouterr().out == f"{tmp_path / 's.png'}\n"
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert cli.exit_code(main, [str(path), "--out", str(tmp_path / "s.txt")]) == cli.BAD_INPUT
    assert not (tmp_path / "s.txt").exists()


def test_the_figures_of_a_run_go_into_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.pdf"
    for there in (False, True):
        if there:
            file.write_text("a file")
        with pytest.raises(InputError, match="must be a directory"):
            draw_study(xr.Dataset(), file)
        assert file.exists() == there
    path = store.write(result(), tmp_path / "s.nc", "spectrum")
    assert cli.exit_code(main, [str(path), "--out", str(tmp_path / "q.png"), "--quiet"]) == cli.DONE
    assert capsys.readouterr().out == f"{tmp_path / 'q.png'}\n"


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(InputError, match="nothing of the spectrum"):
        figures.spectrum_figure(xr.Dataset({"num_params": 5, "kept": 1.0}))
