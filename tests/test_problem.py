import copy
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings

DOUBLE = ProblemSettings(dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(*layers: nn.Module, seed: int = 0) -> nn.Module:
    model = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def mean_nll(scores: torch.Tensor, labels: torch.Tensor) -> float:
    return float(nn.functional.cross_entropy(scores, labels).detach())


def small() -> nn.Module:
    return network(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


X, Y = draws(23, 4), torch.randint(0, 3, (23,), generator=torch.Generator().manual_seed(1))


def test_loss_and_gradient_are_those_of_the_whole_data_set() -> None:
    model = small()
    expected = nn.functional.cross_entropy(model(X), Y)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(expected, list(model.parameters()))])
    for size in (23, 7, 1):
        problem = Problem.from_model(model, "cross_entropy", (X, Y), settings=ProblemSettings(batch_size=size))
        assert problem.loss() == pytest.approx(float(expected.detach()), rel=1e-13)
        torch.testing.assert_close(problem.gradient(), gradient, rtol=1e-11, atol=1e-13)
    assert problem.accuracy() == float((model(X).argmax(1) == Y).double().mean())


def test_pruned_weights_are_zero_and_no_coordinates() -> None:
    mask = {"0.weight": draws(5, 4) > 0}
    problem = Problem.from_model(small(), "cross_entropy", (X, Y), mask)
    assert problem.num_params == 5 * 4 + 5 + 5 * 3 + 3 - int((~mask["0.weight"]).sum())
    assert (problem.parameters["0.weight"][~mask["0.weight"]] == 0).all()
    assert problem.kept == pytest.approx(int(mask["0.weight"].sum()) / 20) or problem.kept < 1
    v = draws(problem.num_params)
    full = problem.unflatten(v)
    assert (full["0.weight"][~mask["0.weight"]] == 0).all()
    torch.testing.assert_close(problem.flatten(full), v)
    torch.testing.assert_close(problem.at(problem.theta + v).theta, problem.theta + v)
    assert sum(count for _, count in problem.names()) == problem.num_params


def test_a_subspace_restricts_the_coordinates_at_the_unmoved_point() -> None:
    whole = Problem.from_model(small(), "cross_entropy", (X, Y))
    chosen = {"0.weight": draws(5, 4) > 0}
    problem = Problem.from_model(small(), "cross_entropy", (X, Y), settings=ProblemSettings(subspace=chosen))
    assert problem.loss() == whole.loss()
    assert problem.num_params == int(chosen["0.weight"].sum())
    torch.testing.assert_close(problem.gradient(), whole.gradient()[:20][chosen["0.weight"].flatten()])


def test_a_glob_selects_parameters_and_frozen_parameters_are_constants() -> None:
    model = small()
    problem = Problem.from_model(model, "cross_entropy", (X, Y), settings=ProblemSettings(params="2.*"))
    assert [name for name, _ in problem.names()] == ["2.weight", "2.bias"]
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in Problem.from_model(model, "cross_entropy", (X, Y)).parameters


def test_weight_decay_enters_loss_and_gradient_alike() -> None:
    plain = Problem.from_model(small(), "cross_entropy", (X, Y))
    decayed = Problem.from_model(small(), "cross_entropy", (X, Y), settings=ProblemSettings(weight_decay=0.3))
    assert decayed.loss() == pytest.approx(plain.loss() + 0.15 * float(plain.theta.square().sum()))
    torch.testing.assert_close(decayed.gradient(), plain.gradient() + 0.3 * plain.theta)


def test_the_callers_model_stays_bit_for_bit_as_it_was() -> None:
    model = network(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).train()
    before = copy.deepcopy(model.state_dict())
    problem = Problem.from_model(model, "cross_entropy", (X, Y), settings=ProblemSettings(batchnorm="recalibrate"))
    problem.gradient()
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_batchnorm_policies() -> None:
    model = network(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    hidden = model[0](X)
    losses = {
        policy: Problem.from_model(
            model, "cross_entropy", (X, Y), settings=ProblemSettings(batchnorm=policy, batch_size=23)
        ).loss()
        for policy in ("running", "batch", "recalibrate")
    }
    expected = copy.deepcopy(model)
    assert losses["running"] == pytest.approx(mean_nll(expected(X), Y))
    expected[1].train()
    assert losses["batch"] == pytest.approx(mean_nll(expected(X), Y))
    expected[1].eval()
    expected[1].running_mean, expected[1].running_var = hidden.mean(0).detach(), hidden.var(0).detach()
    assert losses["recalibrate"] == pytest.approx(mean_nll(expected(X), Y))


def test_masks_of_torch_prune_are_taken_along() -> None:
    model = small()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    problem = Problem.from_model(model, "cross_entropy", (X, Y))
    assert problem.num_params == 43 - 10
    assert problem.loss() == pytest.approx(mean_nll(model(X), Y))
    assert hasattr(model[0], "weight_orig")


def test_mappings_are_passed_by_name_without_their_target() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, features: torch.Tensor) -> Mapping[str, torch.Tensor]:
            return {"logits": self.linear(features)}

    model = Named()
    problem = Problem.from_model(model, "cross_entropy", [{"features": X, "labels": Y}])
    assert problem.loss() == pytest.approx(mean_nll(model.linear(X), Y))


def test_a_plain_function_is_a_problem() -> None:
    problem = Problem.from_function(lambda w: 0.5 * (torch.arange(1.0, 4.0).double() * w.square()).sum(), draws(3))
    torch.testing.assert_close(problem.gradient(), torch.arange(1.0, 4.0).double() * problem.theta)


def test_dropout_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.eval"):
        Problem.from_model(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).double().train(), "cross_entropy", (X, Y))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X[:0], Y[:0]), "empty"),
        ((X, Y[:5]), "23 inputs but 5 targets"),
        ((X.clone().fill_(torch.nan), Y), "NaN"),
        ((X, Y.double()), "integer class labels"),
        ((X, torch.full_like(Y, -100)), "no target counts"),
        (7, "pair of tensors"),
    ],
)
def test_bad_data_is_named(data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Problem.from_model(small(), "cross_entropy", data)


def test_labels_out_of_range_and_weights_that_are_not_finite_are_named() -> None:
    with pytest.raises(InputError, match=r"label|class"):
        Problem.from_model(small(), "cross_entropy", (X, Y + 1))
    model = small()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"0\.weight"):
        Problem.from_model(model, "cross_entropy", (X, Y))


def test_a_loss_that_returns_a_mean_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(sum, count\)"):
        Problem.from_model(small(), lambda outputs, batch: outputs.mean(), (X, Y))
