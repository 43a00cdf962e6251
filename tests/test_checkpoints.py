"""Checkpoints: every format gives the same problem, no file runs code, every mistake is one clear line."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import assert_close
from torch import nn
from torch.nn.utils import prune

from landscape import checkpoints, cli, datasets, losses, masks, models
from landscape.checkpoints import Checkpoint, ProblemOptions, load, read, save
from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings

ARGUMENTS = {"input_shape": (1, 8, 8), "num_outputs": 10, "widths": (6, 5)}
MODEL = models.build("mlp", 1, **ARGUMENTS)
STATE = {name: t.clone() for name, t in MODEL.state_dict().items()}
MASK = {"fc1.weight": torch.rand(6, 64, generator=torch.Generator().manual_seed(0)) < 0.5}
OPTIONS = ProblemOptions(model="mlp", model_arg=("widths=6,5",), data="digits", num_examples=50)
OWN = Checkpoint(
    masks.apply(STATE, MASK),
    MASK,
    model="mlp",
    model_args=ARGUMENTS,
    data="digits",
    normalize="unit",
    loss="cross_entropy",
    method="imp",
    level=3,
    replicate=1,
    epoch=10,
    step=120,
    seed=7,
)


def same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(t, b[name]) and t.dtype == b[name].dtype for name, t in a.items())


def test_the_own_format_keeps_everything(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    found = read(tmp_path / "own.pt")
    assert same_tensors(found.state_dict, OWN.state_dict)
    assert found.mask is not None
    assert same_tensors(found.mask, MASK)
    for name in ("model", "model_args", "data", "normalize", "loss", "method", "level", "replicate", "epoch", "step"):
        assert getattr(found, name) == getattr(OWN, name)
    assert found.seed == 7
    assert found.versions["torch"] == torch.__version__
    assert found.sha256 is not None
    assert len(found.sha256) == 64
    content = torch.load(tmp_path / "own.pt", weights_only=True)
    assert set(content) >= {"format", "state_dict", "mask", "model", "model_args", "data", "normalize", "loss"}
    assert set(content) >= {"method", "level", "replicate", "epoch", "step", "seed", "versions"}


def test_an_own_checkpoint_needs_no_other_argument(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    problem = load(tmp_path / "own.pt")
    data = datasets.load("digits", normalize="unit")
    direct = Problem.from_model(MODEL, "cross_entropy", (data.x, data.y), MASK)
    assert problem.num_params == sum(p.numel() for p in MODEL.parameters()) - int((~MASK["fc1.weight"]).sum())
    assert problem.loss() == direct.loss()
    assert torch.equal(problem.theta, direct.theta)
    assert problem.data_sha256 == direct.data_sha256


def foreign(kind: str, folder: Path) -> Path:
    """Write STATE pruned by MASK as another program would."""
    path = folder / f"{kind}.pt"
    pruned = models.build("mlp", 1, **ARGUMENTS)
    prune.custom_from_mask(pruned.fc1, "weight", MASK["fc1.weight"])
    plain = masks.apply(STATE, MASK)
    contents: dict[str, Any] = {
        "bare": plain,
        "wrapped": {"state_dict": plain, "epoch": 3, "optimizer": {"lr": 0.1}},
        "model_state_dict": {"model_state_dict": plain, "loss": torch.tensor(1.0)},
        "model": {"model": plain, "args": None},
        "net": {"net": {f"module.{name}": t for name, t in plain.items()}, "acc": 90.0},
        "parallel": {f"module.{name}": t for name, t in plain.items()},
        "compiled": {f"_orig_mod.module.{name}": t for name, t in plain.items()},
        "pruned": pruned.state_dict(),
        "pruned_parallel": {"state_dict": {f"module.{name}": t for name, t in pruned.state_dict().items()}},
        "double": {name: t.double() for name, t in plain.items()},
    }
    if kind == "safetensors":
        path = folder / "x.safetensors"
        safetensors.torch.save_file(plain, path)
    else:
        torch.save(contents[kind], path, _use_new_zipfile_serialization=kind != "wrapped")
    return path


KINDS = ("bare", "wrapped", "model_state_dict", "model", "net", "parallel", "compiled", "double", "safetensors")


@pytest.mark.parametrize("kind", [*KINDS, "pruned", "pruned_parallel"])
def test_every_format_gives_the_same_problem(kind: str, tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    torch.save(MASK, tmp_path / "mask.pt")
    expected = load(tmp_path / "own.pt", replace(OPTIONS, normalize="standard"))
    options = OPTIONS if kind.startswith("pruned") else replace(OPTIONS, mask=str(tmp_path / "mask.pt"))
    problem = load(foreign(kind, tmp_path), options)
    assert torch.equal(problem.theta, expected.theta)
    assert problem.loss() == expected.loss()


def test_masks_on_request(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    np.savez(tmp_path / "other.npz", **{"output.weight": np.eye(10, 5)})
    total = sum(t.numel() for t in STATE.values())
    assert load(tmp_path / "own.pt", replace(OPTIONS, mask="none")).num_params == total
    assert load(tmp_path / "own.pt", replace(OPTIONS, mask=str(tmp_path / "other.npz"))).num_params == total - 45


def test_subspaces_leave_the_point_unmoved(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    torch.save({"fc2.weight": torch.eye(5, 6)}, tmp_path / "sub.pt")
    whole = load(tmp_path / "own.pt", OPTIONS)
    part = load(tmp_path / "own.pt", replace(OPTIONS, subspace=tmp_path / "sub.pt"))
    assert part.num_params == 5
    assert part.loss() == whole.loss()
    assert_close(part.theta, STATE["fc2.weight"].diagonal())
    named = load(tmp_path / "own.pt", replace(OPTIONS, params="fc1.*"))
    assert [name for name, _ in named.names()] == ["fc1.weight", "fc1.bias"]
    assert named.num_params == int(MASK["fc1.weight"].sum()) + 6


def test_options_reach_the_problem(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    data = datasets.load("digits", "test", datasets.Sample(40, "random", 5), "none")
    weight = torch.linspace(1, 2, 10, dtype=torch.float64)
    np.save(tmp_path / "weights.npy", weight.numpy())
    loss = losses.by_name("cross_entropy", weight, 3, 0.1)
    settings = ProblemSettings(weight_decay=0.01, dtype=torch.float64, batch_size=7)
    direct = Problem.from_model(MODEL, loss, (data.x, data.y), MASK, settings)
    options = ProblemOptions(
        split="test",
        num_examples=40,
        examples="random",
        normalize="none",
        seed=5,
        weight_decay=0.01,
        class_weights=str(tmp_path / "weights.npy"),
        ignore_index=3,
        label_smoothing=0.1,
        dtype="float64",
        batch_size=7,
    )
    problem = load(tmp_path / "own.pt", options)
    assert problem.loss() == direct.loss()
    assert [len(batch[1]) for batch in problem.batches] == [7] * 5 + [5]
    listed = ",".join(str(float(w)) for w in weight)
    assert load(tmp_path / "own.pt", replace(options, class_weights=listed)).loss() == direct.loss()
    assert load(tmp_path / "own.pt", replace(OPTIONS, loss="mse")).loss() != load(tmp_path / "own.pt", OPTIONS).loss()


def test_code_from_the_command_line_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_checkpoints.py").write_text(
        "import torch\n"
        "def net(num_outputs):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_outputs))\n"
        "def data():\n    return torch.ones(6, 1, 8, 8), torch.arange(6)\n"
        "def loss(outputs, batch):\n    return outputs.square().sum(), torch.tensor(float(len(outputs)))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    linear = nn.Linear(64, 6)
    state = {f"1.{name}": t.detach() for name, t in linear.state_dict().items()}
    code = {
        "model": "mine_for_checkpoints:net",
        "data": "mine_for_checkpoints:data",
        "loss": "mine_for_checkpoints:loss",
    }
    torch.save(state, tmp_path / "bare.pt")
    problem = load(tmp_path / "bare.pt", ProblemOptions(**code))
    expected = float(linear(torch.ones(6, 64)).detach().square().sum()) / 6
    assert problem.loss() == pytest.approx(expected, rel=1e-5)
    for name, flag in code.items():
        save(tmp_path / "own.pt", Checkpoint(state, **{**code, name: flag}))
        others = {other: value for other, value in code.items() if other != name}
        with pytest.raises(InputError, match=f"names the {name} '{flag}', which is code; .* --{name}"):
            load(tmp_path / "own.pt", ProblemOptions(**others))
        load(tmp_path / "own.pt", ProblemOptions(**code))


class Attack:
    """A pickle that makes a directory when it is opened."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_files_are_refused_unopened(tmp_path: Path, legacy: bool) -> None:
    attack = Attack(str(tmp_path / "attacked"))
    for content in (
        attack,
        {"state_dict": STATE, "extra": attack},
        {"format": "landscape-checkpoint-1", "mask": attack},
    ):
        torch.save(content, tmp_path / "hostile.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(InputError, match=r"could run code; it was not opened.*torch\.save\(m\.state_dict\(\)"):
            read(tmp_path / "hostile.pt")
    assert not (tmp_path / "attacked").exists()


def test_whole_models_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"convert it .* weights\.pt"):
        read(tmp_path / "model.pt")


def damaged_files(folder: Path) -> dict[str, str]:
    """Write files that are no checkpoints, and say what the message must hold."""
    save(folder / "own.pt", OWN)
    whole = (folder / "own.pt").read_bytes()
    (folder / "short.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "text.pt").write_text("weights")
    place = whole.index(
        next(iter(OWN.state_dict.values())).numpy().tobytes()[:16]
    )  # one bit of a weight: torch would not notice
    (folder / "flipped.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    (folder / "empty.pt").write_bytes(b"")
    safetensors.torch.save_file(STATE, folder / "cut.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "cut.safetensors").read_bytes()[:50])
    torch.save({"epoch": 3, "weights": STATE}, folder / "keys.pt")
    torch.save([STATE], folder / "list.pt")
    torch.save({}, folder / "nothing.pt")
    content = torch.load(folder / "own.pt", weights_only=True)
    for name, value in (("state_dict", {"a": 3}), ("level", "three"), ("model_args", {3: 1}), ("mask", [1])):
        torch.save({**content, name: value}, folder / f"bad_{name}.pt")
    torch.save({**content, "format": "landscape-checkpoint-9"}, folder / "future.pt")
    expected = {f"bad_{name}.pt": f"its entry '{name}'" for name in ("state_dict", "level", "model_args", "mask")}
    return expected | {
        "missing.pt": "there is no checkpoint",
        "missing.safetensors": "there is no checkpoint",
        "short.pt": "truncated",
        "flipped.pt": "is damaged; remove it or restore it",
        "text.pt": "truncated or no file of torch.save",
        "empty.pt": "truncated",
        "cut.safetensors": "truncated",
        "keys.pt": "its keys are epoch, weights",
        "list.pt": "holds a list",
        "nothing.pt": "its keys are none",
        "future.pt": "this version reads",
    }


def test_damaged_and_foreign_files_are_told(tmp_path: Path) -> None:
    for name, message in damaged_files(tmp_path).items():
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)


def test_what_does_not_fit_is_named_on_both_sides(tmp_path: Path) -> None:
    torch.save({"layer1.weight": torch.ones(2, 2), "layer1.bias": torch.ones(2)}, tmp_path / "keys.pt")
    with pytest.raises(
        InputError, match=r"has 'layer1.weight', 'layer1.bias', the model wants 'fc1.weight', 'fc1.bias'"
    ):
        load(tmp_path / "keys.pt", OPTIONS)
    torch.save({**STATE, "extra": torch.ones(1)}, tmp_path / "extra.pt")
    with pytest.raises(InputError, match=r"has 'extra', the model wants 'fc1.weight'"):
        load(tmp_path / "extra.pt", OPTIONS)
    torch.save({**STATE, "fc2.weight": torch.ones(5, 7)}, tmp_path / "shape.pt")
    with pytest.raises(InputError, match=r"fc2.weight has the shape \(5, 7\) in the checkpoint and \(5, 6\)"):
        load(tmp_path / "shape.pt", OPTIONS)


def test_prefixes_that_belong_to_the_model_stay() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 1)

    model, other = Wrapper(), Wrapper()
    checkpoints.load_state(model, {name.removeprefix("module."): t for name, t in other.state_dict().items()})
    assert same_tensors(dict(model.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_dict": {**STATE, "fc1.bias": torch.full((6,), float("nan"))}}, "fc1.bias holds NaN"),
        (
            {"state_dict": {**STATE, "output.weight": torch.full((10, 5), float("inf"))}},
            "output.weight holds NaN or inf",
        ),
        ({"mask": {"fc1.weight": torch.ones(2, 2)}}, "the mask of fc1.weight has the shape"),
        ({"mask": {"fc9.weight": torch.ones(2, 2)}}, "names 'fc9.weight'"),
        ({"mask": {"fc1.weight": torch.zeros(6, 64)}}, "zero everywhere"),
        ({"model": "lenet"}, "unknown model 'lenet'"),
        ({"model": None}, "does not say which model it belongs to; give --model"),
        ({"data": None}, "does not say which data it belongs to; give --data"),
        ({"data": "digits2"}, "unknown data 'digits2'"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"model_args": {**ARGUMENTS, "widths": "wide"}}, "widths must be positive"),
        ({"model_args": {**ARGUMENTS, "input_shape": (9,)}}, r"fc1.weight has the shape \(6, 64\)"),
        ({"model_args": {**ARGUMENTS, "num_outputs": 3}}, r"output.weight has the shape \(10, 5\)"),
    ],
)
def test_what_a_checkpoint_can_be_wrong_about(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path / "own.pt", replace(OWN, **change))
    with pytest.raises(InputError, match=message):
        load(tmp_path / "own.pt", ProblemOptions(num_examples=50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_weights": "1,2"}, "2 class weights for 10 classes"),
        ({"class_weights": "1,two"}, "no list of numbers"),
        ({"class_weights": "1,-2"}, ">= 0"),
        ({"class_weights": "none.npy"}, "no .npy file"),
        ({"loss": "mse", "label_smoothing": 0.1}, "belong to cross_entropy"),
        ({"loss": "no_such_module:loss"}, "cannot import the loss"),
        ({"label_smoothing": 1.0}, "--label-smoothing must lie"),
        ({"weight_decay": -1.0}, "--weight-decay must be"),
        ({"batch_size": 0}, "--batch-size must be"),
        ({"dtype": "float16"}, "unknown --dtype"),
        ({"device": "tpu"}, "unknown --device"),
        ({"mask": "none.pt"}, "there is no mask"),
        ({"subspace": Path("none.pt")}, "there is no mask"),
        ({"params": "layer9*"}, "no parameter matches"),
        ({"num_examples": 5000}, "between 1 and 1437"),
        ({"model_arg": ("widths=6,7",)}, r"fc2.weight has the shape \(5, 6\)"),
    ],
)
def test_wrong_options(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "own.pt", replace(OPTIONS, **change))


def test_data_of_the_wrong_shape(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    np.savez(tmp_path / "flat.npz", x=np.ones((4, 5), np.float32), y=np.arange(4))
    with pytest.raises(InputError, match=r"does not take inputs of shape \(5,\)"):
        load(tmp_path / "own.pt", ProblemOptions(data=str(tmp_path / "flat.npz")))
    np.savez(tmp_path / "labels.npz", x=np.ones((4, 64), np.float32), y=np.arange(4) + 9)
    with pytest.raises(InputError, match="labels run from 9 to 12, but the model has 10 classes"):
        load(tmp_path / "own.pt", ProblemOptions(data=str(tmp_path / "labels.npz")))


def test_recorded_normalisation_belongs_to_the_recorded_data(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", replace(OWN, normalize="none"))
    checkpoint = read(tmp_path / "own.pt")
    assert checkpoints.open_data(checkpoint, ProblemOptions()).normalize == "none"
    assert checkpoints.open_data(checkpoint, ProblemOptions(data="digits")).normalize == "none"
    assert checkpoints.open_data(checkpoint, ProblemOptions(normalize="unit")).normalize == "unit"
    np.savez(tmp_path / "data.npz", x=np.ones((4, 64)), y=np.arange(4))
    assert checkpoints.open_data(checkpoint, ProblemOptions(data=str(tmp_path / "data.npz"))).normalize == "none"
    other = replace(checkpoint, data="mnist")
    assert checkpoints.open_data(other, ProblemOptions(data="digits")).normalize == "standard"


def test_a_view_is_saved_without_its_base(tmp_path: Path) -> None:
    base = torch.zeros(1_000_000)
    save(tmp_path / "view.pt", Checkpoint({"w": base[:3]}))
    assert (tmp_path / "view.pt").stat().st_size < 10_000


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "own.pt", OWN)
    before = (tmp_path / "own.pt").read_bytes()
    with pytest.raises(AttributeError):
        # The wrong type is the point of the test.
        save(tmp_path / "own.pt", replace(OWN, state_dict={"w": "no tensor"}))  # type: ignore[dict-item]
    assert (tmp_path / "own.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["own.pt"]


def test_the_options_are_flags_of_the_contract() -> None:
    parser = cli.Parser("spectrum", "", "")
    cli.add_options(parser, ProblemOptions)
    names = "model model-arg data split num-examples examples normalize loss weight-decay class-weights ignore-index"
    names += " label-smoothing params mask subspace batchnorm dtype device batch-size seed"
    assert {flag for action in parser._actions for flag in action.option_strings} == {
        *("-h", "--help"),
        *(f"--{name}" for name in names.split()),
    }


def test_nested_plain_arguments_survive(tmp_path: Path) -> None:
    arguments = {"stages": ((1, 2), [3, {"stride": 2.0, "name": "a", "bias": None}]), "flag": True}
    save(tmp_path / "own.pt", replace(OWN, model_args=arguments))
    assert read(tmp_path / "own.pt").model_args == arguments
