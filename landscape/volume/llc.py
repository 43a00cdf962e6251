"""The local learning coefficient by Langevin sampling of the tempered, localised posterior.

lambda = n beta (E[L(w)] - L(w*)) under p(w) ~ exp(-n beta L(w) - gamma/2 |w - w*|^2), with n beta = n / log n for n
examples. It counts the directions in which the loss rises, each as 1/2 where it rises quadratically and less where it
is flatter, so dead coordinates do not count and levels compare; it is at most half the number of parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import grad_and_value

from landscape import parallel, seeds
from landscape.batches import Batch
from landscape.cli import option
from landscape.errors import InputError
from landscape.networks import second_order_kernels
from landscape.problem import Problem
from landscape.volume.chains import effective_size, split_r_hat
from landscape.volume.multilevel import Probes
from landscape.volume.neighbourhood import stacked_parameters

SAMPLERS = ("mala", "sgld")
MIN_DRAWS, MAX_R_HAT, MIN_ESS = 8, 1.1, 50.0
DRIFT = 1.0  # nats by which the tempered quadratic model may fall below the anchor
TARGET = 0.9  # acceptance; at 0.57, best on smooth targets, the chains miss the narrow arms of singular minima


@dataclass(frozen=True)
class SamplerOptions:
    """Local learning coefficient."""

    sampler: str = option("mala", choices=SAMPLERS, help="mala is exact; sgld uses single batches and has a step error")
    chains: int = option(4, metavar="K", help="Markov chains, run as one")
    draws: int = option(1000, metavar="N", help="steps of each chain after the warm-up")
    warmup: int = option(1000, metavar="N", help="steps of each chain that are not counted")
    localisation: float = option(1.0, metavar="G", help="gamma, in nats / parameter^2")
    step: float = option(0.1, metavar="E", help="step (mala: first step), relative to the inverse curvature")

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise InputError(f"unknown sampler {self.sampler!r}; use one of {', '.join(SAMPLERS)}")
        if self.chains < 2 or self.draws < MIN_DRAWS or self.warmup < 0:
            raise InputError(f"the sampler needs at least 2 chains and {MIN_DRAWS} draws")
        if not (self.localisation > 0 and self.step > 0):
            raise InputError("localisation and step must be positive")


@dataclass(frozen=True)
class Learning:
    """A local learning coefficient and what says whether to believe it.

    Attributes
    ----------
    value, se
        The estimate and its Monte Carlo standard error (pure numbers).
    r_hat, ess
        Split R-hat and effective sample size of the loss.
    acceptance
        Share of accepted proposals (1 for sgld).
    step
        The step used, in parameter^2 (times the preconditioner's diagonal).
    """

    value: float
    se: float
    r_hat: float
    ess: float
    acceptance: float
    step: float

    @property
    def converged(self) -> bool:
        """Whether R-hat <= 1.1, at least 50 effective draws, and a value that is not negative by more than 2 se."""
        return self.r_hat <= MAX_R_HAT and self.ess >= MIN_ESS and self.value > -2 * self.se


def tempered(num_examples: int) -> float:
    """Return n beta = n / log n."""
    if num_examples < 3:
        raise InputError("the learning coefficient needs at least 3 examples, as n beta = n / log n")
    return float(num_examples / np.log(num_examples))


def quadratic_coefficient(probes: Probes, n_beta: float, localisation: float, step: float = 0.0) -> float:
    """Return what the sampler gives on the quadratic with this spectrum.

    It is 1/2 tr a / (a + gamma) / (1 - step (a + gamma) / 4) with a = n beta lambda. With step 0 this is the exact
    mean; otherwise that of the unadjusted Langevin step ``step`` without preconditioner, which is stable while
    step (a + gamma) < 4. The difference of the two is the correction for finite steps on quadratics. Negative
    eigenvalues count as zero.

    Raises
    ------
    InputError
        If the step is unstable.
    """
    values = np.concatenate([probes.known, probes.measure()[0]]) if probes.runs else probes.known
    if step * (n_beta * float(values.max()) + localisation) >= 4:
        raise InputError("the step is unstable: it must be below 4 / (n beta lambda_max + gamma)")

    def share(value: np.ndarray) -> np.ndarray:
        a = n_beta * np.maximum(value, 0.0)
        return a / (a + localisation) / (1 - 0.25 * step * (a + localisation))

    return 0.5 * probes.trace(share).value


def check_minimum(decrement: float, n_beta: float) -> None:
    """Refuse an anchor from which the tempered loss would drift downhill.

    Parameters
    ----------
    decrement
        Newton decrement g' (A + gamma / (n beta))^-1 g in nats.

    Raises
    ------
    InputError
        If the quadratic model's minimum lies more than one nat of n beta L below the anchor.
    """
    drift = 0.5 * n_beta * decrement
    if not drift <= DRIFT:
        raise InputError(
            f"the point is not a minimum: n beta L falls by {drift:.3g} nats from it, so its learning coefficient is "
            "undefined; train it to convergence within its mask first"
        )


def learning_coefficient(
    problem: Problem, options: SamplerOptions, scale: Tensor | None = None, seed: int = 0, n_beta: float | None = None
) -> Learning:
    """Estimate the local learning coefficient at the problem's point.

    Parameters
    ----------
    scale
        Positive diagonal ``(n,)`` of the preconditioner M, in parameter^2 / nat of n beta L; by default constant.
        ``step`` is relative to it: moves are (step/2) M grad log p + N(0, step M).
    n_beta
        Inverse temperature; by default n / log n for the problem's examples.

    Notes
    -----
    mala proposes with the gradient of all examples and accepts by Metropolis-Hastings, so its only error is Monte
    Carlo's; the step is adapted in the warm-up to an acceptance of 0.9. sgld takes the gradient of one batch a step
    (drawn in proportion to its count, so that ragged batches are no bias) and records the loss of all examples every
    few steps; see ``quadratic_coefficient`` for its error. Cost: ``chains (warmup + draws)`` gradients.

    The error bar is that of the chains: it covers on a quadratic of 20 parameters, and two normal crossings come out
    within 0.01. At n beta = 8,700 the coefficient of a reduced-rank regression is 5 % below its limit of 7/2.

    The result is refused by nobody here: at a point that is no minimum it can be negative (see ``check_minimum``).

    References
    ----------
    Lau et al. (2023), arXiv 2308.12108. Their code's default n beta is that of one batch; ours is that of all examples.
    """
    n_beta = tempered(problem.num_examples) if n_beta is None else n_beta
    scale = torch.ones_like(problem.theta) if scale is None else scale
    sampler = _Langevin(problem, options, scale.to(problem.theta), n_beta, seed)
    losses, acceptance = sampler.run()
    draws = n_beta * (losses - sampler.anchor_loss)
    ess = effective_size(draws)
    return Learning(
        value=float(draws.mean()),
        se=float(draws.std(ddof=1) / np.sqrt(ess)),
        r_hat=split_r_hat(draws),
        ess=ess,
        acceptance=acceptance,
        step=sampler.step,
    )


def stacked_gradient(problem: Problem, batches: tuple[Batch, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return the function of points ``(n, k)`` -> loss sums ``(k,)`` float64 and their gradients ``(n, k)``."""

    def evaluate(theta: Tensor) -> tuple[Tensor, Tensor]:
        parameters = stacked_parameters(problem, theta)
        value = torch.zeros(theta.shape[1], dtype=torch.float64, device=theta.device)
        slope = torch.zeros_like(theta)
        with second_order_kernels(problem.model):
            for batch in batches:
                one = grad_and_value(lambda p, b=batch: problem.batch_loss(p, b)[0])
                grads, sums = torch.vmap(one, randomness="error")(parameters)
                value += sums.detach().double()
                slope += torch.stack(
                    [problem.flatten({n: g[i] for n, g in grads.items()}) for i in range(len(sums))], 1
                )
        return value, slope

    return evaluate


class _Langevin:
    """Chains that move together, as columns ``(n, k)``."""

    def __init__(self, problem: Problem, options: SamplerOptions, scale: Tensor, n_beta: float, seed: int) -> None:
        self.problem, self.options, self.n_beta = problem, options, n_beta
        self.scale = scale[:, None]
        self.step = options.step
        self.anchor = problem.theta[:, None]
        self.anchor_loss = problem.loss()
        self.whole = stacked_gradient(problem, problem.batches)
        self.source = seeds.generator(seed, "langevin")
        self.chooser = seeds.numpy_generator(seed, "langevin choices")

    def noise(self) -> Tensor:
        shape = (len(self.anchor), self.options.chains)
        return torch.randn(shape, generator=self.source, dtype=torch.float64).to(self.anchor)

    def potential(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean loss, -log p and its gradient of all chains."""
        value, slope = self.whole(theta)
        loss = parallel.sum_ranks(value) / self.problem.count
        slope = parallel.sum_ranks(slope) / self.problem.count
        if self.problem.weight_decay:
            loss = loss + 0.5 * self.problem.weight_decay * theta.double().square().sum(0)
            slope = slope + self.problem.weight_decay * theta
        away = theta - self.anchor
        energy = self.n_beta * loss + 0.5 * self.options.localisation * away.double().square().sum(0)
        return loss, energy, self.n_beta * slope + self.options.localisation * away

    def run(self) -> tuple[np.ndarray, float]:
        """Return the losses of the draws ``(chains, draws)`` and the acceptance after the warm-up."""
        return self.run_mala() if self.options.sampler == "mala" else self.run_sgld()

    def run_mala(self) -> tuple[np.ndarray, float]:
        theta = self.anchor.expand(-1, self.options.chains).contiguous()
        loss, energy, slope = self.potential(theta)
        losses, accepted = [], []
        for number in range(self.options.warmup + self.options.draws):
            step = self.step
            moved = theta - 0.5 * step * self.scale * slope + (step * self.scale).sqrt() * self.noise()
            new_loss, new_energy, new_slope = self.potential(moved)
            back = self._log_proposal(theta, moved, new_slope) - self._log_proposal(moved, theta, slope)
            chance = (energy - new_energy + back).clamp(max=0.0).exp().nan_to_num(nan=0.0)
            take = torch.as_tensor(self.chooser.random(self.options.chains)).to(chance) < chance
            theta = torch.where(take, moved, theta)
            slope = torch.where(take, new_slope, slope)
            loss, energy = torch.where(take, new_loss, loss), torch.where(take, new_energy, energy)
            if number < self.options.warmup:
                gain = 2.0 / np.sqrt(1.0 + number)
                self.step *= float(np.exp(gain * (float(chance.mean()) - TARGET)))
            else:
                losses.append(loss.cpu().numpy())
                accepted.append(float(take.double().mean()))
        return np.array(losses).T, float(np.mean(accepted))

    def _log_proposal(self, to: Tensor, start: Tensor, slope: Tensor) -> Tensor:
        gap = (to - start + 0.5 * self.step * self.scale * slope).double()
        return -(gap.square() / (2 * self.step * self.scale.double())).sum(0)

    def run_sgld(self) -> tuple[np.ndarray, float]:
        batches = self.problem.batches
        counts = np.array([float(self.problem.batch_loss(self.problem.parameters, b)[1].detach()) for b in batches])
        gradients = [stacked_gradient(self.problem, (batch,)) for batch in batches]
        every = max(1, len(batches))
        theta = self.anchor.expand(-1, self.options.chains).contiguous()
        losses = []
        for number in range(self.options.warmup + self.options.draws):
            chosen = int(self.chooser.choice(len(batches), p=counts / counts.sum()))
            slope = self.n_beta * gradients[chosen](theta)[1] / counts[chosen]
            slope = slope + (self.n_beta * self.problem.weight_decay) * theta
            slope = slope + self.options.localisation * (theta - self.anchor)
            theta = theta - 0.5 * self.step * self.scale * slope + (self.step * self.scale).sqrt() * self.noise()
            if number >= self.options.warmup and (number - self.options.warmup) % every == 0:
                losses.append(self.potential(theta)[0].cpu().numpy())
        return np.array(losses).T, 1.0
