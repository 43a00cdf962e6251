import pytest
import torch
from torch import nn

from landscape import losses
from landscape.errors import InputError


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_over_ragged_batches_is_torchs_mean(weighted: bool, smoothing: float) -> None:
    scores, labels = draws(10, 3), torch.tensor([0, 1, 2, -100, 1, 1, 0, 2, -100, 2])
    weight = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64) if weighted else None
    loss = losses.CrossEntropy(weight, -100, smoothing)
    parts = [loss(scores[a:b], (None, labels[a:b])) for a, b in ((0, 4), (4, 8), (8, 10))]
    mean = sum(total for total, _ in parts) / sum(count for _, count in parts)
    expected = nn.CrossEntropyLoss(weight, ignore_index=-100, label_smoothing=smoothing)(scores, labels)
    torch.testing.assert_close(mean, expected, rtol=1e-13, atol=0)


def test_cross_entropy_of_tokens_takes_the_class_axis_first_or_last() -> None:
    scores, labels = draws(4, 5, 3), torch.randint(0, 3, (4, 5), generator=torch.Generator().manual_seed(1))
    loss = losses.CrossEntropy()
    last = loss(scores, (None, labels))
    first = loss(scores.movedim(-1, 1), (None, labels))
    assert last == first
    assert last[1] == 20


def test_mse_is_half_the_squared_error_summed_over_outputs() -> None:
    outputs, target = draws(7, 3), draws(7, 3, seed=1)
    total, count = losses.MeanSquaredError()(outputs, (None, target))
    torch.testing.assert_close(total / count, 0.5 * (outputs - target).square().sum(1).mean())


def test_mse_reads_integer_labels_as_one_hot() -> None:
    outputs, labels = draws(4, 3), torch.tensor([0, 2, 1, 1])
    loss = losses.MeanSquaredError()
    assert loss(outputs, (None, labels)) == loss(outputs, (None, nn.functional.one_hot(labels, 3).double()))
    assert loss.hits(outputs, (None, outputs)) is None


def test_bce_is_torchs_mean_over_all_targets() -> None:
    outputs, target = draws(6, 2), (draws(6, 2, seed=1) > 0).long()
    total, count = losses.BinaryCrossEntropy()(outputs, (None, target))
    torch.testing.assert_close(total / count, nn.BCEWithLogitsLoss()(outputs, target.double()))


def test_hits_count_only_what_is_not_ignored() -> None:
    scores = torch.eye(3)
    hits, targets = losses.CrossEntropy().hits(scores, (None, torch.tensor([0, 2, -100])))
    assert (int(hits), int(targets)) == (1, 2)


@pytest.mark.parametrize(
    "loss", [nn.NLLLoss(), nn.CrossEntropyLoss(reduction="sum"), 3], ids=["ignored labels", "sum", "no callable"]
)
def test_a_loss_without_a_defined_count_is_refused(loss: object) -> None:
    with pytest.raises(InputError, match=r"loss|count"):
        losses.of(loss)


def test_options_that_a_loss_cannot_honour_are_refused() -> None:
    with pytest.raises(InputError, match="belong to cross_entropy"):
        losses.by_name("mse", label_smoothing=0.1)
    with pytest.raises(InputError, match="unknown loss"):
        losses.by_name("hinge")
