"""The words of what compares points: segments, eigenspaces, surfaces, pruning steps, curves."""

from landscape.schemas.words import CURVATURE, Variable, count, estimate, flag, number


def _path_quantity(quantity: str, units: str, long_name: str) -> dict[str, Variable]:
    """Return the variables of one quantity along the segments between pairs of points."""
    over = ("split", "pair")
    table = {
        f"path_{quantity}": number(units, f"{long_name} along the segment", *over, "place"),
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
    "position": number("1", "position on the segment from the first point (0) to the second (1)", "pair", "place"),
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

BARRIER_MATRIX: dict[str, Variable] = {
    f"matrix_{name}": Variable(
        (*variable.dims[:-1], "first_level", "second_level"), "float64", variable.units, variable.long_name
    )
    for name, variable in CONNECTIVITY.items()
    if variable.dims[-1:] == ("pair",)
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

TRAINING: dict[str, Variable] = {
    "train_loss": number("nat", "mean loss over the training examples", "epoch"),
    "train_accuracy": number("1", "fraction of training examples classified correctly", "epoch"),
    "test_loss": number("nat", "mean loss over the test examples", "epoch"),
    "test_accuracy": number("1", "fraction of test examples classified correctly", "epoch"),
}

CURVES: dict[str, Variable] = {
    **TRAINING,
    "projected_loss": number("nat", "train loss of the mask times imp's epochs of the level before", "epoch"),
}

CONVERGENCE: dict[str, Variable] = {
    "newton_decrement": number("nat", "Newton decrement g'(G + delta)^-1 g under the Gauss-Newton matrix G"),
    "newton_damping": number(CURVATURE, "damping delta of the Newton decrement"),
    "newton_converged": number("1", "1 where the linear system was solved to 1 %, else 0"),
}
