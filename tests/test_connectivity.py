import numpy as np
import pytest
import torch
from torch import nn

from landscape import connectivity, schemas
from landscape.connectivity import barriers
from landscape.connectivity.barriers import PathOptions, Predictions
from landscape.errors import InputError
from landscape.losses import CrossEntropy

F64 = torch.float64
FEW = {"num_positions": 6, "num_refinements": 3, "num_bootstrap": 0}


class Well(nn.Module):
    """Loss (w^2 - 1)^2 under mse with the target 0."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w], dtype=F64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2**0.5 * (self.w**2 - 1) * x


def linear(weight: torch.Tensor) -> nn.Linear:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=F64)
    model.weight.data.copy_(weight)
    return model


@pytest.fixture
def regression() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, generator=stream, dtype=F64)
    return x, torch.randn(20, 1, generator=stream, dtype=F64)


def test_double_well_has_barrier_one():
    data = (torch.ones(3, 1, dtype=F64), torch.zeros(3, 1, dtype=F64))
    result = connectivity.measure_connectivity([Well(-1.0), Well(1.0)], "mse", data, num_bootstrap=0)
    for name in ("barrier_loss", "instability_loss"):
        np.testing.assert_allclose(result[name], 1.0, atol=1e-9)
    np.testing.assert_allclose(result["distance"], 2.0, rtol=1e-14)
    assert "barrier_error" not in result
    schemas.check(result, "connectivity")


def test_the_two_barriers_differ_where_the_ends_do():
    positions = np.array([0.0, 0.5, 1.0])
    values = np.array([0.0, 1.0, 1.0])
    assert barriers.barrier(positions, values) == 0.5
    assert barriers.instability(positions, values) == 0.5
    assert barriers.barrier(positions, np.array([0.0, 0.2, 1.0])) == 0.0
    assert barriers.instability(positions, np.array([0.0, 0.2, 1.0])) == 0.5


def test_a_narrow_excess_is_found_by_refinement():
    positions = np.linspace(0, 1, 5)

    def excess(a: np.ndarray) -> np.ndarray:
        return np.exp(-(((a - 0.6123) / 0.2) ** 2))

    for _ in range(8):
        positions = np.sort(np.append(positions, barriers.next_position(positions, excess(positions))))
    assert len(np.unique(positions)) == 13
    assert excess(positions).max() > 1 - 1e-6


def test_convex_quadratic_identity(regression):
    x, y = regression
    start, end = torch.zeros(1, 6, dtype=F64), torch.linspace(-1, 2, 6, dtype=F64)[None]
    result = connectivity.measure_connectivity([linear(start), linear(end)], "mse", (x, y), **FEW)
    a = result["position"].values[0]
    step = (end - start).squeeze()
    curvature = float(step @ (x.T @ x / len(x)) @ step)
    loss = result["path_loss"].values[0, 0]
    line = (1 - a) * loss[0] + a * loss[-1]
    np.testing.assert_allclose(loss - line, -a * (1 - a) / 2 * curvature, atol=1e-12)
    assert float(result["barrier_loss"].squeeze()) == 0.0


def test_gradient_flow_distance(regression):
    x, y = regression
    hessian = x.T @ x / len(x)
    optimum = torch.linalg.solve(hessian, x.T @ y / len(x)).squeeze()
    start = torch.ones(6, dtype=F64)
    values, vectors = torch.linalg.eigh(hessian)
    flow = vectors @ torch.diag(torch.exp(-0.7 * values)) @ vectors.T
    at_t = optimum + flow @ (start - optimum)
    result = connectivity.measure_connectivity([linear(at_t[None]), linear(optimum[None])], "mse", (x, y), **FEW)
    expected = torch.sum(torch.exp(-2 * 0.7 * values) * (vectors.T @ (start - optimum)) ** 2).sqrt()
    np.testing.assert_allclose(result["distance"], float(expected), rtol=1e-12)


def test_projection_distance_is_the_length_of_the_pruning_step():
    weight = torch.tensor([[3.0, 0.5, -0.2, 1.0]], dtype=F64)
    mask = {"weight": torch.tensor([[True, False, False, True]])}
    data = (torch.eye(4, dtype=F64), torch.ones(4, 1, dtype=F64))
    models = {"minimum": linear(weight), "projected": linear(weight)}
    result = connectivity.measure_connectivity(models, "mse", data, masks=[None, mask], **FEW)
    np.testing.assert_allclose(result["distance"], (0.5**2 + 0.2**2) ** 0.5, rtol=1e-14)
    np.testing.assert_allclose(result["shared_distance"], 0.0)
    np.testing.assert_allclose(result["layer_distance"], [[(0.5**2 + 0.2**2) ** 0.5]])
    assert result["pair"].values.tolist() == ["minimum -> projected"]
    needed = {"fingerprint", "options", "checkpoint_sha256", "data_sha256", "dtype", "device", "world_size", "threads"}
    assert needed | {"seconds", "batchnorm", "landscape_version", "git_commit"} <= result.attrs.keys()


def test_models_and_dtypes_are_told_from_what_is_none() -> None:
    data = (torch.eye(4), torch.ones(4, 1))
    twins = [linear(torch.ones(1, 4)), linear(torch.zeros(1, 4))]
    assert connectivity.measure_connectivity(twins, "mse", data, dtype="float64", **FEW).attrs["dtype"] == "float64"
    with pytest.raises(InputError, match="the dtype must be float32 or float64, not bfloat16"):
        connectivity.measure_connectivity(twins, "mse", data, dtype="bfloat16", **FEW)
    with pytest.raises(InputError, match="the model is a str"):
        connectivity.measure_connectivity(["a.pt", "b.pt"], "mse", data, **FEW)


def test_cosine_of_displacements_from_a_reference():
    data = (torch.eye(2, dtype=F64), torch.ones(2, 1, dtype=F64))
    points = {n: linear(torch.tensor([w], dtype=F64)) for n, w in {"o": [1.0, 1], "a": [2.0, 1], "b": [2.0, 2]}.items()}
    problems = {n: connectivity.Problem.from_model(m, "mse", data) for n, m in points.items()}
    result = connectivity.measure(problems, [("a", "b")], PathOptions(**FEW), reference="o")
    np.testing.assert_allclose(result["cosine"], 2**-0.5, rtol=1e-14)


def test_identical_networks_agree_and_independent_labels_disagree():
    stream = torch.Generator().manual_seed(0)
    classes, size = 5, 20000
    scores = [torch.randn(size, classes, generator=stream, dtype=F64) for _ in range(2)]
    ones = np.ones(size)
    first, second = (Predictions(ones, ones, ones, s) for s in scores)
    same = connectivity.disagreement(first, first, CrossEntropy())
    assert same == {"output_distance": 0.0, "disagreement": 0.0, "symmetric_kl": 0.0}
    value = connectivity.disagreement(first, second, CrossEntropy())["disagreement"]
    assert abs(value - (1 - 1 / classes)) < 4 * (0.16 / size) ** 0.5


def test_symmetric_kl_of_two_known_predictions():
    logits = [torch.tensor([[0.0, 0.0]], dtype=F64), torch.tensor([[np.log(3.0), 0.0]], dtype=F64)]
    one = np.ones(1)
    value = connectivity.disagreement(*(Predictions(one, one, one, t) for t in logits), CrossEntropy())
    np.testing.assert_allclose(value["symmetric_kl"], 0.25 * np.log(3), rtol=1e-12)


def test_bootstrap_interval_covers_the_population_barrier():
    positions = np.array([0.0, 0.5, 1.0])
    options = PathOptions(num_bootstrap=200)
    hits, widths = 0, []
    for seed in range(200):
        scale = np.random.default_rng(seed).exponential(size=100)
        nodes = [Predictions(height * scale, np.ones(100), None, torch.empty(0)) for height in (0.0, 1.0, 0.0)]
        found = barriers.summarise(positions, nodes, options)
        hits += found["barrier_loss_lo"] <= 1.0 <= found["barrier_loss_hi"]
        widths.append(found["barrier_loss_hi"] - found["barrier_loss_lo"])
    assert 180 <= hits <= 198
    assert np.mean(widths) < 2 * (2 * 1.96 / 10)


def test_recalibrated_batchnorm_makes_a_rescaled_copy_the_same_network():
    stream = torch.Generator().manual_seed(3)
    x, y = torch.randn(40, 3, generator=stream, dtype=F64), torch.randint(2, (40,), generator=stream)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-30), nn.ReLU(), nn.Linear(4, 2)).double()
    twin = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, eps=1e-30), nn.ReLU(), nn.Linear(4, 2)).double()
    twin.load_state_dict(model.state_dict())
    twin[0].weight.data *= 5
    twin[0].bias.data *= 5
    result = connectivity.measure_connectivity([model, twin], "cross_entropy", (x, y), test_data=(x[:9], y[:9]), **FEW)
    assert float(result["barrier_loss"].max()) < 1e-12
    assert float(result["path_loss"].sel(split="train").std()) < 1e-12
    with pytest.raises(InputError, match="recalibrate or batch"):
        connectivity.measure_connectivity([model, twin], "cross_entropy", (x, y), batchnorm="running")


def test_test_examples_are_a_split_of_their_own(regression):
    x, _ = regression
    stream = torch.Generator().manual_seed(4)
    models = [nn.Linear(6, 3, dtype=F64), nn.Linear(6, 3, dtype=F64)]
    labels = torch.randint(3, (20,), generator=stream)
    test = (x[:7], labels[:7])
    result = connectivity.measure_connectivity(models, "cross_entropy", (x, labels), test_data=test, **FEW)
    assert result["split"].values.tolist() == ["train", "test"]
    alone = connectivity.measure_connectivity(models, "cross_entropy", test, **FEW)
    ends = result["path_error"].sel(split="test").values[0, [0, -1]]
    np.testing.assert_allclose(ends, alone["path_error"].values[0, 0, [0, -1]])
    schemas.check(result, "connectivity")


@pytest.mark.parametrize("bootstrap", [0, 20])
def test_ignored_labels_are_no_errors(bootstrap: int) -> None:
    """A perfect network and one with half of its answers wrong, on 30 examples of which 10 are padding."""
    x = torch.eye(2, dtype=F64).repeat(15, 1)
    labels = torch.arange(2).repeat(15)
    labels[::3] = -100
    right, biased = linear(torch.eye(2, dtype=F64)), linear(torch.tensor([[3.0, 3.0], [0.0, 1.0]], dtype=F64))
    options = {**FEW, "num_bootstrap": bootstrap}
    found = connectivity.measure_connectivity([right, biased], "cross_entropy", (x, labels), **options)
    assert found["point_error"].values.ravel().tolist() == [0.0, 0.5]
    assert found["path_error"].values[0, 0, [0, -1]].tolist() == [0.0, 0.5]
    whole = connectivity.measure_connectivity(
        [right, biased], "cross_entropy", (x[labels >= 0], labels[labels >= 0]), **FEW
    )
    np.testing.assert_allclose(found["barrier_error"], whole["barrier_error"], atol=1e-15)
    np.testing.assert_allclose(found["instability_error"], whole["instability_error"], atol=1e-15)


def relu_network(width: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2)).double()


def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(6)
    return torch.randn(30, 3, generator=stream, dtype=F64), torch.randint(2, (30,), generator=stream)


def test_null_rescaled_neuron_is_another_point_of_the_same_function():
    """N3: multiplying what goes into a ReLU neuron, and dividing what leaves it, changes distances and no output."""
    model, twin = relu_network(4), relu_network(4)
    twin[0].weight.data[1] *= 4
    twin[0].bias.data[1] *= 4
    twin[2].weight.data[:, 1] /= 4
    result = connectivity.measure_connectivity([model, twin], "cross_entropy", labelled(), **FEW)
    np.testing.assert_allclose(result["output_distance"], 0, atol=1e-24)
    assert float(result["disagreement"].squeeze()) == 0
    assert float(result["distance"].squeeze()) > 1
    assert float(result["barrier_loss"].squeeze()) > 1e-6


def test_null_dead_coordinates_change_nothing():
    """N4: weights into a neuron whose outputs are pruned away."""
    first, second = relu_network(4, 0), relu_network(4, 1)
    wide = []
    for model in (first, second):
        grown = relu_network(6, 2)
        for layer in (0, 2):
            part = model[layer].weight.shape
            grown[layer].weight.data[: part[0], : part[1]] = model[layer].weight.data
        grown[0].bias.data[:4] = model[0].bias.data
        grown[2].bias.data[:] = model[2].bias.data
        wide.append(grown)
    mask = {"2.weight": torch.arange(6).expand(2, 6) < 4}
    data = labelled()
    narrow = connectivity.measure_connectivity([first, second], "cross_entropy", data, **FEW)
    dead = connectivity.measure_connectivity(wide, "cross_entropy", data, masks=[mask, mask], **FEW)
    for name in ("barrier_loss", "instability_error", "disagreement", "symmetric_kl", "path_loss"):
        np.testing.assert_allclose(dead[name], narrow[name], atol=1e-12)


def test_pairs_and_bad_input():
    names = ["a", "b", "c"]
    assert connectivity.choose_pairs(names, "all") == [("a", "b"), ("a", "c"), ("b", "c")]
    assert connectivity.choose_pairs(names, "successive") == [("a", "b"), ("b", "c")]
    assert connectivity.choose_pairs(names, "first") == [("a", "b"), ("a", "c")]
    data = (torch.eye(2, dtype=F64), torch.ones(2, 1, dtype=F64))
    two = linear(torch.ones(1, 2, dtype=F64))
    with pytest.raises(InputError, match="equal architectures"):
        connectivity.measure_connectivity([two, nn.Linear(2, 1, dtype=F64)], "mse", data)
    with pytest.raises(InputError, match="two points"):
        connectivity.measure_connectivity([two], "mse", data)
    with pytest.raises(InputError, match="unknown option"):
        connectivity.measure_connectivity([two, two], "mse", data, num_point=3)
