"""``python -m landscape.study adopt MANIFEST.csv``: other people's checkpoints as a run that can be measured.

The manifest has one row a file, with the columns ``path`` and ``level``, and where needed ``mask``, ``method`` (default
imp), ``replicate`` (0), ``point`` (``minimum``, ``rewind``, or ``epoch`` with the column ``epoch``). The rewind point
is one a replicate, that of imp at level 0, from which the others follow by their masks; methods with a start of their
own (``random_init``) may have theirs at any level. Projected points follow from minima and masks. Paths are relative to
the manifest. The files are linked and hashed, never rewritten; what was not saved stays absent, and what needs it is
not measured.

Recipes: a directory ``lottery_*`` of open_lth is taken in place of a manifest (its ``mask.pth`` and ``model_*.pth`` of
every replicate and level; the first model of level 0 is the rewind point, the last of a level its minimum). Files of
networks pruned with ``torch.nn.utils.prune`` need no mask: theirs lies inside.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape import checkpoints, masks, models, runs, store
from landscape.checkpoints import ProblemOptions
from landscape.errors import InputError
from landscape.runs import Cell, Run
from landscape.study.points import OWN_START

COLUMNS = ("path", "mask", "method", "level", "replicate", "point", "epoch")
_NAME = re.compile(r"^[A-Za-z0-9_]+$")
_MODEL = re.compile(r"^model_ep(\d+)_it(\d+)\.pth$")
_LEVEL = re.compile(r"^replicate_(\d+)/level_(\d+)/main$")


@dataclass(frozen=True)
class Row:
    """One file and its role."""

    path: Path
    cell: Cell
    point: str
    mask: Path | None = None
    epoch: int | None = None


def adopt(manifest: Path, root: Path, options: ProblemOptions) -> Run:
    """Link the files of a manifest, or of an open_lth directory, into a run.

    Parameters
    ----------
    options
        ``model``, ``model_arg``, ``data``, ``normalize`` and ``loss`` of the networks. Code that they name is not
        stored as trusted: later commands must name it again.

    Raises
    ------
    InputError
        If the manifest is wrong, a file is missing or is no checkpoint, a mask does not fit, or ``root`` holds another
        run.
    """
    rows = open_lth(manifest) if manifest.is_dir() else read_manifest(manifest)
    run = Run(root, {})
    links: dict[Path, Path] = {}
    files: dict[str, str] = {}
    for row in rows:
        link = _role(run, row)
        if link in links:
            raise InputError(f"{manifest}: two files are the {row.point} of {row.cell}")
        links[link] = row.path
        files[link.relative_to(root).as_posix()] = _checked(row)
        if row.mask is not None:
            beside = link.parent / f"mask{row.mask.suffix}"
            if links.setdefault(beside, row.mask) != row.mask:
                raise InputError(f"{manifest}: {row.cell} has two masks")
            files[beside.relative_to(root).as_posix()] = store.file_sha256(row.mask)
    if options.model is None or options.data is None:
        raise InputError("give the --model and the --data of the networks; their files do not say them")
    networks: dict[str, Any] = {
        "model": options.model,
        "model_args": models.parse_arguments(options.model_arg),
        "data": options.data,
    }
    networks |= {"normalize": options.normalize, "loss": options.loss or "cross_entropy"}
    run = runs.create(root, {"kind": "adopted", **networks, "files": files})
    for link, target in links.items():
        _link(link, target)
    return run


def read_manifest(manifest: Path) -> list[Row]:
    """Read the rows of a manifest."""
    try:
        with manifest.open(newline="") as file:
            reader = csv.DictReader(file)
            names, lines = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the manifest {manifest} ({error})") from error
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or not {"path", "level"} <= set(names):
        raise InputError(f"{manifest} needs the columns path and level, and knows {', '.join(COLUMNS)}; it has {names}")
    if not lines:
        raise InputError(f"{manifest} has no rows")
    return [_row(line, f"{manifest}, row {number}", manifest.parent) for number, line in enumerate(lines, start=2)]


def _row(line: dict[str, str | None], where: str, base: Path) -> Row:
    """Turn one line into a row."""
    text = {name: (value or "").strip() for name, value in line.items() if name}
    numbers: dict[str, int] = {}
    for name in ("level", "replicate", "epoch"):
        value = text.get(name) or ("0" if name == "replicate" else "")
        if name == "epoch" and not value:
            continue
        if not value.isdigit():
            raise InputError(f"{where}: {name} must be a whole number, not {value!r}")
        numbers[name] = int(value)
    method, point = text.get("method") or "imp", text.get("point") or "minimum"
    if not _NAME.match(method):
        raise InputError(f"{where}: the method {method!r} must consist of letters, digits and _")
    if point not in ("minimum", "rewind", "epoch") or (point == "epoch") != ("epoch" in numbers):
        raise InputError(f"{where}: the point must be minimum, rewind, or epoch with a number, not {point!r}")
    cell = Cell(numbers["replicate"], method, numbers["level"])
    if point == "rewind" and (cell.level, method) != (0, "imp") and method not in OWN_START:
        raise InputError(
            f"{where}: the rewind point of {method} is imp's at level 0 under its mask; only "
            f"{', '.join(OWN_START)} start elsewhere"
        )
    mask = base / text["mask"] if text.get("mask") else None
    return Row(base / text["path"], cell, point, mask, numbers.get("epoch"))


def open_lth(folder: Path) -> list[Row]:
    """Return the rows of a directory ``lottery_*`` of open_lth."""
    rows: list[Row] = []
    for place in sorted(folder.glob("replicate_*/level_*/main")):
        match = _LEVEL.match(place.relative_to(folder).as_posix())
        found = sorted((int(m[1]), int(m[2]), p) for p in place.iterdir() if (m := _MODEL.match(p.name)))
        if not match or not found:
            continue
        cell, mask = Cell(int(match[1]), "imp", int(match[2])), place / "mask.pth"
        rows.append(Row(found[-1][2], cell, "minimum", mask if mask.is_file() else None))
        if cell.level == 0 and len(found) > 1:
            rows.append(Row(found[0][2], cell, "rewind"))
    if not rows:
        raise InputError(f"{folder} is no lottery_* directory of open_lth (replicate_R/level_L/main/model_epE_itI.pth)")
    return rows


def _role(run: Run, row: Row) -> Path:
    if row.point == "rewind":
        return run.start(row.cell)
    return run.minimum(row.cell) if row.epoch is None else run.epoch(row.cell, row.epoch)


def _checked(row: Row) -> str:
    """Read a file and its mask once, and return the checksum."""
    checkpoint = checkpoints.read(row.path)
    mask: dict[str, Any] = dict(checkpoint.mask or {}) if row.mask is None else masks.read(row.mask)
    shapes = {name: tensor.shape for name, tensor in checkpoint.state_dict.items()}
    try:
        masks.validate(mask, shapes)
    except InputError as error:
        raise InputError(f"{row.mask or row.path}: {error}") from error
    return str(checkpoint.sha256)


def _link(link: Path, target: Path) -> None:
    """Make a symbolic link that is whole or absent; one that is there and says the same stays."""
    goal = target.resolve()
    if link.is_symlink() and link.resolve() == goal:
        return
    with store.atomic_path(link) as temporary:
        os.symlink(goal, temporary)
