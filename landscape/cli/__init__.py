"""The command line: options from dataclass fields, the flags that every command shares, errors as exit codes.

A command is described by frozen dataclasses. A field becomes a flag if it was made with :func:`option` (or carries
``metadata={"help": ...}``, which needs no import of this module); a field that is itself such a dataclass becomes a
group of flags. Defaults, help, fingerprint and provenance thus come from the same fields.

Exit codes: 0 done; 2 bad input, option or unwritable output; 3 written, but something asked for did not converge;
4 out of memory; 130 interrupted; 1 a bug, with its traceback. The table and, last, one path a line go to stdout,
everything else to stderr.
"""

import argparse
import contextvars
import dataclasses
import os
import sys
import time
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

from tqdm import tqdm

from landscape.cli.checks import check_least, refuse_unused
from landscape.cli.lists import parse_integer_list, parse_number_list
from landscape.errors import InputError, MemoryLimitError, is_out_of_memory

__all__ = [
    "Parser",
    "RunOptions",
    "add_options",
    "allow_tf32",
    "apply_threads",
    "exit_code",
    "from_namespace",
    "given",
    "log",
    "memory_bytes",
    "option",
    "parse_arguments",
    "parse_integer_list",
    "parse_number_list",
    "progress",
    "refuse_unused",
    "run",
    "show",
    "show_paths",
    "speaks",
]

Options = TypeVar("Options")
Item = TypeVar("Item")

DONE, BAD_INPUT, NOT_CONVERGED, OUT_OF_MEMORY, INTERRUPTED = 0, 2, 3, 4, 130
# torchrun ends all ranks as soon as one has left: the others leave the first one time to say what is wrong.
GRACE = 2.0
# What an interrupted command leaves behind, as `parse_arguments` learns it.
KEPT: contextvars.ContextVar[str] = contextvars.ContextVar("kept", default="")


def option(default: Any = dataclasses.MISSING, *, help: str, **metadata: Any) -> Any:
    """Return a dataclass field that is a flag of the command line.

    Parameters
    ----------
    default
        Its default; without one the flag is required.
    help
        What it does; the default is appended.
    metadata
        ``flag``: the flag, by default ``--`` and the field's name with hyphens; a name without ``--`` is a positional
        argument. ``choices``: the values allowed. ``metavar``: the placeholder in the help. ``parse``: turns the text
        of the flag into the value (otherwise the annotated type does); raises :class:`InputError`.
    """
    unknown = metadata.keys() - {"flag", "choices", "metavar", "parse"}
    if unknown:
        raise TypeError(f"option() does not know {', '.join(sorted(unknown))}")
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How to run, and where the outcome goes."""

    threads: int | None = option(None, help="CPU threads (default: as torch decides)", metavar="N")
    memory: float | None = option(None, help="most memory to use, beyond the import of torch", metavar="GIB")
    allow_tf32: bool = option(False, help="allow TF32 matrix products on CUDA (10 bits of mantissa)")
    out: Path | None = option(None, help="result file (default: beside the input)", metavar="FILE")
    figure: Path | None = option(None, help="figure file (default: beside the result)", metavar="FILE")
    resume: bool = option(False, help="continue an interrupted run from its saved state")
    force: bool = option(False, help="replace a different result at the same path")
    quiet: bool = option(False, help="print nothing but the paths of what was written")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, ``error: ...``, with exit code 2.

    Parameters
    ----------
    module
        The module that is run, for example ``spectrum``.
    description
        What the command does.
    example
        A complete command line, shown below the help.
    goes_on
        Whether the same command goes on where it was interrupted.
    """

    def __init__(self, module: str, description: str, example: str, goes_on: bool = False) -> None:
        self.goes_on = goes_on
        super().__init__(
            prog=f"python -m landscape.{module}",
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and leave."""
        self.exit(BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")


def add_options(parser: argparse.ArgumentParser, cls: type, prefix: str = "") -> None:
    """Add the flags of a dataclass and of the dataclasses nested in it, each a titled group.

    A flag that is not given is absent from the namespace, so that :func:`given` can tell it from its default. A nested
    dataclass whose field carries ``metadata={"prefix": "name"}`` has flags ``--name-...``, for a command that joins
    options which share words.
    """
    group = parser.add_argument_group(_title(cls))
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            add_options(parser, typing.cast(type, kind), _prefix(field, prefix))
        elif "help" in field.metadata:
            _add_flag(group, field, kind, prefix)


def _prefix(field: dataclasses.Field[Any], outer: str) -> str:
    """Return what stands before the names of a nested dataclass's options."""
    own = field.metadata.get("prefix")
    return outer if own is None else f"{outer}{own}_"


def _title(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).splitlines()[0].rstrip(".")


def _add_flag(group: Any, field: dataclasses.Field[Any], kind: Any, prefix: str) -> None:
    """Add one flag to an argument group."""
    name = prefix + field.name
    flag = field.metadata.get("flag", "--" + name.replace("_", "-"))
    settings = {"help": _help(field), "default": argparse.SUPPRESS, **_value_settings(field, kind)}
    if flag.startswith("--"):
        settings["required"] = _default(field) is dataclasses.MISSING
        settings["dest"] = name
        group.add_argument(flag, **settings)
    else:
        group.add_argument(name, **{"metavar": flag, **settings})


def _value_settings(field: dataclasses.Field[Any], kind: Any) -> dict[str, Any]:
    """Return how argparse turns the text of a flag into a value."""
    metadata = field.metadata
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction if field.default is True else "store_true"}
    settings: dict[str, Any] = {"metavar": metadata["metavar"]} if "metavar" in metadata else {}
    if "parse" in metadata:
        return {**settings, "type": _checked(metadata["parse"])}
    origin, arguments = typing.get_origin(kind), [a for a in typing.get_args(kind) if a is not types.NoneType]
    if origin in (Union, types.UnionType):
        if len(arguments) != 1:
            raise TypeError(f"the field {field.name} has several types; give it a parse= function")
        return _value_settings(field, arguments[0])
    if origin is Literal:
        return {**settings, "choices": metadata.get("choices", arguments)}
    if origin is tuple:
        settings |= {"nargs": "+", "action": "extend"}
        kind = arguments[0]
    if "choices" in metadata:
        settings["choices"] = metadata["choices"]
    return {**settings, "type": kind}


def _checked(parse: Callable[[str], Item]) -> Callable[[str], Item]:
    """Let the message of an InputError reach the user through argparse."""

    def checked(text: str) -> Item:
        try:
            return parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _help(field: dataclasses.Field[Any]) -> str:
    """Return the help text with the default, unless the text states it or there is nothing to state."""
    text, default = field.metadata["help"].replace("%", "%%"), _default(field)
    if default is dataclasses.MISSING or default in (None, False, ()) or "default" in text:
        return str(text)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text} (default: {shown})"


def from_namespace(cls: type[Options], namespace: argparse.Namespace, prefix: str = "") -> Options:
    """Return the dataclass with the values that were given, and its defaults elsewhere."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, cls)):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            values[field.name] = from_namespace(typing.cast(type, kind), namespace, _prefix(field, prefix))
        elif "help" in field.metadata and hasattr(namespace, prefix + field.name):
            value = getattr(namespace, prefix + field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def given(namespace: argparse.Namespace) -> frozenset[str]:
    """Return the names of the options that stand on the command line (an engine refuses what it cannot honour)."""
    return frozenset(vars(namespace))


def parse_arguments(parser: Parser, cls: type[Options], argv: Sequence[str]) -> tuple[Options, frozenset[str]]:
    """Add the options of ``cls`` to the parser, parse ``argv``, and return the options and the names given.

    Raises
    ------
    InputError
        If a word that means the same in every command (``--seed``, ``--threads``) has a value that means nothing.
    """
    add_options(parser, cls)
    namespace = parser.parse_args(argv)
    for name, value in vars(namespace).items():
        check_least(name, value)
    KEPT.set(_kept(parser))
    return from_namespace(cls, namespace), given(namespace)


def _kept(parser: Parser) -> str:
    """Say how an interrupted command goes on, if it does."""
    if any("--resume" in action.option_strings for action in parser._actions):
        return "; what was saved is kept, --resume goes on from it"
    return "; what is finished is kept, the same command goes on" if parser.goes_on else ""


def apply_threads(threads: int | None) -> int:
    """Set the CPU threads of torch and of the processes started from here, and return their number.

    Sums are split over threads, so that the last bits of a result depend on it; it belongs into the fingerprint.
    """
    import torch

    if threads is not None:
        check_least("threads", threads)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)
    return torch.get_num_threads()


def memory_bytes(gib: float | None, default: int) -> int:
    """Return ``--memory`` in bytes; the default is a number too, as free memory must not decide results."""
    if gib is None:
        return default
    if not 0 < gib < float("inf"):
        raise InputError(f"--memory must be a positive number of GiB, not {gib}")
    return int(gib * 2**30)


def allow_tf32(allowed: bool) -> None:
    """Allow or forbid TF32 in the matrix products and convolutions of CUDA."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def speaks(quiet: bool = False) -> bool:
    """Return whether this process talks to the user: not when quiet, and of several ranks only the first."""
    return not quiet and os.environ.get("RANK", "0") == "0"


def progress(
    work: Iterable[Item] | int, description: str, quiet: bool = False, done: int = 0, unit: str = "it"
) -> "tqdm[Item]":
    """Return a progress bar on stderr over an iterable, or, given a total, one to ``update`` by hand.

    Parameters
    ----------
    done
        How much of it an earlier run has done.
    """
    settings: dict[str, Any] = {"iterable": None, "total": work} if isinstance(work, int) else {"iterable": work}
    seconds = 0.2 if sys.stderr.isatty() else 30.0  # a log file wants few lines
    return tqdm(
        **settings,
        desc=description,
        initial=done,
        unit=unit,
        disable=not speaks(quiet),
        file=sys.stderr,
        mininterval=seconds,
        dynamic_ncols=True,
    )


def log(text: str, quiet: bool = False) -> None:
    """Print a message on stderr, above any progress bar."""
    if speaks(quiet):
        tqdm.write(text, file=sys.stderr)


def show(text: str, quiet: bool = False) -> None:
    """Print a part of the outcome on stdout; a reader that has gone away does not stop the measurement."""
    if not speaks(quiet):
        return
    try:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()


def show_paths(*paths: str | os.PathLike[str] | None) -> None:
    """Print the paths of what was written, one a line; this is the last thing that a command does."""
    for path in paths:
        if path is not None:
            show(os.fspath(path))


def _drop_stdout() -> None:
    """Send what is printed from now on nowhere, so that the flush at exit cannot fail."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def run(main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run the ``main`` of a module on the arguments of this process and leave with its exit code."""
    code = exit_code(main, sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    sys.exit(code)


def exit_code(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    """Call ``main(argv)`` and return its exit code; an error of the user becomes one line on stderr.

    Other exceptions are bugs and go through.
    """
    KEPT.set("")
    try:
        return main(argv) or DONE
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except MemoryLimitError as error:
        return _fail(str(error), OUT_OF_MEMORY)
    except KeyboardInterrupt:
        return _fail(f"interrupted{KEPT.get()}", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(f"out of memory: {error}; lower --memory or --batch-size", OUT_OF_MEMORY)


def _fail(message: str, code: int) -> int:
    """Print the message as one line and return the code; ranks other than the first say which one they are."""
    rank = os.environ.get("RANK", "0")
    who = "" if rank == "0" else f"rank {rank}: "
    sys.stderr.write(f"{who}error: {' '.join(message.split())}\n")  # at once, or lines of several ranks mix
    sys.stderr.flush()
    time.sleep(0 if rank == "0" else GRACE)
    return code
