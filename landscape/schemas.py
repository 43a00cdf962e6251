"""The words of the results: every variable of every quantity with its dims, dtype, units and long name.

A result is an :class:`xarray.Dataset`. Its data variables must be in the table of its quantity (``SCHEMAS``) and its
coordinates in ``COORDINATES``; a quantity that was not measured is absent, not NaN. Curvature is that of the *mean*
loss, in nat / parameter^2. Uncertainty is a variable of its own: ``<name>_se``, ``<name>_lo``, ``<name>_hi``.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

CURVATURE = "nat / parameter^2"


class Variable(NamedTuple):
    """What one variable means.

    Parameters
    ----------
    dims
        Names of its dimensions, in order.
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
    "epoch": count("training epoch (0: the start)", "epoch"),
    "step": count("training step", "step"),
}

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

SPECTRUM: dict[str, Variable] = {
    **MODEL,
    **estimate("eigenvalue", CURVATURE, "eigenvalue", "eigen"),
    "eigenvalue_se_valid": flag("whether the neighbouring gaps exceed 4 gap_se, so that eigenvalue_se holds", "eigen"),
    "eigenvalue_cross_fitted": number(CURVATURE, "Rayleigh quotient on data that did not choose the vector", "eigen"),
    "residual": number(CURVATURE, "norm of H v - lambda v from a fresh product", "eigen"),
    "converged": flag("whether the residual is within the tolerance", "eigen"),
    **estimate("gap", CURVATURE, "gap to the next smaller eigenvalue", "eigen"),
    "relative_gap": number("1", "gap over the eigenvalue above it", "eigen"),
    "gap_resolved": flag("whether the gap exceeds the sum of its two residuals", "eigen"),
    "eigenvector": number("1", "eigenvector on the active coordinates", "eigen", "parameter"),
    "ritz_value": number(CURVATURE, "quadrature node", "probe", "node"),
    "ritz_weight": number("1", "quadrature weight (sums to 1 over a probe)", "probe", "node"),
    **estimate("trace", CURVATURE, "trace"),
    **estimate("frobenius_norm", CURVATURE, "Frobenius norm"),
    **estimate("participation_ratio", "1", "participation ratio (tr H)^2 / tr H^2"),
    **estimate("log_det", "nat", "log det(1 + c H)", "c"),
    **estimate("effective_dimension", "1", "effective dimension tr H / (H + alpha)", "alpha"),
    **estimate("zero_fraction", "1", "fraction of eigenvalues that are zero"),
    "outlier_count": count("eigenvalues above the edge of the bulk"),
    "outlier_p_value": number("1", "p-value of the outliers under a continuous bulk"),
    "rank_bound": count("upper bound on the rank of the generalised Gauss-Newton part"),
    "layer_num_params": count("active parameters of the layer", "layer"),
    "layer_kept": number("1", "fraction of the layer's weights kept by the mask", "layer"),
    "layer_eigenvalue": number(CURVATURE, "largest eigenvalue of the layer's diagonal block", "layer"),
    "layer_residual": number(CURVATURE, "norm of H v - lambda v within the layer's block", "layer"),
    "layer_converged": flag("whether the layer's residual is within the tolerance", "layer"),
    **estimate("layer_trace", CURVATURE, "trace of the layer's diagonal block", "layer"),
    **estimate("layer_frobenius_norm", CURVATURE, "Frobenius norm of the layer's diagonal block", "layer"),
    "layer_num_products": count("products with the layer's block", "layer"),
}


def _path_quantity(quantity: str, units: str, long_name: str) -> dict[str, Variable]:
    """Return the variables of one quantity along the segments between pairs of points."""
    over = ("split", "pair")
    table = {
        f"path_{quantity}": number(units, f"{long_name} along the segment", *over, "node"),
        f"point_{quantity}": number(units, long_name, "split", "at"),
    }
    kinds = {"barrier": "largest excess over the straight line", "instability": "maximum over the mean of the ends"}
    for kind, meaning in kinds.items():
        name = f"{kind}_{quantity}"
        table |= estimate(name, units, f"{meaning} of the {long_name}", *over)
        table[f"{name}_lo"] = number(units, f"lower end of the interval of {name}", *over)
        table[f"{name}_hi"] = number(units, f"upper end of the interval of {name}", *over)
    return table


CONNECTIVITY: dict[str, Variable] = {
    **_path_quantity("loss", "nat", "mean loss"),
    **_path_quantity("error", "1", "fraction of errors"),
    "position": number("1", "position on the segment from the first point (0) to the second (1)", "pair", "node"),
    "distance": number("parameter", "distance over all parameters", "pair"),
    "relative_distance": number("1", "distance over the norm of the first point", "pair"),
    "shared_distance": number("parameter", "distance over the coordinates active at both points", "pair"),
    "rms_distance": number("parameter", "root mean square over the coordinates active at both points", "pair"),
    "layer_distance": number("parameter", "distance over one parameter tensor", "pair", "layer"),
    "cosine": number("1", "cosine between the displacements of the two points from the reference point", "pair"),
    "output_distance": number("1", "half the mean squared distance of the outputs", "split", "pair"),
    "disagreement": number("1", "fraction of examples with different predicted classes", "split", "pair"),
    "symmetric_kl": number("nat", "mean symmetric Kullback-Leibler divergence of the predictions", "split", "pair"),
    "point_norm": number("parameter", "norm of all parameters", "at"),
}

ALIGNMENT: dict[str, Variable] = {
    "retained_mass": number("1", "squared norm of an earlier eigenvector on the later mask", "eigen"),
    "overlap": number("1", "overlap tr(P1 P2) / k of the top-k eigenspaces", "cut"),
    "chance": number("1", "expected overlap with a random subspace", "cut"),
    "left_out": count("earlier eigenvectors of which too little is left on the later mask", "cut"),
    "resolved": flag("whether the gap below k is resolved at both points", "cut"),
    "principal_cosine": number("1", "cosine of the principal angle", "cut", "angle"),
    "share": number("1", "part of a direction's squared norm in the earlier eigenspace", "direction", "cut"),
}

SURFACE: dict[str, Variable] = {
    "surface_loss": number("nat", "mean loss on the plane", "x", "y"),
    "surface_accuracy": number("1", "fraction of examples classified correctly", "x", "y"),
    "line_loss": number("nat", "mean loss on the line", "x"),
    "line_accuracy": number("1", "fraction of examples classified correctly", "x"),
    "marker_x": number("parameter", "first coordinate of a marked point", "marker"),
    "marker_y": number("parameter", "second coordinate of a marked point", "marker"),
    "off_plane": number("parameter", "distance of a marked point from the plane", "marker"),
}

RENEWAL: dict[str, Variable] = {
    "fraction_below": number("1", "fraction of surviving weights below the threshold that created the mask", "at"),
    "flow": number(
        "1", "fraction of weights that changed their class of |w| / threshold", "at", "from_class", "to_class"
    ),
    "mask_overlap": number("1", "fraction of the next removal that the point shares with the minimum", "at"),
}

PRUNING_STEPS: dict[str, Variable] = {
    "step_length": number("parameter", "length of the step", "removal"),
    "loss_increase": number("nat", "increase of the mean loss", "removal"),
    "quadratic_increase": number("nat", "increase predicted by gradient and Hessian", "removal"),
    "step_curvature": number(CURVATURE, "curvature along the step", "removal"),
    "step_share": number("1", "part of the step's squared norm in the top eigenspace", "removal"),
}

_SELECTED = ("cell", "step", "size")
_TRAINED = ("cell", "step")

GFS: dict[str, Variable] = {
    "arm": label("kind of targets: data, teacher or random labels", "cell"),
    "num_examples": count("examples m that were trained and selected on", "cell"),
    "num_neurons": count("neurons N of the dense network", "cell"),
    "replicate": count("training repeat", "cell"),
    "input_size": count("inputs d of a neuron", "cell"),
    "batch_size": count("examples per training step", "cell"),
    "smoothness": number("1", "largest curvature H of the loss of an example in its outputs", "cell"),
    "loss": number("nat", "loss of the selected subnetwork", *_SELECTED),
    "accuracy": number("1", "training accuracy of the selected subnetwork", *_SELECTED),
    "test_accuracy": number("1", "test accuracy of the selected subnetwork", *_SELECTED),
    "tuned_accuracy": number("1", "training accuracy of the selected subnetwork after fine-tuning", *_SELECTED),
    "tuned_test_accuracy": number("1", "test accuracy of the selected subnetwork after fine-tuning", *_SELECTED),
    "num_distinct": count("distinct neurons among the picks", *_SELECTED),
    "certified": flag("whether every pick so far is proven the best of all neurons", *_SELECTED),
    "selection_gap": number("nat", "Frank-Wolfe gap at the selected subnetwork", *_SELECTED),
    "random_loss": number("nat", "expected loss of k random neurons", *_SELECTED),
    "random_loss_se": number("nat", "standard error of the loss of random neurons", *_SELECTED),
    "random_loss_distinct": number("nat", "expected loss of as many random as distinct neurons", *_SELECTED),
    "random_loss_distinct_se": number("nat", "standard error of the loss of random neurons", *_SELECTED),
    "rival_loss": number("nat", "loss of another choice of k neurons", "cell", "step", "rival", "size"),
    "pick_overlap": number("1", "weighted Jaccard index of the picks and those of the last checkpoint", *_SELECTED),
    "dense_loss": number("nat", "loss of the dense network", *_TRAINED),
    "dense_accuracy": number("1", "training accuracy of the dense network", *_TRAINED),
    "dense_test_accuracy": number("1", "test accuracy of the dense network", *_TRAINED),
    "empty_loss": number("nat", "loss without neurons", *_TRAINED),
    "first_loss": number("nat", "loss of the best single neuron", *_TRAINED),
    "variance": number("squared output", "variance V of the neurons", *_TRAINED),
    "radius": number("output", "largest distance of a neuron from their mean", *_TRAINED),
    "diameter": number("output", "diameter D of the hull of the neurons", *_TRAINED),
    "hull_loss": number("nat", "least loss found in the hull of the neurons", *_TRAINED),
    "hull_loss_lo": number("nat", "certified lower bound on the loss in the hull", *_TRAINED),
}

TRAINING: dict[str, Variable] = {
    "train_loss": number("nat", "mean loss over the training examples", "epoch"),
    "train_accuracy": number("1", "fraction of training examples classified correctly", "epoch"),
    "test_loss": number("nat", "mean loss over the test examples", "epoch"),
    "test_accuracy": number("1", "fraction of test examples classified correctly", "epoch"),
}

SCHEMAS: dict[str, dict[str, Variable]] = {
    "training": TRAINING,
    "spectrum": SPECTRUM,
    "connectivity": CONNECTIVITY,
    "alignment": ALIGNMENT,
    "surface": SURFACE,
    "renewal": RENEWAL,
    "pruning_steps": PRUNING_STEPS,
    "gfs": GFS,
}


def table(schema: str) -> dict[str, Variable]:
    """Return the variables of a quantity by its name.

    Raises
    ------
    ValueError
        If there is no such quantity.
    """
    if schema not in SCHEMAS:
        raise ValueError(f"there is no quantity {schema!r}; there are {', '.join(sorted(SCHEMAS))}")
    return SCHEMAS[schema]


def check(dataset: xr.Dataset, schema: str) -> None:
    """Compare a Dataset with the table of its quantity.

    Raises
    ------
    ValueError
        On a variable or coordinate that the table does not know, and on wrong dims or a wrong dtype. This is a mistake
        of the program, not of its user.
    """
    known = table(schema)
    for kind, expected, arrays in (
        ("variable", known, dataset.data_vars),
        ("coordinate", COORDINATES, dataset.coords),
    ):
        for name, array in arrays.items():
            if name not in expected:
                raise ValueError(f"{schema} has no {kind} {name!r}; declare it in landscape.schemas")
            _check_array(f"{kind} {name!r} of {schema}", array, expected[str(name)], scalar=kind == "coordinate")


def _check_array(what: str, array: xr.DataArray, variable: Variable, scalar: bool) -> None:
    """Compare one array with its declaration; a coordinate may also be a scalar label of the whole result."""
    if array.dims != variable.dims and not (scalar and array.ndim == 0):
        raise ValueError(f"{what} has dims {array.dims}, not {variable.dims}")
    if _dtype_name(array.dtype) != variable.dtype:
        raise ValueError(f"{what} has dtype {array.dtype}, not {variable.dtype}")


def _dtype_name(dtype: np.dtype) -> str:
    """Return the declared name of a dtype; text comes as fixed-width, variable-width or object arrays."""
    return "str" if dtype.kind in "UTO" else dtype.name


def describe(dataset: xr.Dataset, schema: str) -> xr.Dataset:
    """Return the Dataset with ``units`` and ``long_name`` attached to every variable and coordinate."""
    described = dataset.copy()
    for name, variable in {**COORDINATES, **table(schema)}.items():
        if name in described.variables:
            described[name].attrs.update(units=variable.units, long_name=variable.long_name)
    return described
