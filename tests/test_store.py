"""Results on disk: bit-exact, whole or absent, named by what was asked."""

import errno
import hashlib
import json
import math
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import landscape
from landscape import store
from landscape.errors import InputError


def result(**attrs: Any) -> xr.Dataset:
    """Return a small spectrum with numbers that rounding, masking or text would change."""
    values = np.array([1 / 3, -0.0, 5e-324, 1.7976931348623157e308, math.inf])
    return xr.Dataset(
        {
            "eigenvalue": ("eigen", values),
            "converged": ("eigen", [True, False, True, True, False]),
            "ritz_value": (("probe", "node"), np.array([[0.1, np.nan], [2.0, 3.0]])),
            "layer_trace": ("layer", [1.0, 2.0]),
            "loss": 0.1 + 0.2,
            "num_params": 2**40 + 1,
        },
        coords={"eigen": [1, 2, 3, -2, -1], "layer": ["fc.weight", "schrödinger"], "method": "imp", "level": 3},
        attrs={"fingerprint": "abc", "options": "{}", "seconds": 1.5, "world_size": 1, **attrs},
    )


def bits(dataset: xr.Dataset) -> dict[str, tuple[Any, ...]]:
    return {
        str(name): (array.dims, array.dtype.name, array.values.tobytes())
        for name, array in dataset.variables.items()
        if array.dtype.kind in "fib"
    }


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    saved = result()
    path = store.write(saved, tmp_path / "a.nc", "spectrum")
    opened = store.open_result(path)
    assert bits(opened) == bits(saved)
    xr.testing.assert_equal(opened, saved)
    assert opened.layer.values.tolist() == ["fc.weight", "schrödinger"]
    assert opened.converged.dtype == bool
    assert os.listdir(tmp_path) == ["a.nc"]


@given(st.lists(st.floats(allow_nan=True, width=64), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_round_trip_of_any_numbers(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    saved = xr.Dataset({"ritz_value": (("probe", "node"), np.array([numbers]))}, attrs=result().attrs)
    opened = store.open_result(store.write(saved, tmp_path_factory.mktemp("any") / "a.nc", "spectrum"))
    assert bits(opened) == bits(saved)


def test_tables_of_words_are_small_and_unchanged(tmp_path: Path) -> None:
    words = np.full((40, 50), "", dtype="<U12")
    words[3, 4], words[5, 6] = "schrödinger", "imp"
    saved = xr.Dataset({"matched_method": (("level", "replicate"), words)}, attrs=result().attrs)
    path = store.write(saved, tmp_path / "words.nc", "study", compress=True)
    assert path.stat().st_size < store.write(saved, tmp_path / "plain.nc", "study").stat().st_size - 16 * words.size
    assert store.open_result(path)["matched_method"].values.tolist() == words.tolist()


def test_plain_xarray_opens_it_with_units_and_provenance(tmp_path: Path) -> None:
    store.write(result(batchnorm=None), tmp_path / "a.nc", "spectrum")
    with xr.open_dataset(tmp_path / "a.nc") as opened:
        assert opened.eigenvalue.attrs == {"units": "nat / parameter^2", "long_name": "eigenvalue"}
        assert opened.eigen.attrs["long_name"].startswith("label of the eigenvalue")
        assert opened.converged.dtype == bool
        assert opened.attrs["quantity"] == "spectrum"
        assert opened.attrs["landscape_version"] == landscape.__version__
        assert opened.attrs["seconds"] == 1.5
        assert "batchnorm" not in opened.attrs
        assert json.loads(opened.attrs["versions"])["numpy"] == np.__version__
        assert len(opened.attrs["git_commit"].removesuffix("-dirty")) in (40, len("unknown"))


def test_a_dataset_that_breaks_its_schema_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no variable 'eigen_value'"):
        store.write(result().rename(eigenvalue="eigen_value"), tmp_path / "a.nc", "spectrum")
    unnamed = result()
    del unnamed.attrs["fingerprint"]
    with pytest.raises(ValueError, match="must say its fingerprint"):
        store.write(unnamed, tmp_path / "a.nc", "spectrum")
    assert os.listdir(tmp_path) == []


def test_the_same_question_finds_its_answer_and_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    assert store.find_existing(path, "abc") is None
    store.write(result(), path, "spectrum")
    found = store.find_existing(path, "abc")
    assert found is not None
    assert bits(found) == bits(result())
    with pytest.raises(InputError, match=r"other options.*--force"):
        store.find_existing(path, "abd")
    assert store.find_existing(path, "abd", force=True) is None
    before = path.read_bytes()
    with pytest.raises(InputError, match="other options"):
        store.write(result(fingerprint="abd"), path, "spectrum")
    assert path.read_bytes() == before
    store.write(result(fingerprint="abd"), path, "spectrum", force=True)
    assert store.open_result(path).attrs["fingerprint"] == "abd"


def test_what_a_killed_process_left_is_swept_away_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with store.atomic_path(tmp_path / "a.nc") as own:
        own.write_text("whole")
        place = own.name.split(".")
        names = {number: ".".join([*place[:2], str(number), *place[3:]]) for number in (dead.pid, os.getppid())}
        for name in names.values():
            (tmp_path / name).write_text("half")
    assert sorted(os.listdir(tmp_path)) == sorted(["a.nc", names[os.getppid()]])


def test_a_file_of_someone_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "thesis.nc"
    path.write_text("three years of work")
    with pytest.raises(InputError, match="--force"):
        store.write(result(), path, "spectrum")
    assert path.read_text() == "three years of work"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, share: float) -> None:
    path = store.write(result(), tmp_path / "a.nc", "spectrum")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"a\.nc"):
        store.open_result(path)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no result at"):
        store.open_result(tmp_path / "a.nc")
    with pytest.raises(InputError, match="there is no result at"):
        store.open_result(tmp_path)
    (tmp_path / "noise.nc").write_bytes(os.urandom(4096))
    with pytest.raises(InputError, match="truncated or not a netCDF-4 file"):
        store.open_result(tmp_path / "noise.nc")
    xr.Dataset({"temperature": 1.0}).to_netcdf(tmp_path / "weather.nc", engine="h5netcdf")
    with pytest.raises(InputError, match="not a result of landscape"):
        store.open_result(tmp_path / "weather.nc")


class PlannedError(Exception):
    pass


@pytest.mark.parametrize("error", [PlannedError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), store.atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half of the ne")
        assert target.read_text() == "old"
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_makes_directories_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.png"
    with store.atomic_path(target) as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
        temporary.write_text("new")
    assert target.read_text() == "new"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_paths_that_cannot_be_written_are_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*Not a directory|cannot write .*File exists"):
        store.write(result(), tmp_path / "file" / "a.nc", "spectrum")
    (tmp_path / "directory.nc").mkdir()
    with pytest.raises(InputError):
        store.write(result(), tmp_path / "directory.nc", "spectrum", force=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match="not writable"):
        store.write(result(), tmp_path / "a.nc", "spectrum")
    assert sorted(os.listdir(tmp_path)) == ["directory.nc", "file"]


FULL_DISK = """
import resource, sys, torch
sys.path.insert(0, "tests")
from pathlib import Path
from landscape import store
from landscape.errors import InputError
from test_store import result

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # like a disk with 1000 bytes left
for name in ("a.nc", "a.pt"):
    try:
        if name == "a.nc":
            store.write(result(), Path(sys.argv[1]) / name, "spectrum")
        else:
            with store.atomic_path(Path(sys.argv[1]) / name) as temporary:
                torch.save(torch.zeros(10000), temporary)
    except InputError as error:
        print(error)
"""


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    lines = done.stdout.splitlines()
    assert [line.startswith("cannot write") for line in lines] == [True, True], done.stdout + done.stderr
    assert os.listdir(tmp_path) == []


def test_errors_of_other_kinds_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), store.atomic_path(tmp_path / "a"):
        raise RuntimeError("shapes do not fit")


def test_the_reason_of_the_system_is_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No space left on device"), store.atomic_path(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True)
class Options:
    depth: int = 80
    tolerance: float = 1e-4
    out: Path = Path("a.nc")


def test_fingerprint_is_stable_and_sensitive() -> None:
    asked = {"quantity": "spectrum", "options": Options(), "layers": ("a", "b"), "none": None, "exact": True}
    assert store.fingerprint(asked) == "73da68bc1f31a9a4c760"  # stored results are found by it: never change it
    assert store.fingerprint(dict(reversed(asked.items()))) == store.fingerprint(asked)
    for changed in (
        {"options": Options(depth=81)},
        {"options": Options(tolerance=1.0000001e-4)},
        {"layers": ("b", "a")},
        {"none": 0},
        {"exact": 1},
        {"more": None},
    ):
        assert store.fingerprint({**asked, **changed}) != store.fingerprint(asked), changed


def test_canonical_json() -> None:
    value = {
        "b": (1.0, 2, 0.1, -0.0),
        "a": {"path": Path("x"), "inf": math.inf, "nan": math.nan, "dtype": torch.float32, "none": None},
        "numpy": [np.float64(0.1), np.int64(3), np.bool_(True), np.arange(2)],
        "options": Options(),
    }
    text = store.as_json(value)
    assert text == (
        '{"a":{"dtype":"torch.float32","inf":"inf","nan":"nan","none":null,"path":"x"},"b":[1,2,0.1,0],'
        '"numpy":[0.1,3,true,[0,1]],"options":{"depth":80,"out":"a.nc","tolerance":0.0001}}'
    )
    assert store.as_json(json.loads(text)) == text


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert store.file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(InputError, match="No such file"):
        store.file_sha256(tmp_path / "b")


def test_commit_is_unknown_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "__file__", str(tmp_path / "landscape" / "store.py"))
    store.git_commit.cache_clear()
    try:
        assert store.git_commit() == "unknown"
    finally:
        store.git_commit.cache_clear()
