"""The house rules that a machine can check: who imports whom, what needs no torch, how long things are."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import ROOT

import landscape

PACKAGE = ROOT / "landscape"

# A module imports modules of lower rank only. A package has one rank; its own modules may import each other.
RANKS = {
    "errors": 0,
    "noise": 0,
    "schemas": 0,
    "alignment": 1,
    "archives": 1,
    "batches": 1,
    "cli": 1,
    "decisions": 1,
    "footprint": 1,
    "loading": 1,
    "networks": 1,
    "keywords": 1,
    "parallel": 1,
    "seeds": 1,
    "store": 1,
    "tasks": 1,
    "datasets": 2,
    "density": 2,
    "gaps": 2,
    "compression_claims": 3,
    "imp_claims": 2,
    "imp_evidence": 1,
    "journal": 2,
    "losses": 2,
    "manifold_claims": 2,
    "masks": 2,
    "models": 2,
    "pretraining": 2,
    "results": 2,
    "relate": 2,
    "runs": 2,
    "preconditions": 3,
    "volume_claims": 3,
    "problem": 3,
    "sanity": 4,
    "barriers": 4,
    "checkpoints": 4,
    "controls": 4,
    "curvature": 4,
    "figures": 4,
    "accessor": 5,
    "examples": 5,
    "identity": 5,
    "operators": 5,
    "report": 5,
    "training": 5,
    "dense": 6,
    "lanczos": 6,
    "stochastic": 7,
    "connectivity": 8,
    "dimension": 8,
    "spectrum": 8,
    "surfaces": 8,
    "pruning": 9,
    "volume": 9,
    "renewal": 10,
    "study": 11,
}

# The half that works on stored results: it must import where there is no torch.
ARRAYS = {
    *("errors", "schemas", "seeds", "cli", "store", "tasks", "decisions", "noise"),
    *("compression_claims", "density", "gaps", "imp_claims", "imp_evidence", "manifold_claims", "volume_claims"),
    *("pretraining", "preconditions", "figures", "accessor", "report"),
}


# The Krylov methods know operators, never networks.
STRANGERS = {"lanczos": {"problem", "losses", "models"}, "stochastic": {"problem", "losses", "models"}}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    """Return ``landscape.spectrum.options`` for its path."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str | None:
    """Return the module or package of ``landscape`` that a dotted name lies in; None for anything else."""
    parts = name.split(".")
    return parts[1] if parts[0] == "landscape" and len(parts) > 1 else None


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that a file imports, inside functions too, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name, not relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if node.module == "landscape" else str(node.module), node.lineno


def has_main(path: Path) -> bool:
    return path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text()


def rooms_with_main() -> set[str]:
    return {room(dotted(path)) or "" for path in sources() if has_main(path)}


def commands() -> list[str]:
    return sorted({dotted(path).removesuffix(".__main__") for path in sources() if has_main(path)})


def test_every_module_has_a_rank() -> None:
    rooms = {room(dotted(path)) for path in sources()} - {None}
    missing = sorted(str(name) for name in rooms - RANKS.keys())
    assert not missing, f"add {', '.join(missing)} to RANKS in {__file__}, one above the highest module that it imports"


def test_modules_import_only_lower_ranks() -> None:
    wrong = []
    for path in sources():
        own = room(dotted(path))
        for name, line in imports(path):
            other = room(name)
            if own is None or other in (None, own, "__version__"):
                continue
            if RANKS.get(other or "", 99) >= RANKS.get(own, 99):
                wrong.append(f"{path.name}:{line}: {own} (rank {RANKS.get(own)}) imports {other} ({RANKS.get(other)})")
            if other in STRANGERS.get(own, set()):
                wrong.append(f"{path.name}:{line}: {own} must not know {other}")
    assert not wrong, "\n".join(wrong)


def test_only_commands_import_cli() -> None:
    allowed = {*rooms_with_main(), "cli"}
    wrong = [
        f"{path}:{line}"
        for path in sources()
        for name, line in imports(path)
        if room(name) == "cli" and room(dotted(path)) not in allowed
    ]
    assert not wrong, f"only modules with a main import cli: {wrong}"


def test_the_arrays_half_imports_without_torch() -> None:
    names = sorted(dotted(path) for path in sources() if room(dotted(path)) in ARRAYS)
    program = f"""
import importlib, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("there is no torch here")
sys.meta_path.insert(0, NoTorch())
for name in {names!r}:
    importlib.import_module(name)
import landscape
print(landscape.open_result.__name__)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "open_result"


def test_import_landscape_imports_nothing_else() -> None:
    program = "import sys, landscape; print([name for name in sys.modules if name.startswith('landscape.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(landscape.__all__)))
def test_every_name_of_the_package_exists(name: str) -> None:
    assert getattr(landscape, name) is not None
    assert name in dir(landscape)
    assert name == "__version__" or name in (landscape.__doc__ or ""), f"{name} is missing in the table of contents"


def test_other_names_of_the_package_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'measure_everything'"):
        _ = landscape.measure_everything


@pytest.fixture(scope="module")
def helps() -> dict[str, subprocess.CompletedProcess[str]]:
    """Return what every command prints as its help; two at a time, since most of it is the import of torch."""

    def ask(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", command, "--help"], capture_output=True, text=True, cwd=ROOT
        )

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(commands(), pool.map(ask, commands()), strict=True))


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(
    command: str, helps: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    assert helps[command].returncode == 0, helps[command].stderr
    assert f"example:\n  python -m {command}" in helps[command].stdout


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of the body, its docstring apart."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return int(body[-1].end_lineno or 0) - body[0].lineno + 1


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_files_and_functions_are_short() -> None:
    wrong = []
    for path in [*sources(), *sorted((ROOT / "tests").rglob("*.py"))]:
        name, lines = path.relative_to(ROOT), len(path.read_text().splitlines())
        if lines > 400:
            wrong.append(f"{name}: {lines} lines, at most 400")
        for function in functions(path):
            where = f"{name}:{function.lineno}: {function.name}"
            if length(function) > 50:
                wrong.append(f"{where} has {length(function)} lines, at most 50")
            if num_arguments(function) > 6:
                wrong.append(f"{where} has {num_arguments(function)} arguments, at most 6 (group them in Options)")
    assert not wrong, "\n".join(wrong)
