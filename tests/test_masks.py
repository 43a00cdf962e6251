"""Masks: what may be one, what nests, and which coordinates are active."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from landscape import checkpoints, masks
from landscape.errors import InputError
from landscape.problem import Problem

SHAPES = {"fc.weight": torch.Size([3, 4]), "fc.bias": torch.Size([3]), "out.weight": torch.Size([2, 3])}


def random_masks(names: tuple[str, ...] = tuple(SHAPES)) -> st.SearchStrategy[masks.Mask]:
    """Masks of some of the parameters, with at least one weight kept."""

    def flags(name: str) -> st.SearchStrategy[torch.Tensor]:
        size = SHAPES[name].numel()
        return st.lists(st.booleans(), min_size=size, max_size=size).map(
            lambda v: torch.tensor(v).reshape(SHAPES[name])
        )

    some = st.sets(st.sampled_from(names), min_size=1)
    drawn = some.flatmap(lambda chosen: st.fixed_dictionaries({name: flags(name) for name in sorted(chosen)}))
    return drawn.filter(lambda mask: any(bool(m.any()) for m in mask.values()))


@settings(max_examples=50, deadline=None)
@given(random_masks())
def test_active_index_is_where_the_concatenated_mask_is_one(mask: masks.Mask) -> None:
    full = torch.cat([mask.get(name, torch.ones(shape)).reshape(-1) for name, shape in SHAPES.items()]) > 0
    index = masks.active_index(mask, SHAPES)
    if bool(full.all()):
        assert index is None
    else:
        assert index is not None
        assert_close(index, full.nonzero().squeeze(1))


@settings(max_examples=50, deadline=None)
@given(random_masks(), random_masks())
def test_nesting_is_inclusion(a: masks.Mask, b: masks.Mask) -> None:
    both = {
        name: a.get(name, torch.ones(shape) > 0) & b.get(name, torch.ones(shape) > 0) for name, shape in SHAPES.items()
    }
    assert masks.nests(both, a)
    assert masks.nests(both, b)
    assert masks.nests(a, a)
    assert masks.nests(a, None)
    assert masks.nests(None, a) == all(bool(m.all()) for m in a.values())
    if masks.nests(a, b) and masks.nests(b, a):
        assert masks.active_index(a, SHAPES) is None or torch.equal(
            masks.active_index(a, SHAPES), masks.active_index(b, SHAPES)
        )


@settings(max_examples=50, deadline=None)
@given(random_masks(("fc.weight", "out.weight")))
def test_kept_counts_weights_and_not_biases(mask: masks.Mask) -> None:
    removed = sum(int((~m).sum()) for m in mask.values())
    assert masks.kept(mask, SHAPES) == pytest.approx(1 - removed / 18)
    assert sum(masks.layer_counts(mask).values()) + removed == sum(m.numel() for m in mask.values())


def test_nesting_and_positions_by_example() -> None:
    outer, inner = {"out.weight": torch.tensor([[1, 0, 1]] * 2)}, {"out.weight": torch.tensor([[1, 0, 0]] * 2)}
    assert masks.nests(inner, outer)
    assert not masks.nests(outer, inner)
    assert not masks.nests({"fc.weight": torch.ones(3, 4)}, outer)
    index = masks.active_index(inner, SHAPES)
    assert index is not None
    assert index.tolist() == [*range(15), 15, 18]


def test_a_pruned_bias_counts_as_a_weight() -> None:
    assert masks.kept({"fc.bias": torch.tensor([True, False, False])}, SHAPES) == pytest.approx(1 - 2 / 21)
    assert masks.kept(None, SHAPES) == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_any_dtype_of_zeros_and_ones_is_a_mask(dtype: torch.dtype) -> None:
    flags = torch.tensor([[1, 0, 1], [0, 0, 1]])
    assert torch.equal(masks.validate({"out.weight": flags.to(dtype)}, SHAPES)["out.weight"], flags.bool())


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("out.weight", torch.tensor([[1.0, 0.5, 1.0]] * 2), "other than 0 and 1"),
        ("out.weight", torch.full((2, 3), float("nan")), "other than 0 and 1"),
        ("out.weight", torch.tensor([[1, 2, 1]] * 2), "other than 0 and 1"),
        ("out.weight", torch.ones(3, 2), r"\(3, 2\), the parameter \(2, 3\)"),
        ("out.weight", torch.zeros(2, 3), "zero everywhere"),
        ("other", torch.ones(2, 3), "'other', but the parameters are fc.weight"),
    ],
)
def test_bad_masks_are_refused(name: str, values: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        masks.validate({name: values}, SHAPES)


def test_one_layer_may_be_empty() -> None:
    mask = {"out.weight": torch.zeros(2, 3), "fc.weight": torch.ones(3, 4)}
    assert not masks.validate(mask, SHAPES)["out.weight"].any()


def test_files_of_both_kinds_hold_the_same_mask(tmp_path: Path) -> None:
    mask = {"out.weight": torch.tensor([[1, 0, 1], [0, 0, 1]], dtype=torch.uint8)}
    torch.save(mask, tmp_path / "mask.pt")
    np.savez(tmp_path / "mask.npz", **{name: m.numpy() for name, m in mask.items()})
    checkpoints.save(tmp_path / "own.pt", checkpoints.Checkpoint({"out.weight": torch.ones(2, 3)}, mask))
    for name in ("mask.pt", "mask.npz", "own.pt"):
        found = masks.validate(masks.read(tmp_path / name), SHAPES)
        assert torch.equal(found["out.weight"], mask["out.weight"].bool())


def test_bad_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", w=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "text.pt").write_text("no archive")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": "text"}, tmp_path / "words.pt")
    torch.save(nn.Linear(1, 1), tmp_path / "code.pt")
    checkpoints.save(tmp_path / "dense.pt", checkpoints.Checkpoint({"w": torch.ones(2)}))
    for name in ("objects.npz", "text.npz", "text.pt", "list.pt", "words.pt"):
        with pytest.raises(InputError, match=f"{name} is not a mask"):
            masks.read(tmp_path / name)
    with pytest.raises(InputError, match="could run code"):
        masks.read(tmp_path / "code.pt")
    with pytest.raises(InputError, match=r"dense\.pt holds no mask"):
        masks.read(tmp_path / "dense.pt")
    for name in ("none.pt", "none.npz"):
        with pytest.raises(InputError, match="there is no mask"):
            masks.read(tmp_path / name)


def test_masks_of_pruned_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    prune.l1_unstructured(model[0], "weight", amount=5)
    prune.random_unstructured(model[2], "bias", amount=1)
    state, mask = masks.from_pruned_modules(model.state_dict())
    assert set(state) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert masks.layer_counts(mask) == {"0.weight": 7, "2.bias": 1}
    assert torch.equal(state["0.weight"], model[0].weight)
    assert torch.equal(state["2.bias"], model[2].bias)
    x, y = torch.ones(2, 4), torch.tensor([0, 1])
    plain = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    plain.load_state_dict(state)
    assert Problem.from_model(plain, "cross_entropy", (x, y), mask).num_params == 4 * 3 + 3 + 3 * 2 + 2 - 5 - 1


def test_a_state_without_pruning_is_as_it_was() -> None:
    state = {"a_orig": torch.ones(1), "b_mask": torch.ones(1), "c": torch.ones(1)}
    assert masks.from_pruned_modules(state) == (state, {})


def test_apply_leaves_no_trace_of_pruned_values() -> None:
    tensors = {"w": torch.tensor([1.0, float("nan"), float("inf"), -2.0]), "b": torch.ones(1)}
    applied = masks.apply(tensors, {"w": torch.tensor([True, False, False, True])})
    assert applied["w"].tolist() == [1, 0, 0, -2]
    assert applied["b"] is tensors["b"]
