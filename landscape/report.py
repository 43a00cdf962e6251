"""A study as one web page that needs nothing beside it: figures, verdicts, costs, provenance.

The page is a function of what is stored in the runs, so it can be made again at any time, without torch. Figures are
embedded as PNG; there are no scripts, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landscape import figures, preconditions, results, runs, store
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED
from landscape.errors import InputError

SIGNS = {HOLDS: "&#10003;", FAILS: "&#10007;", NOT_RESOLVED: "?"}
CSS = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; } figcaption { font-size: .9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.holds { background: #d8ecf7; } .fails { background: #fbe3d3; } .open { background: #eee; }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; } .missing { color: #666; }
"""


@dataclass(frozen=True)
class Page:
    """What a report says beside what is stored in the runs.

    Parameters
    ----------
    notes
        What is missing or went wrong, one sentence each.
    source
        The study file, as text.
    """

    title: str
    description: str = ""
    notes: tuple[str, ...] = ()
    source: str = ""


def build(roots: Mapping[str, Path], page: Page, out: Path) -> list[Path]:
    """Judge the theories, draw the figures and write the page; everything is derived and replaced.

    Parameters
    ----------
    roots
        Arm -> its run; the name is empty where there is one.
    out
        Directory of ``report.html`` and ``figures/``.

    Returns
    -------
    The paths written, the page last.
    """
    opened = {name: runs.read(root) for name, root in roots.items()}
    drawn, written = _figures({name: results.by_quantity(root) for name, root in roots.items()}, out / "figures")
    for name, root in roots.items():
        more, paths = _details(name, root, out / "figures")
        drawn, written = [*drawn, *more], [*written, *paths]
    parts = [f"<p>{html.escape(page.description)}</p>" if page.description else ""]
    parts += [_list("Not complete", page.notes), "<h2>What was trained</h2>"]
    parts += [_trained(name, run) for name, run in opened.items()]
    parts += ["<h2>Figures</h2>", *drawn, "<h2>Verdicts</h2>"]
    parts += ["<p>The rule: an effect passes its threshold by two standard errors, or it is not resolved.</p>"]
    for name, root in roots.items():
        tables, paths = _verdicts(name, root)
        parts, written = [*parts, *tables], [*written, *paths]
    parts += ["<h2>What it cost</h2>", *(_cost(name, run) for name, run in opened.items())]
    parts += ["<h2>Where it comes from</h2>", *(_provenance(name, run) for name, run in opened.items())]
    parts += [f"<h3>Study file</h3><pre>{html.escape(page.source)}</pre>" if page.source else ""]
    target = out / "report.html"
    with store.atomic_path(target) as temporary:
        temporary.write_text(_document(page.title, "\n".join(part for part in parts if part)), encoding="utf-8")
    return [*written, target]


def _document(title: str, body: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _list(heading: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{heading}</h2><ul>{items}</ul>" if items else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    """Return a table as HTML; numbers are set right, text is escaped, markup is text that begins with ``<``."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = ["".join(_cell(value) for value in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value if value.startswith("<td") else f"<td>{html.escape(value)}</td>"
    return f'<td class="number">{value:.3g}</td>' if np.isfinite(value) else '<td class="number"></td>'


# ---- figures -------------------------------------------------------------------------------------------------------


def _figures(arms: figures.Arms, folder: Path) -> tuple[list[str], list[Path]]:
    """Draw every figure of a study that its results allow; the others say what they need."""
    parts: list[str] = []
    written: list[Path] = []
    for name, (draw, caption) in figures.PAPER_FIGURES.items():
        try:
            figure = draw(arms)
        except figures.MissingResultsError as error:
            parts.append(f'<p class="missing">{html.escape(str(error))}</p>')
            continue
        part, paths = _figure(figure, caption, folder / name)
        parts, written = [*parts, part], [*written, *paths]
    return parts, written


def _details(name: str, root: Path, folder: Path) -> tuple[list[str], list[Path]]:
    """Draw the other figures of one arm, and list what those need that are not drawn."""
    if not results.quantities(root):
        return [], []
    drawn, missing = figures.study_figures(results.open_study(root))
    parts = [_heading(name, "more figures")]
    written: list[Path] = []
    for key, figure in drawn.items():
        part, paths = _figure(figure, figures.CAPTIONS[key], folder / (f"{name}_{key}" if name else key))
        parts, written = [*parts, part], [*written, *paths]
    lines = "; ".join(f"{key} ({why})" for key, why in missing.items())
    parts += [f'<p class="missing">{html.escape(f"Not drawn: {lines}")}</p>'] if missing else []
    return parts, written


def _figure(figure: Figure, caption: str, path: Path) -> tuple[str, list[Path]]:
    """Save a figure as PDF and PNG, and return it as a part of the page in which the bytes of the PNG stand."""
    written = [figures.save(figure, path.with_name(f"{path.name}{suffix}")) for suffix in (".pdf", ".png")]
    content = base64.b64encode(written[-1].read_bytes()).decode()
    image = f'<img alt="{html.escape(caption, quote=True)}" src="data:image/png;base64,{content}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>", written


# ---- what was trained ----------------------------------------------------------------------------------------------


def _heading(name: str, text: str) -> str:
    return f"<h3>{html.escape(f'{name}: {text}' if name else text)}</h3>"


def _trained(name: str, run: runs.Run) -> str:
    """Return the test accuracy of every method over the levels."""
    known: dict[str, dict[int, list[float]]] = {}
    for cell in run.cells():
        file = run.folder(cell) / "curves.nc"
        if file.exists():
            curves = store.open_result(file)
            which = "test_accuracy" if "test_accuracy" in curves else "train_accuracy"
            if which in curves:
                known.setdefault(cell.method, {}).setdefault(cell.level, []).append(float(curves[which][-1]))
    levels = sorted({level for row in known.values() for level in row})
    what = run.description.get("training", run.description)
    text = (
        f"<p>{html.escape(str(what.get('model', '')))} on {html.escape(str(what.get('data', '')))}; test accuracy in %,"
    )
    text += " mean over the replicates (standard deviation), by method and level.</p>"
    body = table(
        ["method", *map(str, levels)], ([m, *(_accuracy(row.get(v)) for v in levels)] for m, row in known.items())
    )
    return _heading(name, "accuracy") + text + body


def _accuracy(values: Sequence[float] | None) -> str:
    if not values:
        return '<td class="number"></td>'
    spread = f" ({100 * np.std(values, ddof=1):.1f})" if len(values) > 1 else ""
    return f'<td class="number">{100 * np.mean(values):.1f}{spread}</td>'


# ---- verdicts ------------------------------------------------------------------------------------------------------


def _verdicts(name: str, root: Path) -> tuple[list[str], list[Path]]:
    """Judge the theories to which the results say something, store the tables, and return them as HTML."""
    parts: list[str] = []
    written: list[Path] = []
    for theory in preconditions.THEORIES:
        try:
            judged = preconditions.evaluate_preconditions(root, theory)
        except InputError as error:
            parts.append(f'<p class="missing">{html.escape(f"{theory}: not judged, since {error}")}</p>')
            continue
        path = preconditions.path_of(root, theory)
        written.append(store.write(judged, path, "preconditions", force=True))
        parts.append(_heading(name, theory) + _verdict_table(judged))
    return parts, written


def _verdict_table(judged: xr.Dataset) -> str:
    rows = list(preconditions.rows(judged))
    counts = ", ".join(f"{sum(r['verdict'] == word for r in rows)} {word}" for word in SIGNS)
    numbers = ("effect", "noise", "margin")
    statements = _statements(judged)
    body = table(
        ["claim", "where", *numbers, "verdict", "reason"],
        (
            [_claim(r["claim"], statements), r["where"], *(r[n] for n in numbers), _word(r["verdict"]), r["reason"]]
            for r in rows
        ),
    )
    return f"<p>{counts}</p>{body}"


def _statements(judged: xr.Dataset) -> dict[str, str]:
    if "statement" not in judged:
        return {}
    texts = (f"{what} ({who})" for what, who in zip(judged["statement"].values, judged["source"].values, strict=True))
    return dict(zip(judged["claim"].values.tolist(), texts, strict=True))


def _claim(claim: str, statements: Mapping[str, str]) -> str:
    says = f"<br>{html.escape(statements[claim])}" if claim in statements else ""
    return f"<td><code>{html.escape(claim)}</code>{says}</td>"


def _word(verdict: str) -> str:
    kind = "open" if verdict == NOT_RESOLVED else verdict
    return f'<td class="{kind}">{SIGNS[verdict]} {verdict}</td>'


# ---- cost and provenance -------------------------------------------------------------------------------------------


def _cost(name: str, run: runs.Run) -> str:
    """Return hours and products by quantity."""
    files = [run.folder(cell) / "curves.nc" for cell in run.cells()]
    trained = [float(store.attributes(file).get("seconds", np.nan)) for file in files if file.exists()]
    rows: list[list[str | float]] = [["training", float(len(trained)), float(np.nansum(trained)) / 3600, np.nan]]
    for quantity in results.quantities(run.root):
        index = results.index(run.root, quantity)
        products = float(index["num_products"].sum()) if "num_products" in index else np.nan
        rows.append([quantity, float(index.sizes["result"]), float(index["seconds"].sum()) / 3600, products])
    return _heading(name, "cost") + table(["what", "number", "hours", "curvature products"], rows)


def _provenance(name: str, run: runs.Run) -> str:
    """Return who made it: code, options, machine, of the run and of one result a quantity."""
    rows: list[list[str | float]] = [["run", run.fingerprint], ["report made by", store.as_json(store.provenance())]]
    for quantity in results.quantities(run.root):
        file = min(results.folder(run.root, quantity).glob("[!.i]*.nc"))
        attrs = store.attributes(file)
        said = ("landscape_version", "git_commit", "versions", "dtype", "device", "threads", "data_sha256")
        rows.append([quantity, ", ".join(f"{key} {attrs[key]}" for key in said if key in attrs)])
    described = html.escape(json.dumps(run.description, indent=1, default=str))
    return f"{_heading(name, 'provenance')}{table(['what', 'made by'], rows)}<pre>{described}</pre>"
