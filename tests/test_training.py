"""The trainer: the same bits twice, after an interruption too; pruned weights exactly zero; schedules as stated."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, data_directory
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landscape import checkpoints, cli, datasets, losses, models, seeds, store
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.training import Branch, TrainOptions, evaluate, train
from landscape.training.__main__ import main
from landscape.training.files import load_data
from landscape.training.loop import PAD, Augmentation, Loop
from landscape.training.options import Schedule, check

OPTIONS = TrainOptions(
    "mlp", "digits", ("widths=8,6",), num_examples=100, epochs=3, batch_size=32, lr=0.1, momentum=0.9, weight_decay=1e-3
)


@pytest.fixture(scope="module")
def data() -> tuple[Data, Data | None]:
    return load_data(OPTIONS)


def same(a: checkpoints.Checkpoint, b: checkpoints.Checkpoint) -> bool:
    return all(torch.equal(t, b.state_dict[name]) for name, t in a.state_dict.items())


def test_the_same_options_give_the_same_bits(data: tuple[Data, Data | None]) -> None:
    torch.manual_seed(1)
    first = train(OPTIONS, data=data)
    state = torch.get_rng_state()
    second = train(OPTIONS, data=data)
    assert torch.equal(state, torch.get_rng_state())
    assert same(first.checkpoint, second.checkpoint)
    assert first.curves.drop_attrs().identical(second.curves.drop_attrs())
    assert not same(first.checkpoint, train(replace(OPTIONS, seed=1), data=data).checkpoint)


def test_it_is_the_plain_loop_of_the_textbook(data: tuple[Data, Data | None]) -> None:
    """Against a loop with torch's own loss and optimiser, the stated order of the data and the stated rates."""
    options = replace(OPTIONS, schedule="cosine", warmup=0.5)
    trained = train(options, data=data)
    x, y = data[0].x, data[0].y
    model = models.build("mlp", 0, input_shape=(1, 8, 8), num_outputs=10, widths=(8, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-3)
    step, total, warmup = 0, 12, 2
    for epoch in (1, 2, 3):
        order = torch.randperm(100, generator=seeds.generator(0, "order", epoch))
        for places in order.split(32):
            rate = (
                0.1 * (step + 1) / warmup
                if step < warmup
                else 0.05 * (1 + math.cos(math.pi * (step - 2) / (total - 2)))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[places]), y[places]).backward()
            optimizer.step()
            step += 1
    for name, p in model.state_dict().items():
        assert_close(trained.checkpoint.state_dict[name], p, rtol=1e-4, atol=1e-6)
    loss = nn.functional.cross_entropy(model(x), y)
    assert float(trained.curves.train_loss[-1]) == pytest.approx(loss.item(), rel=1e-4)


def test_curves_are_evaluations_of_the_checkpoints(data: tuple[Data, Data | None], tmp_path: Path) -> None:
    trained = train(OPTIONS, tmp_path / "run", data=data)
    curves = store.open_result(tmp_path / "run" / "curves.nc")
    assert curves.epoch.values.tolist() == [0, 1, 2, 3]
    assert set(curves.data_vars) == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert curves.train_loss.attrs["units"] == "nat"
    assert curves.attrs["fingerprint"] == trained.checkpoint.fingerprint
    for epoch, name in enumerate(("start", "epoch_001", "epoch_002", "epoch_003")):
        for split in ("train", "test"):
            number = 100 if split == "train" else None
            options = checkpoints.ProblemOptions(split=split, num_examples=number)
            problem = checkpoints.load(tmp_path / "run" / f"{name}.pt", options)
            assert float(curves[f"{split}_loss"][epoch]) == pytest.approx(problem.loss(), rel=1e-6)
            assert float(curves[f"{split}_accuracy"][epoch]) == problem.accuracy()


def random_mask(seed: int = 0) -> dict[str, torch.Tensor]:
    model = models.build("mlp", input_shape=(1, 8, 8), num_outputs=10, widths=(8, 6))
    stream = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=stream) < 0.4 for n, p in model.named_parameters() if n != "fc1.bias"}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_pruned_weights_stay_exactly_zero(optimizer: str, data: tuple[Data, Data | None], tmp_path: Path) -> None:
    options = replace(OPTIONS, optimizer=optimizer, lr=0.01, momentum=0.9 if optimizer == "sgd" else 0.0)
    mask = random_mask()
    start = train(replace(options, epochs=0), data=data).checkpoint.state_dict
    trained = train(options, tmp_path / "run", Branch(start=start, mask=mask), data)
    for name in ("start", "epoch_001", "epoch_002", "minimum"):
        checkpoint = checkpoints.read(tmp_path / "run" / f"{name}.pt")
        for parameter, kept in mask.items():
            assert bool((checkpoint.state_dict[parameter][~kept] == 0).all())
            assert name == "start" or bool((checkpoint.state_dict[parameter][kept] != 0).any())
    assert float(trained.curves.train_loss[-1]) < float(trained.curves.train_loss[0])


def test_pruned_weights_do_not_move_the_others(data: tuple[Data, Data | None]) -> None:
    """Without some hidden units (all their weights pruned) the training is that of the smaller network."""
    options = replace(OPTIONS, model_arg=("widths=8",))
    small = replace(options, model_arg=("widths=5",))
    start = train(replace(small, epochs=0), data=data).checkpoint.state_dict
    mask = {
        "fc1.weight": torch.zeros(8, 64),
        "fc1.bias": torch.zeros(8),
        "output.weight": torch.zeros(10, 8),
    }
    wide = {**{name: m.clone() for name, m in mask.items()}, "output.bias": start["output.bias"]}
    for tensors, fill in ((mask, {n: torch.ones_like(t) for n, t in start.items()}), (wide, start)):
        tensors["fc1.weight"][:5], tensors["fc1.bias"][:5] = fill["fc1.weight"], fill["fc1.bias"]
        tensors["output.weight"][:, :5] = fill["output.weight"]
    one = train(small, branch=Branch(start=start), data=data).checkpoint.state_dict
    other = train(options, branch=Branch(start=wide, mask=mask), data=data).checkpoint.state_dict
    assert_close(other["fc1.weight"][:5], one["fc1.weight"], rtol=1e-4, atol=1e-6)
    assert_close(other["output.weight"][:, :5], one["output.weight"], rtol=1e-4, atol=1e-6)


def test_seeds_of_initialisation_and_order_are_separate(data: tuple[Data, Data | None]) -> None:
    runs = {
        key: train(
            replace(OPTIONS, epochs=epochs), branch=Branch(init_seed=init, data_seed=order), data=data
        ).checkpoint
        for key, epochs, init, order in (("a", 0, 0, 0), ("b", 0, 0, 1), ("c", 0, 1, 0), ("d", 1, 0, 0), ("e", 1, 0, 1))
    }
    assert same(runs["a"], runs["b"])
    assert not same(runs["a"], runs["c"])
    assert not same(runs["d"], runs["e"])


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    constant = Schedule(replace(OPTIONS, epochs=10), 5)
    assert {constant(step) for step in range(50)} == {0.1}
    drops = Schedule(replace(OPTIONS, epochs=10, schedule="milestones", milestones=(2, 4), lr_drop=0.5), 5)
    assert_close([drops(s) for s in (0, 9, 10, 19, 20, 49)], [0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    cosine = Schedule(replace(OPTIONS, epochs=10, schedule="cosine", warmup=2.0), 5)
    assert_close([cosine(s) for s in (0, 4, 9, 10, 30, 50)], [0.01, 0.05, 0.1, 0.1, 0.05, 0.0], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 20), st.integers(1, 5))
def test_augmentation_is_a_shift_and_perhaps_a_mirror(seed: int, first: int) -> None:
    x = torch.rand(3, 2, 6, 5, generator=torch.Generator().manual_seed(seed)) + 1
    augment = Augmentation("flip_crop", 10, seed, 1)
    result = augment(x, first)
    for image, before, shift, mirrored in zip(
        result, x, augment.shifts[first:], augment.mirrored[first:], strict=False
    ):
        padded = nn.functional.pad(before, (PAD,) * 4)
        down, right = shift.tolist()
        expected = padded[:, down : down + 6, right : right + 5]
        assert_close(image, expected.flip(-1) if mirrored else expected)
    assert torch.equal(Augmentation("none", 10, seed, 1)(x, 0), x)
    assert not torch.equal(augment.shifts, Augmentation("flip_crop", 10, seed, 2).shifts)


def test_evaluation_is_the_mean_over_ragged_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    x = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(11) % 2
    before = {name: t.clone() for name, t in model.state_dict().items()}
    loss = losses.by_name("cross_entropy", torch.tensor([1.0, 3.0]))
    monkeypatch.setattr("landscape.training.loop.EVALUATION_BATCH", 4)
    value, accuracy = evaluate(model, loss, x, y)
    assert model.training
    assert model[2].training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    outputs = model.eval()(x).detach()
    assert value == pytest.approx(float(nn.functional.cross_entropy(outputs, y, torch.tensor([1.0, 3.0]))), rel=1e-6)
    assert accuracy == pytest.approx(float((outputs.argmax(1) == y).double().mean()))


def test_dropout_has_a_stream_of_its_own(data: tuple[Data, Data | None]) -> None:
    def factory() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    def run(global_seed: int, data_seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        model = models.build(factory)
        loop = Loop(model, losses.by_name("cross_entropy"), (data[0].x, data[0].y), OPTIONS, {}, data_seed)
        loop.run_epoch(1, lambda step: None)
        return model[2].weight.detach()

    assert torch.equal(run(0, 0), run(1, 0))
    assert not torch.equal(run(0, 0), run(0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e3, "model_arg": ("activation=relu",), "loss": "mse"}, r"NaN or infinite in epoch \d: lower --lr"),
        ({"optimizer": "lbfgs"}, "unknown --optimizer"),
        ({"schedule": "step"}, "unknown --schedule"),
        ({"augment": "mixup"}, "unknown --augment"),
        ({"epochs": -1}, "--epochs must be at least 0"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"lr": 0.0}, "--lr and --lr-drop must be positive"),
        ({"optimizer": "adam"}, "--momentum belongs to --optimizer sgd"),
        ({"milestones": (3,)}, "need each other"),
        ({"schedule": "milestones"}, "need each other"),
        ({"lr_drop": 0.5}, "--lr-drop belongs to --schedule milestones"),
        ({"checkpoint_steps": (1,)}, "give a directory"),
        ({"loss": "hinge"}, "unknown loss"),
        ({"loss": "bce"}, "do not fit targets"),
        ({"loss": "mse", "model_arg": ("num_outputs=3",)}, "but the model has 3 classes"),
        ({"model": "torch.nn:Flatten", "model_arg": ()}, "no parameters that can be trained"),
        ({"model": "resnet21"}, "unknown model"),
        ({"model_arg": ("width=3",)}, "cannot be built"),
        ({"data": "digits2"}, "unknown data"),
        ({"device": "tpu"}, "unknown --device"),
    ],
)
def test_wrong_options(change: dict[str, Any], message: str) -> None:
    options = replace(OPTIONS, **change)
    with pytest.raises(InputError, match=message):
        train(options)


def test_wrong_branches(data: tuple[Data, Data | None], tmp_path: Path) -> None:
    for branch, message in (
        (Branch(mask={"fc1.weight": torch.zeros(8, 64)}), "zero everywhere"),
        (Branch(mask={"fc9.weight": torch.ones(8, 64)}), "fc9.weight"),
        (Branch(start={"fc1.weight": torch.ones(8, 64)}), "the model wants"),
        (Branch(first_step=13), "has 12 steps and cannot start from step 13"),
    ):
        with pytest.raises(InputError, match=message):
            train(OPTIONS, branch=branch, data=data)
    for steps in ((13,), (-1,)):
        with pytest.raises(InputError, match="the training goes from step 0 to step 12"):
            train(replace(OPTIONS, checkpoint_steps=steps), tmp_path / "run", data=data)


@pytest.mark.parametrize(("loss", "accuracy"), [("mse", True), ("cross_entropy", True)])
def test_losses(loss: str, accuracy: bool, data: tuple[Data, Data | None]) -> None:
    curves = train(replace(OPTIONS, loss=loss, lr=0.05), data=data).curves
    assert float(curves.train_loss[-1]) < 0.9 * float(curves.train_loss[0])
    assert ("train_accuracy" in curves) == accuracy


def test_real_targets_have_no_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.savez(tmp_path / "line.npz", x=x, y=x @ np.ones((3, 1)))
    options = TrainOptions("mlp", str(tmp_path / "line.npz"), ("widths=8",), loss="mse", epochs=20, lr=0.1)
    trained = train(options, tmp_path / "a.pt")
    assert set(trained.curves.data_vars) == {"train_loss"}  # and the file has no test split
    assert float(trained.curves.train_loss[-1]) < 0.3 * float(trained.curves.train_loss[0])
    monkeypatch.chdir(tmp_path)
    problem = checkpoints.load("a.pt")  # the checkpoint knows where its data are
    assert problem.loss() == pytest.approx(float(trained.curves.train_loss[-1]), rel=1e-5)


def test_mnist_binary_with_two_layers() -> None:
    root = data_directory("mnist")
    options = TrainOptions("two_layer", "mnist_binary", ("width=50",), num_examples=500, loss="mse", epochs=3, lr=1.0)
    binary = datasets.load("mnist_binary", "train", datasets.Sample(500), root=root)
    curves = train(options, data=(binary, None)).curves
    assert float(curves.train_loss[-1]) < 0.6 * float(curves.train_loss[0])


def test_lenet_learns_mnist_in_one_short_epoch() -> None:
    root = data_directory("mnist")
    sample = datasets.Sample(5000)
    data = (datasets.load("mnist", "train", sample, root=root), datasets.load("mnist", "test", root=root))
    curves = train(TrainOptions("lenet_300_100", "mnist", num_examples=5000, epochs=1), data=data).curves
    assert float(curves.test_accuracy[-1]) > 0.8


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "mlp", "--data", "digits", "--model-arg", "widths=8,6", "--num-examples", "100"]
    arguments += ["--epochs", "3", "--batch-size", "32", "--momentum", "0.9", "--weight-decay", "1e-3"]
    assert cli.exit_code(main, [*arguments, "--out", str(tmp_path / "a.pt")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [str(tmp_path / "a.curves.nc"), str(tmp_path / "a.pt")]
    trained = train(OPTIONS)
    assert f"test accuracy   {float(trained.curves.test_accuracy[-1]):.6f}" in out
    assert same(checkpoints.read(tmp_path / "a.pt"), trained.checkpoint)
    assert cli.exit_code(main, [*arguments, "--out", str(tmp_path / "run"), "--checkpoint-steps", "1,2,...,8"]) == 0
    assert (tmp_path / "run" / "step_000008.pt").exists()
    capsys.readouterr()
    assert cli.exit_code(main, [*arguments, "--out", str(tmp_path / "a.pt"), "--lr", "0.3", "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")


def test_flat_examples_cannot_be_mirrored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "flat.npz", x=np.ones((20, 6)), y=np.arange(20) % 2)
    flags = ["--model", "mlp", "--data", str(tmp_path / "flat.npz"), "--augment", "flip_crop", "--device", "cpu"]
    for out in ("ckpt.pt", "run"):
        assert cli.exit_code(main, [*flags, "--out", str(tmp_path / out)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "--augment flip_crop needs images (channels, height, width), but an example has the shape (6,)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["flat.npz"]


def test_options_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match="--epochs"):
        check(replace(OPTIONS, epochs=-1, data="nothing"))


@pytest.mark.slow
def test_lenet_reaches_its_accuracy_on_mnist() -> None:
    data_directory("mnist")
    curves = train(TrainOptions("lenet_300_100", "mnist", epochs=10, weight_decay=1e-4)).curves
    assert float(curves.test_accuracy[-1]) >= 0.975


@pytest.mark.slow
def test_a_resnet_trains_on_cifar10() -> None:
    data_directory("cifar-10-batches-py")
    options = TrainOptions("resnet20", "cifar10", num_examples=2000, epochs=5, momentum=0.9, augment="flip_crop")
    curves = train(replace(options, weight_decay=1e-4, schedule="cosine", warmup=1.0)).curves
    assert float(curves.test_accuracy[-1]) > 0.3


@pytest.mark.gpu
def test_training_on_a_gpu_follows_the_cpu(data: tuple[Data, Data | None]) -> None:
    on_cpu, on_gpu = (train(replace(OPTIONS, device=device), data=data) for device in ("cpu", "cuda"))
    for name, tensor in on_cpu.checkpoint.state_dict.items():
        assert_close(on_gpu.checkpoint.state_dict[name], tensor, rtol=1e-3, atol=1e-5)
    assert same(on_gpu.checkpoint, train(replace(OPTIONS, device="cuda"), data=data).checkpoint)


@pytest.mark.bench
def test_speed_against_a_bare_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """Processor seconds of an epoch of the LeNet against the loop that one would write by hand."""
    root = data_directory("mnist")
    data = datasets.load("mnist", "train", datasets.Sample(20000), root=root)
    options = TrainOptions("lenet_300_100", "mnist", lr=0.05, momentum=0.9, weight_decay=1e-4)

    def network() -> nn.Module:
        return models.build("lenet_300_100", input_shape=data.input_shape, num_outputs=10)

    def bare() -> None:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for places in torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.x[places]), data.y[places]).backward()
            optimizer.step()

    def own(mask: dict[str, torch.Tensor]) -> None:
        loop = Loop(network(), losses.by_name("cross_entropy"), (data.x, data.y), options, mask, 0)
        loop.run_epoch(1, lambda step: None)

    half = {n: torch.arange(p.numel()).reshape(p.shape) % 2 == 0 for n, p in network().named_parameters() if p.ndim > 1}
    runs = {"bare": bare, "own": lambda: own({}), "own, 50 % pruned": lambda: own(half)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(7):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    with capsys.disabled():
        for name, values in seconds.items():
            ratio = np.median(values) / np.median(seconds["bare"])
            print(
                f"\ntraining, LeNet-300-100, 20,000 examples, {name}: {np.median(values):.3f} s, {ratio:.2f} of bare",
                end="",
            )
        print()
