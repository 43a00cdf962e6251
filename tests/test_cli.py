"""Options from dataclass fields, exit codes, what goes to stdout and what to stderr."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from helpers import ROOT

from landscape import cli
from landscape.errors import InputError, MemoryLimitError


@dataclass(frozen=True)
class EigenOptions:
    """Eigenvalues."""

    largest: int = cli.option(20, help="eigenvalues from the top", metavar="K")
    tolerance: float = field(default=1e-4, metadata={"help": "residual, in 100 % of the largest"})
    engine: Literal["krylov", "dense"] = cli.option("krylov", help="how")
    shifts: tuple[float, ...] = cli.option((1.0, 10.0), help="shifts", parse=cli.parse_number_list)
    model_arg: tuple[str, ...] = cli.option((), help="arguments", metavar="K=V")
    hidden: int = 3


@dataclass(frozen=True)
class CommandOptions:
    """Measure."""

    checkpoint: Path = cli.option(help="the checkpoint", flag="CKPT")
    eigen: EigenOptions = EigenOptions()
    run: cli.RunOptions = cli.RunOptions()
    deflate: bool = cli.option(True, help="deflate")


def parse(*argv: str) -> tuple[CommandOptions, frozenset[str]]:
    parser = cli.Parser("spectrum", "Measure.", "python -m landscape.spectrum ckpt.pt")
    return cli.parse_arguments(parser, CommandOptions, argv)


def test_defaults_are_those_of_the_fields() -> None:
    options, given = parse("a.pt")
    assert options == CommandOptions(Path("a.pt"))
    assert given == {"checkpoint"}


def test_values_reach_their_fields() -> None:
    options, given = parse(
        *("a.pt", "--largest", "3", "--engine", "dense", "--shifts", "1,2,...,8", "--no-deflate", "--out", "b.nc"),
        *("--model-arg", "a=1", "b=2", "--model-arg", "c=3", "--memory", "2.5", "--quiet", "--tolerance", "1e-3"),
    )
    eigen = EigenOptions(3, 1e-3, "dense", (1.0, 2.0, 4.0, 8.0), ("a=1", "b=2", "c=3"))
    run = cli.RunOptions(memory=2.5, out=Path("b.nc"), quiet=True)
    assert options == CommandOptions(Path("a.pt"), eigen, run, deflate=False)
    assert given >= {"largest", "engine", "deflate", "model_arg"}
    assert "threads" not in given


def test_a_default_that_is_given_counts_as_given() -> None:
    assert "largest" in parse("a.pt", "--largest", "20")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "CKPT"),
        (["a.pt", "--largest", "many"], "invalid int value: 'many'"),
        (["a.pt", "--engine", "magic"], "choose from"),
        (["a.pt", "--large", "3"], "unrecognized arguments"),
        (["a.pt", "--hidden", "3"], "unrecognized arguments"),
        (["a.pt", "--shifts", "1,3,...,8"], "does not meet 8"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_help_shows_defaults_groups_and_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for part in [
        "(default: 20)",
        "(default: 1.0,10.0)",
        "Eigenvalues:",
        "100 % of",
        "CKPT",
        "[--engine {krylov,dense}]",
    ]:
        assert part in text
    assert text.endswith("example:\n  python -m landscape.spectrum ckpt.pt\n")
    assert "(default: None)" not in text


def test_unknown_option_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="does not know choice"):
        cli.option(1, help="", choice=[1])


def test_number_lists() -> None:
    assert cli.parse_number_list("8,16,...,512") == (8, 16, 32, 64, 128, 256, 512)
    assert cli.parse_number_list("1, 0.1, ..., 0.001") == pytest.approx((1, 0.1, 0.01, 0.001))
    assert cli.parse_number_list("0,1,2,...,8,10") == (0, 1, 2, 4, 8, 10)
    assert cli.parse_number_list("1,2,...,4") == (1, 2, 4)
    assert cli.parse_integer_list("1,3,...,27") == (1, 3, 9, 27)
    assert all(isinstance(number, int) for number in cli.parse_integer_list("0,1"))


@pytest.mark.parametrize(
    "text",
    ["", "1,", "1,...,8", "...,8", "1,2,...", "1,1,...,8", "0,1,...,8", "2,4,...,9", "4,2,...,8", "1,nan", "inf"],
)
def test_bad_number_lists(text: str) -> None:
    with pytest.raises(InputError):
        cli.parse_number_list(text)


def test_integer_lists_refuse_fractions() -> None:
    with pytest.raises(InputError, match="whole"):
        cli.parse_integer_list("1,2.5")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("the mask\nis empty"), 2, "error: the mask is empty\n"),
        (MemoryLimitError("needs 3 GiB, 2 GiB given"), 4, "error: needs 3 GiB, 2 GiB given\n"),
        (MemoryError("Unable to allocate 7 GiB"), 4, "Unable to allocate 7 GiB; lower --memory or --batch-size\n"),
        (torch.OutOfMemoryError("CUDA out of memory."), 4, "CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), 4, "not enough memory"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str]) -> int:
        raise error

    assert cli.exit_code(main, []) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


@dataclass(frozen=True)
class Seeded:
    """Words that every command has."""

    seed: int = cli.option(0, help="seed")
    threads: int | None = cli.option(None, help="threads")


@dataclass(frozen=True)
class Resumable:
    """A command that can be resumed."""

    run: cli.RunOptions = cli.RunOptions()


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--threads", "0"), ("--threads", "-2")])
def test_shared_words_with_impossible_values_are_one_line(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str]) -> int:
        cli.parse_arguments(cli.Parser("seeded", "Count.", ""), Seeded, argv)
        raise AssertionError("not reached")

    assert cli.exit_code(main, [flag, value]) == cli.BAD_INPUT
    assert capsys.readouterr().err.startswith(f"error: {flag} must be at least")


@pytest.mark.parametrize(
    ("cls", "goes_on", "says"),
    [
        (Resumable, False, "error: interrupted; what was saved is kept, --resume goes on from it\n"),
        (Seeded, True, "error: interrupted; what is finished is kept, the same command goes on\n"),
        (Seeded, False, "error: interrupted\n"),
    ],
)
def test_an_interrupted_command_says_how_it_goes_on(
    cls: type, goes_on: bool, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str]) -> int:
        cli.parse_arguments(cli.Parser("seeded", "Count.", "", goes_on=goes_on), cls, argv)
        raise KeyboardInterrupt

    assert cli.exit_code(main, []) == cli.INTERRUPTED
    assert capsys.readouterr().err == says


def test_options_that_nothing_reads_are_refused() -> None:
    users = {"depth": ("krylov",), "largest": ("krylov", "peer")}
    cli.refuse_unused({"depth", "seed"}, users, ("krylov",), "engine")
    cli.refuse_unused({"seed"}, users, ("dense",), "engine")
    with pytest.raises(InputError, match="--engine dense cannot honour --largest, which needs --engine krylov or peer"):
        cli.refuse_unused({"largest"}, users, ("dense",), "engine")


def test_bugs_go_through() -> None:
    def main(argv: Sequence[str]) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.exit_code(main, [])


def test_the_code_of_main_is_kept() -> None:
    assert cli.exit_code(lambda argv: None, []) == 0
    assert cli.exit_code(lambda argv: cli.NOT_CONVERGED, []) == 3


def test_stdout_holds_the_outcome_and_stderr_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(cli.progress(range(3), "work")) == [0, 1, 2]
    with cli.progress(5, "count", done=2) as bar:
        bar.update(3)
    cli.log("a message")
    cli.show("a table")
    cli.show_paths(Path("a.nc"), None, "b.png")
    printed = capsys.readouterr()
    assert printed.out == "a table\na.nc\nb.png\n"
    assert "work: 100%" in printed.err
    assert "5/5" in printed.err
    assert "a message\n" in printed.err


def test_quiet_leaves_the_paths(capsys: pytest.CaptureFixture[str]) -> None:
    list(cli.progress(range(3), "work", quiet=True))
    cli.log("a message", quiet=True)
    cli.show("a table", quiet=True)
    cli.show_paths("a.nc")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("a.nc\n", "")


def test_only_the_first_rank_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    cli.show_paths("a.nc")
    cli.log("a message")
    assert capsys.readouterr() == ("", "")


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        assert cli.apply_threads(None) == before
        assert cli.apply_threads(2) == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(InputError, match="at least 1"):
        cli.apply_threads(0)


PROGRAM = """
import sys
from pathlib import Path
from landscape import cli

def main(argv):
    if argv:
        raise ValueError("a bug")
    for line in range(20000):
        cli.show(f"line {line}")
    Path(sys.argv[0]).with_suffix(".done").touch()

cli.run(main)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def test_a_reader_that_goes_away_does_not_stop_the_work(program: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()
    assert program.with_suffix(".done").exists()


def test_a_bug_is_a_traceback_and_exit_1(program: Path) -> None:
    done = subprocess.run([sys.executable, str(program), "x"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ValueError: a bug" in done.stderr
