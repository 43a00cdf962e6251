"""Rules, rates and horizon against spectra whose answer is known by heart."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landscape.dimension.horizon import SpectralMeasure, effective_number, finite_horizon, training_dimension
from landscape.dimension.plateau import slq_plateau
from landscape.dimension.rates import Dynamics, KnownSpectrum, effective_rate, multiplier, rates
from landscape.dimension.rules import admissible, gap_dimension, gap_ratio, heuristic_dimension, widest_hole
from landscape.errors import InputError

FLOW = Dynamics()
SPECTRUM = np.array([-1.0, 0.0, 0.1, 0.2, 3.0, 3.1, 10.0])


def flow_rates(eigenvalue: np.ndarray, **known: object) -> object:
    return rates(KnownSpectrum(np.asarray(eigenvalue, dtype=float), len(eigenvalue), **known), FLOW)


def top_rates(eigenvalue: np.ndarray, count: int, bottom: int = 0, marker: np.ndarray | None = None) -> object:
    known = np.r_[eigenvalue[:bottom], eigenvalue[len(eigenvalue) - count :]]
    return rates(KnownSpectrum(known, len(eigenvalue), bottom, marker=marker), FLOW)


@pytest.mark.parametrize(
    ("rule", "lipschitz", "oscillation", "expected"),
    [
        ("gap_2l", 1.0, 1.0, 4),
        ("gap_2l", 1.41, 1.41, 6),  # 2.8 = 2 l is the gap of N = 4
        ("gap_2l", 3.5, 3.5, None),
        ("gap_2l_osc", 2.0, 1.0, 4),
        ("gap_4l", 1.0, 1.0, 6),
        ("gap_4l", 0.6, 0.6, 4),
    ],
)
def test_gap_rules_find_the_first_admissible_gap(
    rule: str, lipschitz: float, oscillation: float, expected: int | None
) -> None:
    found = gap_dimension(flow_rates(SPECTRUM), lipschitz, rule, oscillation)
    assert found.dimension == expected
    assert found.status == ("none" if expected is None else "found")
    assert found.num_retained == expected


def test_attraction_rejects_a_gap_among_negative_eigenvalues() -> None:
    spectrum = np.array([-9.0, -1.0, -0.9, 4.0])
    assert gap_dimension(flow_rates(spectrum), 0.5).dimension == 3  # not 1: its fast side would not be attracted
    assert gap_dimension(flow_rates(np.array([-9.0, 0.3])), 0.5).status == "none"


def test_the_ratio_says_how_far_a_rule_is_from_its_answer() -> None:
    assert gap_ratio(flow_rates(SPECTRUM), 0.7) == (6.9 / 1.4, 6.9 / 1.4)
    assert gap_ratio(flow_rates(np.array([-9.0, 0.3])), 0.5) == (0.6, 0.6)  # the attraction is what lacks
    error = np.array([0.0, 0, 0, 0, 0, 0.1, 0.2])
    assert gap_ratio(flow_rates(SPECTRUM, error=error), 1.0, "gap_4l") == pytest.approx((6.6 / 4, 7.2 / 4))
    assert gap_ratio(top_rates(SPECTRUM, 3, 1), 1.0) == pytest.approx((3.45, 3.45))
    assert gap_ratio(flow_rates(SPECTRUM), 0.0) == (np.inf, np.inf)
    assert gap_ratio(flow_rates(SPECTRUM - 20), 1.0) == (0.0, 0.0)


def test_stiff_retention_keeps_the_other_side_of_the_last_gap() -> None:
    found = gap_dimension(flow_rates(SPECTRUM), 1.0, retain="stiff")
    assert (found.dimension, found.num_retained) == (6, 1)


def test_errors_of_the_ends_count_against_a_gap() -> None:
    error = np.array([0.0, 0, 0, 0.05, 0.05, 0, 0])
    assert gap_dimension(flow_rates(SPECTRUM, error=error), 1.36).dimension == 6  # 2.8 - 0.1 < 2.72
    assert gap_dimension(flow_rates(SPECTRUM), 1.36).dimension == 4


def test_too_few_eigenvalues_are_never_an_answer() -> None:
    bulk = np.r_[np.linspace(-0.5, 0.5, 50), 4.0, 9.0]
    found = gap_dimension(top_rates(bulk, 1), 0.3)
    assert (found.status, found.dimension, found.dimension_upper) == ("not resolved", None, None)
    assert found.interval == (-np.inf, 9.0)
    found = gap_dimension(top_rates(bulk, 2), 0.3)
    assert (found.status, found.dimension, found.dimension_upper) == ("not resolved", None, 51)


def test_a_narrow_bulk_holds_no_admissible_gap() -> None:
    bulk = np.r_[np.linspace(-0.5, 0.5, 50), 4.0, 9.0]
    known = top_rates(bulk, 3, bottom=1)
    assert gap_dimension(known, 0.51).dimension == 50  # 2 l > 1, the width of the bulk
    unclear = gap_dimension(known, 0.49)
    assert (unclear.status, unclear.dimension_upper) == ("not resolved", 50)
    assert unclear.interval == (-0.5, 0.5)


def test_an_unknown_bulk_below_the_attraction_bound_is_excluded() -> None:
    bulk = np.r_[np.linspace(-5, 0.2, 50), 4.0, 9.0]
    assert gap_dimension(top_rates(bulk, 3), 0.25).dimension == 50  # its upper end 0.2 <= l: nothing there attracts


def test_markers_cut_the_bulk_into_pieces() -> None:
    bulk = np.r_[np.linspace(-0.5, 0.5, 50), 4.0, 9.0]
    middle = np.array([[-0.25, -0.2], [0.0, 0.05], [0.2, 0.25]])
    assert gap_dimension(top_rates(bulk, 3, 1, middle), 0.2).dimension == 50  # widest hole (0.2, 0.5): 0.3 < 0.4
    assert gap_dimension(top_rates(bulk, 3, 1, middle[:2]), 0.2).status == "not resolved"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1.5), st.sampled_from(["gap_2l", "gap_4l"]))
def test_partial_knowledge_never_contradicts_the_whole_spectrum(seed: int, lipschitz: float, rule: str) -> None:
    random = np.random.default_rng(seed)
    values = np.sort(np.r_[random.normal(0, 0.3, 12), random.uniform(0, 6, 6)])
    whole = gap_dimension(flow_rates(values), lipschitz, rule)
    top, bottom = int(random.integers(1, 10)), int(random.integers(0, 5))
    middle = random.choice(values, 4)
    marker = np.stack([middle - random.uniform(0, 0.1, 4), middle + random.uniform(0, 0.1, 4)], axis=1)
    for marks in (None, marker):
        part = gap_dimension(top_rates(values, top, bottom, marks), lipschitz, rule)
        if part.status == "not resolved":
            assert part.dimension is None
        else:
            assert (part.status, part.dimension) == (whole.status, whole.dimension)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_the_widest_hole_bounds_every_gap(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.sort(random.uniform(0, 1, 12))
    shift = random.uniform(0, 0.1, (4, 2))
    chosen = random.choice(values, 4)
    proven = np.stack([chosen - shift[:, 0], chosen + shift[:, 1]], axis=1)
    hole = widest_hole(0.0, 1.0, proven, -1.0)
    assert hole is not None
    assert hole[1] - hole[0] >= max(b - a for a, b in pairwise(values)) - 1e-12


def test_a_uniform_spectrum_has_no_preferred_dimension() -> None:
    wrong: list[bool] = []
    for seed in range(200):
        known = flow_rates(np.sort(np.random.default_rng(seed).uniform(0, 1, 60)))
        every = gap_dimension(known, 0.0)
        assert every.num_admissible == every.num_gaps == 59
        assert not every.preferred
        tail = flow_rates(np.sort(np.random.default_rng(seed).exponential(1, 60)))
        for rule in ("largest_gap", "largest_log_gap"):
            wrong += [heuristic_dimension(spectrum, rule).status != "none" for spectrum in (known, tail)]
    assert sum(wrong) <= 0.05 * len(wrong)


@pytest.mark.parametrize("rule", ["largest_gap", "largest_log_gap"])
def test_the_heuristics_find_a_planted_gap(rule: str) -> None:
    random = np.random.default_rng(0)
    values = np.sort(np.r_[random.uniform(0.1, 0.3, 40), random.uniform(2, 2.3, 20)])
    found = heuristic_dimension(flow_rates(values), rule)
    assert found.dimension == 40
    assert found.p_value < 1e-6
    assert heuristic_dimension(top_rates(values, 30), rule).status == "not resolved"  # the largest may be further down


@pytest.mark.parametrize("eta_lambda", [0.01, 0.5, 1.0, 1.7, 1.99])
def test_gradient_descent_is_slow_at_both_ends(eta_lambda: float) -> None:
    dynamics = Dynamics("gd", lr=0.1)
    value = np.array([eta_lambda / 0.1])
    assert multiplier(value, dynamics) == pytest.approx(abs(1 - eta_lambda))
    assert effective_rate(value, dynamics) == pytest.approx(min(eta_lambda, 2 - eta_lambda) / 0.1)


def test_modes_at_the_edge_of_stability_join_the_slow_side() -> None:
    values = np.array([0.01, 0.02, 5.0, 5.1, 19.9])
    flow, descent = KnownSpectrum(values, 5), Dynamics("gd", lr=0.1)
    assert gap_dimension(rates(flow, FLOW), 0.5).dimension == 2
    assert gap_dimension(rates(flow, descent), 0.5).dimension == 3
    unstable = rates(KnownSpectrum(np.array([0.01, 5.0, 30.0]), 3), descent)
    assert gap_dimension(unstable, 0.5).dimension == 2  # the growing mode is slow too


def test_maps_need_a_gap_larger_by_the_root_of_two() -> None:
    known = rates(KnownSpectrum(np.array([0.1, 3.0]), 2), Dynamics("gd", lr=1e-3))
    assert gap_dimension(known, 2.9 / (2 * np.sqrt(2)) - 1e-3).dimension == 1
    assert gap_dimension(known, 2.9 / (2 * np.sqrt(2)) + 1e-3).status == "none"


@pytest.mark.parametrize("eta_lambda", [0.001, 0.01, 0.3, 1.0, 3.0, 3.7, 3.79])
def test_the_heavy_ball_multiplies_by_its_larger_root(eta_lambda: float) -> None:
    beta = 0.9
    roots = np.roots([1, -(1 + beta - eta_lambda), beta])
    found = multiplier(np.array([eta_lambda / 0.5]), Dynamics("heavy_ball", lr=0.5, momentum=beta))
    assert found == pytest.approx(np.abs(roots).max(), rel=1e-12)


def test_the_heavy_ball_has_no_gap_among_its_complex_modes() -> None:
    dynamics = Dynamics("heavy_ball", lr=1.0, momentum=0.81)
    known = rates(KnownSpectrum(np.array([0.001, 0.1, 1.0, 3.0]), 4), dynamics)
    assert known.size == 8
    found = gap_dimension(known, 1e-4)
    assert found.dimension == 1  # all but the flattest share |z| = 0.9, and its second root is the fastest
    assert found.num_admissible == 2
    assert gap_dimension(rates(KnownSpectrum(np.array([0.001, 1.0]), 2), dynamics), 0.0).status == "found"
    critical = rates(KnownSpectrum(np.array([0.001, 1.0]), 3, num_bottom=1), dynamics)
    assert gap_dimension(critical, 1e-6).status == "not resolved"  # the unknown mode may be critically damped


@pytest.mark.parametrize("name", ["gd", "heavy_ball"])
def test_rates_of_an_interval_cover_the_rates_within(name: str) -> None:
    dynamics = Dynamics(name, lr=0.3, momentum=0.6 if name == "heavy_ball" else None)
    for low, high in [(0.0, 1.0), (2.0, 7.0), (-1.0, 9.0), (5.0, 6.0)]:
        marks = rates(KnownSpectrum(np.array([0.0]), 2, marker=np.array([[low, high]])), dynamics).marker
        inside = effective_rate(np.linspace(low, high, 101), dynamics)
        assert marks[0, 0] <= inside.min() + 1e-12
        assert marks[0, 1] >= inside.max() - 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dynamics("newton"), "unknown dynamics"),
        (lambda: Dynamics("gd"), "needs a learning rate"),
        (lambda: Dynamics("flow", lr=0.1), "no learning rate"),
        (lambda: Dynamics("gd", lr=0.1, momentum=0.9), "momentum"),
        (lambda: Dynamics("heavy_ball", lr=0.1, momentum=1.5), "momentum"),
        (lambda: KnownSpectrum(np.array([1.0, np.nan]), 2), "NaN"),
        (lambda: KnownSpectrum(np.array([2.0, 1.0]), 2), "ascending"),
        (lambda: KnownSpectrum(np.array([]), 2), "no eigenvalue is known"),
        (lambda: KnownSpectrum(np.array([1.0, 2.0]), 1), "do not fit"),
        (lambda: gap_dimension(flow_rates(SPECTRUM), np.nan), "Lipschitz constant"),
        (lambda: gap_dimension(flow_rates(SPECTRUM), 1.0, "gap_3l"), "unknown gap rule"),
        (lambda: gap_dimension(flow_rates(SPECTRUM), 1.0, "gap_2l_osc"), "l_osc"),
        (lambda: admissible(flow_rates(SPECTRUM), 1.0, retain="both"), "retain"),
        (lambda: finite_horizon(SpectralMeasure.exact(SPECTRUM), -1.0), "time"),
        (lambda: effective_number(SpectralMeasure.exact(SPECTRUM), 0.0), "alpha"),
        (lambda: training_dimension(SpectralMeasure.exact(SPECTRUM), 1.0, 0.0), "excess loss"),
    ],
)
def test_bad_input_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_finite_horizon_splits_exactly() -> None:
    measure = SpectralMeasure.exact(np.array([-6.0, -1.0, -1e-4, 0.0, 1e-4, 0.5, 4.0, 5.0]))
    split = finite_horizon(measure, time=1.0, tolerance=0.01)  # ln 100 = 4.605
    assert (split.frozen, split.active, split.slaved, split.escaping) == (3, 4, 1, 2)
    assert split.slaved_se == 0


def test_horizon_counts_from_quadrature_have_error_bars() -> None:
    weight = np.array([[0.7, 0.3], [0.6, 0.4], [0.65, 0.35]])
    measure = SpectralMeasure(np.tile([0.0, 10.0], (3, 1)), weight, 100)
    split = finite_horizon(measure, time=1.0)
    assert split.slaved == pytest.approx(35)
    assert split.slaved_se == pytest.approx(5 / np.sqrt(3))
    assert split.frozen + split.active + split.slaved == pytest.approx(100)
    broken = SpectralMeasure(np.array([[1.0, np.nan]]), np.array([[1.0, 0.0]]), 5)  # a Krylov space that broke down
    assert effective_number(broken, 1.0) == (2.5, 0.0)


def test_effective_numbers_have_their_closed_forms() -> None:
    measure = SpectralMeasure.exact(np.array([-3.0, 0.0, 1.0, 3.0]))
    assert effective_number(measure, 1.0)[0] == pytest.approx(0.5 + 0.75)
    assert training_dimension(measure, distance=2.0, excess_loss=0.5)[0] == pytest.approx(1 / 1.25 + 3 / 3.25)


def test_the_plateau_rule_has_its_known_answers_and_failures() -> None:
    random = np.random.default_rng(0)

    def share(*parts: np.ndarray) -> float:
        values = np.concatenate(parts)
        return slq_plateau(values, np.ones_like(values))

    slow, fast = random.normal(0.1, 0.03, 1000).clip(1e-3), random.normal(5, 0.5, 1000)
    assert share(slow[:300], fast[:700]) == pytest.approx(0.7)
    assert share(slow[:700], fast[:300]) > 0.98  # wrong: 0.3 lie above the gap
    outliers = np.linspace(2, 20, 10)
    assert 0.2 < share(random.normal(0, 0.05, 3000), outliers) < 0.55  # of 10 outliers in 3010
    assert share(random.uniform(0, 1, 1000)) > 0.7  # there is no gap
    with pytest.raises(InputError, match="quadrature"):
        slq_plateau(np.array([np.nan]), np.array([0.0]))
