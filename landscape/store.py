"""Results on disk: whole or absent, named by what produced them, readable by plain ``xarray.open_dataset``.

A result is one netCDF-4 file. It is written under a temporary name in the same directory and renamed, so that a reader
never sees half of it. Its attribute ``fingerprint`` says what was asked; a result that was asked for before is not
computed again, and one that differs is not overwritten unless told so.
"""

import contextlib
import dataclasses
import functools
import glob
import hashlib
import json
import math
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import h5netcdf
import h5py
import numpy as np
import xarray as xr

import landscape
from landscape import schemas
from landscape.errors import InputError

ENGINE: Final = "h5netcdf"
SMALL = 4096  # bytes, below which a variable is not compressed
TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "iostream error")  # it raises a RuntimeError
LIBRARIES = ("numpy", "scipy", "xarray", "h5netcdf", "h5py", "torch", "pyhessian")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` (same suffix) to write to, and rename it to ``path`` once that succeeded.

    Missing directories are made. The file is flushed to the disk before it is renamed; if anything fails, it is removed
    and ``path`` is as it was. What a killed process left of an earlier attempt at ``path`` on this machine is removed.

    Raises
    ------
    InputError
        If the directory cannot be written or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{_machine()}.{os.getpid()}.{secrets.token_hex(4)}-{target.name}")
    try:
        _make_directory(target.parent)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
        _sweep(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or _first_line(error)}") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in TORCH_CANNOT_WRITE):
            raise
        raise InputError(f"cannot write {target}: torch could not write all of it; is the disk full?") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """Return a short name of this machine: numbers of processes mean something only on their own."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _sweep(target: Path) -> None:
    """Remove temporary files for ``target`` whose processes, of this machine, are no more."""
    for left in target.parent.glob(f".{_machine()}.*-{glob.escape(target.name)}"):
        number = left.name.split(".")[2]
        with contextlib.suppress(OSError):
            if number.isdigit() and not _is_alive(int(number)):
                left.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise now, not after hours, if a result cannot be written to ``path``.

    Raises
    ------
    InputError
        If its directory cannot be made or written, or ``path`` is a directory.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a directory")
    try:
        _make_directory(target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or _first_line(error)}") from error


def _make_directory(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(13, "the directory is not writable")


def _flush(path: Path) -> None:
    """Wait until a file or a directory entry has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def write(
    dataset: xr.Dataset, path: str | os.PathLike[str], schema: str, force: bool = False, compress: bool = False
) -> Path:
    """Write a result as netCDF-4, complete or not at all.

    Units, long names and the provenance are added; numbers are stored as they are, bit by bit.

    Parameters
    ----------
    dataset
        Variables of the table ``schema``, float64. Its attributes must hold ``fingerprint`` and ``options`` (one JSON
        text); attributes that are ``None`` are left out.
    force
        Whether a result of another fingerprint at ``path`` is replaced.
    compress
        Whether numbers and words are compressed, without loss (for what is kept in a repository).

    Raises
    ------
    ValueError
        If the Dataset does not follow its schema.
    InputError
        If the path cannot be written, or holds something else and ``force`` is not set.
    """
    schemas.check(dataset, schema)
    missing = {"fingerprint", "options"} - dataset.attrs.keys()
    if missing:
        raise ValueError(f"a result must say its {' and '.join(sorted(missing))} in its attributes")
    find_existing(path, dataset.attrs["fingerprint"], force)
    result = schemas.describe(dataset, schema)
    attrs = {**provenance(), "quantity": schema, **dataset.attrs}
    result.attrs = {name: value for name, value in attrs.items() if value is not None}
    encoding: dict[Any, dict[str, Any]] = {name: {"_FillValue": None} for name in result.variables}
    if compress:
        # Labels of cells first: then what is absent lies together, and the file is a quarter smaller.
        result = result.transpose(*(label for label in schemas.LABELS if label in result.dims), ...)
        # One chunk a variable, and none for small ones: a tree of chunks costs about 3 kB.
        for name, values in result.variables.items():
            if values.dtype.kind in "fib" and values.nbytes > SMALL:
                # Bytes stay in their order: absent cells are runs of one number, which a shuffle would spread out.
                encoding[name] |= {"zlib": True, "complevel": 9, "shuffle": False, "chunksizes": values.shape}
        # Tables of words as characters: strings of variable length are not compressed, and each costs 16 bytes more.
        words = [name for name, values in result.variables.items() if values.ndim > 1 and values.dtype.kind in "UO"]
        encoding |= {name: {"dtype": "S1", "zlib": True, "complevel": 9} for name in words}
    content = result.to_netcdf(engine=ENGINE, encoding=encoding)  # in memory: HDF5 crashes where a disk is full
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_derived(dataset: xr.Dataset, path: str | os.PathLike[str], schema: str) -> Path:
    """Write a table that is made of stored results; it replaces an older one of its kind, and nothing else.

    Raises
    ------
    InputError
        If something else stands at ``path``, or it cannot be written.
    """
    target = Path(path)
    check_writable(target)
    if target.exists():
        try:
            found = str(open_result(target).attrs["quantity"])
        except InputError:
            found = "something else"
        if found != schema:
            raise InputError(
                f"{target} holds {found}, which is not replaced by a table of {schema}; choose another --out"
            )
    return write(dataset, target, schema, force=True)


def open_result(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read one result completely into memory.

    Raises
    ------
    InputError
        If there is no file, or it is truncated or not a result of this project.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no result at {file}")
    try:
        with xr.open_dataset(file, engine=ENGINE) as opened:
            dataset = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError, h5netcdf.CompatibilityError) as error:
        raise InputError(f"{file} is truncated or not a netCDF-4 file ({_first_line(error)})") from error
    if dataset.attrs.get("quantity") not in ("study", *schemas.SCHEMAS) or "fingerprint" not in dataset.attrs:
        raise InputError(f"{file} is a netCDF file, but not a result of landscape")
    return dataset


def attributes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the attributes of a result and nothing else, a hundred times as fast as opening it.

    Raises
    ------
    InputError
        If there is no file, or it is truncated or no netCDF-4 file.
    """
    try:
        with h5py.File(path) as file:
            # netCDF stores a number as a list of one
            return {k: v.item() if isinstance(v, np.ndarray) and v.size == 1 else v for k, v in file.attrs.items()}
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is missing, truncated or not a netCDF-4 file ({_first_line(error)})") from error


def find_existing(path: str | os.PathLike[str], fingerprint: str, force: bool = False) -> xr.Dataset | None:
    """Return the result that was already asked for.

    Returns
    -------
    The Dataset at ``path`` if it has this fingerprint; ``None`` if there is no file or ``force`` is set.

    Raises
    ------
    InputError
        If another result, or a file that is none, stands at ``path``.
    """
    if force or not Path(path).exists():
        return None
    try:
        existing = open_result(path)
    except InputError as error:
        raise InputError(f"{error}; choose another --out, or --force to replace it") from error
    if existing.attrs["fingerprint"] != fingerprint:
        raise InputError(f"{path} holds a result of other options; choose another --out, or --force to replace it")
    return existing


def as_json(value: Any) -> str:
    """Return the canonical JSON text of options: sorted keys, no spaces, one form for every value.

    Dataclasses become objects, tuples lists, paths and dtypes text; a float that is a whole number is written as an
    integer (``1.0`` and ``1`` are the same option), and infinities and NaN as text.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Reduce a value to what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def fingerprint(mapping: Mapping[str, Any]) -> str:
    """Return the name of what was asked: the first 20 hexadecimal digits of the SHA-256 of its canonical JSON.

    Everything that can change a number belongs into ``mapping``, options at their default value included: a default
    that changes in a later version must not find the old result. Paths of outputs, verbosity and time do not belong.
    """
    return hashlib.sha256(as_json(mapping).encode()).hexdigest()[:20]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def provenance() -> dict[str, str]:
    """Return the attributes that say which code produced a result.

    ``landscape_version``; ``git_commit``, with ``-dirty`` appended where the tree had changes, or ``unknown`` outside a
    checkout; ``versions``, one JSON text with the versions of Python and of the libraries in use.
    """
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        if name in sys.modules:
            with contextlib.suppress(PackageNotFoundError):
                versions[name] = version(name)
    return {
        "landscape_version": landscape.__version__,
        "git_commit": git_commit(),
        "versions": as_json(versions),
    }


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout that this package is imported from, or ``unknown``."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
