"""Show that the tests can fail: break the code in one place at a time and see the named tests notice.

Every ``tests/mutants/NAME.patch`` is a unified diff whose leading lines name the tests that must fail under it and say
why it is wrong::

    # fails: tests/test_lanczos.py::test_orthogonality
    # why: one pass of Gram-Schmidt is not enough

Each patch is applied to a copy of the tree, and each test that it names must fail there, having passed on the copy
before. ``python tests/mutants/run.py [NAME ...]`` runs all or the named ones and prints a table.
"""

import argparse
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Mutant:
    """A patch with the tests that must fail under it, and the reason."""

    path: Path
    tests: tuple[str, ...]
    why: str

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: ``killed``, or why it counts against the tests."""

    mutant: Mutant
    word: str
    seconds: float


def read(path: Path) -> Mutant:
    """Return the mutant of a patch file."""
    header = path.read_text().split("diff --git")[0]
    tests = tuple(re.findall(r"^# fails: (\S+)$", header, re.MULTILINE))
    why = re.findall(r"^# why: (.+)$", header, re.MULTILINE)
    if not tests or len(why) != 1:
        raise ValueError(f"{path.name} needs lines '# fails: tests/...::...' and one line '# why: ...' before its diff")
    return Mutant(path, tests, why[0])


def mutants() -> list[Mutant]:
    """Return all mutants, by name."""
    return [read(path) for path in sorted(HERE.glob("*.patch"))]


def apply(mutant: Mutant, tree: Path, *options: str) -> bool:
    """Apply a patch to a tree and return whether it fitted; the options are those of ``git apply``."""
    command = ["git", "apply", "--whitespace=nowarn", *options, str(mutant.path)]
    # A copy may lie within somebody's repository: git is to take the paths from the copy.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    return subprocess.run(command, cwd=tree, capture_output=True, env=environment).returncode == 0


def copy_tree(target: Path) -> None:
    """Copy what git tracks, and new files that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():  # a deleted file is still listed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def failures(tree: Path, tests: Sequence[str]) -> tuple[set[str], int]:
    """Run tests in a tree; return which failed (one parameter is enough for a test to fail), and the exit code."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",  # two patches within a second must not share byte code
        "LANDSCAPE_DATA": os.environ.get("LANDSCAPE_DATA", str(ROOT / "data" / "cache")),
    }
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rf", "-p", "no:cacheprovider", "-m", "", *tests]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return set(), -1
    failed = re.findall(r"^FAILED (\S+?::[^\s\[]+)(\[.*?\])?(?= - |$)", done.stdout, re.MULTILINE)
    found = {name for name, _ in failed} | {name + parameters for name, parameters in failed}
    return found & set(tests), done.returncode


def judge(mutant: Mutant, tree: Path) -> Verdict:
    """Apply a mutant to a tree, run its tests, and take it back."""
    start = time.monotonic()
    if not apply(mutant, tree):
        return Verdict(mutant, "does not apply", 0.0)
    try:
        failed, code = failures(tree, mutant.tests)
    finally:
        apply(mutant, tree, "--reverse")
    if code not in (0, 1):
        word = "breaks the test run" if code > 0 else "runs too long"
    elif survived := [test for test in mutant.tests if test not in failed]:
        word = f"SURVIVES {', '.join(survived)}"
    else:
        word = "killed"
    return Verdict(mutant, word, time.monotonic() - start)


@contextlib.contextmanager
def trees(count: int) -> Iterator["queue.Queue[Path]"]:
    """Give copies of the tree, in a queue for workers to share."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        waiting: queue.Queue[Path] = queue.Queue()
        for number in range(count):
            tree = Path(directory) / str(number)
            copy_tree(tree)
            waiting.put(tree)
        yield waiting


def run(chosen: Sequence[Mutant], jobs: int) -> list[Verdict]:
    """Judge mutants side by side; the tests that they name must pass on the code as it is."""

    def work(mutant: Mutant) -> Verdict:
        tree = waiting.get()
        try:
            return judge(mutant, tree)
        finally:
            waiting.put(tree)

    with trees(min(jobs, len(chosen))) as waiting, ThreadPoolExecutor(jobs) as pool:
        tree = waiting.get()
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        failed, code = failures(tree, tests)
        if code != 0:
            raise SystemExit(f"error: without a mutant, pytest exits with {code}; failing: {', '.join(sorted(failed))}")
        waiting.put(tree)
        verdicts = []
        for verdict in pool.map(work, chosen):
            verdicts.append(verdict)
            print(
                f"{verdict.mutant.name:40} {verdict.word:20} {verdict.seconds:5.1f} s  {verdict.mutant.why}", flush=True
            )
        return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description="Show that the tests fail on broken code.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="patches without their suffix (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    arguments = parser.parse_args()
    known = {mutant.name: mutant for mutant in mutants()}
    unknown = sorted(set(arguments.names) - known.keys())
    if unknown:
        parser.error(f"there is no mutant {', '.join(unknown)}")
    chosen = [known[name] for name in arguments.names] or list(known.values())
    verdicts = run(chosen, arguments.jobs) if chosen else []
    killed = sum(verdict.word == "killed" for verdict in verdicts)
    print(f"{killed} of {len(verdicts)} mutants killed")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
