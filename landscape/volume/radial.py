"""Radii of a neighbourhood along many rays at once: the first distance at which the excess reaches the threshold.

On a ray the excess grows about as r^2, so log excess against log r is nearly a line of slope 2: secant steps on that
line, kept inside a bracket, need few forward passes where bisection needs one for each bit. A radius enters a log
volume n times, so its tolerance is in nats of log volume and tightens with n.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from landscape.volume.neighbourhood import Excess

GRID = (0.25, 0.5, 0.75)
STEEPEST, FLATTEST = 100.0, 0.05  # slopes of log excess against log r outside of which a secant is not believed
SAFETY = 0.1  # least relative change of the slope per unit of log excess


@dataclass(frozen=True)
class RayOptions:
    """How radii are found.

    Parameters
    ----------
    tolerance
        Error of n log r that is accepted, in nats.
    max_passes
        Evaluations along one ray after which the bracket's middle is returned, with its error.
    reach
        A ray that is still inside at this multiple of the first guess has an infinite radius.
    """

    tolerance: float = 0.01
    max_passes: int = 60
    reach: float = 1e8


@dataclass(frozen=True)
class Radii:
    """Radii along k rays, in units of the length of each direction.

    Attributes
    ----------
    log_radius
        log r, +inf where the threshold was not reached, ``(k,)``.
    error
        Estimated error of n log r in nats, ``(k,)``.
    passes
        Forward passes spent, ``(k,)``.
    monotone
        Whether the excess increased along the points visited; where it did not, r is the first crossing found.
    slope
        Slope of log excess against log r there, ``(k,)``: 2 on quadratics.
    """

    log_radius: np.ndarray
    error: np.ndarray
    passes: np.ndarray
    monotone: np.ndarray
    slope: np.ndarray


def join(parts: list[Radii]) -> Radii:
    """Put the radii of several blocks of rays one after the other."""
    names = [field.name for field in fields(Radii)]
    return Radii(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def radii(
    excess: Excess,
    directions: Tensor,
    threshold: float,
    options: RayOptions | None = None,
    guess: np.ndarray | float | None = None,
    slope: float = 2.0,
) -> Radii:
    """Return the first r with ``excess(r v) = threshold`` along each column v of ``directions (n, k)``.

    Parameters
    ----------
    guess
        First log radius, a number or ``(k,)``; by default sqrt(2 threshold), right for directions of unit curvature.
    slope
        First slope of log excess against log r.

    Notes
    -----
    Cost: 2 forward passes where the excess is quadratic, about 4 where it is smooth, and 3 on a coarse grid that looks
    for an earlier crossing and for a decrease. Rays with an earlier crossing are searched again and flagged.

    Error: after the last evaluation at log r = x, where log(excess / threshold) = y, the radius is corrected by
    ``-y / slope`` (exact for quadratics with slope 2). ``error`` is n times that correction times the relative change
    of the slope in the last step (at least a tenth of |y|): about what the next step would change on a smooth curve.
    """
    options = options or RayOptions()
    start = 0.5 * np.log(2 * threshold) if guess is None else guess
    x = np.array(np.broadcast_to(np.asarray(start, dtype=np.float64), directions.shape[1:]))
    search = _Search(excess, directions, threshold, options, x, slope)
    search.run(np.arange(directions.shape[1]))
    early = search.check_grid()
    search.run(early)
    return Radii(search.x, search.error, search.passes, search.monotone, search.slope)


@dataclass
class _Search:
    """The state of the searches along k rays: brackets, last two points and slopes on the log-log curve."""

    excess: Excess
    directions: Tensor
    threshold: float
    options: RayOptions
    x: np.ndarray
    usual: float
    limit: np.ndarray = field(init=False)
    inside: np.ndarray = field(init=False)  # (k, 2): largest log r found inside and its y
    outside: np.ndarray = field(init=False)  # (k, 2): smallest log r found outside and its y
    last: np.ndarray = field(init=False)  # (k, 2): the previous point
    slope: np.ndarray = field(init=False)
    jump: np.ndarray = field(init=False)
    error: np.ndarray = field(init=False)
    passes: np.ndarray = field(init=False)
    monotone: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        k = len(self.x)
        self.limit = self.x + np.log(self.options.reach)
        self.inside = np.full((k, 2), -np.inf)
        self.outside = np.full((k, 2), np.inf)
        self.last = np.full((k, 2), np.nan)
        self.slope = np.full(k, self.usual)
        self.jump = np.full(k, np.log(4.0))
        self.error = np.full(k, np.inf)
        self.passes = np.zeros(k, dtype=np.int64)
        self.monotone = np.ones(k, dtype=bool)

    def evaluate(self, rays: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return y = log(excess / threshold) at log radii ``x`` of some rays; overflow counts as outside."""
        columns = torch.as_tensor(rays, device=self.directions.device)
        scale = torch.as_tensor(np.exp(x)).to(self.directions)
        values = self.excess(self.directions.index_select(1, columns) * scale)
        self.passes[rays] += 1
        ratio = values.double().cpu().numpy() / self.threshold
        with np.errstate(divide="ignore"):
            return np.where(np.isnan(ratio), np.inf, np.log(np.maximum(np.nan_to_num(ratio, posinf=np.inf), 0.0)))

    def run(self, rays: np.ndarray) -> None:
        """Search along some rays until each is done."""
        while len(rays):
            x = self.x[rays]
            y = self.evaluate(rays, x)
            self._bracket(rays, x, y)
            done = self._step(rays, x, y)
            self.last[rays] = np.stack([x, y], axis=1)
            rays = rays[~done]

    def _bracket(self, rays: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
        point = np.stack([x, y], axis=1)
        higher = (y < 0) & (x > self.inside[rays, 0]) & (x < self.outside[rays, 0])
        lower = (y >= 0) & (x < self.outside[rays, 0])
        self.inside[rays[higher]] = point[higher]
        self.outside[rays[lower]] = point[lower]

    def _step(self, rays: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Move each ray to its next point, or to its corrected radius; return which rays are done."""
        with np.errstate(invalid="ignore", divide="ignore"):
            secant = self._latest_slope(rays, x, y)
            good = np.isfinite(secant) & (secant > FLATTEST) & (secant < STEEPEST)
            slope = np.where(good, secant, self.usual)
            change = np.where(good, np.maximum(np.abs(slope - self.slope[rays]) / slope, SAFETY * np.abs(y)), 1.0)
            correction = np.where(np.isfinite(y), -y / slope, 0.0)
        n = self.directions.shape[0]
        error = np.where(np.isfinite(y), n * np.abs(y) / slope * change, np.inf)
        lower, upper = self.inside[rays, 0], self.outside[rays, 0]
        exhausted = self.passes[rays] >= self.options.max_passes
        unreached = np.isinf(upper) & ((x >= self.limit[rays]) | exhausted)
        done = (error <= self.options.tolerance) | unreached | exhausted
        self.slope[rays], self.error[rays] = slope, np.where(unreached, 0.0, error)
        target = x + correction
        bracketed = np.isfinite(lower) & np.isfinite(upper)
        middle = np.where(bracketed, 0.5 * (np.where(bracketed, lower, 0) + np.where(bracketed, upper, 0)), target)
        stuck = (target <= lower) | (target >= upper) | (self.passes[rays] % 8 == 7)
        proposed = np.where(bracketed & stuck & ~done, middle, target)
        self.x[rays] = np.where(unreached, np.inf, self._bounded(rays, x, y, proposed, done))
        return done

    def _bounded(
        self, rays: np.ndarray, x: np.ndarray, y: np.ndarray, proposed: np.ndarray, done: np.ndarray
    ) -> np.ndarray:
        """Keep a step from leaving a half-open bracket too fast or not at all; the allowed jump doubles each time."""
        jump = self.jump[rays]
        out = np.isinf(self.outside[rays, 0]) & ~done
        back = np.isinf(self.inside[rays, 0]) & ~done
        blind = ~np.isfinite(y) | (out & (self._latest_slope(rays, x, y) < FLATTEST))
        step = np.where(blind, jump, np.clip(np.abs(proposed - x), 1e-12, np.maximum(jump, np.log(100.0))))
        self.jump[rays] = np.where(out | back, 2 * jump, jump)
        return np.where(out, np.minimum(x + step, self.limit[rays]), np.where(back, x - step, proposed))

    def _latest_slope(self, rays: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the slope since the previous point; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return (y - self.last[rays, 1]) / (x - self.last[rays, 0])

    def check_grid(self) -> np.ndarray:
        """Look at the excess on a coarse grid inside the radii found; return the rays with an earlier crossing.

        Their brackets are reset to the first grid interval in which the excess reaches the threshold.
        """
        rays = np.flatnonzero(np.isfinite(self.x))
        if not len(rays):
            return rays
        grid = np.stack([self.x[rays] + np.log(f) for f in GRID], axis=1)
        y = np.stack([self.evaluate(rays, grid[:, i]) for i in range(len(GRID))], axis=1)
        crossed = y >= 0
        self.monotone[rays] = (y[:, 1:] > y[:, :-1]).all(axis=1) & (y[:, -1] < 0)
        early = crossed.any(axis=1)
        first = crossed.argmax(axis=1)[early]
        chosen, rows = rays[early], np.flatnonzero(early)
        self.outside[chosen] = np.stack([grid[rows, first], y[rows, first]], axis=1)
        before = np.maximum(first - 1, 0)
        below = np.stack([grid[rows, before], y[rows, before]], axis=1)
        self.inside[chosen] = np.where((first > 0)[:, None], below, -np.inf)
        self.last[chosen] = np.nan
        self.slope[chosen], self.error[chosen] = self.usual, np.inf
        middle = 0.5 * (below[:, 0] + grid[rows, first])
        self.x[chosen] = np.where(first > 0, middle, grid[rows, 0] - np.log(2.0))
        return chosen
