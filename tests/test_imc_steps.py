"""The steps of IMC pruning on quadratics and a planted network, whose right masks are known."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape.dimension import testbed
from landscape.dimension.lipschitz import LipschitzSamples
from landscape.dimension.rules import FOUND, NONE, GapResult
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.problem import Problem
from landscape.pruning import criteria, imc_masks, imc_steps
from landscape.pruning.imc_masks import Subject
from landscape.pruning.imc_options import PRESETS, BaseOptions, Choice, ChoiceOptions, choices_of
from landscape.pruning.imc_steps import BasePoint

SLOW, FAST = 12, 4
SIZE = SLOW + FAST
# Features of two scales: under (1/2N) sum |f - y|^2 with X'X/N diagonal, the Hessian is that diagonal.
STIFF = np.arange(SIZE) % 4 == 1


def planted(rotation: Tensor | None = None) -> Problem:
    """A linear network with 12 slow and 4 stiff weights, the stiff ones zero at the minimum; perhaps rotated."""
    scale = torch.tensor(np.where(STIFF, 3.0, 0.1))
    weights = torch.tensor(np.where(STIFF, 0.0, 1.0 + np.arange(SIZE) / SIZE))
    x = torch.eye(SIZE, dtype=torch.float64) * scale * SIZE**0.5
    if rotation is not None:
        x, weights = x @ rotation.T, rotation @ weights
    model = nn.Linear(SIZE, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(weights[None])
    return Problem.from_model(model, "mse", (x, x @ weights[:, None]))


def point_of(problem: Problem, away: float = 0.5) -> BasePoint:
    start = problem.theta + away * torch.ones_like(problem.theta) / problem.num_params**0.5
    return BasePoint(problem, {}, start, problem.theta, 7)


def measured(problem: Problem, fast: int = SIZE - 1) -> imc_steps.Measured:
    base = BaseOptions(fast=fast, smallest=1, depth=SIZE)
    point = point_of(problem)
    found = imc_steps.spectrum(problem, base, Journal())
    samples = imc_steps.remainder(point, found, base, Journal())
    return imc_steps.Measured(point, found, samples, imc_steps.cone(point, found, base, Journal()))


def subject_of(problem: Problem, vectors: Tensor) -> Subject:
    return Subject(problem, vectors, {"weight": torch.ones(1, SIZE, dtype=torch.bool)}, "mse")


def mask_by(choice: Choice, problem: Problem, seen: imc_steps.Measured) -> Tensor:
    decided = imc_steps.decide(choice.rule, seen.evidence(choice.retain), 0.01)
    subject = subject_of(problem, seen.base.vectors)
    kept = imc_masks.num_kept(choice, decided, subject.full, SIZE)
    assert kept is not None
    assert decided.dimension is not None
    ranked = imc_masks.scores_of(choice, subject, SIZE - decided.dimension)
    return imc_masks.mask_of(choice, ranked.values, subject.full, kept)["weight"][0]


@pytest.mark.parametrize("mask_rule", ["leverage", "magnitude", "qdeim", "obd"])
def test_the_planted_mask_is_found_exactly(mask_rule: str) -> None:
    """Retaining the slow side keeps exactly the slow weights: the stiff ones are slaved, here to zero."""
    problem = planted()
    mask = mask_by(Choice("largest_log_gap", "slow", mask_rule, "rewind"), problem, measured(problem))
    assert torch.equal(mask, torch.as_tensor(~STIFF))
    kept = problem.with_tensors({"weight": problem.tensors()["weight"] * mask})
    assert kept.loss() < 1e-20


def test_the_plateau_rule_fails_where_less_than_half_is_above_the_gap() -> None:
    """A quarter of the spectrum is stiff, but the published logic forbids plateaus below half: nearly all is pruned."""
    problem = planted()
    mask = mask_by(Choice("slq_plateau", "slow", "leverage", "rewind"), problem, measured(problem))
    assert int(mask.sum()) <= 2


@pytest.mark.parametrize("mask_rule", ["leverage", "qdeim"])
def test_the_stiff_side_is_the_other_half(mask_rule: str) -> None:
    problem = planted()
    mask = mask_by(Choice("largest_log_gap", "stiff", mask_rule, "rewind"), problem, measured(problem))
    assert torch.equal(mask, torch.as_tensor(STIFF))


def test_axis_aligned_is_told_from_rotated() -> None:
    """Coordinates span the splitting, or are no better than chance: concentration, lift, loss right after masking."""
    aligned, rotated = planted(), planted(testbed.haar(SIZE, 1))
    found = {}
    for name, problem in (("aligned", aligned), ("rotated", rotated)):
        seen = measured(problem)
        subject = subject_of(problem, seen.base.vectors)
        ranked = imc_masks.scores_of(PRESETS["theory"], subject, FAST)
        mask = imc_masks.mask_of(PRESETS["theory"], ranked.values, subject.full, SLOW)
        found[name] = (
            imc_masks.alignment(subject, mask, FAST, "slow"),
            imc_masks.masked_loss(problem, mask, subject.full, 0),
        )
    assert found["aligned"][0].concentration == pytest.approx(1.0)
    assert found["aligned"][0].lift == pytest.approx(SIZE / SLOW)
    assert found["aligned"][1].p_value == 0.05
    assert found["rotated"][0].concentration < 0.6
    assert found["rotated"][0].lift < 1.15
    assert found["rotated"][1].p_value > 0.05


def test_a_quadratic_has_no_remainder() -> None:
    """l = 0, so that every gap is admissible, and the conditions hold as far as anything goes."""
    seen = measured(planted())
    assert float(np.abs(seen.samples.norm).max()) < 1e-12
    for rule in ("gap_4l", "cone_gap"):
        assert imc_steps.decide(rule, seen.evidence("slow"), 0.5).status == FOUND


def test_the_constant_of_the_cubic_grows_with_the_radius() -> None:
    """L = mu p^2/2 + Lam q^2/2 - c p^2 q changes its Hessian by 2 c |p| (q, p)-wise: l(rho) is linear in rho."""
    cubic = testbed.TwoModeCubic(mu=0.3, stiff=5.0, c=1.0)
    problem = testbed.problem(cubic)
    base = BaseOptions(fast=1, smallest=1, depth=2, eps=0.1)
    point = BasePoint(problem, {}, problem.theta + torch.tensor([0.6, -0.8]).double(), problem.theta, 1)
    found = imc_steps.spectrum(problem, base, Journal())
    samples = imc_steps.remainder(point, found, base, Journal())
    small, large = (float(v) for v in samples.constants(np.array([0.1, 1.0]))[0])
    assert large == pytest.approx(10 * small, rel=1e-6)
    assert large <= cubic.lipschitz(1.0) * (1 + 1e-9)
    known = imc_steps.evidence_of(found, samples, None, "slow")
    assert imc_steps.decide("gap_4l", known, 0.1).dimension == 1
    assert imc_steps.decide("gap_4l", known, 1.0).status == NONE


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_displacements_have_the_length_asked_for_in_their_norm(p: float) -> None:
    problem = planted()
    base = BaseOptions(p=p, eps=0.02)
    items = imc_steps.displacements(point_of(problem), torch.eye(SIZE, dtype=torch.float64), base)
    lengths = [float(torch.linalg.vector_norm(u, ord=p)) for _, _, u in items]
    assert lengths == pytest.approx([radius for _, radius, _ in items])
    assert min(lengths) == pytest.approx(0.02)
    assert max(lengths) == pytest.approx(point_of(problem).travel(p))


def test_the_plateau_preset_prunes_as_the_published_code() -> None:
    """70 % of the spectrum above the gap: the pruned rate is 0.7, whichever side a theory would keep."""
    values = np.concatenate([np.full(30, 0.01), np.full(70, 1.0)])
    problem = testbed.problem(testbed.Quadratic(torch.tensor(values)))
    found = imc_steps.spectrum(problem, BaseOptions(fast=99, smallest=1), Journal())
    nothing = LipschitzSamples(*(np.zeros(0),) * 3, np.array([], dtype=str), np.zeros(0, np.int64))
    decided = imc_steps.decide("slq_plateau", imc_steps.evidence_of(found, nothing, None, "slow"), 1.0)
    full = {"theta": torch.ones(100, dtype=torch.bool)}
    assert imc_masks.num_kept(PRESETS["feddup_code"], decided, full, 100) == pytest.approx(30, abs=3)


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_leverage_sums_to_the_dimension() -> None:
    vectors = testbed.haar(30, 3)[:, :7]
    slow = imc_masks.retained_leverage(vectors, 7, "slow")
    stiff = imc_masks.retained_leverage(vectors, 7, "stiff")
    assert float(stiff.sum()) == pytest.approx(7)
    assert float(slow.sum()) == pytest.approx(23)
    assert 0 <= float(slow.min()) <= float(slow.max()) <= 1
    with pytest.raises(InputError, match="raise --fast"):
        imc_masks.retained_leverage(vectors, 8, "slow")


def test_the_chart_parametrises_the_span() -> None:
    """Its square block is invertible; on the complement the other side has the same smallest singular value."""
    whole = testbed.haar(20, 5)
    fast, slow = whole[:, :6], whole[:, 6:]
    rows = imc_masks.chart(fast, torch.ones(20, dtype=torch.bool))
    rest = torch.tensor([i for i in range(20) if i not in rows.tolist()])
    smallest = torch.linalg.svdvals(fast[rows])[-1]
    assert len(rows) == 6
    assert float(smallest) > 0.05
    assert float(torch.linalg.svdvals(slow[rest])[-1]) == pytest.approx(float(smallest))
    forbidden = torch.ones(20, dtype=torch.bool)
    forbidden[rows[0]] = False
    assert rows[0] not in imc_masks.chart(fast, forbidden)


def test_own_counts_follow_the_share_of_the_modes() -> None:
    full = {"w": torch.ones(90, dtype=torch.bool)}
    found = GapResult(FOUND, dimension=95, dimension_upper=95, num_retained=95)
    assert imc_masks.num_kept(PRESETS["imc_reconstructed"], found, full, 100) == round(90 * 0.95)
    assert imc_masks.num_kept(PRESETS["feddup_formula"], found, full, 100) == round(90 * 0.05)
    assert imc_masks.num_kept(PRESETS["theory"], GapResult(NONE), full, 100) is None
    qdeim = Choice("cone_gap", "slow", "qdeim", "rewind")
    assert imc_masks.num_kept(qdeim, found, full, 100) == 85  # five weights go, whatever cannot be pruned


@pytest.mark.parametrize("kept", [1, 17, 50, 110])
def test_even_masks_have_exact_counts(kept: int) -> None:
    full = {n: torch.ones(size, dtype=torch.bool) for n, size in (("a", 70), ("b", 30), ("c", 11))}
    mask = imc_masks.evenly(criteria.uniform(full, 0), full, kept)
    assert criteria.num_kept(mask) == kept
    assert all(abs(int(m.sum()) - kept * m.numel() / 111) < 1 for m in mask.values())


def test_names_say_what_a_choice_is() -> None:
    assert list(choices_of(ChoiceOptions(), BaseOptions())) == ["imc_reconstructed"]
    assert list(choices_of(ChoiceOptions(preset=("theory",)), BaseOptions(base_point="converged"))) == [
        "theory_at_converged"
    ]
    changed = ChoiceOptions(preset=("theory",), rule="gap_2l", start="base_point")
    assert list(choices_of(changed, BaseOptions(k=100))) == ["imc_gap_2l_slow_leverage_continued_at_k_000100"]
    with pytest.raises(InputError, match="unknown --rule 'guess'"):
        choices_of(ChoiceOptions(rule="guess"), BaseOptions())
