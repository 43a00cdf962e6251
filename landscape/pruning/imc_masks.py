"""The fifth step of IMC pruning: from a subspace to a mask, and what the mask has to do with the subspace.

A slow manifold is a graph over an eigenspace; nothing in the theory says that a *weight* may be zero, so every mask is
a heuristic on top. With the leverage tau_i = sum_j V_ij^2 of coordinate i in a subspace of dimension N (their sum is
N), a set S of coordinates captures the share alpha(S) = sum_{i in S} tau_i / N, and |S| / n if the subspace prefers no
coordinates; the ratio of the two is the lift. A huge slow subspace is known by its complement: tau = 1 - tau_fast.

References
----------
Mahoney, Drineas 2009, PNAS 106 (leverage); Drmac, Gugercin 2016, SIAM J. Sci. Comput. 38 (Q-DEIM).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from landscape.dimension.rules import GapResult
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.pruning import criteria, scores
from landscape.pruning.criteria import Mask
from landscape.pruning.imc_options import Choice
from landscape.pruning.scores import Scores

NUM_RANDOM = 19


def leverage(vectors: Tensor) -> Tensor:
    """Return tau_i of the span of orthonormal columns ``(n, K)``: ``(n,)`` float64 within [0, 1], of sum K."""
    return vectors.double().square().sum(1)


def retained_leverage(vectors: Tensor, num_fast: int, retain: str) -> Tensor:
    """Return the leverage of the side that is kept, from the ``num_fast`` leading fast directions ``(n, K)``.

    Raises
    ------
    InputError
        If fewer eigenvectors were computed.
    """
    if not 0 < num_fast <= vectors.shape[1]:
        raise InputError(
            f"the splitting has {num_fast} fast directions, but {vectors.shape[1]} eigenvectors were computed; "
            "raise --fast, or use a mask rule that needs none (magnitude)"
        )
    fast = leverage(vectors[:, :num_fast])
    return 1 - fast if retain == "slow" else fast


def chart(vectors: Tensor, allowed: Tensor) -> Tensor:
    """Return K coordinates that parametrise the span of orthonormal columns ``(n, K)``: pivots of a QR of V'.

    Parameters
    ----------
    allowed
        ``(n,)`` bool; other coordinates are not chosen.

    Notes
    -----
    For an orthogonal [V_s V_f] the smallest singular values of V_s on a set and of V_f on its complement are equal, so
    that the chart of a huge slow side is what the chart of the fast side leaves. Cost: n K^2.
    """
    usable = vectors.double().cpu() * allowed.cpu()[:, None]
    pivots = scipy.linalg.qr(usable.numpy().T, mode="r", pivoting=True)[-1]
    return torch.as_tensor(np.sort(pivots[: vectors.shape[1]]).copy())


@dataclass(frozen=True, eq=False)
class Subject:
    """What a mask is made for: the problem at W*, its fast directions ``(n, K)``, the prunable weights, the loss."""

    problem: Problem
    vectors: Tensor
    full: Mask
    loss: str
    seed: int = 0

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """Return numbers over the active coordinates ``(n,)`` as tensors of the prunable weights."""
        tensors = self.problem.unflatten(flat.to(self.problem.device))
        return {name: tensors[name].cpu() for name in self.full}

    @property
    def prunable(self) -> Tensor:
        """Which active coordinates are prunable, ``(n,)`` bool."""
        parameters = self.problem.parameters
        marks = {n: self.full.get(n, torch.zeros(p.shape, dtype=torch.bool)) for n, p in parameters.items()}
        return self.problem.flatten({n: m.to(self.problem.device).double() for n, m in marks.items()}) > 0


def scores_of(choice: Choice, subject: Subject, num_fast: int) -> Scores:
    """Return the order in which a choice keeps weights; the smallest score goes first.

    Raises
    ------
    InputError
        If the rule needs more eigenvectors than were computed, or there is no order (``none``).
    """
    problem, names = subject.problem, list(subject.full)
    if choice.mask_rule == "magnitude":
        return Scores(criteria.magnitude({n: p.cpu() for n, p in problem.parameters.items()}, subject.full))
    if choice.mask_rule == "obd":
        return scores.obd(problem, names, subject.loss, seed=subject.seed)
    if choice.mask_rule == "obs":
        return scores.obs(problem, names, seed=subject.seed)
    if choice.mask_rule == "random_layerwise":
        return Scores(criteria.uniform(subject.full, subject.seed, "imc", "random_layerwise"))
    if choice.mask_rule == "leverage":
        return Scores(subject.by_name(retained_leverage(subject.vectors, num_fast, choice.retain)))
    if choice.mask_rule == "qdeim":
        retained_leverage(subject.vectors, num_fast, choice.retain)  # for its check
        marks = torch.zeros(problem.num_params, dtype=torch.float64)
        marks[chart(subject.vectors[:, :num_fast], subject.prunable)] = 1.0
        return Scores(subject.by_name(marks if choice.retain == "stiff" else 1 - marks))
    raise InputError("the mask rule none has no order of weights; leave --kept out")


def retained(found: GapResult, choice: Choice, num_params: int) -> int | None:
    """Return how many modes a choice keeps: those of the known answer, though a better one may not be excluded."""
    if found.dimension_upper is None:
        return None
    return found.dimension_upper if choice.retain == "slow" else num_params - found.dimension_upper


def num_kept(choice: Choice, found: GapResult, full: Mask, num_params: int) -> int | None:
    """Return how many weights a rule's own answer keeps: their share is that of the retained modes; None without one.

    The share of modes is taken as a rate, as FedDUAP does (p* = m / d), since biases and normalisation are modes but
    cannot be pruned. Q-DEIM keeps (or, on the slow side, drops) one weight a mode.
    """
    modes, size = retained(found, choice, num_params), criteria.num_kept(full)
    if modes is None:
        return None
    if choice.mask_rule == "qdeim":
        return max(1, modes - (num_params - size) if choice.retain == "slow" else modes)
    return max(1, round(size * modes / num_params))


def mask_of(choice: Choice, ranking: Mapping[str, Tensor], full: Mask, kept: int) -> Mask:
    """Return the mask that keeps the ``kept`` weights of largest score; ``random_layerwise`` the same share of each."""
    if choice.mask_rule == "random_layerwise":
        return evenly(ranking, full, kept)
    return criteria.remove_smallest(ranking, full, criteria.num_kept(full) - kept)


def evenly(ranking: Mapping[str, Tensor], full: Mask, kept: int) -> Mask:
    """Return the mask that keeps the same share of every tensor, to one weight, and ``kept`` in all."""
    sizes = np.array([int(m.sum()) for m in full.values()])
    exact = sizes * kept / sizes.sum()
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")  # the largest remainders first
    counts[order[: kept - int(counts.sum())]] += 1
    found: Mask = {}
    for (name, m), count in zip(full.items(), counts.tolist(), strict=True):
        found |= criteria.remove_smallest(ranking, {name: m}, int(m.sum()) - count)
    return found


def shuffled(mask: Mask, full: Mask, seed: int, *key: int | str) -> Mask:
    """Return a random mask that keeps as many weights of every tensor: the layer-wise shuffle of a mask.

    References
    ----------
    Su et al. 2020, arXiv:2009.11094; Frankle et al. 2021, arXiv:2009.08576 (sanity checks of pruning methods).
    """
    return criteria.to_counts(criteria.uniform(full, seed, "shuffled", *key), full, mask)


@dataclass(frozen=True)
class Alignment:
    """How much of the retained subspace lies on the kept coordinates.

    Attributes
    ----------
    share
        alpha(S), of the retained side.
    lift
        alpha(S) n / |S|: 1 where the subspace prefers no coordinates.
    concentration
        Share of the smaller side on as many coordinates as it has dimensions: 1 if it is spanned by coordinates.
    """

    share: float
    lift: float
    concentration: float


def alignment(subject: Subject, mask: Mask, num_fast: int, retain: str) -> Alignment:
    """Return the alignment of a mask; parameters that cannot be pruned are kept coordinates."""
    problem = subject.problem
    tau = retained_leverage(subject.vectors, num_fast, retain).cpu()
    keep = {n: mask.get(n, torch.ones(p.shape, dtype=torch.bool)) for n, p in problem.parameters.items()}
    inside = problem.flatten({n: m.to(problem.device).double() for n, m in keep.items()}).cpu() > 0
    share = float(tau[inside].sum() / tau.sum())
    small = leverage(subject.vectors[:, :num_fast]).cpu()
    if num_fast > len(small) - num_fast:
        num_fast, small = len(small) - num_fast, 1 - small
    concentration = float(small.sort(descending=True).values[:num_fast].sum() / num_fast)
    return Alignment(share, share * len(tau) / int(inside.sum()), concentration)


@dataclass(frozen=True)
class MaskedLoss:
    """The loss right after masking, against random masks of equal layer counts: their mean, and the chance p."""

    loss: float
    random: float
    p_value: float


def masked_loss(problem: Problem, mask: Mask, full: Mask, seed: int) -> MaskedLoss:
    """Compare the loss at the masked W* with that under random masks of equal layer counts. Cost: 20 forward passes."""

    def loss(m: Mask) -> float:
        tensors = problem.tensors()
        return problem.with_tensors({n: tensors[n] * k.to(tensors[n]) for n, k in m.items()}).loss()

    own = loss(mask)
    others = np.array([loss(shuffled(mask, full, seed, "masked_loss", i)) for i in range(NUM_RANDOM)])
    return MaskedLoss(own, float(others.mean()), float(1 + (others <= own).sum()) / (NUM_RANDOM + 1))
