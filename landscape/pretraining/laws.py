"""Competing laws of a threshold that is only known to lie between two checkpoints.

The first checkpoint at which a network is good enough brackets the time t at which it became so: lo < t <= hi, with lo
= 0 if the first already was and hi = infinity if none was. Laws t(m) are fitted to such intervals by maximum
likelihood with log-normal scatter, log t = log law(m) + sigma * noise. A likelihood of intervals is bounded by one, so
the fits of laws with different numbers of parameters compare by AICc. What is asked first is the exponent p of t ~ m^p
with an interval.

The laws: constant; ``logarithm`` a + b log m; ``power`` a m^p; ``printed_sgd`` -a / log(1 - s / m^2) and
``printed_gd`` -a / log(1 - s / m), the formulas of Wolfe et al. (arXiv 2108.00259, theorems 3 and 10) with s = c d;
``saturating`` a + b m / (m + m0), their plateau. As -1 / log(1 - x) = 1/x - 1/2 + O(x), the printed formulas are
powers 2 and 1 of m for m^2 >> c d and m >> c d, which is not the logarithm that the text says [our remark]. The
interval-censored likelihood is the textbook one; its combination with a bootstrap over replicates is our choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from landscape.errors import InputError
from landscape.seeds import numpy_generator

Floats = NDArray[np.float64]

UNBOUNDED = 1e3  # a slope, in units of the spread of the thresholds, beyond which an interval has no end
LEAST_ERRORS = 1.5  # standard errors of the likelihood that the interval of a slope spans at least to either side
LEAST_SCATTER = 1e-3  # of log t: below it the likelihood of intervals no longer changes


@dataclass(frozen=True, eq=False)
class Intervals:
    """Thresholds known to an interval each.

    Attributes
    ----------
    x
        What they depend on, ``(n,)``: the number of examples m, or of picks k.
    lo, hi
        lo < t <= hi, ``(n,)``; lo = 0 and hi = infinity are open ends.
    replicate
        Which training repeat each comes from, ``(n,)``; repeats are resampled whole.
    """

    x: Floats
    lo: Floats
    hi: Floats
    replicate: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse empty or reversed intervals."""
        if not len(self.x) == len(self.lo) == len(self.hi) == len(self.replicate) or not len(self.x):
            raise InputError("thresholds want as many places, lower ends, upper ends and replicates, at least one")
        if not ((self.lo < self.hi) & (self.lo >= 0) & (self.x > 0)).all():
            raise InputError("each threshold needs 0 <= lo < hi and a positive place")

    def take(self, index: NDArray[np.int64]) -> Intervals:
        """Return some of the thresholds."""
        return Intervals(self.x[index], self.lo[index], self.hi[index], self.replicate[index])

    @property
    def informative(self) -> bool:
        """Whether anything is bounded: some interval has a finite upper end, and some a positive lower end."""
        return bool(np.isfinite(self.hi).any() and (self.lo > 0).any())


def log_probability(lower: Floats, upper: Floats) -> Floats:
    """Return log(Phi(upper) - Phi(lower)) for the normal distribution function Phi, without cancellation."""
    flip = lower > 0  # the upper tail is the lower tail mirrored
    small, large = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    top, bottom = scipy.special.log_ndtr(large), scipy.special.log_ndtr(small)
    with np.errstate(divide="ignore"):
        return top + np.log(-np.expm1(np.minimum(bottom - top, -1e-300)))


# ---- laws -----------------------------------------------------------------------------------------------------------

Law = Callable[[Floats, Floats], Floats]  # shape parameters, x / geometric mean of x -> log t up to a constant


def _constant(shape: Floats, x: Floats) -> Floats:
    return np.zeros_like(x)


def _logarithm(shape: Floats, x: Floats) -> Floats:
    return np.log(np.maximum(1 + shape[0] * np.log(x), 1e-9))


def _power(shape: Floats, x: Floats) -> Floats:
    return shape[0] * np.log(x)


def _saturating(shape: Floats, x: Floats) -> Floats:
    middle = np.exp(shape[1])
    return np.log(np.maximum(1 + shape[0] * (x / (x + middle) - 1 / (1 + middle)), 1e-9))


def _printed(order: int) -> Law:
    def law(shape: Floats, x: Floats) -> Floats:
        strength = x.min() ** order * scipy.special.expit(shape[0])
        return -np.log(-np.log1p(-np.minimum(strength / x**order, 1 - 1e-12)))

    return law


LAWS: dict[str, tuple[Law, tuple[tuple[float, ...], ...]]] = {  # with the places from which each is fitted
    "constant": (_constant, ((),)),
    "logarithm": (_logarithm, ((0.1,), (0.5,), (2.0,))),
    "power": (_power, ((0.1,), (1.0,), (2.0,))),
    "printed_sgd": (_printed(2), ((-3.0,), (0.0,), (3.0,))),
    "printed_gd": (_printed(1), ((-3.0,), (0.0,), (3.0,))),
    "saturating": (_saturating, ((1.0, 0.0), (1.0, -2.0), (3.0, 2.0), (10.0, 3.0))),
}


@dataclass(frozen=True)
class Fit:
    """One law at its maximum likelihood.

    Attributes
    ----------
    law
        Its name in ``LAWS``.
    parameters
        log t at the geometric mean of x, then the parameters of the shape.
    scatter
        Standard deviation of log t around the law.
    log_likelihood, aicc
        Of the intervals; AICc counts the scatter as a parameter and is infinite with too few thresholds.
    weight
        Akaike weight among the laws fitted together.
    """

    law: str
    parameters: tuple[float, ...]
    scatter: float
    log_likelihood: float
    aicc: float
    weight: float = float("nan")


def compare(data: Intervals) -> list[Fit]:
    """Fit every law and return the fits, best AICc first, with Akaike weights exp(-AICc / 2) that sum to one."""
    fits = sorted((fit(name, data) for name in LAWS), key=lambda f: f.aicc)
    score = np.array([f.aicc for f in fits])
    if not np.isfinite(score[0]):
        return fits
    weight = np.exp(-(score - score[0]) / 2)
    return [replace(f, weight=float(w)) for f, w in zip(fits, weight / weight.sum(), strict=True)]


def fit(name: str, data: Intervals) -> Fit:
    """Fit one law by maximum likelihood from several starts."""
    if name not in LAWS:
        raise InputError(f"unknown law {name!r}; there are {', '.join(LAWS)}")
    law, starts = LAWS[name]
    x = data.x / np.exp(np.log(data.x).mean())
    with np.errstate(divide="ignore"):
        lower, upper = np.log(data.lo), np.log(data.hi)

    def cost(q: Floats) -> float:
        predicted, scatter = q[0] + law(q[2:], x), np.exp(q[1])
        return -float(log_probability((lower - predicted) / scatter, (upper - predicted) / scatter).clip(-1e6).sum())

    middle = _middles(lower, upper)
    found = []
    for start in starts:
        shape = law(np.array(start), x)
        level = float((middle - shape).mean())
        scatter = float(np.log(max((middle - shape - level).std(), 0.05)))
        limits = [(-50.0, 50.0), (np.log(LEAST_SCATTER), np.log(50.0)), *[(-30.0, 30.0)] * len(start)]
        found.append(scipy.optimize.minimize(cost, [level, scatter, *start], bounds=limits, method="L-BFGS-B"))
    best = min(found, key=lambda r: r.fun)
    num, n = len(best.x), len(x)
    penalty = 2 * num + 2 * num * (num + 1) / (n - num - 1) if n > num + 1 else np.inf
    parameters = (float(best.x[0]), *map(float, best.x[2:]))
    return Fit(name, parameters, float(np.exp(best.x[1])), -float(best.fun), float(2 * best.fun + penalty))


def curve(fitted: Fit, data: Intervals, x: Floats) -> Floats:
    """Return t of a law that was fitted to ``data`` at places ``x`` between the least and the largest of its own."""
    law, _ = LAWS[fitted.law]
    centre = float(np.exp(np.log(data.x).mean()))
    shift = law(np.array(fitted.parameters[1:]), np.concatenate([[data.x.min()], x]) / centre)[1:]
    return np.exp(fitted.parameters[0] + shift)


def _middles(lower: Floats, upper: Floats) -> Floats:
    """Return one number in each interval; open ends are closed at the distance of log 2."""
    low = np.where(np.isfinite(lower), lower, upper - np.log(2))
    return (low + np.where(np.isfinite(upper), upper, low + np.log(2))) / 2


# ---- the slope of a straight line through intervals -----------------------------------------------------------------


@dataclass(frozen=True)
class Slope:
    """A slope with its 95 % interval.

    Attributes
    ----------
    value
        At the maximum of the likelihood.
    lo, hi
        The bootstrap's interval, widened to 1.5 standard errors of the likelihood where it is narrower than that: if
        the grid of checkpoints makes the replicates agree, their spread does not say how well the slope is known. (The
        hull of both intervals below would cover 98 % of the time by construction.) In 200 trials with five replicates
        it covers about 95 %, and is 1.6 times as wide as the interval of an observer who knows the scatter where that
        is a seventh of the distance between checkpoints, 1.2 to 1.3 times where it is half of it or more. An exponent
        of 1 on sizes that double is found better than that on a grid of ratio sqrt 2, by chance: all sizes then lie at
        the same place between two checkpoints, and rounding shifts them alike.
    profile_lo, profile_hi
        Where the likelihood, maximised over the rest, is not significantly lower: it knows what the grid of
        checkpoints leaves open.
    bootstrap_lo, bootstrap_hi
        From resampling replicates whole, with Student's t for their number; the profile's ends with fewer than two.
    """

    value: float
    lo: float
    hi: float
    profile_lo: float
    profile_hi: float
    bootstrap_lo: float
    bootstrap_hi: float


@dataclass(frozen=True)
class SlopeOptions:
    """How the interval of a slope is computed: number of bootstrap resamples, their seed, and the confidence."""

    num_bootstrap: int = 200
    seed: int = 0
    confidence: float = 0.95


def exponent(data: Intervals, options: SlopeOptions | None = None) -> Slope:
    """Return p of t = a x^p with log-normal scatter, with its interval."""
    with np.errstate(divide="ignore"):
        return _slope(np.log(data.x), np.log(data.lo), np.log(data.hi), data.replicate, options or SlopeOptions())


def log_slope(data: Intervals, options: SlopeOptions | None = None) -> Slope:
    """Return b of t = a + b log x with normal scatter, with its interval; lo = 0 leaves t open below."""
    lower = np.where(data.lo > 0, data.lo, -np.inf)
    return _slope(np.log(data.x), lower, data.hi, data.replicate, options or SlopeOptions())


def _slope(x: Floats, lower: Floats, upper: Floats, replicate: NDArray[np.int64], options: SlopeOptions) -> Slope:
    """Return the slope of y = a + b x + scatter from lower < y <= upper, with its intervals."""
    if len(np.unique(x)) < 2 or not np.isfinite(upper).any() or not np.isfinite(lower).any():
        raise InputError("a slope wants thresholds at two places at least, bounded from both sides somewhere")
    says = np.isfinite(lower) | np.isfinite(upper)
    x, lower, upper, replicate = x[says], lower[says], upper[says], replicate[says]
    finite = np.concatenate([lower[np.isfinite(lower)], upper[np.isfinite(upper)]])
    unit = max(float(np.ptp(finite)), 1e-12)
    centre = float(x.mean())
    line = _Line(x - centre, lower / unit, upper / unit)
    best, most = line.maximum()
    quantile = scipy.stats.t.ppf((1 + options.confidence) / 2, max(len(x) - 3, 1))
    profile, least = (
        [line.profile_end(best, most - errors**2 / 2, side) for side in (-1.0, 1.0)]
        for errors in (quantile, min(quantile, LEAST_ERRORS))
    )
    bootstrap = _bootstrap(line, best, replicate, options)
    if bootstrap is None:
        bootstrap = least = profile
    ends = [v * unit for v in (min(least[0], bootstrap[0]), max(least[1], bootstrap[1]), *profile, *bootstrap)]
    return Slope(best * unit, *ends)


def _bootstrap(line: _Line, best: float, replicate: NDArray[np.int64], options: SlopeOptions) -> list[float] | None:
    """Return the interval from resampling replicates whole, or None if there are fewer than two.

    A resample of replicates that all lie at one place has no slope and is left out.
    """
    groups = [np.flatnonzero(replicate == r) for r in np.unique(replicate)]
    if len(groups) < 2:
        return None
    random = numpy_generator(options.seed, "slope_bootstrap")
    slopes = []
    for _ in range(options.num_bootstrap):
        index = np.concatenate([groups[i] for i in random.integers(len(groups), size=len(groups))])
        again = _Line(line.x[index], line.lower[index], line.upper[index])
        if np.ptp(again.x) > 0 and np.isfinite(again.lower).any() and np.isfinite(again.upper).any():
            slopes.append(again.maximum()[0])
    if not slopes:
        return None
    count = len(groups)
    half = scipy.stats.t.ppf((1 + options.confidence) / 2, count - 1) * np.std(slopes) * np.sqrt(count / (count - 1))
    return [best - float(half), best + float(half)]


@dataclass(frozen=True, eq=False)
class _Line:
    """Interval-censored normal regression; its likelihood is concave in (a, b, 1) / scatter (Burridge 1981)."""

    x: Floats
    lower: Floats
    upper: Floats

    def maximum(self, fixed: float | None = None) -> tuple[float, float]:
        """Return the best slope and the log-likelihood there, or at a ``fixed`` slope."""
        middle = _middles(self.lower, self.upper)
        start = float(np.polyfit(self.x, middle, 1)[0]) if fixed is None else fixed
        scatter = max(float((middle - start * self.x).std()), 0.02)
        begin = np.array([float((middle - start * self.x).mean()), start, 1.0]) / scatter
        most = 1 / LEAST_SCATTER
        if fixed is None:
            limits = [(None, None), (None, None), (1e-3, most)]
            found = scipy.optimize.minimize(self._cost, begin, jac=True, bounds=limits, method="L-BFGS-B")
            return float(found.x[1] / found.x[2]), -float(found.fun)

        def cost(q: Floats) -> tuple[float, Floats]:
            value, slope = self._cost(np.array([q[0], fixed * q[1], q[1]]))
            return value, np.array([slope[0], slope[2] + fixed * slope[1]])

        limits = [(None, None), (1e-3, most)]
        found = scipy.optimize.minimize(cost, begin[[0, 2]], jac=True, bounds=limits, method="L-BFGS-B")
        return fixed, -float(found.fun)

    def _cost(self, q: Floats) -> tuple[float, Floats]:
        """Return minus the log-likelihood and its gradient at (a, b, 1) / scatter."""
        shift = q[0] + q[1] * self.x
        low, high = q[2] * self.lower - shift, q[2] * self.upper - shift
        log_mass = log_probability(low, high).clip(-1e6)
        weight = [np.where(np.isfinite(z), np.exp(np.minimum(-(z**2) / 2 - log_mass, 700)), 0.0) for z in (low, high)]
        at_low, at_high = (w / np.sqrt(2 * np.pi) for w in weight)
        pull = at_low - at_high  # derivative of the log-likelihood in the shift
        lower, upper = (np.where(np.isfinite(y), y, 0.0) for y in (self.lower, self.upper))
        slope = np.array([pull.sum(), (pull * self.x).sum(), (at_high * upper - at_low * lower).sum()])
        return -float(log_mass.sum()), -slope

    def profile_end(self, best: float, level: float, side: float) -> float:
        """Return where the profile likelihood falls to ``level`` on one side of the best slope."""
        step = 0.05 * side / max(float(np.ptp(self.x)), 1e-12)
        inner, outer = best, best + step
        while self.maximum(outer)[1] > level:
            if abs(step) > UNBOUNDED:
                return side * np.inf
            step *= 2
            inner, outer = outer, outer + step
        width = abs(outer - best)
        return float(scipy.optimize.brentq(lambda b: self.maximum(b)[1] - level, inner, outer, xtol=1e-4 * width))
