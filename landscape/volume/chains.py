"""Diagnostics of Markov chains: agreement between them, and how many independent draws they are worth."""

from __future__ import annotations

import numpy as np


def split_r_hat(draws: np.ndarray) -> float:
    """Return the split R-hat of chains ``(chains, draws)``: sqrt of total over within variance, 1 where they agree.

    References
    ----------
    Gelman et al. (2013), Bayesian Data Analysis, section 11.4.
    """
    half = draws.shape[1] // 2
    parts = np.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    within = parts.var(axis=1, ddof=1).mean()
    between = half * parts.mean(axis=1).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else np.inf
    return float(np.sqrt(((half - 1) / half * within + between / half) / within))


def effective_size(draws: np.ndarray) -> float:
    """Return the number of independent draws that chains ``(chains, draws)`` are worth for their mean.

    Autocorrelations are averaged over chains, with the variance between chains included, and summed in pairs while
    these are positive and falling (Geyer 1992).
    """
    chains, num = draws.shape
    centred = draws - draws.mean(axis=1, keepdims=True)
    size = 2 ** int(np.ceil(np.log2(2 * num)))
    spectrum = np.abs(np.fft.rfft(centred, size, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, size, axis=1)[:, :num].mean(axis=0) / num
    within = covariance[0] * num / (num - 1)
    total = covariance[0] + (draws.mean(axis=1).var(ddof=1) if chains > 1 else 0.0)
    if total == 0:
        return float(chains * num)
    correlation = 1.0 - (within - covariance * num / (num - 1)) / total
    pairs = correlation[: 2 * (num // 2)].reshape(-1, 2).sum(axis=1)
    positive = np.cumprod(pairs > 0).astype(bool)
    falling = np.minimum.accumulate(np.where(positive, pairs, 0.0))
    return float(chains * num / max(2 * falling.sum() - 1, 1.0 / (chains * num)))
