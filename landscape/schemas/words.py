"""The parts of a declaration, and the words that all quantities share."""

from typing import NamedTuple

CURVATURE = "nat / parameter^2"


class Variable(NamedTuple):
    """What one variable means.

    Parameters
    ----------
    dims
        Names of its dimensions, in order; a last ``*`` stands for any labels of ``LABELS``.
    dtype
        ``float64``, ``int64``, ``bool`` or ``str``.
    units
        Its unit; ``1`` for a pure number.
    long_name
        Its name in words, as an axis label would have it.
    """

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str


def number(units: str, long_name: str, *dims: str) -> Variable:
    """Return a real variable over ``dims``."""
    return Variable(dims, "float64", units, long_name)


def count(long_name: str, *dims: str) -> Variable:
    """Return an integer variable over ``dims``."""
    return Variable(dims, "int64", "1", long_name)


def flag(long_name: str, *dims: str) -> Variable:
    """Return a true-or-false variable over ``dims``."""
    return Variable(dims, "bool", "1", long_name)


def label(long_name: str, *dims: str) -> Variable:
    """Return a text variable over ``dims``."""
    return Variable(dims, "str", "1", long_name)


def estimate(name: str, units: str, long_name: str, *dims: str) -> dict[str, Variable]:
    """Return ``name`` together with its standard error ``name_se``."""
    return {
        name: number(units, long_name, *dims),
        f"{name}_se": number(units, f"standard error of the {long_name}", *dims),
    }


COORDINATES: dict[str, Variable] = {
    "eigen": count("label of the eigenvalue: 1, 2, ... from the top, -1, -2, ... from the bottom", "eigen"),
    "probe": count("random starting vector", "probe"),
    "node": count("quadrature node", "node"),
    "parameter": count("position among the active coordinates", "parameter"),
    "layer": label("layer or parameter group", "layer"),
    "c": number("parameter^2 / nat", "scale c of log det(1 + c H)", "c"),
    "alpha": number(CURVATURE, "shift alpha of the effective dimension tr H / (H + alpha)", "alpha"),
    "x": number("parameter", "first coordinate of a surface", "x"),
    "y": number("parameter", "second coordinate of a surface", "y"),
    "from_class": number("1", "lower edge of the class of |w| / threshold at the projected point", "from_class"),
    "to_class": number("1", "lower edge of the class of |w| / threshold at the point", "to_class"),
    "removal": label("which weights are removed", "removal"),
    "cut": count("number k of leading eigenvectors", "cut"),
    "angle": count("number of the principal angle, smallest angle first", "angle"),
    "direction": label("direction that is compared with the eigenspace", "direction"),
    "pair": label("the two points that are compared", "pair"),
    "first": label("first point of the pair", "pair"),
    "second": label("second point of the pair", "pair"),
    "at": label("one of the compared points", "at"),
    "cell": count("one pre-training", "cell"),
    "size": count("number k of picks", "size"),
    "rival": label("another way to choose k neurons", "rival"),
    "split": label("train or test examples", "split"),
    "method": label("how the point was trained"),
    "level": count("pruning level"),
    "replicate": count("training repeat"),
    "point": label("where on a level: minimum, projected, restricted or rewind"),
    "first_level": count("pruning level of the first network", "first_level"),
    "second_level": count("pruning level of the second network", "second_level"),
    "scalar": label("name of a measured number, its labels in brackets", "scalar"),
    "claim": label("short name of the claim", "claim"),
    "control": label("raw, or how the losses of a pair were made equal"),
    "curvature": label("which curvature was measured: hessian, ggn or jtj"),
    "epoch": count("training epoch (0: the start)", "epoch"),
    "step": count("training step", "step"),
    "rule": label("rule that gives a dimension", "rule"),
    "shell": count("one of the radii of the region, the smallest first", "shell"),
    "sample": count("sampled displacement", "sample"),
    "fast": count("number k of fast directions", "fast"),
    "iteration": count("iteration of the approximate manifold", "iteration"),
    "twin_step": count("step of the twin runs", "twin_step"),
    "section_size": count("number k of the stiffest directions", "section_size"),
    "prior_factor": number("1", "prior standard deviation over its reference width", "prior_factor"),
    "damping": number(CURVATURE, "damping added to the curvature", "damping"),
    "candidate": count("preconditioner that was tried on the pilot directions", "candidate"),
    "sampler": label("identity (plain), filter (filter-normalised) or preconditioned sampling", "sampler"),
    "ray": count("random direction", "ray"),
    "order": label("order in which weights are pruned", "order"),
    "fraction": number("1", "pruned fraction of the prunable weights", "fraction"),
    "relative_size": number("1", "size rho of the perturbation relative to the weights", "relative_size"),
    "weight": label("parameter with rows", "weight"),
    "case": label("benchmark case of known truth", "case"),
    "directory": label("run directory", "directory"),
}

# The labels of a result, which become the dims of a study.
LABELS = ("method", "level", "replicate", "point", "control", "curvature")

MODEL: dict[str, Variable] = {
    "loss": number("nat", "mean loss over the examples"),
    "accuracy": number("1", "fraction of examples classified correctly"),
    "gradient_norm": number("nat / parameter", "norm of the gradient of the mean loss"),
    "num_params": count("active (unpruned, selected) parameters"),
    "num_params_total": count("parameters of the whole network"),
    "kept": number("1", "fraction of weights kept by the mask"),
    "num_examples": count("examples in the mean loss"),
    "num_products": count("products of the curvature with one vector"),
}
