"""What is committed under ``data/reference``: small, and each file says how it was made."""

import json
from pathlib import Path

import pytest
from helpers import ROOT

from landscape import store

FILES = sorted((ROOT / "data" / "reference").rglob("*.nc"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference_files_are_small_and_say_how_they_were_made(path: Path) -> None:
    assert path.stat().st_size <= 2**20
    attrs = store.attributes(path)
    assert attrs.keys() >= {"command", "git_commit", "fingerprint", "landscape_version", "options"}
    json.loads(attrs["options"])
    assert "/tmp/" not in attrs["command"] + attrs["options"]
    assert len(attrs["git_commit"].removesuffix("-dirty")) == 40
