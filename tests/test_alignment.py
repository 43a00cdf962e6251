import numpy as np
import pytest

from landscape import alignment, schemas
from landscape.alignment import Frame
from landscape.errors import InputError


def frame(n: int, k: int, seed: int, places: np.ndarray | None = None) -> Frame:
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, k)))[0]
    return Frame(basis, np.arange(n) if places is None else places, np.ones(k, dtype=bool))


def test_a_rotated_basis_of_the_same_space_overlaps_fully():
    first = frame(12, 3, 0)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    second = Frame(first.vectors @ turn, first.places, first.resolved)
    result = alignment.measure(first, second, [3])
    np.testing.assert_allclose(result["overlap"], 1.0)
    np.testing.assert_allclose(result["principal_cosine"], 1.0)
    np.testing.assert_allclose(result["retained_mass"], 1.0)
    schemas.check(result, "alignment")


def test_known_angle():
    angle = 0.3
    first = Frame(np.eye(4)[:, :2], np.arange(4), np.ones(2, dtype=bool))
    tilted = np.array([[1, 0], [0, np.cos(angle)], [0, np.sin(angle)], [0, 0]])
    result = alignment.measure(first, Frame(tilted, np.arange(4), np.array([True, False])), [1, 2])
    np.testing.assert_allclose(result["principal_cosine"].sel(cut=2), [1, np.cos(angle)])
    np.testing.assert_allclose(result["overlap"], [1, (1 + np.cos(angle) ** 2) / 2])
    assert result["resolved"].values.tolist() == [True, False]


def test_random_spaces_overlap_by_chance():
    values = [float(alignment.measure(frame(40, 4, s), frame(40, 4, s + 1000), [4])["overlap"][0]) for s in range(200)]
    assert np.mean(values) == pytest.approx(4 / 40, abs=0.01)


def test_restriction_to_the_later_mask_drops_vectors_that_lie_outside():
    earlier = Frame(np.eye(6)[:, :3], np.arange(6), np.ones(3, dtype=bool))
    places = np.array([1, 2, 4, 5])
    later = Frame(np.eye(4)[:, :3], places, np.ones(3, dtype=bool))
    result = alignment.measure(earlier, later, [3])
    np.testing.assert_allclose(result["retained_mass"], [0, 1, 1])
    assert int(result["left_out"][0]) == 1
    np.testing.assert_allclose(result["overlap"], 1.0)


def test_restriction_to_the_later_mask_shrinks_vectors() -> None:
    tilted = np.array([[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]])
    earlier = Frame(tilted, np.arange(3), np.ones(2, dtype=bool))
    later = Frame(np.eye(2), np.array([0, 2]), np.ones(2, dtype=bool))
    result = alignment.measure(earlier, later, [1, 2])
    np.testing.assert_allclose(result["retained_mass"], [0.36, 1.0])
    np.testing.assert_allclose(result["overlap"], 1.0)


def test_restriction_matches_dense_embedding_for_crossing_masks():
    rng = np.random.default_rng(5)
    places = [np.sort(rng.choice(30, 20, replace=False)) for _ in range(2)]
    first, second = frame(20, 4, 1, places[0]), frame(20, 4, 2, places[1])
    full = np.zeros((30, 4))
    full[places[0]] = first.vectors
    restricted, mass = alignment.restrict(first, places[1])
    np.testing.assert_allclose(restricted, full[places[1]])
    np.testing.assert_allclose(mass, (full[places[1]] ** 2).sum(0))
    assert alignment.measure(first, second, [4])["overlap"].item() <= 1


def test_share_of_a_direction():
    basis = Frame(np.eye(5)[:, :2], np.array([0, 1, 2, 3, 4]), np.ones(2, dtype=bool))
    direction = np.array([3.0, 0, 4, 0, 0])
    result = alignment.measure(basis, basis, [2], {"gradient": direction, "zero": np.zeros(5)})
    np.testing.assert_allclose(result["share"].sel(direction="gradient"), [9 / 25])
    assert np.isnan(result["share"].sel(direction="zero")).all()


def test_bad_frames_and_cuts():
    with pytest.raises(InputError, match="no cut"):
        alignment.measure(frame(5, 2, 0), frame(5, 2, 1), [3])
    with pytest.raises(InputError, match="do not fit"):
        Frame(np.eye(3), np.arange(2), np.ones(3, dtype=bool))
