"""IMC pruning as steps of a study: the same networks as from its own command, once, in order, and only in time."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from landscape import checkpoints, results
from landscape.pruning.__main__ import main as prune
from landscape.study import file as study_file
from landscape.study.conduct import Conducted, conduct
from landscape.study.measure import NO_TIME, Effort
from landscape.study.pruned import prune_there
from landscape.tasks import TaskOptions

TEXT = """
title = "Tiny"
description = "Two networks pruned once."
[training]
model = "mlp"
model_arg = ["widths=4"]
data = "digits"
num_examples = 100
epochs = 6
batch_size = 50
device = "cpu"
[extent]
levels = 0
replicates = 1
[problem]
device = "cpu"
[[measure]]
quantities = ["curves"]
points = ["minimum"]
methods = ["imp"]
[[imc]]
preset = ["feddup_formula"]
kept = ["0.8^4"]
rivals = ["snip"]
shuffles = true
k = 1
fast = 3
smallest = 1
depth = 2
curvature_examples = 50
[[imc]]
preset = ["imc_reconstructed"]
kept = ["0.8^4"]
start = "base_point"
k = 1
fast = 3
smallest = 1
depth = 2
curvature_examples = 50
"""
FLAGS = [
    *("imc", "--model", "mlp", "--model-arg", "widths=4", "--data", "digits", "--num-examples", "100", "--epochs", "6"),
    *(
        "--batch-size",
        "50",
        "--device",
        "cpu",
        "--replicates",
        "1",
        "--kept",
        "0.8^4",
        "--k",
        "1",
        "--fast",
        "3",
        "--smallest",
        "1",
    ),
    *("--depth", "2", "--curvature-examples", "50", "--quiet"),
]
OWN = "imc_gap_4l_slow_magnitude_continued_at_k_000001_forced"


def go(out: Path, budget: float | None = None) -> Conducted:
    source = out.parent / "tiny.toml"
    source.write_text(TEXT)
    return conduct(study_file.read(source), out, Effort(TaskOptions(), budget, quiet=True))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study_imc") / "study"
    assert not [outcome.error for outcome in go(out).outcomes if outcome.error]
    return out


def networks(root: Path) -> dict[str, Tensor]:
    found = {}
    for path in sorted(root.glob("replicate_0/*/level_*/minimum.pt")):
        state = checkpoints.read(path).state_dict
        found |= {f"{path.relative_to(root)} {name}": values for name, values in state.items()}
    return found


def test_the_networks_are_those_of_the_command(done: Path, tmp_path: Path) -> None:
    other = ["--out", str(tmp_path / "run")]
    prune([*FLAGS, "--preset", "feddup_formula", "--rivals", "snip", "--shuffles", *other])
    prune([*FLAGS, "--preset", "imc_reconstructed", "--start", "base_point", *other])
    found, wanted = networks(done), networks(tmp_path / "run")
    assert found.keys() == wanted.keys()
    assert any("snip_shuffled/level_04" in name for name in found)
    assert all(torch.equal(values, wanted[name]) for name, values in found.items())


def test_every_block_has_its_conditions(done: Path) -> None:
    """Both blocks measure the same base point; a note says what was asked, so that neither is taken for the other."""
    methods = results.open_study(done, "imc")["method"].values.tolist()
    assert sorted(methods) == ["feddup_formula_at_k_000001", OWN.removesuffix("_forced")]
    assert OWN in results.open_study(done, "pruning")["method"].values.tolist()


def test_again_there_is_nothing_to_do(done: Path) -> None:
    assert go(done).outcomes == ()


def test_a_step_that_was_lost_is_done_again(done: Path) -> None:
    before = {path: path.read_text() for path in (done / "notes").glob("*.txt")}
    lost = next(iter(sorted(before)))
    lost.unlink()
    assert len(go(done).outcomes) == 1
    assert {path: path.read_text() for path in (done / "notes").glob("*.txt")} == before


def test_out_of_time_nothing_is_pruned(tmp_path: Path) -> None:
    conducted = go(tmp_path / "late", budget=0.0)
    assert len(conducted.missing) == len(conducted.outcomes)
    assert any("snip_shuffled" in name for name in conducted.missing)
    assert not list((tmp_path / "late").rglob("*.pt"))


def test_nothing_is_pruned_before_what_it_needs(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    assert prune_there(lambda: "done", (), note, (tmp_path / "minimum.pt",), None) == NO_TIME
    assert not note.exists()
    (tmp_path / "minimum.pt").touch()
    assert prune_there(lambda: "done", (), note, (tmp_path / "minimum.pt",), 0.0) == NO_TIME  # 0 is long ago
    assert prune_there(lambda: "done", (), note, (tmp_path / "minimum.pt",), None) == "done"
    assert note.read_text() == "done\n"
