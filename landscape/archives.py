"""The official files of the named data sets: where they lie, where they come from, and how they are read.

Every file is compared with its published MD5 before it is read. The CIFAR files are pickles; even a file that passed is
opened by an unpickler that knows arrays and nothing else, so that no code can run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pooch

from landscape.errors import InputError

PACKAGE = Path(__file__).resolve().parent
CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """The files of one data set.

    Parameters
    ----------
    folder
        Where they lie under the data directory.
    url
        Where they come from: the directory of the files, or of the bundle.
    files
        Name -> MD5 of every file that is read.
    bundle
        Name and MD5 of the tar file that holds ``folder``; None where the files are offered one by one.
    """

    folder: str
    url: str
    files: Mapping[str, str]
    bundle: tuple[str, str] | None = field(default=None)


_IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _idx(folder: str, url: str, *md5: str) -> Archive:
    return Archive(folder, url, dict(zip(_IDX, md5, strict=True)))


ARCHIVES: dict[str, Archive] = {
    "mnist": _idx(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion_mnist": _idx(
        "fashion_mnist",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "cifar10": Archive(
        "cifar-10-batches-py",
        "https://www.cs.toronto.edu/~kriz/",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    ),
    "cifar100": Archive(
        "cifar-100-python",
        "https://www.cs.toronto.edu/~kriz/",
        {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ),
}


def data_root() -> Path:
    """Return ``$LANDSCAPE_DATA``, else ``data/cache`` of the checkout, else ``data/cache`` of the current directory."""
    if os.environ.get("LANDSCAPE_DATA"):
        return Path(os.environ["LANDSCAPE_DATA"])
    if (PACKAGE.parent / "data" / "README.md").is_file():
        return PACKAGE.parent / "data" / "cache"
    return Path("data") / "cache"


def read(archive: Archive, name: str, root: Path) -> bytes:
    """Return the bytes of one official file, whose MD5 matched; it is unpacked or downloaded where it is missing.

    Raises
    ------
    InputError
        If the file cannot be had, or is not the official one.
    """
    path = root / archive.folder / name
    if not path.is_file():
        if archive.bundle is None:
            _download(archive, name, archive.files[name], root / archive.folder)
        else:
            _unpack(archive, root)
    return _checked(path, archive.files[name])


def _checked(path: Path, md5: str) -> bytes:
    """Return the bytes of a file after comparing their MD5; what was compared is what is used."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise InputError(f"{path} is not the official file (MD5 {found}, expected {md5}); delete it to fetch it again")
    return content


def _download(archive: Archive, name: str, md5: str, folder: Path) -> None:
    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(archive.url + name, known_hash=f"md5:{md5}", fname=name, path=folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / name} is missing and could not be downloaded from {archive.url} ({type(error).__name__}); "
            "put the file there, or set LANDSCAPE_DATA to the directory that holds the data sets"
        ) from error


def _unpack(archive: Archive, root: Path) -> None:
    """Unpack the wanted files of the bundle, by name, each checked before it is written."""
    assert archive.bundle is not None
    name, md5 = archive.bundle
    if not (root / name).is_file():
        _download(archive, name, md5, root)
    content = _checked(root / name, md5)
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for wanted, expected in archive.files.items():
                member = tar.extractfile(f"{archive.folder}/{wanted}")
                part = b"" if member is None else member.read()
                if hashlib.md5(part, usedforsecurity=False).hexdigest() != expected:
                    raise InputError(f"{wanted} in {root / name} is not the official file")
                _write(root / archive.folder / wanted, part)
    except (tarfile.TarError, KeyError, EOFError, zlib.error) as error:
        raise InputError(f"{root / name} does not hold the official files ({error})") from error


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def parse_idx(content: bytes) -> np.ndarray:
    """Return the unsigned bytes of a gzipped idx file in the shape that its header gives."""
    with gzip.open(io.BytesIO(content)) as stream:
        magic = stream.read(4)
        if len(magic) < 4 or magic[:3] != b"\x00\x00\x08":
            raise InputError("this is not an idx file of unsigned bytes")
        shape = tuple(np.frombuffer(stream.read(4 * magic[3]), ">i4").tolist())
        values, filled = np.empty(max(math.prod(shape), 0), np.uint8), 0
        while part := stream.read(CHUNK):  # piece by piece, so that the file is never in memory twice
            if filled + len(part) <= values.size:
                values[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
    if len(shape) != magic[3] or filled != math.prod(shape):
        raise InputError(f"an idx file announces the shape {shape} but holds {filled} bytes")
    return values.reshape(shape)


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # the name that NumPy 1 wrote
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """An unpickler of dicts, lists, numbers, strings and NumPy arrays; every other class is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class of that name if it is harmless."""
        if (module, name) not in _HARMLESS:
            raise InputError(f"a CIFAR file names {module}.{name}, which no official file does; it was not opened")
        return _HARMLESS[module, name]


def parse_cifar(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images ``(N, 3, 32, 32)`` and (fine) labels ``(N,)`` of a CIFAR pickle, both unsigned bytes."""
    try:
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        labels = batch[b"fine_labels"] if b"fine_labels" in batch else batch[b"labels"]
        return np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32), np.asarray(labels, np.uint8)
    except (pickle.UnpicklingError, KeyError, EOFError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("this is not an official CIFAR file") from error


def images(archive: Archive, split: str, root: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images ``(N, C, H, W)`` and labels ``(N,)`` of a split in stored order, as unsigned bytes."""
    if archive.bundle is None:
        start = 0 if split == "train" else 2
        pixels, labels = (parse_idx(read(archive, file, root)) for file in _IDX[start : start + 2])
        return pixels[:, None], labels
    wanted = [file for file in archive.files if ("test" in file) == (split == "test")]
    parts = [parse_cifar(read(archive, file, root)) for file in wanted]
    labels = np.concatenate([labels for _, labels in parts])
    pixels, filled = np.empty((len(labels), *parts[0][0].shape[1:]), np.uint8), 0
    while parts:  # what is copied is let go, so that the images are never in memory twice
        part = parts.pop(0)[0]
        pixels[filled : filled + len(part)] = part
        filled += len(part)
    return pixels, labels
