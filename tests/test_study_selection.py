"""What a study measures, where, and what it refuses: late rewinds, starts, empty selections, other data, locks."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_study import HERE, OPTIONS, RECIPE

from landscape import checkpoints, masks, results
from landscape.cli import exit_code
from landscape.pruning import imp
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.runs import Cell, Run
from landscape.study import Selection, expand, measure
from landscape.study.__main__ import main
from landscape.study.measure import _alone as alone
from landscape.study.points import point_of
from landscape.training import TrainOptions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("selection") / "run"
    return imp.train_run(root, RECIPE, Extent(levels=2, replicates=1, methods=("fine_tune",)))


def test_projected_curves_stand_at_their_epochs_after_a_late_rewind(tmp_path: Path) -> None:
    """Three steps an epoch and a rewind to step 4: levels above 0 begin in epoch 1, the dense training in epoch 0."""
    recipe = replace(RECIPE, pruning=replace(RECIPE.pruning, rewind_step=4))
    late = imp.train_run(tmp_path / "run", recipe, Extent(levels=2, replicates=1))
    measure(late, Selection(quantities=("curves",)), OPTIONS, HERE)
    for level in (1, 2):
        cell, before = Cell(0, "imp", level), Cell(0, "imp", level - 1)
        found = results.open_study(late.root, "curves").sel({"method": "imp", "level": level, "replicate": 0})
        found = found["projected_loss"].dropna("epoch")
        assert found["epoch"].values.tolist() == [1, 2, 3]
        mask = checkpoints.read(late.minimum(cell)).mask
        files = [late.epoch(before, e) if e in late.epochs(before) else late.start(before) for e in (1, 2, 3)]
        for value, file in zip(found.values, files, strict=True):
            checkpoint = checkpoints.read(file)
            placed = replace(checkpoint, state_dict=masks.apply(checkpoint.state_dict, mask), mask=mask)
            assert float(value) == pytest.approx(checkpoints.problem_of(placed, OPTIONS.problem).loss(), rel=1e-12)


def test_every_method_starts_where_its_rewind_point_is(tmp_path: Path) -> None:
    """Own masks on W_rewind, or fresh weights; methods that continue imp's level before share imp's point."""
    methods = ("one_shot", "random_mask_global", "random_init", "fine_tune")
    run = imp.train_run(tmp_path / "run", RECIPE, Extent(levels=2, replicates=1, methods=methods, method_levels=(2,)))
    selection = Selection(quantities=("convergence",), points=("rewind",), levels=(2,))
    requests = expand(run, selection)
    assert {request.cell.method for request in requests} == {"imp", *methods} - {"fine_tune"}
    for request in requests:
        found = point_of(run, request.cell, "rewind", OPTIONS.problem).problem
        start = checkpoints.load(run.start(request.cell), OPTIONS.problem)
        assert torch.equal(found.theta, start.theta), request.cell
    measure(run, selection, OPTIONS, HERE)
    norms = results.open_study(run.root, "convergence")["gradient_norm"].values.ravel()
    assert len(set(norms.tolist())) == 4


def test_an_empty_selection_says_what_there_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--quantities", "spectrum", "--points", "restricted", "--methods", "fine_tune"]
    assert exit_code(main, ["measure", str(run.root), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "spectrum at restricted of imp (levels 1-2)" in error
    assert "spectrum at minimum of imp (levels 0-2), fine_tune (levels 1-2)" in error
    assert exit_code(main, ["measure", str(run.root), "--quantities", "renewal", "--levels", "0"]) == 2
    assert "there are renewal of imp (levels 1-2)" in capsys.readouterr().err


def test_the_lock_of_a_result_keeps_latecomers_out(tmp_path: Path) -> None:
    """The second waits on the file that the first removes; a third that comes then must still wait for the second."""
    out, inside, leave = tmp_path / "a.nc", [threading.Event() for _ in range(2)], threading.Event()

    def work(number: int) -> None:
        with alone(out):
            inside[number].set()
            leave.wait(60)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    with alone(out):
        threads[0].start()
        time.sleep(0.3)
        assert not inside[0].is_set()
    assert inside[0].wait(60)
    threads[1].start()
    assert not inside[1].wait(0.5)
    leave.set()
    for thread in threads:
        thread.join()
    assert inside[1].is_set()
    assert not list(tmp_path.iterdir())


def test_data_that_changed_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "d.npz"
    stream = np.random.default_rng(0)
    x, y = stream.standard_normal((60, 5)), np.arange(60) % 2
    np.savez(file, x=x, y=y)
    training = TrainOptions(
        model="mlp", data=str(file), model_arg=("widths=3",), epochs=1, batch_size=20, lr=0.1, device="cpu"
    )
    root = imp.train_run(tmp_path / "run", Recipe(training, PruneOptions()), Extent(levels=1, replicates=1)).root
    flags = ["measure", str(root), "--quantities", "convergence", "--points", "minimum", "--quiet", "--levels"]
    assert exit_code(main, [*flags, "0"]) == 0
    capsys.readouterr()

    np.savez(file, x=2 * x, y=y)
    assert exit_code(main, [*flags, "0,1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the data changed since results/convergence/" in error
    assert len(list((root / "results" / "convergence").glob("*.nc"))) == 1
    assert exit_code(main, [*flags, "0,1", "--num-examples", "30"]) == 0  # nothing stored says otherwise
    assert exit_code(main, [*flags, "0"]) == 0  # and nothing is added here

    np.savez(file, x=x, y=y)
    assert exit_code(main, [*flags, "0,1"]) == 0
