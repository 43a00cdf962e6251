"""The mutants are in order: each patch fits the code and names tests that exist. ``make mutants`` runs them."""

import ast
from pathlib import Path

import pytest
from helpers import ROOT
from mutants import run


def names_of_tests(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", sorted(run.HERE.glob("*.patch")), ids=lambda path: path.stem)
def test_mutant_applies_and_names_existing_tests(path: Path) -> None:
    mutant = run.read(path)
    assert run.apply(mutant, ROOT, "--check"), f"{path.name} no longer fits the code: make it anew"
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), test
        assert name.split("[")[0].split("::")[-1] in names_of_tests(ROOT / file), f"there is no test {test}"


def test_a_patch_without_its_header_is_refused(tmp_path: Path) -> None:
    patch = tmp_path / "a.patch"
    patch.write_text("# fails: tests/test_a.py::test_b\ndiff --git a/a b/a\n")
    with pytest.raises(ValueError, match="why"):
        run.read(patch)


def test_a_mutant_that_changes_nothing_survives_and_one_that_matters_is_killed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "tests").mkdir(parents=True)
    (tree / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tree / "tests" / "test_a.py").write_text(
        "import pytest\nfrom number import one\n\n\n"
        "@pytest.mark.parametrize('factor', [0, 2])\ndef test_b(factor):\n    assert factor * one == factor\n\n\n"
        "def test_c():\n    pass\n"
    )
    (tree / "number.py").write_text("one = 1\n")
    diff = "diff --git a/number.py b/number.py\n--- a/number.py\n+++ b/number.py\n@@ -1 +1 @@\n-one = 1\n+one = {}\n"

    def verdict(test: str, value: str) -> str:
        patch = tmp_path / "m.patch"
        patch.write_text(f"# fails: tests/test_a.py::{test}\n# why: it is not one\n" + diff.format(value))
        return run.judge(run.read(patch), tree).word

    assert verdict("test_b", "3") == "killed"
    assert verdict("test_b[2]", "3") == "killed"
    assert verdict("test_b", "1.0").startswith("SURVIVES")
    assert verdict("test_c", "3").startswith("SURVIVES")
    assert verdict("test_b", "(") == "breaks the test run"
    assert (tree / "number.py").read_text() == "one = 1\n"
    (tree / "number.py").write_text("one = 2\n")
    assert verdict("test_b", "3") == "does not apply"
