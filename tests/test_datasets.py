"""Data: official files and their checksums, foreign arrays, samples that nest, normalisation, the hash."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from landscape import datasets
from landscape.datasets import Sample, load
from landscape.errors import InputError

RANDOM = np.random.default_rng(0)


def test_digits_have_a_fixed_split() -> None:
    train, test = load("digits"), load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.y[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert abs(float(train.x.mean())) < 1e-4
    assert abs(float(train.x.std()) - 1) < 1e-3
    assert train.sha256 == load("digits").sha256
    assert len({d.sha256 for d in (train, test, load("digits", normalize="unit"))}) == 3


# ---- samples ---------------------------------------------------------------------------------------------------------

LABELS = torch.from_numpy(RANDOM.permutation(np.repeat(np.arange(4), [50, 30, 15, 5])))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from(datasets.EXAMPLES), st.integers(0, 3))
def test_smaller_samples_are_part_of_larger_ones(a: int, b: int, kind: str, seed: int) -> None:
    small, large = (datasets.choose(LABELS, Sample(n, kind, seed)) for n in sorted((a, b)))
    assert len(small) == min(a, b)
    assert len(small.unique()) == len(small)
    assert bool((small.diff() > 0).all())
    assert set(small.tolist()) <= set(large.tolist())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.integers(0, 3))
def test_stratified_samples_are_in_proportion(number: int, seed: int) -> None:
    chosen = datasets.choose(LABELS, Sample(number, "stratified", seed))
    counts = torch.bincount(LABELS[chosen], minlength=4)
    expected = number * torch.tensor([0.50, 0.30, 0.15, 0.05])
    assert bool(((counts - expected).abs() <= 1 + 1e-6).all())


def test_first_is_the_stored_order_and_seeds_matter() -> None:
    assert datasets.choose(LABELS, Sample(7)).tolist() == list(range(7))
    one, two = (datasets.choose(LABELS, Sample(30, "random", seed)) for seed in (0, 1))
    assert not torch.equal(one, two)
    every = datasets.choose(LABELS, Sample(None, "random"))
    assert every.tolist() == list(range(100))


def test_a_sample_with_other_labels_than_its_split_is_told() -> None:
    sorted_labels = LABELS.sort().values
    with pytest.warns(UserWarning, match="far from those of the split"):
        p = datasets.label_probability(sorted_labels, torch.arange(50))
    assert p is not None
    assert p < 1e-6
    fair = datasets.label_probability(sorted_labels, datasets.choose(sorted_labels, Sample(40, "stratified")))
    assert fair is not None
    assert fair > 0.9
    assert datasets.label_probability(torch.ones(3), torch.arange(2)) is None
    assert datasets.label_probability(torch.ones(3).long(), torch.arange(2)) == 1


def test_random_samples_pass_the_label_test_as_often_as_they_should() -> None:
    labels = torch.arange(10).repeat(200)
    values = [datasets.label_probability(labels, datasets.choose(labels, Sample(100, "random", s))) for s in range(200)]
    small = sum(p is not None and p < 0.05 for p in values)
    assert 1 <= small <= 22  # 10 expected, sd 3


@pytest.mark.parametrize(
    ("sample", "message"),
    [(Sample(0), "between 1 and 100"), (Sample(101), "not 101"), (Sample(3, "last"), "unknown --examples")],
)
def test_bad_samples(sample: Sample, message: str) -> None:
    with pytest.raises(InputError, match=message):
        datasets.choose(LABELS, sample)
    with pytest.raises(InputError, match="one class label per example"):
        datasets.choose(torch.ones(5), Sample(3, "stratified"))


# ---- files and callables ---------------------------------------------------------------------------------------------

X, Y = RANDOM.normal(3, 2, (30, 5)), np.arange(30) % 3


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y, x_test=X[:6] + 1, y_test=Y[:6])
    return tmp_path / "data.npz"


def test_npz_files(arrays: Path) -> None:
    train, test = load(str(arrays)), load(str(arrays), "test")
    assert (train.normalize, train.num_classes, train.x.dtype) == ("none", 3, torch.float64)
    assert_close(train.x, X)
    assert_close(test.x, X[:6] + 1)
    assert_close(test.y, Y[:6])
    unit, standard = (load(str(arrays), "test", normalize=kind).x for kind in ("unit", "standard"))
    assert_close(unit, (X[:6] + 1 - X.min()) / (X.max() - X.min()), rtol=1e-9)
    assert_close(standard, (X[:6] + 1 - X.mean()) / X.std(), rtol=1e-9, atol=1e-12)
    some = load(str(arrays), sample=Sample(10))  # random by default: the order of a file often means something
    assert some.index.tolist() == datasets.choose(train.y, Sample(10, "random")).tolist() != list(range(10))
    assert_close(some.x, X[some.index.numpy()])


def test_the_hash_knows_values_order_and_normalisation(tmp_path: Path) -> None:
    def digest(x: np.ndarray, **settings: object) -> str:
        np.savez(tmp_path / "a.npz", x=x, y=Y)
        # Settings of several types go by name through one mapping.
        return load(str(tmp_path / "a.npz"), **settings).sha256  # type: ignore[arg-type]

    changed = X.copy()
    changed[7, 2] += 1e-12
    found = [
        digest(X),
        digest(changed),
        digest(X[::-1]),
        digest(X, normalize="unit"),
        digest(X, sample=Sample(10)),
        digest(X, sample=Sample(10, seed=1)),
        digest(X.astype(np.float32)),
    ]
    assert len(set(found)) == len(found)
    assert digest(X) == found[0]


def test_the_hash_knows_which_examples_were_chosen() -> None:
    def alike() -> tuple[np.ndarray, np.ndarray]:
        return np.ones((30, 2)), np.zeros(30, int)

    one, two = (load(alike, sample=Sample(5, "random", seed)) for seed in (0, 1))
    assert torch.equal(one.x, two.x)
    assert one.sha256 != two.sha256


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": X}, "has no 'y'"),
        ({"x": X, "y": Y[:-1]}, "have the shapes"),
        ({"x": X[:0], "y": Y[:0]}, "are empty"),
        ({"x": np.where(X > 3, np.nan, X), "y": Y}, "inputs .* NaN"),
        ({"x": X, "y": np.full(30, np.inf)}, "targets .* infinite"),
        ({"x": X.astype(complex), "y": Y}, "complex"),
        ({"x": X, "y": np.array(["a"] * 30)}, "not numbers"),
        ({"x": np.float64(3), "y": Y}, "have the shapes"),
    ],
)
def test_bad_arrays(tmp_path: Path, content: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / "bad.npz"))


def test_bad_files_and_names(tmp_path: Path, arrays: Path) -> None:
    np.savez(tmp_path / "code.npz", x=np.array([{}], dtype=object), y=Y[:1])
    (tmp_path / "short.npz").write_bytes(arrays.read_bytes()[:300])
    for name in ("code.npz", "short.npz"):
        with pytest.raises(InputError, match="truncated or holds more than plain arrays"):
            load(str(tmp_path / name))
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    with pytest.raises(datasets.NoTestSplitError, match="has no 'x_test'"):
        load(str(tmp_path / "train.npz"), "test")
    np.savez(tmp_path / "same.npz", x=np.ones((4, 2)), y=Y[:4])
    with pytest.raises(InputError, match="cannot be normalised"):
        load(str(tmp_path / "same.npz"), normalize="unit")
    for source, message in (
        ("imagenet", "unknown data 'imagenet'"),
        (str(tmp_path / "none.npz"), "no data file"),
        ("no_such_module:load", "cannot import the data"),
        ("landscape.datasets:NAMES", "not callable"),
    ):
        with pytest.raises(InputError, match=message):
            load(source)
    with pytest.raises(InputError, match="unknown --split"):
        load("digits", "validation")
    with pytest.raises(InputError, match="unknown --normalize"):
        load("digits", normalize="whiten")


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, 30, 7):
        yield X[start : start + 7], Y[start : start + 7]


@pytest.mark.parametrize(
    "source",
    [
        lambda: (X, Y),
        lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
        lambda: {"x": X, "y": Y},
        lambda: batches(),
        lambda split: (X, Y) if split == "train" else (X[:5], Y[:5]),
        lambda: torch.utils.data.DataLoader([(X[i], Y[i]) for i in range(30)], batch_size=7),
    ],
)
def test_callables_may_return_anything_sensible(source: object) -> None:
    data = load(source)  # type: ignore[arg-type]
    assert_close(data.x, X)
    assert_close(data.y, Y)


def test_test_splits_of_callables() -> None:
    assert len(load(lambda split: (X, Y) if split == "train" else (X[:5], Y[:5]), "test")) == 5
    assert len(load(lambda: {"x": X, "y": Y, "x_test": X[:4], "y_test": Y[:4]}, "test")) == 4
    with pytest.raises(datasets.NoTestSplitError):
        load(lambda: (X, Y), "test")
    for wrong in (lambda: 3, lambda: [], lambda: [1, 2], lambda: iter([(X[:3], Y[:3]), (X[:3, :2], Y[:3])])):
        with pytest.raises(InputError):
            load(wrong)


def test_dtypes_of_inputs_and_targets() -> None:
    for kind, expected in (
        (np.uint8, torch.float32),
        (np.float16, torch.float32),
        (np.bool_, torch.float32),
        (np.int32, torch.int64),
        (np.float64, torch.float64),
    ):
        assert load(lambda kind=kind: (np.ones((3, 2), kind), Y[:3])).x.dtype == expected
        target = load(lambda kind=kind: (X[:3], np.ones(3, kind))).y.dtype
        assert target == (expected if np.dtype(kind).kind == "f" else torch.int64)


def test_an_image_folder_through_a_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, number in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (20, 30), (200 * label, 10 * i, 0)).save(tmp_path / split / name / f"{i}.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    monkeypatch.setenv("IMAGE_FOLDER", str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    train, test = (load("imagefolder_example:load", split) for split in ("train", "test"))
    assert (tuple(train.x.shape), train.y.tolist()) == ((6, 3, 16, 16), [0, 0, 0, 1, 1, 1])
    assert test.y.tolist() == [0, 0, 1, 1]
    red = [(200 * label / 255 - 0.485) / 0.229 for label in (0, 1)]
    assert_close(train.x[[0, 3], 0, 5, 5], np.array(red, np.float32), rtol=1e-6)
    assert "imagefolder_example" in sys.modules
