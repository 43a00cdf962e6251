"""The layout of a run: a plain tree of checkpoints and one JSON description, whose fingerprint names it.

    RUN/run.json
    RUN/replicate_R/METHOD/level_LL/{start,epoch_EEE,minimum}.pt
    RUN/results/QUANTITY/FINGERPRINT.nc

Nothing here reads a tensor, so that results are planned and opened without torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape import store
from landscape.errors import InputError

FORMAT = "landscape-run-1"
METHODS = (
    "imp",
    "lr_rewind",
    "fine_tune",
    "one_shot",
    "random_init",
    "random_mask_layerwise",
    "random_mask_global",
    "retrained",
)
# Trainings from the rewind point moved by this many lengths of the next pruning step, in a random direction.
PERTURBED = {"perturbed_half": 0.5, "perturbed_1": 1.0, "perturbed_2": 2.0, "perturbed_4": 4.0}
# Methods whose level L continues from the minimum of imp's level L - 1.
CONTINUED = ("imp", "lr_rewind", "fine_tune", "retrained")
POINTS = ("minimum", "projected", "restricted", "rewind")

_CELL = re.compile(r"^replicate_(\d+)/([^/]+)/level_(\d+)$")
_EPOCH = re.compile(r"^epoch_(\d+)\.pt$")


@dataclass(frozen=True, order=True)
class Cell:
    """One training of a run: a method at a level of a replicate."""

    replicate: int
    method: str
    level: int

    def __str__(self) -> str:
        """Return the folder of the cell below the run."""
        return f"replicate_{self.replicate}/{self.method}/level_{self.level:02d}"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Parameters
    ----------
    root
        The directory.
    description
        What decides every tensor in it: model, data, training, pruning. How far it goes (levels, replicates, methods)
        is no part of it, so that a run can be extended.
    """

    root: Path
    description: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The name of the description."""
        return store.fingerprint(self.description)

    @property
    def adopted(self) -> bool:
        """Whether its checkpoints were trained by another program."""
        return self.description.get("kind") == "adopted"

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.root / str(cell)

    def start(self, cell: Cell) -> Path:
        """Return the checkpoint from which the cell was trained."""
        return self.folder(cell) / "start.pt"

    def minimum(self, cell: Cell) -> Path:
        """Return the checkpoint at the end of training; the cell is finished when it exists."""
        return self.folder(cell) / "minimum.pt"

    def epoch(self, cell: Cell, epoch: int) -> Path:
        """Return the checkpoint after an epoch."""
        return self.folder(cell) / f"epoch_{epoch:03d}.pt"

    def epochs(self, cell: Cell) -> list[int]:
        """Return the epochs whose checkpoints exist."""
        if not self.folder(cell).is_dir():
            return []
        found = (_EPOCH.match(path.name) for path in self.folder(cell).iterdir())
        return sorted(int(match[1]) for match in found if match)

    def rewind(self, replicate: int) -> Path:
        """Return the checkpoint to whose weights every level is rewound."""
        dense = Cell(replicate, "imp", 0)
        step = int(self.description.get("pruning", {}).get("rewind_step", 0))
        return self.folder(dense) / f"step_{step:06d}.pt" if step else self.start(dense)

    def trajectory(self, cell: Cell) -> list[Path]:
        """Return the checkpoints within a training: chosen steps, then epochs, each in order."""
        folder = self.folder(cell)
        steps = sorted(path for path in folder.glob("step_*.pt"))
        return [*steps, *(self.epoch(cell, epoch) for epoch in self.epochs(cell))]

    def cells(self) -> list[Cell]:
        """Return the finished cells, sorted by replicate, method and level."""
        return sorted(self._find("replicate_*/*/level_*/minimum.pt"))

    def _find(self, pattern: str) -> Iterator[Cell]:
        for path in self.root.glob(pattern):
            if match := _CELL.match(path.parent.relative_to(self.root).as_posix()):
                yield Cell(int(match[1]), match[2], int(match[3]))


def create(root: Path, description: Mapping[str, Any]) -> Run:
    """Make a run directory, or open the one that is there if it has the same description.

    Raises
    ------
    InputError
        If the run there was started with another description; the message names what differs.
    """
    wanted = json.loads(store.as_json(description))
    file = root / "run.json"
    if not file.exists():
        text = json.dumps({"format": FORMAT, "fingerprint": store.fingerprint(wanted), "description": wanted}, indent=1)
        with store.atomic_path(file) as temporary:
            temporary.write_text(text + "\n")
    run = read(root)  # another process may have been faster, with a description of its own
    there, here = _leaves(run.description), _leaves(wanted)
    changed = [
        f"{key} is {_short(there.get(key))} there and {_short(here.get(key))} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
    if changed:
        raise InputError(f"{root} was started with another description ({'; '.join(changed)}); choose another --out")
    return run


def read(root: Path) -> Run:
    """Open a run directory.

    Raises
    ------
    InputError
        If there is no run, or its description is damaged or was edited.
    """
    file = root / "run.json"
    if not file.is_file():
        raise InputError(f"{root} is no run directory (there is no run.json in it)")
    try:
        content = json.loads(file.read_text())
        description, fingerprint = content["description"], content["fingerprint"]
        form = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged and does not describe a run ({error!r})") from error
    if form != FORMAT:
        raise InputError(f"{file} has the format {form!r}; this version reads {FORMAT}")
    if store.fingerprint(description) != fingerprint:
        raise InputError(f"{file} was edited: its description no longer has the fingerprint {fingerprint}")
    return Run(root, description)


def _leaves(description: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return the entries of nested tables by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in description.items():
        found |= _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
