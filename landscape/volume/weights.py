"""Means of numbers that are known by their logarithms, with an interval that tells when it cannot be trusted.

A volume in n dimensions is the mean of ``exp(l)``, where the log weights ``l`` spread over many nats. Everything stays
in the log domain and in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.special
import scipy.stats

CALIBRATED, LOWER_BOUND = "calibrated", "lower bound"
MAX_SD, MIN_ESS = 3.0, 30.0


@dataclass(frozen=True)
class LogMean:
    """The logarithm of a mean of weights, and how far it can be trusted.

    Attributes
    ----------
    value
        log mean exp(l), in nats; +inf if a weight is infinite.
    se
        Its standard error in nats (infinite where the weights say nothing about it).
    sd
        Standard deviation of the finite log weights.
    ess
        Effective sample size: the smaller of (sum w)^2 / sum w^2 and num exp(-sd^2).
    num
        Number of log weights.
    mean, maximum
        Mean and maximum of the finite log weights.
    num_infinite
        Number of infinite weights.
    """

    value: float
    se: float
    sd: float
    ess: float
    num: int
    mean: float
    maximum: float
    num_infinite: int = 0

    @property
    def verdict(self) -> str:
        """``calibrated`` if sd <= 3 and ess >= 30, otherwise ``lower bound``."""
        good = self.num_infinite == 0 and self.sd <= MAX_SD and self.ess >= MIN_ESS
        return CALIBRATED if good else LOWER_BOUND


def log_mean(log_weights: np.ndarray) -> LogMean:
    """Return log mean exp(l) of the log weights ``(k,)``.

    Notes
    -----
    Error: the standard error is the larger of the delta method's, sd(w) / (mean(w) sqrt k), and the one that log-normal
    weights of the observed sd would have, sqrt((exp(sd^2) - 1) / k). The first alone is far too small when the weights
    that carry the mean were never drawn: with sd 1.6 and k = 200 its 95 % interval covers in 88 %, ours in 96-98 %.
    The effective sample size is reduced in the same way (our derivation, checked by simulation).
    An infinite weight makes the mean infinite; it is counted, not dropped.
    """
    infinite = int(np.isposinf(log_weights).sum())
    finite = np.asarray(log_weights, dtype=np.float64)[~np.isposinf(log_weights)]
    num = len(finite) + infinite
    if not len(finite):
        return LogMean(np.inf, np.inf, 0.0, 0.0, num, np.inf, np.inf, infinite)
    peak = finite.max()
    weights = np.exp(finite - peak)
    mean = weights.mean()
    sd = float(finite.std(ddof=1)) if len(finite) > 1 else np.inf
    kish = weights.sum() ** 2 / np.square(weights).sum()
    with np.errstate(over="ignore"):
        log_normal = np.sqrt(np.expm1(sd**2) / len(finite))
    delta = weights.std(ddof=1) / mean / np.sqrt(len(finite)) if len(finite) > 1 else np.inf
    return LogMean(
        value=float(np.inf if infinite else peak + np.log(mean)),
        se=float(max(delta, log_normal)),
        sd=sd,
        ess=float(min(kish, len(finite) * np.exp(-(sd**2)))),
        num=num,
        mean=float(finite.mean()),
        maximum=float(peak),
        num_infinite=infinite,
    )


def controlled_log_mean(log_weights: np.ndarray, control: np.ndarray) -> LogMean:
    """Return log E exp(l) - log E exp(c) from paired log weights l and a control c whose mean is known otherwise.

    Both are taken as normal, so the difference is mean(l - c) + (var l - var c) / 2: nothing is left where l = c.

    Notes
    -----
    Error: with d = l - c and s = sd l + sd c, se^2 = (var d + (var d var(l + c) + cov(d, l + c)^2) / 4) / k, or the
    log-normal error of d if that is larger. ``sd`` is sd(d) max(1, s / 2): the control must be closer the wider
    the weights are, before the result counts as calibrated; ``ess`` is k exp(-sd(d)^2). All this is our derivation. On
    sheared and tilted ellipsoids of 500 parameters, whose volumes are known, 95 % intervals so labelled cover in 90 to
    100 %, also where the weights alone are 25 nats too low.
    """
    if not (np.isfinite(log_weights).all() and np.isfinite(control).all()) or len(control) < 2:
        return log_mean(log_weights)
    difference = log_weights - control
    num, sd = len(control), float(difference.std(ddof=1))
    spread = float(log_weights.std(ddof=1) + control.std(ddof=1))
    total = log_weights + control
    covariance = float(np.cov(difference, total)[0, 1])
    value = float(difference.mean()) + 0.5 * covariance
    variance = (sd**2 + 0.25 * (sd**2 * total.var(ddof=1) + covariance**2)) / num
    with np.errstate(over="ignore"):
        log_normal = np.expm1(sd**2) / num
    return LogMean(
        value=value,
        se=float(np.sqrt(max(variance, log_normal))),
        sd=sd * max(1.0, 0.5 * spread),
        ess=float(num * np.exp(-(sd**2))),
        num=num,
        mean=float(difference.mean()),
        maximum=float(difference.max()),
    )


def quantile(df: float) -> float:
    """Return the 97.5 % quantile of Student's t with ``df`` degrees of freedom (normal where infinite)."""
    return float(scipy.stats.t.ppf(0.975, df)) if np.isfinite(df) else float(scipy.stats.norm.ppf(0.975))


def log_ball(n: int) -> float:
    """Return the log volume of the unit ball in R^n, (n/2) log pi - log Gamma(n/2 + 1), in nats."""
    return 0.5 * n * np.log(np.pi) - float(scipy.special.gammaln(0.5 * n + 1))
