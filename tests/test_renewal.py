import numpy as np
import pytest
import torch
from torch import nn

from landscape import operators, renewal, schemas
from landscape.alignment import Frame
from landscape.problem import Problem
from landscape.pruning import criteria

F64 = torch.float64


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture
def pruned() -> tuple[dict[str, torch.Tensor], criteria.Mask, criteria.Mask]:
    weights = {"a": draw(0, 20, 10), "b": 2 * draw(1, 10, 10)}
    before = criteria.dense(weights, list(weights))
    return weights, before, criteria.step(criteria.magnitude(weights, before), before, 0.3)


def test_nothing_lies_below_the_threshold_without_training(pruned):
    weights, before, after = pruned
    tau = renewal.thresholds(weights, before, after)
    result = renewal.renewal({"projected": weights, "minimum": weights}, after, tau)
    assert result["fraction_below"].values.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(result["flow"].sum(("from_class", "to_class")), 1.0)
    schemas.check(result, "renewal")


def test_refilled_fraction_and_flow_are_counted(pruned):
    weights, before, after = pruned
    tau = renewal.thresholds(weights, before, after)
    shrunk = {n: w.clone() for n, w in weights.items()}
    places = after["a"].nonzero()[:15]
    shrunk["a"][places[:, 0], places[:, 1]] *= 1e-3
    result = renewal.renewal({"projected": weights, "minimum": shrunk}, after, tau, {"minimum": after})
    kept = criteria.num_kept(after)
    assert result["fraction_below"].sel(at="minimum").item() == pytest.approx(15 / kept)
    assert result["flow"].sel(at="minimum", to_class=0.0).sum().item() == pytest.approx(15 / kept)
    assert result["flow"].sel(at="minimum", from_class=0.0).sum().item() == 0


def test_layerwise_thresholds_are_found_where_one_does_not_explain_the_step(pruned):
    weights, before, _ = pruned
    after = criteria.step(criteria.magnitude(weights, before), before, 0.3, "layerwise")
    tau = renewal.thresholds(weights, before, after)
    assert tau["a"] != tau["b"]
    result = renewal.renewal({"projected": weights}, after, tau)
    assert result["fraction_below"].item() == 0.0


def test_mask_overlap(pruned):
    weights, _, after = pruned
    scores = criteria.magnitude(weights, after)
    following = criteria.step(scores, after, 0.2)
    opposite = criteria.step({n: -s for n, s in scores.items()}, after, 0.2)
    tau = dict.fromkeys(after, 0.1)
    points = {"projected": weights, "minimum": weights, "fine_tune": weights}
    masks = {"minimum": following, "fine_tune": opposite}
    result = renewal.renewal(points, after, tau, masks)
    assert result["mask_overlap"].sel(at="minimum").item() == 1.0
    assert result["mask_overlap"].sel(at="fine_tune").item() == 0.0


def linear_regression() -> tuple[Problem, criteria.Mask, criteria.Mask]:
    model = nn.Linear(8, 3, dtype=F64)
    model.weight.data.copy_(draw(3, 3, 8))
    problem = Problem.from_model(model, "mse", (draw(4, 30, 8), draw(5, 30, 3)))
    mask = criteria.dense(problem.parameters, ["weight"])
    return problem, mask, criteria.step(criteria.magnitude(problem.parameters, mask), mask, 0.25)


def test_quadratic_loss_increase_is_exact_for_a_quadratic_loss():
    problem, mask, after = linear_regression()
    steps = renewal.removals(problem, mask, after, seed=0, num_random=2)
    result = renewal.pruning_steps(problem, operators.hessian(problem), steps)
    np.testing.assert_allclose(result["loss_increase"], result["quadratic_increase"], rtol=1e-10)
    assert result["removal"].values.tolist() == [
        "smallest", "random_0", "random_1", "largest", "direction_0", "direction_1",
    ]  # fmt: skip
    length = result["step_length"]
    assert length.sel(removal="smallest") < length.sel(removal="random_0") < length.sel(removal="largest")
    np.testing.assert_allclose(length.sel(removal="direction_1"), length.sel(removal="smallest"))
    schemas.check(result, "pruning_steps")


def test_removals_set_equally_many_weights_of_each_layer_to_zero():
    problem, mask, after = linear_regression()
    for name, step in renewal.removals(problem, mask, after, seed=0).items():
        if not name.startswith("direction"):
            moved = problem.unflatten(problem.theta + step)["weight"]
            assert int((moved == 0).sum()) == 6
            assert int((step != 0).sum()) == 6


def test_step_share_is_one_inside_the_frame():
    problem, mask, after = linear_regression()
    step = renewal.removals(problem, mask, after, seed=0)["smallest"]
    basis = (step / step.norm()).numpy()[:, None]
    frame = Frame(basis, np.arange(len(basis)), np.array([True]))
    result = renewal.pruning_steps(problem, operators.hessian(problem), {"smallest": step}, frame)
    np.testing.assert_allclose(result["step_share"], 1.0)
