import json
from pathlib import Path

import pytest

from landscape import runs
from landscape.errors import InputError
from landscape.runs import Cell

DESCRIPTION = {"model": "mlp", "lr": 0.1, "seed": 0, "milestones": (3, 4)}


def test_layout(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "run", DESCRIPTION)
    cell = Cell(1, "fine_tune", 7)
    assert run.minimum(cell).relative_to(run.root).as_posix() == "replicate_1/fine_tune/level_07/minimum.pt"
    assert run.start(cell).name == "start.pt"
    assert run.epoch(cell, 3).name == "epoch_003.pt"
    for file in (run.epoch(cell, 3), run.epoch(cell, 12), run.minimum(cell), run.start(Cell(0, "imp", 0))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert run.epochs(cell) == [3, 12]
    assert run.epochs(Cell(0, "imp", 5)) == []
    assert run.cells() == [cell]


def test_the_same_description_opens_the_run_again(tmp_path: Path) -> None:
    first = runs.create(tmp_path, DESCRIPTION)
    again = runs.create(tmp_path, {**DESCRIPTION, "milestones": [3, 4]})
    assert first.fingerprint == again.fingerprint == runs.read(tmp_path).fingerprint


def test_a_changed_description_is_named(tmp_path: Path) -> None:
    runs.create(tmp_path, DESCRIPTION)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(InputError, match=r"another description \(lr is 0\.1 there and 0\.2 here\)"):
        runs.create(tmp_path, {**DESCRIPTION, "lr": 0.2})
    assert (tmp_path / "run.json").read_bytes() == before
    nested = runs.create(tmp_path / "nested", {"training": {"epochs": 2, "lr": 0.1, "data": "d" * 200}}).root
    with pytest.raises(InputError, match=r"\(training.epochs is 2 there and 3 here\)"):
        runs.create(nested, {"training": {"epochs": 3, "lr": 0.1, "data": "d" * 200}})


def test_a_damaged_and_an_edited_description_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run directory"):
        runs.read(tmp_path)
    runs.create(tmp_path, DESCRIPTION)
    file = tmp_path / "run.json"
    content = json.loads(file.read_text())
    content["description"]["lr"] = 0.5
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="was edited"):
        runs.read(tmp_path)
    file.write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(InputError, match="format"):
        runs.read(tmp_path)
    file.write_text(file.read_text()[:40])
    with pytest.raises(InputError, match="damaged"):
        runs.read(tmp_path)
