"""What a user names, loaded without trust: torch files without code, and code only where it was asked for by name."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from landscape.errors import InputError


def is_code(name: str) -> bool:
    """Tell ``MODULE:NAME`` (code to import) from the name of a built-in thing or of a file."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_object(name: str, what: str) -> Any:
    """Import what ``MODULE:NAME`` names; only for names that the user typed, never for names found in a file.

    Parameters
    ----------
    what
        What it is meant to be, for the message of an error.

    Raises
    ------
    InputError
        If there is no such module (the message says which import failed) or it has no such name.
    """
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"cannot import the {what} {name}: {error}; is its directory on PYTHONPATH or the current one?"
        ) from error
    if not hasattr(found, attribute):
        raise InputError(f"cannot import the {what} {name}: the module {module} has no {attribute!r}")
    return getattr(found, attribute)


def source_sha256(code: Any) -> str | None:
    """Return the SHA-256 of the source of a function, or of the class of a callable object; None where there is none.

    Functions that it calls are no part of it.
    """
    for part in (code, type(code)):
        try:
            return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()
        except (TypeError, OSError):
            continue
    return None


def torch_file(path: str | Path, what: str = "checkpoint") -> Any:
    """Read a file of ``torch.save`` with ``weights_only=True``, on the CPU.

    Raises
    ------
    InputError
        If the file is missing, truncated, of another format, or would run code when read.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no {what} {file}")
    try:
        _check_sums(file, what)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about TorchScript archives before it refuses them
            return torch.load(file, map_location="cpu", weights_only=True)
    except (MemoryError, InputError):
        raise
    except pickle.UnpicklingError as error:
        if _is_pickle(file) and "truncated" not in str(error):
            raise InputError(_needs_code(file, what)) from error
        raise InputError(f"{file} is not a {what}: it is truncated or no file of torch.save") from error
    except Exception as error:  # foreign bytes make the parser fail in any way
        if "TorchScript" in str(error):
            raise InputError(_needs_code(file, what)) from error
        raise InputError(f"{file} is not a {what}: it is truncated or no file of torch.save") from error


def _check_sums(file: Path, what: str) -> None:
    """Refuse a file of which a part differs from its checksum, which torch writes and does not read."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        try:
            damaged = archive.testzip()
        except (zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{file} is damaged ({error}); remove it or restore it") from error
    if damaged is not None:
        raise InputError(f"{file} is no sound {what}: its part {damaged} is damaged; remove it or restore it")


def _is_pickle(file: Path) -> bool:
    """Tell a pickle, or a zip that may hold one, by its first bytes."""
    with file.open("rb") as opened:
        return opened.read(2).startswith((b"\x80", b"PK"))


def _needs_code(file: Path, what: str) -> str:
    return (
        f"{file} holds more than tensors and plain values, so that reading it could run code; it was not opened. If "
        "you trust it, convert it where its classes can be imported: "
        f"m = torch.load({file.name!r}, weights_only=False); "
        "torch.save(m.state_dict() if hasattr(m, 'state_dict') else m['state_dict'], 'weights.pt'), "
        f"and give weights.pt as the {what}"
    )
