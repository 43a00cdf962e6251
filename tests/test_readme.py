"""The code of the README runs: python blocks and the commands of bash blocks, in order, in an empty directory.

Commands that install, need several machines or call git are left out (``LEFT_OUT``). A block after the comment
``<!-- not run: reason -->`` is not run, and one after ``<!-- needs: mnist -->`` only where that data set is.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import ROOT, data_directory

LEFT_OUT = ("make", "torchrun", "pip", "git", "conda", "cd", "pytest")
README = ROOT / "README.md"


class Block(NamedTuple):
    """A block of code with its line, and the comment on the line before it."""

    line: int
    language: str
    note: str
    code: str


def blocks(text: str) -> Iterator[Block]:
    pattern = r"(?:^<!-- *(?P<note>[^\n]*?) *-->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$"
    for match in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        line = text[: match.start("language")].count("\n") + 1
        yield Block(line, match["language"], match["note"] or "", match["code"])


def commands(code: str) -> Iterator[list[str]]:
    """Yield the commands of a bash block that are to be run."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        program = [word for word in words if not re.fullmatch(r"\w+=.*", word)][:1]
        if program and program[0] not in LEFT_OUT and words[1:3] != ["-m", "pip"]:
            yield words


def wanted(block: Block) -> bool:
    """Return whether a block is to be run here."""
    kind, _, what = block.note.partition(":")
    if kind == "needs":
        try:
            data_directory(*what.split())
        except pytest.skip.Exception:
            return False
    return kind != "not run" and block.language in ("python", "bash")


def run_block(block: Block, names: dict[str, Any], environment: dict[str, str]) -> None:
    if block.language == "python":
        exec(compile(block.code, f"README.md, from line {block.line},", "exec"), names)
        return
    for words in commands(block.code):
        done = subprocess.run(["env", *words], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"README.md:{block.line}: {shlex.join(words)}\n{done.stderr}"


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANDSCAPE_DATA", str(data_directory()))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    names: dict[str, Any] = {"__name__": "readme"}
    for block in filter(wanted, blocks(README.read_text())):
        run_block(block, names, environment)


def test_blocks_and_commands_are_found() -> None:
    text = (
        "a\n```bash\nmake demo # x\nA=1 python -m b \\\n  --c 'd e'\n```\n<!-- not run: slow -->\n```python\nf()\n```\n"
    )
    first, second = blocks(text)
    assert (first.line, first.language, first.note) == (2, "bash", "")
    assert list(commands(first.code)) == [["A=1", "python", "-m", "b", "--c", "d e"]]
    assert second == Block(8, "python", "not run: slow", "f()\n")
    assert wanted(first)
    assert not wanted(second)
    assert not wanted(Block(1, "bash", "needs: atlantis", ""))
    assert not wanted(Block(1, "text", "", ""))


def test_links_to_files_of_the_readme_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", README.read_text())
    missing = [name for pair in targets for name in pair if name and not (ROOT / name).exists()]
    assert not missing
