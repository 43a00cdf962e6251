"""What of a basin is measured, and how much of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields

from landscape.cli import option, parse_integer_list, parse_number_list, refuse_unused
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.volume.llc import SamplerOptions
from landscape.volume.neighbourhood import KINDS
from landscape.volume.section import SIZES

ESTIMATORS = (
    *("section", "occam", "star", "preconditioned", "gaussian_mass"),
    *("prunable", "sharpness", "flatness", "llc"),
)
PRECONDITIONERS = ("identity", "filter", "diagonal", "low_rank", "low_rank_diagonal", "polynomial")
CURVATURES = ("ggn", "hessian", "jtj")


LEAST = {
    **dict.fromkeys(("directions", "pilot", "trace_probes", "trace_depth", "noise_pairs", "flatness_probes"), 2),
    **dict.fromkeys(("degree", "rank", "diagonal_probes"), 1),
    **dict.fromkeys(("dense", "ascent_steps", "relax_steps", "shallow_products"), 0),
}
# Options that not every estimator reads.
_DRAWN, _PRIOR = ("preconditioned", "gaussian_mass"), ("occam", "gaussian_mass")
READ_BY = {
    "directions": ("star", *_DRAWN),
    **dict.fromkeys(("preconditioners", "shrinkage", "pilot", "degree"), _DRAWN),
    "diagonal_probes": (*_DRAWN, "llc"),
    "section_size": ("section",),
    **dict.fromkeys(("prior_sd", "prior_factor"), _PRIOR),
    "damping": ("occam",),
    **dict.fromkeys(("fraction", "relax_steps"), ("prunable",)),
    **dict.fromkeys(("rho", "noise_pairs", "ascent_steps"), ("sharpness",)),
    "flatness_probes": ("flatness",),
    **dict.fromkeys((field.name for field in fields(SamplerOptions)), ("llc",)),
}


def names_of(known: tuple[str, ...]) -> object:
    """Return a parser of comma-separated names."""

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(part.strip() for part in text.split(",") if part.strip())
        check_names(names, known)
        return names

    return parse


def check_names(names: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Raise on an unknown or missing name."""
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise InputError(f"unknown name {', '.join(wrong) or 'none'}; use some of {', '.join(known)}")


@dataclass(frozen=True)
class VolumeOptions:
    """Volume."""

    estimators: tuple[str, ...] = option(
        ESTIMATORS[:7], parse=names_of(ESTIMATORS), metavar="NAME,...", help="what is estimated; all that there is: "
        "section, occam, star, preconditioned, gaussian_mass, prunable, sharpness, flatness, llc"
    )  # fmt: skip
    neighbourhood: str = option("kl", choices=KINDS, help="what bounds the basin")
    cutoff: float = option(1e-2, metavar="NATS", help="where the basin ends")
    directions: int = option(100, metavar="K", help="random directions of each sampled volume")
    preconditioners: tuple[str, ...] = option(
        ("low_rank_diagonal",),
        parse=names_of(PRECONDITIONERS),
        metavar="NAME,...",
        help="candidates among diagonal, low_rank, low_rank_diagonal, polynomial; the largest pilot estimate wins",
    )
    shrinkage: tuple[float, ...] = option(
        (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
        parse=parse_number_list,
        metavar="S,...",
        help="candidates of the preconditioner's shrinkage, relative to the largest eigenvalue",
    )
    pilot: int = option(8, metavar="K", help="directions of each candidate")
    degree: int = option(10, metavar="K", help="degree of the polynomial preconditioner")
    curvature: str | None = None  # of the spectral estimates; by default ggn, jtj for function
    rank: int = option(100, metavar="K", help="eigenpairs from the top")
    pair_tolerance: float = option(1e-3, metavar="T", help="their residual, relative to the largest")
    trace_probes: int = option(4, metavar="P", help="random vectors of the traces")
    trace_depth: int = option(40, metavar="M", help="Krylov steps of each")
    shallow_products: int = option(0, metavar="P", help="products spent on shallow probes as well (multilevel traces)")
    diagonal_probes: int = option(30, metavar="P", help="products spent on the diagonal of the curvature")
    dense: int = option(1500, metavar="N", help="most parameters for which all eigenvalues are computed")
    section_size: tuple[int, ...] = option(
        SIZES, parse=parse_integer_list, metavar="K,...", help="dimensions of the sections"
    )
    prior_sd: float | None = option(None, metavar="SD", help="prior's width (default: rms of the weights)")
    prior_factor: tuple[float, ...] = option(
        (0.3, 1.0, 3.0), parse=parse_number_list, metavar="F,...", help="multiples of it that are swept"
    )
    damping: tuple[float, ...] = option(
        (1e-4, 1e-6), parse=parse_number_list, metavar="D,...", help="dampings of the log-determinant"
    )
    fraction: tuple[float, ...] = option(
        (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        parse=parse_number_list,
        metavar="P,...",
        help="pruned fractions tried out",
    )
    relax_steps: int = option(20, metavar="K", help="steps to the best weights beside pruned ones, a product each")
    rho: tuple[float, ...] = option(
        (0.01, 0.03, 0.1), parse=parse_number_list, metavar="R,...", help="relative sizes of the perturbations"
    )
    noise_pairs: int = option(20, metavar="K", help="pairs of perturbations of the average sharpness")
    ascent_steps: int = option(10, metavar="K", help="steps to the worst perturbation; 0: none")
    flatness_probes: int = option(30, metavar="P", help="products a layer for the relative flatness")
    sampler: SamplerOptions = SamplerOptions()


@dataclass(frozen=True)
class Effort:
    """How a measurement runs: nothing here changes what is asked.

    Attributes
    ----------
    seed
        Names every random choice; points measured with one seed share their directions.
    memory
        Bytes for Krylov bases and blocks.
    """

    seed: int = 0
    memory: int = 4 << 30
    journal: Journal = field(default_factory=Journal)
    quiet: bool = True


def check_given(options: VolumeOptions, given: Collection[str]) -> None:
    """Refuse what stands on the command line and would have no effect.

    Raises
    ------
    InputError
        With the name of the flag and what it needs.
    """
    refuse_unused(given, READ_BY, options.estimators, "estimators")
    refuse_unused(given, {"degree": ("polynomial",)}, options.preconditioners, "preconditioners")


def check(options: VolumeOptions, n: int) -> None:
    """Refuse options that mean nothing or cannot be honoured for n active coordinates.

    Raises
    ------
    InputError
        With the name of the flag and what to do.
    """
    check_names(options.estimators, ESTIMATORS)
    check_names(options.preconditioners, PRECONDITIONERS)
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(options, name)}")
    for name in ("shrinkage", "prior_factor", "damping", "rho"):
        values = getattr(options, name)
        if not values or min(values) <= 0:
            raise InputError(f"--{name.replace('_', '-')} needs positive numbers")
    if not options.fraction or min(options.fraction) <= 0 or max(options.fraction) > 1:
        raise InputError("--fraction needs numbers in (0, 1]")
    if not options.section_size or min(options.section_size) < 1:
        raise InputError("--section-size needs whole numbers of at least 1")
    if options.prior_sd is not None and not options.prior_sd > 0:
        raise InputError(f"--prior-sd must be positive, not {options.prior_sd}")
    if options.curvature not in (None, *CURVATURES):
        raise InputError(f"unknown curvature {options.curvature!r}; use one of {', '.join(CURVATURES)}")
    if not 0 < options.pair_tolerance < 1:
        raise InputError(f"--pair-tolerance must lie between 0 and 1, not {options.pair_tolerance}")
    if n < 2:
        raise InputError("a basin needs at least 2 active parameters")
