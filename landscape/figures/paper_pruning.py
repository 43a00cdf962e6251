"""F5: test accuracy against the weights that are kept, for every way to prune, with the conditions of IMC pruning."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.page import log_axes, style
from landscape.figures.paper import Arms, Parts, absent, need, pick, title

SHUFFLED, FORCED, NULL = "_shuffled", "_forced", "random_layerwise"
# Shapes with an inside, so that full and open ones are told apart.
MARKERS = "osD^v<>hp"
# What errs this many times as much as random masks do at worst leaves the axis, and is named.
WORST = 1.5
# Inches: a row of the middle panel holds one method.
ROW, LEAST = 0.17, 2.6


def pruning_figure(arms: Arms) -> Figure:
    """Return F5: test error against the fraction of weights kept, and by how much IMC's own conditions are met.

    One row an arm. Left: test error (log, so that good networks are told apart; up is better) over the weights kept on
    a path from input to output: a line a method, dotted and open for the layer-wise shuffles of its masks, stars where
    a rule chose the fraction itself; dashed the dense network. Middle, also the legend: test error at the smallest
    fraction that most methods were trained at, open for the shuffle; hatched no better than random masks with the same
    share of every layer. Right: what the steps before the mask allow over what is asked, a marker a replicate; in the
    hatched part the condition fails. Error bars are standard errors over replicates.

    Raises
    ------
    MissingResultsError
        If no arm has pruned networks.
    """
    drawn = need("F5", arms, [("pruning", "kept"), ("pruning", "test_accuracy")])
    rows = [max(LEAST, 0.7 + ROW * len(_bases(parts["pruning"]))) for parts in drawn.values()]
    with style():
        figure, axes = plt.subplots(
            len(drawn), 3, squeeze=False, figsize=(7.0, sum(rows)), width_ratios=(1.5, 1.0, 0.8), height_ratios=rows
        )
        for row, (name, parts) in zip(axes, drawn.items(), strict=True):
            _plot_accuracy(parts["pruning"], row[0])
            _plot_ranking(parts["pruning"], row[1])
            _plot_conditions(parts, row[2])
            row[0].set_title(name, loc="left")
        lacking = [] if all("imp" in _bases(parts["pruning"]) for parts in drawn.values()) else ["imp"]
        lacking += [] if all(map(_complete, drawn.values())) else ["some replicates (no bar where there is one)"]
        what = f"Pruned networks{_trained_on(drawn)} and the conditions of IMC"
        figure.suptitle(title(what, drawn, arms, "pruning", lacking), fontsize=8)
    return figure


def _trained_on(arms: Arms) -> str:
    """Return the network, data and number of examples of the trainings in words, where a study's file says them."""
    said: dict[str, None] = {}
    for parts in arms.values():
        training = json.loads(parts["pruning"].attrs.get("options", "{}")).get("description", {}).get("training", {})
        if training:
            number = training["num_examples"]
            examples = "all" if number is None else f"{number:,}"
            said[f"{training['model']} on {examples} examples of {training['data']}"] = None
    return f" ({' / '.join(said)})" if said else ""


def _complete(parts: Parts) -> bool:
    """Return whether every network was trained in all replicates."""
    count = parts["pruning"]["test_accuracy"].count("replicate")
    return bool(count.isin([0, parts["pruning"].sizes["replicate"]]).all())


def _base(method: str) -> str:
    return method.replace(SHUFFLED, "").replace(FORCED, "")


def _bases(networks: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return the look of every method by its name without endings, imp first and in black."""
    names = dict.fromkeys(_base(method) for method in networks["method"].values.tolist())
    others = {
        name: {"color": f"C{number % 6}", "marker": MARKERS[number % len(MARKERS)]}
        for number, name in enumerate(name for name in names if name != "imp")
    }
    return ({"imp": {"color": "black", "marker": "o"}} if "imp" in names else {}) | others


def _pruned(networks: xr.Dataset) -> Iterator[tuple[str, str, bool, xr.Dataset]]:
    """Yield method, its name without endings, whether its rule chose the fraction, and its networks over the levels."""
    for method in networks["method"].values.tolist():
        cell = networks.sel({"method": method}).dropna("level", how="all", subset=["test_accuracy"])
        if cell.sizes["level"]:
            chosen = _base(method) != "imp" and "forced" in cell and bool((cell["forced"] == 0).any())
            yield method, _base(method), chosen, cell


def _standard_error(values: xr.DataArray) -> xr.DataArray:
    """Return the standard error over replicates, 0 where there is one."""
    count = values.count("replicate")
    return (values.std("replicate", ddof=1) / count**0.5).where(count > 1, 0.0)


def _plot_accuracy(networks: xr.Dataset, ax: Axes) -> None:
    """Draw test error over the fraction that is kept on a path, where that is known; name what has no path left."""
    looks = _bases(networks)
    cut: list[str] = []
    stars: dict[str, list[tuple[str, float, float]]] = {}
    for method, base, chosen, cell in _pruned(networks):
        kept = cell["kept_effective"].fillna(cell["kept"]) if "kept_effective" in cell else cell["kept"]
        kept, error = kept.mean("replicate"), 100 * (1 - cell["test_accuracy"])
        cut += [] if bool((kept > 0).all()) else [method]
        if chosen:
            place = (100 * float(kept.mean()), float(error.mean()))
            stars.setdefault(f"{place[0]:.2g}", []).append((method, *place))
        null = SHUFFLED in method
        look = looks[base] | ({"marker": "*", "markersize": 9, "linestyle": "none"} if chosen else {})
        look |= {"markerfacecolor": "white", "linestyle": ":", "linewidth": 0.6} if null and not chosen else {}
        look |= {"linewidth": 1.6, "zorder": 3} if base == "imp" else {}
        ax.errorbar(100 * kept.where(kept > 0), error.mean("replicate"), _standard_error(error), label=method, **look)
    if "imp" in looks and 0 in networks["level"].values:
        dense = 1 - networks["test_accuracy"].sel({"method": "imp", "level": 0})
        ax.axhline(100 * float(dense.mean()), color="0.5", linewidth=0.8, linestyle="--", zorder=0)
    for group in stars.values():
        x, y = max(x for _, x, _ in group), max(y for *_, y in group)
        ax.annotate(_lines(m for m, *_ in group), (x, y), (5, -4), textcoords="offset points", va="top", fontsize=5)
    notes = [f"no path left: {_lines(cut)}"] if cut else []
    log_axes(ax)
    if NULL in networks["method"].values:
        worst = 100 * (1 - networks["test_accuracy"].mean("replicate"))
        floor = WORST * float(worst.sel({"method": NULL}).max())
        errs = {m: float(worst.sel({"method": m}).max()) for m, *_ in _pruned(networks) if m not in cut}
        beyond = [method for method, error in errs.items() if error > floor]
        if beyond:
            ax.set_ylim(bottom=floor)
            notes.append(f"somewhere above {floor:.0f} %: {_lines(beyond)}")
    if notes:
        ax.text(0.02, 0.02, "\n".join(notes), fontsize=5, transform=ax.transAxes)
    ax.set_xlabel("weights kept, on a path (%)")
    ax.set_ylabel("test error (%)")


def _wrapped(method: str, width: int) -> str:
    return textwrap.fill(method.replace("_", " "), width)


def _lines(methods: Iterable[str]) -> str:
    return "\n".join(method.replace("_", " ") for method in methods)


def _sparsest(networks: xr.Dataset) -> int | None:
    """Return the level at which most methods were trained beside random masks, of these the sparsest."""
    if NULL not in networks["method"].values:
        return None
    known = networks["test_accuracy"].notnull().any("replicate")
    count = known.sum("method").where(known.sel({"method": NULL}), 0)
    return int(count["level"].values[count == count.max()].max()) if int(count.max()) > 1 else None


def _plot_ranking(networks: xr.Dataset, ax: Axes) -> None:
    """Draw test error of methods and of their shuffles at one fraction, a row a method, the best first."""
    if "forced" in networks:
        networks = networks.where(networks["forced"] != 0)  # a fraction of one's own is no common one
    level = _sparsest(networks)
    if level is None:
        absent(ax, "random masks beside\nother methods")
        return
    at = networks.sel(level=level)
    error = 100 * (1 - at["test_accuracy"])
    mean = error.mean("replicate")
    shown = {str(m): float(mean.sel({"method": m})) for m in mean["method"].values if mean.sel({"method": m}).notnull()}
    best: dict[str, float] = {}
    for method, value in shown.items():
        best[_base(method)] = min(value, best.get(_base(method), np.inf))
    rows = sorted(best, key=lambda base: best[base])
    looks = _bases(networks)
    for method, value in shown.items():
        ax.errorbar(
            value,
            rows.index(_base(method)),
            xerr=float(_standard_error(error.sel({"method": method}))),
            label=method,
            linestyle="none",
            **looks[_base(method)] | ({"markerfacecolor": "white"} if SHUFFLED in method else {}),
        )
    high = ax.get_xlim()[1]
    ax.axvspan(shown[NULL], high, facecolor="none", edgecolor="0.85", hatch="////", linewidth=0, zorder=0)
    ax.axvline(shown[NULL], color="0.4", linewidth=0.8, linestyle="--", zorder=0)
    ax.set_xlim(None, high)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [_wrapped(row, 20) for row in rows], fontsize=6)
    kept = float(at["kept"].sel({"method": NULL}).mean())
    ax.set_xlabel(f"test error at {100 * kept:.1f} % kept (%)")


def _plot_conditions(parts: Parts, ax: Axes) -> None:
    """Draw how far the conditions of every choice of IMC are met, one row a choice; 1 is the threshold."""
    conditions = parts.get("imc")
    looks = {
        "stationary": ("C2", "^", "eps / step to the minimum"),
        "gap_ratio": ("C0", "o", "gap / asked, within eps"),
        "coverage": ("C1", "s", "radius / way travelled"),
    }
    places: dict[str, int] = {}
    for method in [] if conditions is None else conditions["method"].values.tolist():
        for name, (colour, marker, label) in looks.items():
            shown = _condition(parts, name, method)
            if len(shown):
                new = label not in ax.get_legend_handles_labels()[1]
                place = np.full(len(shown), places.setdefault(method, len(places)))
                ax.plot(shown, place, marker, color=colour, alpha=0.6, label=label if new else None)
    if not places:
        absent(ax, "conditions of IMC")
        return
    ax.set_xscale("log")
    low = min(0.5 * ax.get_xlim()[0], 0.5)
    ax.axvspan(low, 1.0, facecolor="none", edgecolor="0.85", hatch="////", linewidth=0, zorder=0)
    ax.axvline(1.0, color="0.4", linewidth=0.8, linestyle="--")
    ax.set_xlim(low, max(2.0, ax.get_xlim()[1]))
    ax.set_ylim(len(places) - 0.5, -0.5)
    ax.set_yticks(range(len(places)), [_wrapped(name, 14) for name in places], fontsize=6)
    ax.set_xlabel("condition; it fails below 1")
    ax.legend(fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.2)


def _condition(parts: Parts, name: str, method: str) -> np.ndarray:
    """Return a condition of a choice at its smallest radius in every replicate, where it is known and positive."""
    conditions = parts["imc"]
    if name == "stationary":
        eps, step = (pick(conditions, word, method=method) for word in ("rho", "newton_displacement"))
        values = None if eps is None or step is None else eps / step
    else:
        values = pick(conditions, name, method=method)
    if values is None:
        return np.array([])
    shown = (values.isel(shell=0) if "shell" in values.dims else values).values.ravel()
    return shown[np.isfinite(shown) & (shown > 0)]
