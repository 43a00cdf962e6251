"""Gap rules: from what is known of the rates and of the remainder's Lipschitz constant to a number of slow modes.

Conventions: modes are counted from the slow end, ``dimension`` N retains the N slowest, ``gap_index`` n - N is the
label of the gap from the top. A rule answers ``found`` with N, or ``none``, or ``not resolved`` with the interval of
unknown eigenvalues in which an admissible gap might hide; it never guesses from eigenvalues that were not computed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from landscape.dimension.rates import Array, Rates
from landscape.errors import InputError

FOUND, NONE, NOT_RESOLVED = "found", "none", "not resolved"
LIPSCHITZ_RULES = {"gap_2l": 2.0, "gap_2l_osc": 2.0, "gap_4l": 4.0}
HEURISTIC_RULES = ("largest_gap", "largest_log_gap")
RETAIN = ("slow", "stiff")
_WINDOW = 10


@dataclass(frozen=True)
class GapResult:
    """The answer of a rule.

    Attributes
    ----------
    status
        ``found``, ``none`` (proven: no admissible gap) or ``not resolved``.
    dimension
        N, the number of slow modes; None unless found. If a slower admissible gap cannot be excluded, the status is
        ``not resolved`` and the known admissible gap is in ``dimension_upper``.
    dimension_upper
        The best N that is known to be admissible, an upper bound on the smallest one; None if there is none.
    num_retained
        N, or with ``retain="stiff"`` the n - N fast modes.
    gap
        Width of the gap at ``dimension_upper``, less the two error bounds.
    num_admissible, num_gaps
        Known gaps that pass, and known gaps with attraction; if all of several pass, no N is preferred.
    interval
        The widest interval of rates in which an admissible gap could hide; None if there is none.
    p_value
        Of the heuristic rules: probability of so large a gap where the density of modes is locally even.
    """

    status: str
    dimension: int | None = None
    dimension_upper: int | None = None
    num_retained: int | None = None
    gap: float | None = None
    num_admissible: int = 0
    num_gaps: int = 0
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @property
    def preferred(self) -> bool:
        """Whether the rule singles out an N: it found one, and not every gap would have done."""
        return self.status == FOUND and not (self.num_admissible == self.num_gaps > 1)


@dataclass(frozen=True)
class _Gaps:
    """Gaps between neighbouring blocks of modes, slow to fast: block ends, N below each gap, block index of hulls."""

    low: Array
    high: Array
    slow_count: np.ndarray
    hull_block: list[int]
    hull_span: list[tuple[float, float]]

    @property
    def width(self) -> Array:
        return self.low[1:] - self.high[:-1]


def gap_dimension(
    known: Rates, lipschitz: float, rule: str = "gap_2l", oscillation: float | None = None, retain: str = "slow"
) -> GapResult:
    """Return the smallest N with ``rate_{N+1} - rate_N > c l`` and attraction ``rate_{N+1} > l``.

    Parameters
    ----------
    known
        Rates of the modes (:func:`landscape.dimension.rates.rates`).
    lipschitz
        l, the Lipschitz constant of the remainder on the region, in units of curvature.
    rule
        ``gap_2l`` (sharp constant), ``gap_2l_osc`` (half the range of the perturbation's eigenvalues in place of l;
        scalar shifts are harmless, gradient flow only) or ``gap_4l`` (sufficient, never necessary).
    oscillation
        l_osc, needed by ``gap_2l_osc``.
    retain
        ``slow``, or ``stiff``: the largest admissible N, whose n - N stiff modes are kept (against the theory).

    Notes
    -----
    Error: if l is sampled it is a lower bound, and N is optimistic. Interval arithmetic makes everything else exact: a
    gap counts less the errors of its ends, and unknown modes between known ones are excluded only if the interval that
    holds them is too narrow for an admissible gap, or wholly below the attraction bound.

    References
    ----------
    Miklavcic (1991), J. Dyn. Diff. Eq. 3; Romanov (1994), Izv. Math. 43; Zelik (2014), arXiv:1303.4457. The form for
    maps (``known.factor`` sqrt 2) bounds the two blocks one by one.
    """
    if rule not in LIPSCHITZ_RULES:
        raise InputError(f"unknown gap rule {rule!r}; use one of {', '.join(LIPSCHITZ_RULES)}")
    if rule == "gap_2l_osc" and (oscillation is None or known.factor != 1):
        raise InputError("gap_2l_osc needs l_osc and gradient flow: for maps a scalar shift is not harmless")
    used = oscillation if rule == "gap_2l_osc" and oscillation is not None else lipschitz
    if not (0 <= lipschitz < np.inf and 0 <= used < np.inf):
        raise InputError(f"a Lipschitz constant must be finite and not negative, not {lipschitz} ({used})")
    if used and np.isinf(known.factor) and len(known.hull):  # an unknown mode may be critically damped
        return GapResult(NOT_RESOLVED, interval=(float(known.hull.min()), float(known.hull.max())))
    threshold = LIPSCHITZ_RULES[rule] * used * known.factor if used else 0.0
    return admissible(known, threshold, lipschitz * known.factor if lipschitz else 0.0, retain)


def admissible(known: Rates, threshold: float, attraction: float = 0.0, retain: str = "slow") -> GapResult:
    """Return the first N whose gap exceeds ``threshold`` with ``rate_{N+1} > attraction``, in units of curvature."""
    if retain not in RETAIN:
        raise InputError(f"retain is one of {', '.join(RETAIN)}, not {retain!r}")
    gaps = _gaps(known)
    good = np.flatnonzero((gaps.width > threshold) & (gaps.low[1:] > attraction))
    found = None if not len(good) else int(good[0 if retain == "slow" else -1])
    hole = _widest_hole(known, gaps, (threshold, attraction), found, retain)
    status = NOT_RESOLVED if hole else FOUND if found is not None else NONE
    attracting = int(((gaps.width > 0) & (gaps.low[1:] > attraction)).sum())
    if found is None:
        return GapResult(status, num_gaps=attracting, interval=hole)
    upper = int(gaps.slow_count[found])
    return GapResult(
        status,
        dimension=upper if status == FOUND else None,
        dimension_upper=upper,
        num_retained=(upper if retain == "slow" else known.size - upper) if status == FOUND else None,
        gap=float(gaps.width[found]),
        num_admissible=len(good),
        num_gaps=attracting,
        interval=hole,
    )


def gap_ratio(
    known: Rates, lipschitz: float, rule: str = "gap_2l", oscillation: float | None = None
) -> tuple[float, float]:
    """Return how much of what a rule asks the best known gap offers: above 1 it is admissible.

    Returns
    -------
    The best ``min(gap_N / (c l), rate_{N+1} / l)`` over the known gaps, with the errors of a gap's ends against it, and
    with them in its favour. Infinity without a remainder, 0 without an attracting gap.
    """
    used = oscillation if rule == "gap_2l_osc" and oscillation is not None else lipschitz
    need = known.factor * np.abs([LIPSCHITZ_RULES[rule] * used, lipschitz])  # a zero may carry a sign

    def best(intervals: Array) -> float:
        gaps = _gaps(replace(known, known=intervals))
        offered = np.maximum(np.stack([gaps.width, gaps.low[1:]]), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(offered > 0, offered / need[:, None], 0.0)
        return float(ratio.min(axis=0).max(initial=0.0))

    return best(known.known), best(known.known[:, ::-1])


def _gaps(known: Rates) -> _Gaps:
    """Sort known modes and hulls into disjoint blocks; a hull swallows the known modes that it overlaps."""
    spans = [(low, high, 1, -1) for low, high in known.known]
    spans += [(*known.hull[j], int(known.hull_count[j]), j) for j in range(len(known.hull))]
    spans.sort(key=lambda span: (span[0], span[1]))
    low: list[float] = []
    high: list[float] = []
    counts: list[int] = []
    hulls: list[int] = []
    hull_spans: list[tuple[float, float]] = []
    for left, right, number, hull in spans:
        if low and left <= high[-1] and (hull >= 0 or (hulls and hulls[-1] == len(low) - 1)):
            high[-1], counts[-1] = max(high[-1], right), counts[-1] + number
        else:
            low.append(left)
            high.append(right)
            counts.append(number)
        if hull >= 0:
            hulls.append(len(low) - 1)
            hull_spans.append((float(left), float(right)))
    running = np.maximum.accumulate(np.array(high))
    return _Gaps(np.array(low), running, np.cumsum(counts), hulls, hull_spans)


def _widest_hole(
    known: Rates, gaps: _Gaps, bounds: tuple[float, float], found: int | None, retain: str
) -> tuple[float, float] | None:
    """Return the widest interval without a proven mode that could hide a better admissible gap, or None."""
    threshold, attraction = bounds
    holes = []
    for block, (low, high) in zip(gaps.hull_block, gaps.hull_span, strict=True):
        if found is not None and (block > found if retain == "slow" else block <= found):
            continue  # a gap in there would give a worse N
        hole = widest_hole(low, high, np.concatenate([known.known, known.marker]), attraction)
        if hole is not None and hole[1] - hole[0] > threshold:
            holes.append(hole)
    return max(holes, key=lambda hole: hole[1] - hole[0], default=None)


def widest_hole(low: float, high: float, proven: Array, attraction: float) -> tuple[float, float] | None:
    """Return the widest (x, y) in [low, high] with y > attraction that holds none of the proven intervals wholly.

    Parameters
    ----------
    proven
        Intervals ``(m, 2)`` each of which holds a mode.

    Notes
    -----
    A gap (x, y) holds no mode inside, hence no proven interval; so y is at most the smallest upper end among the
    intervals that begin above x. The widest hole begins at ``low`` or just at the lower end of an interval.
    """
    inside = proven[(proven[:, 0] >= low) & (proven[:, 1] <= high)]
    inside = inside[np.argsort(inside[:, 0])]
    ends = np.append(np.minimum.accumulate(inside[::-1, 1])[::-1], high)  # smallest upper end from each interval on
    starts = np.append(low, inside[:, 0])
    widths = np.where(ends > attraction, ends - starts, -np.inf)
    best = int(np.argmax(widths))
    return (float(starts[best]), float(ends[best])) if widths[best] > 0 else None


def heuristic_dimension(
    known: Rates, rule: str = "largest_gap", attraction: float = 0.0, level: float = 0.05
) -> GapResult:
    """Return N at the largest (log) gap, if it is significantly larger than its neighbours.

    Parameters
    ----------
    rule
        ``largest_gap`` or ``largest_log_gap`` (the largest ratio among positive rates).
    attraction
        Gaps whose upper end does not exceed it are left out.
    level
        Largest p-value, after multiplication with the number of gaps, at which the gap counts.

    Notes
    -----
    Where modes are spread with a locally even density, neighbouring spacings are exponential, and the share of one in
    the sum of itself and w neighbours exceeds s with probability (1 - s)^w; here w <= 20. In an exponential tail the
    same holds of the spacings times their rank from the end; the larger p-value counts. Without this test a spectrum
    without any gap also has a largest one.

    References
    ----------
    Renyi (1953), Acta Math. Acad. Sci. Hung. 4, 191 (spacings of exponential samples).
    """
    if rule not in HEURISTIC_RULES:
        raise InputError(f"unknown rule {rule!r}; use one of {', '.join(HEURISTIC_RULES)}")
    scaled, floor, skipped = known, attraction, 0
    if rule == "largest_log_gap":
        scaled, floor, skipped = _logarithmic(known), float(np.log(max(attraction, 1e-300))), _not_positive(known)
    gaps = _gaps(scaled)
    width = np.where(gaps.low[1:] > floor, np.maximum(gaps.width, 0.0), 0.0)
    largest = float(width.max(initial=0.0))
    hole = _widest_hole(scaled, gaps, (largest, floor), None, "slow")
    if hole is not None:
        ends = np.array(hole) if rule == "largest_gap" else np.exp(hole)
        return GapResult(NOT_RESOLVED, interval=(float(ends[0]), float(ends[1])))
    if largest == 0:
        return GapResult(NONE)
    best = int(np.argmax(width))
    p_value = _p_value(width, best)
    if p_value > level:
        return GapResult(NONE, p_value=p_value)
    count = skipped + int(gaps.slow_count[best])
    gap = float(largest if rule == "largest_gap" else np.exp(gaps.low[best + 1]) - np.exp(gaps.high[best]))
    return GapResult(FOUND, count, count, count, gap, p_value=p_value)


def _p_value(width: Array, best: int) -> float:
    """Return the p-value of the largest of neighbouring spacings, under the milder of an even density and a tail."""
    rank = np.minimum(np.arange(1, len(width) + 1), np.arange(len(width), 0, -1))
    near = slice(max(0, best - _WINDOW), best + _WINDOW + 1)
    shares = [width[best] / width[near].sum(), (rank * width)[best] / (rank * width)[near].sum()]
    number = len(width[near]) - 1
    return min(1.0, len(width) * (1 - min(shares)) ** number) if number else 1.0


def _not_positive(known: Rates) -> int:
    return int((known.known[:, 0] <= 0).sum())


def _logarithmic(known: Rates) -> Rates:
    """Return the rates that are surely positive on a logarithmic scale; a hull that reaches zero begins at -inf."""

    def log(interval: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.log(np.maximum(interval, 0.0))

    positive = known.known[known.known[:, 0] > 0]
    hull = log(known.hull)
    marker = log(known.marker[known.marker[:, 0] > 0])
    return Rates(log(positive), known.size - _not_positive(known), hull, known.hull_count, marker)
