"""Study files: what they say, and what they are told when they say something else."""

import json
from pathlib import Path

import pytest

from landscape.errors import InputError
from landscape.pruning import imp
from landscape.study import file as study_file

TEXT = """
title = "Tiny"
[training]
model = "mlp"
data = "digits"
lr = 1
checkpoint_steps = [1, 2]
[extent]
levels = 1
replicates = 1
[problem]
num_examples = 50
[spectrum]
largest = 3
[[measure]]
quantities = ["spectrum"]
points = ["minimum"]
[[measure]]
quantities = ["curves"]
levels = [1]
problem = { num_examples = 20 }
"""
ARMS = """
[arms.relu]
[arms.gelu.training]
model_arg = ["activation=gelu"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_options(tmp_path: Path) -> None:
    study = study_file.read(written(tmp_path, TEXT))
    (arm,) = study.arms
    assert (study.name, study.title, arm.name) == ("tiny", "Tiny", "")
    assert arm.recipe.training.lr == 1.0
    assert arm.recipe.training.checkpoint_steps == (1, 2)
    first, second = arm.measurements
    assert first.selection.quantities == ("spectrum",)
    assert first.options.spectrum.largest == second.options.spectrum.largest == 3
    assert (first.options.problem.num_examples, second.options.problem.num_examples) == (50, 20)
    assert second.selection.levels == (1,)
    assert study.root(tmp_path / "out", arm) == tmp_path / "out"


def test_arms_differ_in_what_they_say_and_have_runs_of_their_own(tmp_path: Path) -> None:
    restricted = TEXT.replace("levels = [1]", 'levels = [1]\narms = ["relu"]')
    study = study_file.read(written(tmp_path, restricted + ARMS))
    relu, gelu = study.arms
    assert relu.recipe.training.model_arg == ()
    assert gelu.recipe.training.model_arg == ("activation=gelu",)
    assert (len(relu.measurements), len(gelu.measurements)) == (2, 1)
    assert study.root(tmp_path / "out", gelu) == tmp_path / "out_gelu"


def test_a_device_replaces_that_of_the_file(tmp_path: Path) -> None:
    (arm,) = study_file.read(written(tmp_path, TEXT), device="cpu").arms
    assert arm.recipe.training.device == arm.measurements[0].options.problem.device == "cpu"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("lr = 1", "learning_rate = 1", "training: unknown key 'learning_rate'; did you mean"),
        ("[extent]", "[extend]", "unknown key 'extend'; did you mean 'extent'?"),
        ("largest = 3", "larges = 3", "spectrum: unknown key 'larges'; did you mean 'largest'?"),
        ("levels = 1\n", "levels = 1.5\n", "extent.levels must be a whole number, not 1.5"),
        ("levels = 1\n", "levels = true\n", "extent.levels must be a whole number, not True"),
        ("lr = 1", 'lr = "fast"', "training.lr must be a number, not 'fast'"),
        ("[1, 2]", "2", "training.checkpoint_steps must be a list, not 2"),
        ("num_examples = 50", 'mask = "none"', "a study chooses mask itself"),
        ("num_examples = 50", 'dtype = "half"', "problem.dtype: unknown 'half'; use float32, float64"),
        ('model = "mlp"\n', "", "must say which model"),
        ('quantities = ["curves"]', "", "measure 2: quantities"),
        ('title = "Tiny"', "title = 3", "title must be text"),
        ("levels = [1]", 'arms = ["rely"]', "measure 2: there is no arm 'rely'"),
        ("lr = 1", "lr = ", "is no study file"),
        ('title = "Tiny"', 'title = "Tiny"\nthreads = 0', "threads must be at least 1"),
        ("lr = 1", "lr = 1\nseed = -1", "seed must be at least 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=r"\w") as caught:
        study_file.read(written(tmp_path, TEXT.replace(old, new)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_names_the_presets() -> None:
    with pytest.raises(InputError, match=r"the presets are .*digits"):
        study_file.read("nothing")


@pytest.mark.parametrize("name", study_file.presets())
def test_presets_are_valid(name: str) -> None:
    study = study_file.read(name)
    assert study.title
    assert len(study.description) > 50
    for arm in study.arms:
        assert imp.plan(arm.extent)
        assert arm.measurements


def test_the_lenet_preset_goes_on_with_the_run_of_the_same_description() -> None:
    study = study_file.read("lenet_mnist")
    described = {arm.name: imp.describe(arm.recipe) for arm in study.arms}
    relu = described["relu"]
    # The description of `python -m landscape.pruning imp` with --lr 0.1 --batch-size 128 --schedule milestones
    # --milestones 8 --checkpoint-steps 32,64,128,256; its fingerprint names the run.
    assert relu["training"]["milestones"] == [8]
    assert imp.runs.Run(Path(), relu).fingerprint == "a54d42ac3c58d35b67f0"
    differs = {
        name: {k for k, v in arm["training"].items() if v != relu["training"][k]} for name, arm in described.items()
    }
    assert differs == {"relu": set(), "gelu": {"model_arg"}, "mse": {"loss", "lr", "momentum"}}
    assert json.dumps(described["mse"]["training"]["momentum"]) == "0.9"
