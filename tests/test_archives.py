"""Official files: read if their checksum is right, never executed, and what is said where they are missing."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import assert_close, data_directory

from landscape import archives
from landscape.archives import Archive
from landscape.datasets import load
from landscape.errors import InputError

RANDOM = np.random.default_rng(0)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(archives.pooch, "retrieve", refuse)


def cifar_pickles() -> dict[str, bytes]:
    """A CIFAR-100 of 20 + 10 images as Python 2 wrote it: byte-string keys, an array of rows, lists of labels."""
    files = {}
    for name, number in (("train", 20), ("test", 10)):
        batch = {
            b"data": RANDOM.integers(0, 256, (number, 3072), dtype=np.uint8),
            b"fine_labels": [10 * i % 100 for i in range(number)],
            b"coarse_labels": [i % 20 for i in range(number)],
        }
        files[name] = as_python2_wrote(batch)
    return files


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the strings of Python 2, and arrays under their old module name."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    def save_global(self, obj: object, name: str | None = None) -> None:
        if getattr(obj, "__name__", "") == "_reconstruct":
            self.write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n")
        else:
            super().save_global(obj, name)

    dispatch[bytes] = save_bytes
    dispatch[types.FunctionType] = save_global
    dispatch[types.BuiltinFunctionType] = save_global


def as_python2_wrote(value: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def cifar_bundle(root: Path, files: dict[str, bytes]) -> Archive:
    """Write the tar file in the official layout and return its description with its own checksums."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {**files, "meta": b"ignored"}.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (root / "cifar-100-python.tar.gz").write_bytes(buffer.getvalue())
    sums = {name: md5(content) for name, content in files.items()}
    bundle = ("cifar-100-python.tar.gz", md5(buffer.getvalue()))
    return Archive("cifar-100-python", "https://example.invalid/", sums, bundle)


def test_a_cifar100_archive_in_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar_pickles()
    monkeypatch.setitem(archives.ARCHIVES, "cifar100", cifar_bundle(tmp_path, files))
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path))
    train, test = load("cifar100", normalize="none"), load("cifar100", "test", normalize="unit")
    batch = pickle.loads(files["train"], encoding="bytes")
    assert_close(train.x, batch[b"data"].reshape(20, 3, 32, 32).astype(np.float32))
    assert train.y.tolist() == batch[b"fine_labels"]
    assert (test.x.shape, test.num_classes) == ((10, 3, 32, 32), 91)
    assert 0 <= float(test.x.min()) < float(test.x.max()) <= 1
    (tmp_path / "cifar-100-python.tar.gz").unlink()  # unpacked by now
    assert load("cifar100", normalize="none").sha256 == train.sha256


def test_an_altered_cifar_file_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = cifar_bundle(tmp_path, cifar_pickles())
    archives.images(archive, "train", tmp_path)
    monkeypatch.setattr(archives, "parse_cifar", lambda content: pytest.fail("it was opened"))
    with (tmp_path / "cifar-100-python" / "train").open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match="not the official file"):
        archives.images(archive, "train", tmp_path)
    (tmp_path / "cifar-100-python" / "train").unlink()
    with (tmp_path / "cifar-100-python.tar.gz").open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match="not the official file"):
        archives.images(archive, "train", tmp_path)


def test_a_cifar_file_runs_no_code_even_if_its_checksum_is_right(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "attacked"),)

    archive = cifar_bundle(tmp_path, {"train": as_python2_wrote({b"data": Attack()}), "test": b""})
    with pytest.raises(InputError, match="mkdir"):
        archives.images(archive, "train", tmp_path)
    assert not (tmp_path / "attacked").exists()
    for content in (b"", b"no pickle", pickle.dumps({b"data": 3}), pickle.dumps([1])):
        with pytest.raises(InputError, match="not an official CIFAR file"):
            archives.parse_cifar(content)


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return gzip.compress(header + values.tobytes())


def test_idx_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [RANDOM.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (20, 10)]
    labels = [(np.arange(n) % 10).astype(np.uint8) for n in (20, 10)]
    contents = [idx(v) for pair in zip(images, labels, strict=True) for v in pair]
    (tmp_path / "mnist").mkdir()
    sums = {}
    for name, content in zip(archives.ARCHIVES["mnist"].files, contents, strict=True):
        (tmp_path / "mnist" / name).write_bytes(content)
        sums[name] = md5(content)
    monkeypatch.setitem(archives.ARCHIVES, "mnist", Archive("mnist", "http://example.invalid/", sums))
    for split, pixels, digits in zip(("train", "test"), images, labels, strict=True):
        data = load("mnist", split, normalize="none", root=tmp_path)
        assert_close(data.x, pixels[:, None].astype(np.float32))
        assert_close(data.y, digits.astype(np.int64))
    standard = load("mnist", root=tmp_path)
    assert standard.normalize == "standard"
    assert_close(standard.x, ((images[0][:, None] / 255 - 0.1307) / 0.3081).astype(np.float32), rtol=1e-5, atol=1e-6)
    binary = load("mnist_binary", root=tmp_path)
    assert (binary.y.dtype, binary.num_classes, binary.num_outputs) == (torch.float32, None, 1)
    assert_close(binary.y, (labels[0] >= 5).astype(np.float32)[:, None])
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"missing and could not be downloaded .* LANDSCAPE_DATA"):
        load("mnist", root=tmp_path)


def test_damaged_idx_content() -> None:
    good = gzip.decompress(idx(np.zeros((2, 3), np.uint8)))
    for raw in (good[:-1], b"\x00\x00\x09" + good[3:], b""):
        with pytest.raises(InputError, match="idx file"):
            archives.parse_idx(gzip.compress(raw))


def test_the_real_files() -> None:
    root = data_directory("mnist", "fashion_mnist", "cifar-10-batches-py")
    for name, shape, first in (
        ("mnist", (10000, 1, 28, 28), [7, 2, 1, 0]),
        ("fashion_mnist", (10000, 1, 28, 28), [9, 2, 1, 1]),
        ("cifar10", (10000, 3, 32, 32), [3, 8, 8, 0]),
    ):
        data = load(name, "test", root=root)
        assert (tuple(data.x.shape), data.num_classes, data.y[:4].tolist()) == (shape, 10, first)
        assert abs(float(data.x.mean())) < 0.02
        assert abs(float(data.x.std()) - 1) < 0.02


def test_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path))
    assert archives.data_root() == tmp_path
    monkeypatch.delenv("LANDSCAPE_DATA")
    monkeypatch.setattr(archives, "PACKAGE", tmp_path / "landscape")
    assert archives.data_root() == Path("data") / "cache"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("")
    assert archives.data_root() == tmp_path / "data" / "cache"
