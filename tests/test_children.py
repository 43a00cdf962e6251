"""Children of checkpoints: planted agreement and disagreement, and when the masks of a training settle."""

import json

import numpy as np
import pytest

from landscape import checkpoints, cli, runs, schemas, store
from landscape.pruning import children, criteria, imp
from landscape.pruning.__main__ import main
from landscape.pruning.children import ChildOptions, first_settled
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe, mask_of
from landscape.runs import Cell
from landscape.training import TrainOptions, train
from landscape.training.files import Branch

TRAINING = TrainOptions(
    "mlp",
    "digits",
    ("widths=8",),
    num_examples=60,
    epochs=2,
    batch_size=30,
    lr=0.5,
    checkpoint_steps=(1, 3),
    device="cpu",
)
RECIPE = Recipe(TRAINING, PruneOptions(fraction=0.5))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return imp.train_run(tmp_path_factory.mktemp("children") / "run", RECIPE, Extent(levels=1, replicates=1))


def command(run, *argv):
    words = ["children", str(run.root), *map(str, argv), "--num-examples", "40", "--num-positions", "5"]
    return cli.exit_code(main, [*words, "--num-refinements", "0", "--num-bootstrap", "5"])


def test_settled_means_from_there_on():
    assert first_settled(np.array([0.3, 0.0, 0.1, 0.02, 0.0]), 0.02) == 3
    assert first_settled(np.array([0.0, 0.0]), 0.02) == 0
    assert first_settled(np.array([0.0, 0.5]), 0.02) is None
    assert first_settled(np.array([0.0, np.nan, 0.0]), 0.02) == 2


def test_command_compares_the_children_of_every_checkpoint(run, tmp_path, capsys):
    out = tmp_path / "children.nc"
    assert command(run, "--level", 1, "--out", out) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(out)
    result = store.open_result(out)
    schemas.check(result, "children")
    assert list(result["step"].values) == [0, 1, 2, 3]  # the end of training has no children
    mask = checkpoints.read(run.minimum(Cell(0, "imp", 1))).mask
    folder = run.root / "replicate_0" / "children" / "imp_01"
    for step in (0, 3):
        first, second = (checkpoints.read(folder / f"step_{step:06d}_{c}.pt") for c in "ab")
        assert first.step == second.step == 4
        assert json.loads(first.options)["first_step"] == step
        assert any(not first.state_dict[n].equal(second.state_dict[n]) for n in first.state_dict)
        for child in (first, second):
            assert all(not child.state_dict[n][~m].any() for n, m in mask.items())
    stamps = {p: p.stat().st_mtime_ns for p in folder.glob("*.pt")}
    assert len(stamps) == 8
    assert command(run, "--level", 1, "--out", tmp_path / "again.nc") == 0
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*.pt")} == stamps
    assert np.isnan(result["mask_distance_step"]).all()  # four checkpoints are fewer than the five of the rule


def test_children_of_some_parents_and_masks_of_all(run, tmp_path, capsys):
    options = ("--level", 1, "--out", tmp_path / "some.nc", "--parents")
    assert command(run, *options, "1,3") == 0
    some = store.open_result(tmp_path / "some.nc")
    assert list(some["step"].values) == [0, 1, 2, 3]
    for name in ("instability_error", "child_loss"):
        assert np.isfinite(some[name]).values.ravel().tolist() == [False, True, False, True]
    assert np.isfinite(some["mask_distance"]).values.ravel().tolist() == [False, True, True, True]
    stable = some["stable_step"].item()
    assert np.isnan(stable) or stable in (1.0, 3.0)
    assert command(run, *options, "7", "--force") == 2
    assert "no checkpoint of step 7; there are 0, 1, 2, 3" in capsys.readouterr().err


def test_the_table_of_an_extended_run_is_completed(tmp_path, capsys):
    root, out = tmp_path / "run", tmp_path / "children.nc"
    for replicates in (1, 2):
        run = imp.train_run(root, RECIPE, Extent(levels=0, replicates=replicates))
        for _ in range(2):
            assert command(run, "--parents", 3, "--out", out) == 0
            assert list(store.open_result(out)["replicate"].values) == list(range(replicates))
    stamp = out.stat().st_mtime_ns
    assert command(run, "--parents", 3, "--out", out) == 0
    assert out.stat().st_mtime_ns == stamp


def test_children_of_one_order_agree_and_the_masks_are_those_of_the_level(run, monkeypatch, tmp_path):
    family = next(iter(children.families(run, ChildOptions(level=1), set())))
    assert [p.first_step for p in family.parents] == [0, 1, 2, 3]
    assert family.order(0) != family.order(1)
    assert sum(family.parents[0].bird) == criteria.counts(64 * 8 + 8 * 10, 0.5, 1)[-1]
    drawn = mask_of(run, RECIPE, Cell(0, "imp", 1))
    end = checkpoints.read(run.minimum(Cell(0, "imp", 0)))
    full = criteria.dense(end.state_dict, list(drawn))
    again = children.at_level(criteria.magnitude(end.state_dict, full), full, RECIPE.pruning, 1)
    assert all(again[name].equal(drawn[name]) for name in drawn)
    monkeypatch.setattr(children.Family, "order", lambda self, child: 7)
    monkeypatch.setattr(children, "families", lambda *_: [family])
    copy = runs.create(tmp_path / "copy", run.description)
    assert command(copy, "--level", 1, "--out", tmp_path / "same.nc") == 0
    same = store.open_result(tmp_path / "same.nc")
    np.testing.assert_allclose(same["instability_loss"], 0, atol=1e-6)
    assert (same["stable_step"] == 0).all()


def test_subnetworks_of_a_selection_have_children_too(tmp_path, capsys):
    options = TrainOptions(
        "two_layer", "digits", ("width=12",), num_examples=60, epochs=2, batch_size=30, lr=0.5, loss="cross_entropy"
    )
    train(options, tmp_path / "trained", Branch(replicate=0))
    words = ["gfs", "--checkpoints", tmp_path / "trained", "--sizes", "2,6", "--loss", "mse", "--num-examples", 50]
    root = tmp_path / "subnetworks"
    assert cli.exit_code(main, [*map(str, words), "--subnetworks", str(root), "--threads", "1"]) == 0
    run = runs.read(root)
    assert command(run, "--epochs", 2, "--lr", 0.5, "--train-batch-size", 30, "--out", tmp_path / "c.nc") == 0
    result = store.open_result(tmp_path / "c.nc")
    assert list(result["method"].values) == ["gfs", "random_neurons"]
    assert list(result["step"].values) == [0, 2, 4]
    assert np.isfinite(result["instability_error"]).all()
    assert set(run.cells()) == set(runs.read(root).cells())  # children are no cells of the run
    assert command(run, "--out", tmp_path / "d.nc") == 2
    assert "give --epochs" in capsys.readouterr().err


def test_recipes_are_not_changed(run, tmp_path, capsys):
    assert command(run, "--lr", 0.1, "--out", tmp_path / "x.nc") == 2
    assert "leave out --lr" in capsys.readouterr().err
    assert command(run, "--level", 3, "--out", tmp_path / "x.nc") == 2
    assert "no finished level 3" in capsys.readouterr().err
    assert children.recipe_of(run) == RECIPE
