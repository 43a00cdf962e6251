"""Reference networks: their sizes, their initialisation, what they refuse."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from landscape import models
from landscape.errors import InputError

SIZES = [
    ("lenet_300_100", (1, 28, 28), {}, 266_610),
    ("mlp", (1, 8, 8), {}, 64 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10),
    ("two_layer", (5,), {"width": 7}, 7 * 5 + 7 * 10),
    ("conv_2", (3, 32, 32), {}, 4_301_642),
    ("conv_4", (3, 32, 32), {}, 2_425_930),
    ("conv_6", (3, 32, 32), {}, 2_262_602),
    ("resnet20", (3, 32, 32), {}, 272_474),
    ("resnet20", (3, 32, 32), {"shortcut": "pad"}, 269_722),
    ("vgg16", (3, 32, 32), {"width": 4}, 58_422),
]


@pytest.mark.parametrize(("name", "shape", "arguments", "size"), SIZES)
def test_sizes_and_outputs(name: str, shape: tuple[int, ...], arguments: dict[str, object], size: int) -> None:
    model = models.build(name, input_shape=shape, num_outputs=10, **arguments)
    assert sum(p.numel() for p in model.parameters()) == size
    with torch.no_grad():
        assert model.eval()(torch.zeros(2, *shape)).shape == (2, 10)


def test_initialisation_depends_on_its_seed_only() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = models.build("mlp", 3, input_shape=(4,), num_outputs=2)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    for p, q in zip(
        first.parameters(), models.build("mlp", 3, input_shape=(4,), num_outputs=2).parameters(), strict=True
    ):
        assert torch.equal(p, q)
    other = models.build("mlp", 4, input_shape=(4,), num_outputs=2)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)
    wider = models.build("mlp", 3, input_shape=(4,), num_outputs=2, widths=(64, 32, 16))
    assert torch.equal(first.fc1.weight, wider.fc1.weight)  # each tensor has a stream of its own


def test_a_factory_of_the_user_is_seeded_too() -> None:
    def factory(num_outputs: int, hidden: int = 3) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, hidden), nn.Linear(hidden, num_outputs))

    first, again, other = (models.build(factory, seed, input_shape=(4,), num_outputs=2) for seed in (0, 0, 1))
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)
    assert models.build(factory, input_shape=(4,), num_outputs=2, hidden=5)[1].out_features == 5


@pytest.mark.parametrize(
    ("name", "shape", "layer", "variance"),
    [
        ("lenet_300_100", (1, 28, 28), "fc1.weight", 2 / (784 + 300)),
        ("two_layer", (400,), "hidden.weight", 1 / 400),
        ("two_layer", (400,), "output.weight", 1.0),
        ("conv_2", (3, 8, 8), "conv2.weight", 2 / (9 * 128)),
        ("resnet20", (3, 8, 8), "block3_2.conv1.weight", 2 / (9 * 64)),
    ],
)
def test_variances(name: str, shape: tuple[int, ...], layer: str, variance: float) -> None:
    weight = dict(models.build(name, input_shape=shape, num_outputs=10).named_parameters())[layer]
    assert float(weight.detach().square().mean()) == pytest.approx(variance, rel=5 * math.sqrt(2 / weight.numel()))


def test_two_layer_is_the_mean_of_its_neurons() -> None:
    model = models.build("two_layer", input_shape=(5,), num_outputs=1, width=7, activation="tanh")
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    neurons = torch.tanh(x @ model.hidden.weight.T) * model.output.weight
    torch.testing.assert_close(model(x), neurons.mean(1, keepdim=True))


@pytest.mark.parametrize("shortcut", ["projection", "pad"])
def test_a_residual_block_with_zero_branch_is_its_shortcut(shortcut: str) -> None:
    block = models.Residual(2, 4, 2, shortcut).eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    if shortcut == "pad":
        expected = torch.cat([x[:, :, ::2, ::2], torch.zeros(1, 2, 2, 2)], 1)
    else:
        expected = torch.relu(block.shortcut(x))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lenet", {}, "unknown model 'lenet'"),
        ("mlp", {"depth": 3}, "depth"),
        ("mlp", {"activation": "swish"}, "unknown activation 'swish'"),
        ("mlp", {"activation": ["relu"]}, "cannot be built"),
        ("mlp", {"widths": (0,)}, "positive whole numbers"),
        ("mlp", {"widths": 2.5}, "cannot be built"),
        ("resnet20", {"shortcut": "none"}, "unknown shortcut"),
        ("resnet20", {}, "wants images"),
        ("no_such_module:net", {}, "cannot import the model"),
        ("landscape.models:nothing", {}, "has no 'nothing'"),
        ("landscape.models:prod", {}, "model"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.build(name, input_shape=(4,), num_outputs=2, **arguments)


def test_arguments_from_the_command_line() -> None:
    pairs = ["widths=64,32", "activation=tanh", "bias=false", "width=3", "p=0.5", "text=a=b"]
    expected = {"widths": (64, 32), "activation": "tanh", "bias": False, "width": 3, "p": 0.5, "text": "a=b"}
    assert models.parse_arguments(pairs) == expected
    for pair in ("width", "=3", "a b=3"):
        with pytest.raises(InputError, match="K=V"):
            models.parse_arguments([pair])
    assert models.build("mlp", input_shape=(4,), num_outputs=2, widths=8).fc1.out_features == 8


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["lenet_300_100", "mlp", "two_layer"]), st.floats(0.5, 2))
def test_scaling_the_output_layer_scales_the_outputs(name: str, scale: float) -> None:
    model = models.build(name, input_shape=(1, 8, 8), num_outputs=3)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    layer = models.output_layer(model, x)
    assert layer == "output"
    with torch.no_grad():
        before = model(x)
        for p in model.get_submodule(layer).parameters():
            p *= scale
        torch.testing.assert_close(model(x), scale * before)


def test_without_a_linear_output_layer_there_is_none() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert models.output_layer(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), x) is None
    assert models.output_layer(nn.Sequential(nn.Tanh()), x) is None
    assert models.output_layer(nn.Sequential(nn.Tanh(), nn.Linear(4, 2)), x) == "1"


def test_finding_the_output_layer_leaves_the_model_as_it_was() -> None:
    model = models.build("resnet20", input_shape=(3, 8, 8), num_outputs=3, width=2).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert models.output_layer(model, torch.ones(2, 3, 8, 8)) == "output"
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_whole_numbers_stay_so_only_for_tokens() -> None:
    tokens = torch.ones(2, 3, dtype=torch.int64)
    assert models.as_inputs(nn.Embedding(3, 2), tokens).dtype == torch.int64
    assert models.as_inputs(nn.Linear(3, 2), tokens).dtype == torch.float32
