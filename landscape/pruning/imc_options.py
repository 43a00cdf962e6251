"""Options of IMC pruning: what is sourced, what is reconstructed, and the presets made of them.

Inertial-Manifold-based Compression (Zhang et al., NeurIPS 2021) is known here from its abstract and reproducibility
card, and from later work of some of its authors; body and code were not available. Sourced: ten SGD iterations give an
approximate minimum W*; p = 2 and eps = 0.01 in an unknown role; the weights are pruned once and trained to convergence.
Sourced through FedDUAP (Zhang et al., IJCAI 2022, arXiv:2204.11536): the eigenvalues of the Hessian at W*, ascending,
and the first m with lambda_{m+1} - lambda_m > 4 l, l the Lipschitz constant of B(V) = H V - grad L(W* + V). All else is
our reconstruction: p and eps are taken as norm and radius of the neighbourhood in which l is estimated.

=====================  ==============  ========  =========  ==========  ================================================
preset                 rule            retains   mask       start       status
=====================  ==============  ========  =========  ==========  ================================================
``imc_reconstructed``  gap > 4 l       slow      magnitude  rewind      reconstruction; side as in the theory, start
                                                                        unknown
``feddup_formula``     gap > 4 l       stiff     magnitude  base_point  as FedDUAP's text: pruned rate m / d
``feddup_code``        plateau of the  slow      magnitude  base_point  as its public code: pruned rate is the share of
                       SLQ density                                      the spectrum above; known failures
``theory``             cone gap        slow      leverage   rewind      what the theory of inertial manifolds asks
=====================  ==============  ========  =========  ==========  ================================================
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from landscape.cli import option
from landscape.dimension.options import RULES
from landscape.dimension.rules import RETAIN
from landscape.errors import InputError

BASE_POINTS = ("init", "k_steps", "converged")
MASK_RULES = ("magnitude", "leverage", "qdeim", "obd", "obs", "random_layerwise", "none")
STARTS = ("rewind", "base_point")


@dataclass(frozen=True)
class Choice:
    """From the curvature to a mask: rule, side that is kept, order of the weights, where training starts."""

    rule: str
    retain: str
    mask_rule: str
    start: str


PRESETS: dict[str, Choice] = {
    "imc_reconstructed": Choice("gap_4l", "slow", "magnitude", "rewind"),
    "feddup_formula": Choice("gap_4l", "stiff", "magnitude", "base_point"),
    "feddup_code": Choice("slq_plateau", "slow", "magnitude", "base_point"),
    "theory": Choice("cone_gap", "slow", "leverage", "rewind"),
}


@dataclass(frozen=True)
class BaseOptions:
    """Base point and its curvature."""

    base_point: str = option("k_steps", help="W*: the initialisation, after k steps, or trained", choices=BASE_POINTS)
    k: int = option(10, help="training steps to the base point k_steps", metavar="K")
    p: float = option(2.0, help="norm of the neighbourhood in which l is estimated (reconstructed)", metavar="P")
    eps: float = option(0.01, help="its radius in that norm, in units of the weights (reconstructed)", metavar="EPS")
    fast: int = option(12, help="eigenpairs from the top", metavar="K")
    smallest: int = option(2, help="eigenvalues from the bottom", metavar="K")
    tolerance: float = option(1e-3, help="their residual, relative to the largest |eigenvalue|", metavar="T")
    depth: int = option(8, help="Krylov steps of every Hessian difference", metavar="M")
    curvature_examples: int = option(10_000, help="training examples of all curvature, the first ones", metavar="N")

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if self.base_point not in BASE_POINTS:
            raise InputError(f"unknown --base-point {self.base_point!r}; use one of {', '.join(BASE_POINTS)}")
        if self.k < 0:
            raise InputError(f"--k must not be negative, but is {self.k}")
        if not self.p >= 1 or not 0 < self.eps < float("inf"):
            raise InputError(f"--p must be at least 1 and --eps positive, not {self.p} and {self.eps}")
        for name, least in (("fast", 1), ("smallest", 0), ("depth", 2), ("curvature_examples", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")

    @property
    def name(self) -> str:
        """Name of the base point in file names."""
        return f"k_{self.k:06d}" if self.base_point == "k_steps" else self.base_point


@dataclass(frozen=True)
class ChoiceOptions:
    """Choice of the mask."""

    preset: tuple[str, ...] = option((), help="presets (default: imc_reconstructed)", choices=tuple(PRESETS))
    rule: str | None = option(None, help="rule that counts the modes (default: the preset's)", choices=RULES)
    retain: str | None = option(None, help="side that is kept; stiff is against the theory", choices=RETAIN)
    mask_rule: str | None = option(
        None, help="order in which weights are kept; none: train in the subspace itself", choices=MASK_RULES
    )
    start: str | None = option(
        None, help="weights from which the pruned network is trained (rivals: rewind)", choices=STARTS
    )


def choices_of(options: ChoiceOptions, base: BaseOptions) -> dict[str, Choice]:
    """Return method names and choices: presets keep their name, anything else is named by what it is.

    Raises
    ------
    InputError
        If a word is unknown.
    """
    for name, given, known in (
        *(("--preset", preset, tuple(PRESETS)) for preset in options.preset),
        ("--rule", options.rule, RULES),
        ("--retain", options.retain, RETAIN),
        ("--mask-rule", options.mask_rule, MASK_RULES),
        ("--start", options.start, STARTS),
    ):
        if given is not None and given not in known:
            raise InputError(f"unknown {name} {given!r}; use one of {', '.join(known)}")
    changed = {n: v for n in ("rule", "retain", "mask_rule", "start") if (v := getattr(options, n)) is not None}
    found = {}
    for preset in options.preset or ("imc_reconstructed",):
        choice = replace(PRESETS[preset], **changed)
        name = preset if choice == PRESETS[preset] else f"imc_{choice.rule}_{choice.retain}_{choice.mask_rule}"
        if choice != PRESETS[preset] and choice.start == "base_point":
            name += "_continued"
        if base.name != BaseOptions().name:
            name += f"_at_{base.name}"
        found[name] = choice
    return found
