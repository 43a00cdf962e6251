"""The words of the results: every variable of every quantity with its dims, dtype, units and long name.

A result is an :class:`xarray.Dataset`. Its data variables must be in the table of its quantity (``SCHEMAS``) and its
coordinates in ``COORDINATES``; a quantity that was not measured is absent, not NaN. Curvature is that of the *mean*
loss, in nat / parameter^2. Uncertainty is a variable of its own: ``<name>_se``, ``<name>_lo``, ``<name>_hi``.
"""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import xarray as xr

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

_ANSWER = ("rule", "shell")

DIMENSION: dict[str, Variable] = {
    **MODEL,
    "dynamics": label("flow, gd, heavy_ball or precond"),
    "region": label("where Hessians were sampled: trajectory, ball or adversarial"),
    "retain": label("side that is kept: slow or stiff"),
    "rho": number("parameter", "radius of the region around the base point", "shell"),
    "num_modes": count("modes of the dynamics (two for each parameter under a heavy ball)"),
    "eigenvalue": number(CURVATURE, "eigenvalue in the metric of the dynamics", "eigen"),
    "residual": number(CURVATURE, "norm of H v - lambda v from a fresh product", "eigen"),
    "converged": flag("whether the residual is within the tolerance", "eigen"),
    "rate": number(CURVATURE, "effective rate of the mode", "eigen"),
    "status": label("found, none, or not resolved", *_ANSWER),
    "dimension": number("1", "number N of slow modes (NaN: none)", *_ANSWER),
    "dimension_upper": number("1", "known upper bound on N (NaN: none)", *_ANSWER),
    "num_retained": number("1", "modes on the side that is kept", *_ANSWER),
    "num_fast": number("1", "number n - N of fast modes", *_ANSWER),
    "gap_index": number("1", "label from the top of the gap behind dimension_upper", *_ANSWER),
    "gap_width": number(CURVATURE, "gap behind dimension_upper, less the errors of its ends", *_ANSWER),
    "gap_ratio_lo": number("1", "best known gap over what the rule asks, errors against it", *_ANSWER),
    "gap_ratio_hi": number("1", "best known gap over what the rule asks, errors in its favour", *_ANSWER),
    "unknown_low": number(CURVATURE, "lower end of the interval in which a better gap could hide", *_ANSWER),
    "unknown_high": number(CURVATURE, "upper end of the interval in which a better gap could hide", *_ANSWER),
    "radius_upper": number("parameter", "upper bound on the radius up to which the rule has an answer", "rule"),
    "coverage": number("1", "radius_upper over the distance from the base point", "rule", "step"),
    "entry_step": number("1", "first step after which the coverage stays at least 1 (NaN: never)", "rule"),
    "distance": number("parameter", "distance of the state from the base point", "step"),
    "secant": number(CURVATURE, "|F(u') - F(u)| / |u' - u| since the last state", "step"),
    "lipschitz": number(CURVATURE, "largest sampled |H(W* + u) - H(W*)|, a lower bound", "shell"),
    "lipschitz_osc": number(CURVATURE, "half the sampled range of eigenvalues of the change, a lower bound", "shell"),
    "lipschitz_half": number(CURVATURE, "the same as lipschitz from every second sample", "shell"),
    "lipschitz_factor": number("1", "factor of the Lipschitz constant under the dynamics"),
    "num_samples": count("sampled Hessian differences within the radius", "shell"),
    "sample_radius": number("parameter", "length of the displacement", "sample"),
    "sample_low": number(CURVATURE, "smallest Ritz value of the Hessian difference", "sample"),
    "sample_high": number(CURVATURE, "largest Ritz value of the Hessian difference", "sample"),
    "sample_kind": label("trajectory, isotropic, eigenvector, gradient, ray or adversarial", "sample"),
    "kink_slope": number("1", "log-log slope of l at small radii: 1 if smooth, 0 at kinks"),
    "kink_plateau": number(CURVATURE, "l at the smallest radius where it does not vanish (NaN: it does)"),
    "product_noise": number(CURVATURE, "size of a Hessian difference that is rounding"),
    "cone_gap": number(CURVATURE, "smallest pointwise cone gap over the samples", "fast"),
    "cone_attraction": number(CURVATURE, "smallest pointwise rate of attraction over the samples", "fast"),
    "cone_residual": number(CURVATURE, "largest residual of the pointwise cone's Ritz vectors", "fast"),
    "num_cone_samples": count("sampled points of the cone"),
    "segment_gap": number(CURVATURE, "smallest segment-averaged cone gap over the samples", "fast"),
    "segment_attraction": number(CURVATURE, "smallest segment-averaged rate of attraction over the samples", "fast"),
    "segment_residual": number(CURVATURE, "largest residual of the segments' Ritz vectors", "fast"),
    "num_segment_samples": count("sampled segments of the cone"),
    "fast_gradient_fraction": number("1", "share |Q g| / |g| of the gradient on k fast directions", "fast"),
    "newton_displacement": number("parameter", "step |A_Q^-1 Q g| that the gradient asks for there", "fast"),
    "time": number("parameter^2 / nat", "training time: learning rate times steps / (1 - momentum)"),
    **estimate("n_frozen", "1", "number of modes that have not moved over the time"),
    **estimate("n_active", "1", "number of modes neither frozen nor slaved"),
    **estimate("n_slaved", "1", "number of modes that have decayed over the time"),
    **estimate("n_escaping", "1", "number of active modes that grow"),
    **estimate("effective_number", "1", "effective number of stiff modes, alpha = 1 / time"),
    **estimate("training_dimension", "1", "dimension of a random subspace that reaches the loss from the first state"),
    "excess_loss": number("nat", "loss above the base point that it reaches: a tenth of the first state's"),
    "steady_slope": number("1", "largest |Q dW| / |P dW| over pairs of late states", "fast"),
    "steady_shuffled": number("1", "its median over shuffles of the fast coordinates", "fast"),
    "steady_p_value": number("1", "chance of so small a slope under shuffling", "fast"),
    "aim_defect": number("1", "error of the approximate manifold over the spread of fast coordinates", "iteration"),
    "num_slaved": count("fast coordinates of the approximate manifold"),
    "twin_ratio": number("1", "|Q w| / |P w| of the difference of twin runs", "twin_step"),
    "twin_entry": number("1", "step from which the ratio stays at most 1 (NaN: never)"),
    "twin_decay_rate": number(CURVATURE, "smallest decay rate of |Q w| outside the cone"),
    "twin_fast": count("fast directions of the twin runs"),
    "tensor_norm": number("nat / parameter^3", "norm of the third derivative at the base point, a lower bound"),
    "tensor_norm_converged": flag("whether the power method became stationary"),
}

BARRIER_MATRIX: dict[str, Variable] = {
    f"matrix_{name}": Variable(
        (*variable.dims[:-1], "first_level", "second_level"), "float64", variable.units, variable.long_name
    )
    for name, variable in CONNECTIVITY.items()
    if variable.dims[-1:] == ("pair",)
}

CURVES: dict[str, Variable] = {
    **TRAINING,
    "projected_loss": number("nat", "train loss of the mask times imp's epochs of the level before", "epoch"),
}

# What a control did to the point of lower loss of a pair.
MATCHED: dict[str, Variable] = {
    "matched_method": label("method of the point that was replaced"),
    "matched_point": label("point that was replaced"),
    "target_loss": number("nat", "loss of the other point of the pair"),
    "output_scale": number("1", "factor of the output layer that gives the loss of the other point"),
    "whole_network": count("1 where the output layer was scaled, 0 where the outputs were"),
    "matched_step": count("training step of the checkpoint that replaces the point"),
    "output_spread": number("1", "mean squared distance of the outputs from their mean over the classes"),
}

_VERDICT: dict[str, Variable] = {
    "statistic": number("1", "the measured number that the verdict is about", "claim", "*"),
    "effect": number("1", "by how much the claim is met, in the unit of its statistic", "claim", "*"),
    "noise": number("1", "standard error of the effect", "claim", "*"),
    "margin": number("1", "the effect's distance from its threshold, in units of the noise", "claim", "*"),
    "verdict": label("holds, fails or not resolved", "claim", "*"),
    "reason": label("why it is not resolved, or what it rests on", "claim", "*"),
}

PRECONDITIONS: dict[str, Variable] = {
    **_VERDICT,
    **{f"level_{name}": variable for name, variable in _VERDICT.items()},
    "statement": label("the claim in words", "claim"),
    "source": label("who made the claim", "claim"),
}


def _sampled(name: str, words: str, *dims: str) -> dict[str, Variable]:
    """Return a sampled log quantity with its interval, the parts of its error, and what tells whether they hold."""
    return {
        **estimate(name, "nat", words, *dims),
        f"{name}_lo": number("nat", f"lower end of the 95 % interval of the {words}", *dims),
        f"{name}_hi": number("nat", "upper end of it (infinite for a lower bound)", *dims),
        f"{name}_weight_sd": number("nat", f"standard deviation of the log weights of the {words}", *dims),
        f"{name}_effective_size": number("1", f"effective number of directions of the {words}", *dims),
        f"{name}_verdict": label("calibrated or lower bound", *dims),
        f"{name}_preconditioner": label("preconditioner of the directions", *dims),
        f"{name}_shrinkage": number(CURVATURE, "shrinkage of the preconditioner", *dims),
        **estimate(f"{name}_determinant", "nat", "log-determinant that the sampling is corrected by", *dims),
        f"{name}_determinant_bias": number("nat", "quadrature bias of that log-determinant", *dims),
    }


VOLUME: dict[str, Variable] = {
    **MODEL,
    "rank_bound": count("upper bound on the rank of the generalised Gauss-Newton part"),
    "newton_decrement": number("nat", "Newton decrement g' (A + c)^-1 g"),
    "newton_damping": number(CURVATURE, "damping c of the Newton decrement"),
    "weight_rms": number("parameter", "root mean square of the active parameters"),
    "largest_eigenvalue": number(CURVATURE, "largest eigenvalue"),
    "section_stiffness": number("nat", "-1/2 sum of the logarithms of the k largest eigenvalues", "section_size"),
    "section_error": number("nat", "largest error of it that the residuals allow", "section_size"),
    "section_log_volume": number("nat", "log volume of the section along the k stiffest directions", "section_size"),
    "prior_sd": number("parameter", "prior standard deviation", "prior_factor"),
    **estimate("occam_factor", "nat", "Occam factor -1/2 tr log(1 + N sd^2 A)", "prior_factor"),
    "occam_factor_bias": number("nat", "quadrature bias of the Occam factor", "prior_factor"),
    **estimate("damped_log_volume", "nat", "log volume of the ellipsoid of the damped curvature", "damping"),
    "damped_log_volume_bias": number("nat", "quadrature bias of the damped log volume", "damping"),
    **estimate("ellipsoid_log_volume", "nat", "log volume of the ellipsoid of the curvature"),
    "ellipsoid_log_volume_bias": number("nat", "quadrature bias of the ellipsoid's log volume"),
    "num_negative": number("1", "estimated number of negative eigenvalues"),
    "negative_sum": number(CURVATURE, "sum of the sizes of the negative eigenvalues"),
    "star_predicted_mean": number("nat", "mean log weight of plain sampling of the quadratic model"),
    "star_predicted_sd": number("nat", "standard deviation of those log weights"),
    **estimate("star_shortfall", "nat", "log volume of the quadratic model less that mean"),
    "pilot_log_volume": number("nat", "pilot estimate of the log volume", "candidate"),
    "pilot_preconditioner": label("preconditioner of the candidate", "candidate"),
    "pilot_shrinkage": number(CURVATURE, "shrinkage of the candidate", "candidate"),
    **_sampled("log_volume", "log volume", "sampler"),
    "log_volume_mean": number("nat", "mean log weight of the directions", "sampler"),
    "noise_tolerance": number("parameter", "noise per weight of a ball of the same volume", "sampler"),
    "relative_noise_tolerance": number("1", "noise tolerance over the rms of the weights", "sampler"),
    "normalised_log_volume": number("nat", "log volume in units of the norms of the filters"),
    "num_infinite": count("directions in which the basin does not end", "sampler"),
    "num_non_monotone": count("directions in which the excess does not grow steadily", "sampler"),
    "passes_mean": number("1", "forward passes a direction", "sampler"),
    "passes_max": count("most forward passes of a direction", "sampler"),
    "radius_error": number("nat", "largest error of a log weight from its radius", "sampler"),
    "log_radius": number("1", "log radius in units of the preconditioned direction", "sampler", "ray"),
    **_sampled("log_probability", "log probability of the basin under the Gaussian prior", "prior_factor"),
    "nats_per_weight": number("nat", "-log probability over the number of active parameters", "prior_factor"),
    "code_length": number("nat", "spike-and-slab code length of mask and basin", "prior_factor"),
    "prunable_fraction": number("1", "largest prunable fraction that the spectrum predicts", "order"),
    "projected_increase": number("nat", "quadratic loss increase of pruning alone", "order", "fraction"),
    "relaxed_increase": number("nat", "quadratic loss increase with the others at their optimum", "order", "fraction"),
    "relaxed_residual": number("1", "relative residual of that optimum", "order", "fraction"),
    "tried_increase": number("nat", "loss increase of pruning, tried out", "order", "fraction"),
    "tried_accuracy": number("1", "accuracy after pruning, tried out", "order", "fraction"),
    **estimate("average_sharpness", "nat", "mean loss increase under relative noise", "relative_size"),
    "worst_sharpness": number("nat", "largest loss increase found in the relative ball", "relative_size"),
    "linearised_sharpness": number("nat", "largest loss increase of the linearisation", "relative_size"),
    **estimate("relative_flatness", "nat", "relative flatness sum <w_s, w_t> tr H_st of a layer", "weight"),
    **estimate("learning_coefficient", "1", "local learning coefficient"),
    "learning_share": number("1", "learning coefficient over half the number of active parameters"),
    "quadratic_coefficient": number("1", "learning coefficient of the quadratic model"),
    "step_correction": number("1", "correction for the finite step, from the quadratic model"),
    "r_hat": number("1", "split R-hat of the chains"),
    "chain_effective_size": number("1", "effective number of draws"),
    "acceptance": number("1", "share of accepted proposals"),
    "chain_converged": flag("whether R-hat, effective draws and sign of the coefficient allow to believe it"),
}

CALIBRATION: dict[str, Variable] = {
    "estimator": label("what was estimated, and how", "case"),
    "body": label("what was measured", "case"),
    "dimension_of_body": count("number of parameters", "case"),
    "condition": number("1", "condition number of the curvature", "case"),
    "repetitions": count("independent seeds", "case"),
    "truth": number("nat", "true value", "case"),
    "bias": number("nat", "mean error over the seeds", "case"),
    "spread": number("nat", "standard deviation over the seeds", "case"),
    "error_95": number("nat", "95 % quantile of the size of the error", "case"),
    "error_per_weight": number("nat", "that quantile over the number of parameters", "case"),
    "coverage": number("1", "share of 95 % intervals that hold the truth", "case"),
    "width_ratio": number("1", "mean width of the intervals over that of the ideal one", "case"),
    "calibrated_share": number("1", "share of estimates labelled calibrated", "case"),
    "sampling_error": number("nat", "mean standard error of the directions", "case"),
    "determinant_error": number("nat", "mean standard error of the log-determinant", "case"),
    "quadrature_bias": number("nat", "mean estimated quadrature bias", "case"),
    "products": number("1", "products of an estimate", "case"),
    "passes": number("1", "forward passes a direction", "case"),
    "bisection_passes": number("1", "forward passes a direction of plain bisection", "case"),
}

SCHEMAS: dict[str, dict[str, Variable]] = {
    "dimension": DIMENSION,
    "training": TRAINING,
    "spectrum": {**SPECTRUM, **MATCHED},
    "connectivity": CONNECTIVITY,
    "curves": CURVES,
    "barrier_matrix": BARRIER_MATRIX,
    "alignment": ALIGNMENT,
    "surface": SURFACE,
    "preconditions": PRECONDITIONS,
    "renewal": RENEWAL,
    "pruning_steps": PRUNING_STEPS,
    "gfs": GFS,
    "volume": {**VOLUME, **MATCHED},
    "calibration": CALIBRATION,
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
            variable = expected[str(name)]
            if kind == "coordinate" and not variable.dims and array.ndim:
                variable = variable._replace(dims=(str(name),))  # a label of one result, or of a dim of many
            _check_array(f"{kind} {name!r} of {schema}", array, variable, scalar=kind == "coordinate")


def _check_array(what: str, array: xr.DataArray, variable: Variable, scalar: bool) -> None:
    """Compare one array with its declaration; a coordinate may also be a scalar label of the whole result."""
    if not _dims_fit(array.dims, variable.dims) and not (scalar and array.ndim == 0):
        raise ValueError(f"{what} has dims {array.dims}, not {variable.dims}")
    if _dtype_name(array.dtype) != variable.dtype:
        raise ValueError(f"{what} has dtype {array.dtype}, not {variable.dtype}")


def _dims_fit(dims: tuple[Hashable, ...], declared: tuple[str, ...]) -> bool:
    """Compare dims with their declaration, in which a last ``*`` stands for any labels of ``LABELS``."""
    if declared[-1:] != ("*",):
        return dims == declared
    fixed = declared[:-1]
    return dims[: len(fixed)] == fixed and set(dims[len(fixed) :]) <= set(LABELS)


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
