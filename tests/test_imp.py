"""Iterative magnitude pruning: counts, starts, masks of every method; runs that are killed, extended, damaged."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import checkpoints, runs
from landscape.checkpoints import Checkpoint
from landscape.cli import exit_code
from landscape.errors import InputError
from landscape.pruning import criteria, imp, methods
from landscape.pruning.__main__ import main
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.runs import Cell, Run
from landscape.tasks import TaskOptions
from landscape.training import TrainOptions

SIZE = 64 * 8 + 8 * 10
TRAINING = TrainOptions(
    model="mlp", data="digits", model_arg=("widths=8",), num_examples=150, epochs=2, batch_size=50, lr=0.2,
    momentum=0.9, weight_decay=1e-2, schedule="milestones", milestones=(1,), device="cpu",
)  # fmt: skip
RECIPE = Recipe(TRAINING, PruneOptions(fraction=0.3))
ALL = Extent(levels=2, replicates=1, methods=("all",))
FEW = Extent(levels=1, replicates=2, methods=("fine_tune",))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return imp.train_run(tmp_path_factory.mktemp("imp") / "run", RECIPE, ALL)


def at(run: Run, method: str, level: int, what: str = "minimum", replicate: int = 0) -> Checkpoint:
    return checkpoints.read(run.folder(Cell(replicate, method, level)) / f"{what}.pt")


def masked(tensors: dict[str, torch.Tensor], mask: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: t * mask[name] if name in mask else t for name, t in tensors.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tensors(root: Path) -> dict[str, torch.Tensor]:
    """All tensors of all checkpoints below a directory."""
    found = {}
    for file in sorted(root.rglob("*.pt")):
        checkpoint = checkpoints.read(file)
        for kind, part in (("state", checkpoint.state_dict), ("mask", checkpoint.mask or {})):
            found |= {f"{file.relative_to(root)}:{kind}:{name}": t for name, t in part.items()}
    return found


def test_every_cell_is_there(run: Run) -> None:
    assert set(run.cells()) == set(imp.plan(ALL))
    assert len(run.cells()) == 3 + 2 * 7 + 1
    assert run.epochs(Cell(0, "imp", 2)) == [1, 2]


@pytest.mark.parametrize("method", [m for m in runs.METHODS if m != "imp"])
def test_counts_are_exact_for_every_method(run: Run, method: str) -> None:
    kept = criteria.counts(SIZE, 0.3, 2)
    for level in (1, 2):
        mask = at(run, method, level).mask
        assert mask is not None
        assert criteria.num_kept(mask) == kept[level]


def test_imp_masks_nest_and_follow_the_magnitudes(run: Run) -> None:
    kept = criteria.counts(SIZE, 0.3, 2)
    before = at(run, "imp", 0)
    assert before.mask is None
    for level in (1, 2):
        mask = at(run, "imp", level).mask
        assert mask is not None
        assert criteria.num_kept(mask) == kept[level]
        survivors = torch.cat([before.state_dict[n].abs()[m] for n, m in mask.items()])
        old = before.mask or {n: torch.ones_like(m) for n, m in mask.items()}
        gone = torch.cat([before.state_dict[n].abs()[old[n] & ~m] for n, m in mask.items()])
        assert not any(bool((m & ~old[n]).any()) for n, m in mask.items())
        assert float(gone.max()) <= float(survivors.min())
        before = at(run, "imp", level)


@pytest.mark.parametrize("method", runs.METHODS)
def test_pruned_weights_are_exactly_zero_at_every_epoch(run: Run, method: str) -> None:
    for what in ("start", "epoch_001", "epoch_002", "minimum"):
        found = at(run, method, 2, what)
        assert found.mask is not None
        assert all(not bool(found.state_dict[name][~m].any()) for name, m in found.mask.items())


def test_where_every_method_starts(run: Run) -> None:
    rewind = at(run, "imp", 0, "start").state_dict
    previous = at(run, "imp", 1).state_dict
    for method in runs.METHODS:
        start = at(run, method, 2, "start")
        assert start.mask is not None
        if method in ("lr_rewind", "fine_tune"):
            assert same(start.state_dict, masked(previous, start.mask))
        elif method == "random_init":
            assert not same(start.state_dict, masked(rewind, start.mask))
        else:
            assert same(start.state_dict, masked(rewind, start.mask))


def test_masks_of_the_methods(run: Run) -> None:
    ticket = at(run, "imp", 2).mask
    assert ticket is not None
    for method in ("lr_rewind", "fine_tune", "random_init", "retrained"):
        assert same(at(run, method, 2).mask or {}, ticket)
    layerwise, everywhere = (at(run, f"random_mask_{kind}", 2).mask for kind in ("layerwise", "global"))
    assert layerwise is not None
    assert everywhere is not None
    assert {n: int(m.sum()) for n, m in layerwise.items()} == {n: int(m.sum()) for n, m in ticket.items()}
    assert {n: int(m.sum()) for n, m in everywhere.items()} != {n: int(m.sum()) for n, m in ticket.items()}
    assert not same(layerwise, ticket)
    dense = at(run, "imp", 0).state_dict
    once = criteria.remove_smallest(
        {n: dense[n].abs() for n in ticket},
        criteria.dense(dense, list(ticket)),
        SIZE - criteria.counts(SIZE, 0.3, 2)[2],
    )
    assert same(at(run, "one_shot", 2).mask or {}, once)


def test_training_differs_where_it_should(run: Run) -> None:
    minima = {method: at(run, method, 2).state_dict for method in runs.METHODS}
    for first in runs.METHODS:
        for second in runs.METHODS:
            assert (first == second) == same(minima[first], minima[second]), (first, second)
    assert not same(at(run, "imp", 0).state_dict, at(run, "retrained", 0).state_dict)


def test_fine_tuning_uses_the_last_learning_rate() -> None:
    options = replace(TRAINING, epochs=10, milestones=(4, 8))
    tuned = methods.training_of(Recipe(options, PruneOptions()), Cell(0, "fine_tune", 1), steps_per_epoch=3)
    assert tuned.lr == pytest.approx(0.2 * 0.1**2)
    assert (tuned.schedule, tuned.milestones, tuned.epochs) == ("constant", (), 10)
    cosine = replace(options, schedule="cosine", milestones=())
    tuned = methods.training_of(Recipe(cosine, PruneOptions()), Cell(0, "fine_tune", 1), steps_per_epoch=3)
    assert 0 < tuned.lr < 0.02 * 0.2


def test_rewinding_to_a_later_step(tmp_path: Path) -> None:
    recipe = replace(RECIPE, pruning=PruneOptions(fraction=0.3, rewind_step=4))
    run = imp.train_run(tmp_path, recipe, Extent(levels=1, replicates=1, methods=("imp", "retrained")))
    rewind = at(run, "imp", 0, "step_000004").state_dict
    start = at(run, "imp", 1, "start")
    assert same(start.state_dict, masked(rewind, start.mask or {}))
    assert not same(rewind, at(run, "imp", 0, "start").state_dict)
    assert same(at(run, "retrained", 0, "start").state_dict, rewind)


def test_perturbed_starts_lie_at_multiples_of_the_next_pruning_step(tmp_path: Path) -> None:
    extent = Extent(levels=1, replicates=1, methods=("perturbed",), method_levels=(0, 1))
    run = imp.train_run(tmp_path, RECIPE, extent)
    rewind = at(run, "imp", 0, "start").state_dict
    for level in (0, 1):
        end = at(run, "imp", level)
        full = {n: torch.ones_like(t, dtype=torch.bool) for n, t in end.state_dict.items() if t.ndim == 2}
        mask = end.mask or full
        following = criteria.step(criteria.magnitude(end.state_dict, mask), mask, 0.3)
        gone = torch.cat([rewind[n][mask[n] & ~following[n]] for n in mask]).double().norm()
        start = masked(rewind, mask)
        directions = []
        for name, factor in runs.PERTURBED.items():
            moved = at(run, name, level, "start").state_dict
            step = torch.cat([(moved[n] - start[n]).double().reshape(-1) for n in start])
            assert float(step.norm()) == pytest.approx(factor * float(gone), rel=1e-5)
            assert all(not bool(moved[n][~m].any()) for n, m in mask.items())
            directions.append(step / step.norm())
        torch.testing.assert_close(directions[0], directions[3], rtol=1e-3, atol=1e-5)


def test_layerwise_scope_removes_the_fraction_of_every_tensor(tmp_path: Path) -> None:
    recipe = replace(RECIPE, pruning=PruneOptions(fraction=0.25, scope="layerwise"))
    run = imp.train_run(tmp_path, recipe, Extent(levels=2, replicates=1, methods=("imp", "one_shot")))
    for method in ("imp", "one_shot"):
        mask = at(run, method, 2).mask
        assert mask is not None
        assert [int(m.sum()) for m in mask.values()] == [288, 45]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return imp.train_run(tmp_path_factory.mktemp("few") / "run", RECIPE, FEW)


def test_the_same_seed_twice_gives_the_same_tensors_whatever_else_is_trained(run: Run, few: Run) -> None:
    whole = tensors(run.root)
    for name, tensor in tensors(few.root).items():
        if name.startswith("replicate_0"):
            assert torch.equal(tensor, whole[name]), name
    assert not same(at(few, "imp", 1).state_dict, at(few, "imp", 1, replicate=1).state_dict)


def test_extending_a_run_changes_nothing(few: Run, tmp_path: Path) -> None:
    imp.train_run(tmp_path / "run", RECIPE, Extent(levels=0, replicates=1))
    imp.train_run(tmp_path / "run", RECIPE, FEW)
    assert same(tensors(few.root), tensors(tmp_path / "run"))


def test_finished_trainings_are_left_alone(run: Run) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.root.rglob("*") if file.is_file()}
    imp.train_run(run.root, RECIPE, ALL)
    assert before == {file: file.stat().st_mtime_ns for file in run.root.rglob("*") if file.is_file()}


def test_changed_description_corrupted_checkpoint_and_full_disk_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extent = Extent(levels=1, replicates=1)
    run = imp.train_run(tmp_path / "run", RECIPE, extent)
    whole = tensors(run.root)
    with pytest.raises(InputError, match=r"another description .*fraction"):
        imp.train_run(run.root, replace(RECIPE, pruning=PruneOptions(fraction=0.1)), extent)

    file = run.minimum(Cell(0, "imp", 0))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"level_00: .*minimum\.pt.*delete it"):
        imp.train_run(run.root, RECIPE, extent)
    file.unlink()
    imp.train_run(run.root, RECIPE, extent)
    assert same(tensors(run.root), whole)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device"):
        imp.train_run(run.root, RECIPE, Extent(levels=2, replicates=1))
    monkeypatch.undo()
    assert same(tensors(run.root), whole)
    imp.train_run(run.root, RECIPE, Extent(levels=2, replicates=1))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (replace(RECIPE, pruning=PruneOptions(fraction=1.5)), "--fraction must lie between 0 and 1, not 1.5"),
        (replace(RECIPE, pruning=PruneOptions(prunable="zzz*")), r"no parameter matches --prunable 'zzz\*'"),
        (replace(RECIPE, pruning=PruneOptions(rewind_step=999)), r"--rewind-step 999: the training has \d+ steps"),
        (replace(RECIPE, pruning=PruneOptions(rewind_step=-1)), "--rewind-step must not be negative"),
        (replace(RECIPE, training=replace(RECIPE.training, augment="flip_crop", data="flat.npz")), "needs images"),
        (replace(RECIPE, training=replace(RECIPE.training, checkpoint_steps=(999,))), "--checkpoint-steps 999"),
        (replace(RECIPE, training=replace(RECIPE.training, data="no.npz")), r"no\.npz"),
    ],
)
def test_what_would_fail_after_the_dense_training_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("flat.npz", x=np.ones((150, 64), dtype="float32"), y=np.arange(150) % 10)
    with pytest.raises(InputError, match=message):
        imp.train_run(tmp_path / "run", recipe, FEW)
    assert not (tmp_path / "run").exists()


def test_extents_are_checked() -> None:
    with pytest.raises(InputError, match="unknown method"):
        imp.plan(Extent(methods=("magic",)))
    with pytest.raises(InputError, match="outside the levels"):
        imp.plan(Extent(levels=2, method_levels=(3,)))
    with pytest.raises(InputError, match="at least 0"):
        imp.plan(Extent(levels=-1))
    assert imp.chosen_methods(("fine_tune,random_mask",)) == [
        "imp", "fine_tune", "random_mask_layerwise", "random_mask_global",
    ]  # fmt: skip
    one = Extent(levels=4, replicates=1, methods=("retrained", "fine_tune"), method_levels=(0, 4))
    assert [str(c)[12:] for c in imp.plan(one)[5:]] == [
        "retrained/level_00",
        "fine_tune/level_04",
        "retrained/level_04",
    ]


def arguments(out: Path) -> list[str]:
    training = "--model mlp --model-arg widths=8 --data digits --num-examples 150 --epochs 2 --batch-size 50 --lr 0.2"
    more = "--momentum 0.9 --weight-decay 0.01 --schedule milestones --milestones 1 --device cpu --fraction 0.3"
    return ["imp", *f"{training} {more} --levels 1 --replicates 2 --methods fine_tune --quiet --out {out}".split()]


def test_the_command_makes_the_same_run(few: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(main, arguments(tmp_path / "run")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run'}\n"
    assert same(tensors(few.root), tensors(tmp_path / "run"))
    assert exit_code(main, [*arguments(tmp_path / "run"), "--lr", "0.3"]) == 2
    assert "another description" in capsys.readouterr().err


@pytest.mark.distributed
def test_two_processes_make_the_same_run(few: Run, tmp_path: Path) -> None:
    imp.train_run(tmp_path / "run", RECIPE, FEW, TaskOptions(workers=2))
    assert same(tensors(few.root), tensors(tmp_path / "run"))


# A process that forks the training, so that the imports are paid once, and kills it at random moments.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
from test_imp import ALL, RECIPE
from landscape.pruning import imp

root, moments, left_off = Path(sys.argv[1]), random.Random(int(sys.argv[2])), []
for _ in range(int(sys.argv[3])):
    child = os.fork()
    if child == 0:
        imp.train_run(root, RECIPE, ALL)
        os._exit(0)
    time.sleep(moments.uniform(0.02, 0.35))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left_off.append(len(list(root.rglob("minimum.pt"))))
print(left_off)
"""


def killed(root: Path, seed: int, times: int) -> list[int]:
    """Return the numbers of finished trainings at which a run was killed."""
    command = [sys.executable, "-c", KILLER, str(root), str(seed), str(times)]
    folder = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return [int(word) for word in done.stdout.strip("[]\n").split(",")]


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_tensors(run: Run, tmp_path: Path, times: int) -> None:
    finished = killed(tmp_path / "run", seed=times, times=times)
    assert min(finished) < len(imp.plan(ALL))
    imp.train_run(tmp_path / "run", RECIPE, ALL)
    assert same(tensors(run.root), tensors(tmp_path / "run"))
    left = {file.name for file in (tmp_path / "run").rglob("*") if file.is_file() and not file.name.startswith(".")}
    assert left == {"run.json", "curves.nc", "minimum.pt", "start.pt", "epoch_001.pt", "epoch_002.pt"}
