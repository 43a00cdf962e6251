"""What of the slow manifold's conditions is measured on a network, and how densely."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from landscape.cli import option, refuse_unused
from landscape.dimension.lipschitz import REGIONS
from landscape.dimension.rates import DYNAMICS, Dynamics
from landscape.dimension.rules import HEURISTIC_RULES, LIPSCHITZ_RULES, RETAIN
from landscape.errors import InputError

RULES = ("cone_gap", *LIPSCHITZ_RULES, *HEURISTIC_RULES, "slq_plateau")
SPLITTINGS = ("base", "average")
# Options that not every region, or not every rule, reads.
OF_REGION = {"ascent_steps": ("adversarial",)}
OF_RULE = dict.fromkeys(("points", "nodes", "splitting"), ("cone_gap",))


@dataclass(frozen=True)
class DimensionOptions:
    """Dimension."""

    dynamics: str = option("flow", choices=DYNAMICS, help="dynamical system whose rates must have the gap")
    rule: tuple[str, ...] = option((), choices=RULES, help="rules to answer (default: all that fit the dynamics)")
    retain: str = option("slow", choices=RETAIN, help="side that is kept; stiff is against the theory")
    radius: tuple[float, ...] = option(
        (), metavar="R", help="radii of the region (default: 1 to 1/100 of the way that the trajectory travels)"
    )
    region: str | None = option(
        None, choices=REGIONS, help="where Hessians are sampled (default: trajectory if there is one, else ball)"
    )
    trajectory: str | None = option(
        None, metavar="RUN|GLOB", help="checkpoints of the training: its directory, its run, or a pattern in quotes"
    )
    lr: float | None = option(None, help="learning rate (default: own checkpoints')")
    momentum: float | None = option(None, help="momentum (default: own checkpoints')")
    preconditioner: Path | None = option(
        None, metavar="FILE", help="diagonal of the preconditioner, .npz or .pt by parameter name"
    )
    fast: int = option(20, metavar="K", help="most fast directions: eigenvectors from the top")
    smallest: int = option(5, metavar="K", help="eigenvalues from the bottom")
    tolerance: float = option(
        1e-4, metavar="T", help="residual of the eigenpairs, relative to the largest |eigenvalue|"
    )
    samples: int = option(16, metavar="S", help="Hessian differences in each region")
    points: int = option(16, metavar="P", help="points, and as many segments, at which the cone gap is evaluated")
    nodes: int = option(3, metavar="S", help="Gauss nodes of a segment; 0: points only")
    splitting: str = option("base", choices=SPLITTINGS, help="fast directions of the base point or of the mean Hessian")
    depth: int = option(30, metavar="M", help="Krylov steps of every Hessian difference and complement")
    ascent_steps: int = option(4, metavar="S", help="steps of each adversarial search (region adversarial)")
    radius_tolerance: float = option(0.05, metavar="T", help="relative accuracy of the radius up to which a rule holds")
    num_probes: int = option(4, metavar="P", help="random vectors of the spectral density; 0: none")
    time: float | None = option(
        None, metavar="T", help="training time of the split, lr * steps (default: own checkpoints')"
    )
    third_order: bool = option(False, help="add the norm of the third derivative")
    twin_steps: int = option(0, metavar="S", help="steps of twin runs from the base point (needs --lr)")


def check(options: DimensionOptions) -> None:
    """Refuse options that mean nothing or cannot be honoured.

    Raises
    ------
    InputError
        With the name of the flag and what to do.
    """
    for name, least in (("fast", 1), ("smallest", 0), ("samples", 2), ("points", 1), ("nodes", 0), ("depth", 2)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} must be at least {least}, not {getattr(options, name)}")
    for name in ("ascent_steps", "num_probes", "twin_steps"):
        if getattr(options, name) < 0:
            raise InputError(f"--{name.replace('_', '-')} must not be negative")
    if not 0 < options.radius_tolerance < 1:
        raise InputError(f"--radius-tolerance must lie between 0 and 1, not {options.radius_tolerance}")
    if any(not 0 < radius < float("inf") for radius in options.radius):
        raise InputError("--radius must be positive and finite")
    if options.twin_steps and options.lr is None:
        raise InputError("twin runs need a learning rate (--lr)")
    unknown = [rule for rule in options.rule if rule not in RULES]
    if unknown:
        raise InputError(f"unknown rule {unknown[0]!r}; use one of {', '.join(RULES)}")
    for name, known in (("retain", RETAIN), ("splitting", SPLITTINGS), ("region", (None, *REGIONS))):
        if getattr(options, name) not in known:
            raise InputError(f"unknown {name} {getattr(options, name)!r}")


def check_inputs(options: DimensionOptions, has_trajectory: bool, has_preconditioner: bool) -> None:
    """Refuse a region or a metric without what it is made of.

    Raises
    ------
    InputError
        With the name of the flag and what to do.
    """
    if not has_trajectory and not options.radius:
        raise InputError("nothing says how large the region is: give --trajectory or --radius")
    if not has_trajectory and options.region == "trajectory":
        raise InputError("the region is that of a trajectory; give --trajectory")
    if has_preconditioner != (options.dynamics == "precond"):
        raise InputError("the dynamics precond, and no other, needs --preconditioner")


def check_training(options: DimensionOptions) -> None:
    """Refuse what the command line says of the training and would have no effect.

    Raises
    ------
    InputError
        If a learning rate or momentum is given that neither the dynamics nor twin runs use.
    """
    maps = options.dynamics in ("gd", "heavy_ball", "precond")
    if options.lr is not None and not maps and not options.twin_steps:
        raise InputError("--lr has no effect under gradient flow without twin runs; leave it out, or use --dynamics gd")
    if options.momentum is not None and options.dynamics != "heavy_ball" and not options.twin_steps:
        raise InputError("--momentum has no effect here; leave it out, or use --dynamics heavy_ball")


def check_given(options: DimensionOptions, given: Collection[str], n: int) -> None:
    """Refuse what stands on the command line and would have no effect on n active coordinates.

    Raises
    ------
    InputError
        With the name of the flag and what it needs.
    """
    region = options.region or ("ball" if options.trajectory is None else "trajectory")
    refuse_unused(given, OF_REGION, (region,), "region")
    refuse_unused(given, OF_RULE, rules_of(options, dynamics_of(options)), "rule")
    if not options.num_probes:
        refuse_unused(given, {"time": ("1",)}, ("0",), "num_probes")
    if "fast" in given and options.fast > max(n - 1, 1):
        raise InputError(f"--fast {options.fast} leaves no slow direction: there are {n} active parameters")
    if "smallest" in given and options.smallest > n - min(options.fast, max(n - 1, 1)):
        raise InputError(f"--smallest {options.smallest} overlaps with --fast: there are {n} active parameters")


def dynamics_of(options: DimensionOptions) -> Dynamics:
    """Return the dynamical system; learning rate and momentum belong to it only where it is a map."""
    lr = options.lr if options.dynamics != "flow" else None
    momentum = options.momentum if options.dynamics == "heavy_ball" else None
    return Dynamics(options.dynamics, lr, momentum)


def rules_of(options: DimensionOptions, dynamics: Dynamics) -> tuple[str, ...]:
    """Return the rules to answer, without those that the dynamics rules out.

    Raises
    ------
    InputError
        If a rule was asked for that the dynamics rules out: in a map the two sides of the cone couple, and a scalar
        shift is not harmless.
    """
    flow_only = ("cone_gap", "gap_2l_osc")
    refused = [rule for rule in options.rule if dynamics.is_map and rule in flow_only]
    if refused:
        raise InputError(f"the rule {refused[0]} holds for flows only; leave it out, or use --dynamics flow")
    if not options.num_probes and "slq_plateau" in options.rule:
        raise InputError("the rule slq_plateau needs the spectral density; give --num-probes")
    fitting = [rule for rule in RULES if not (dynamics.is_map and rule in flow_only)]
    if not options.num_probes:
        fitting.remove("slq_plateau")
    return options.rule or tuple(fitting)


def with_training(
    options: DimensionOptions, lr: float | None, momentum: float | None, time: float | None
) -> DimensionOptions:
    """Fill in what the checkpoints say about the training, where the options do not."""
    return replace(
        options,
        lr=options.lr if options.lr is not None else lr,
        momentum=options.momentum if options.momentum is not None else momentum,
        time=options.time if options.time is not None else time,
    )
