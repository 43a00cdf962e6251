"""The words of pruned networks: what a mask keeps and costs, the conditions of IMC pruning, and their comparison."""

from landscape.schemas.words import CURVATURE, MODEL, Variable, count, flag, label, number

_KEPT: dict[str, Variable] = {
    "kept": number("1", "fraction of weights kept by the mask"),
    "kept_effective": number("1", "fraction of weights kept and on a path from input to output"),
    "num_collapsed": number("1", "parameters of which no weight is kept"),
    "test_accuracy": number("1", "fraction of test examples classified correctly after training"),
    "test_loss": number("nat", "mean loss over the test examples after training"),
    "train_accuracy": number("1", "fraction of training examples classified correctly after training"),
    "train_loss": number("nat", "mean loss over the training examples after training"),
    "mask_gradients": number("1", "gradients over the sample that the mask took"),
    "mask_products": number("1", "curvature products over the sample that the mask took"),
    "mask_seconds": number("s", "time that the mask took, trainings left out"),
    "mask_steps": number("1", "training steps needed before the mask can be made"),
}

PRUNING: dict[str, Variable] = {
    **_KEPT,
    "num_kept": count("weights kept"),
    "num_weights": count("weights that could be pruned"),
    "layer_num_kept": count("weights kept of a parameter", "layer"),
    "layer_size": count("weights of a parameter", "layer"),
    "forced": flag("whether the kept fraction was given, not chosen by the method"),
    "num_retained": number("1", "modes that the method retains"),
    "share": number("1", "share alpha(S) of the retained subspace on the kept coordinates"),
    "lift": number("1", "alpha(S) over |S| / n: 1 where the subspace prefers no coordinates"),
    "masked_loss": number("nat", "loss right after masking the base point"),
    "masked_loss_random": number("nat", "the same under random masks of equal layer counts, mean"),
    "masked_p_value": number("1", "chance of so low a loss under random masks of equal layer counts"),
}

_SHELL = ("shell",)

IMC: dict[str, Variable] = {
    **MODEL,
    "gap_rule": label("rule that counts the modes"),
    "retain": label("side that is kept: slow or stiff"),
    "mask_rule": label("order in which weights are kept"),
    "base_point": label("W*: init, k_steps or converged"),
    "base_step": count("training steps to the base point"),
    "p": number("1", "norm of the neighbourhoods (reconstructed)"),
    "start_gradient_norm": number("nat / parameter", "norm of the gradient at the initialisation"),
    "newton_displacement": number("parameter", "step |A_Q^-1 Q g| that the gradient asks for on the fast side"),
    "travel": number("parameter", "distance to the end of the dense training, in the norm p"),
    "eigenvalue": number(CURVATURE, "eigenvalue of the Hessian at the base point", "eigen"),
    "residual": number(CURVATURE, "norm of H v - lambda v from a fresh product", "eigen"),
    "converged": flag("whether the residual is within the tolerance", "eigen"),
    "participation": number("1", "1 / sum of v_i^4: coordinates over which the eigenvector spreads", "eigen"),
    "rho": number("parameter", "radius in the norm p; the first is eps", *_SHELL),
    "lipschitz": number(CURVATURE, "largest sampled |H(W* + u) - H(W*)| within the radius, a lower bound", *_SHELL),
    "lipschitz_osc": number(CURVATURE, "half the sampled range of eigenvalues of the change", *_SHELL),
    "status": label("answer of the rule: found, none, or not resolved", *_SHELL),
    "dimension": number("1", "number N of slow modes (NaN: none)", *_SHELL),
    "num_retained": number("1", "modes on the side that is kept (NaN: none)", *_SHELL),
    "gap_width": number(CURVATURE, "gap behind the answer, less the errors of its ends (NaN: none)", *_SHELL),
    "gap_ratio": number("1", "best known gap over what the rule asks; above 1 it is admissible", *_SHELL),
    "gap_ratio_lo": number("1", "best known gap over what the rule asks, errors against it", *_SHELL),
    "gap_ratio_hi": number("1", "best known gap over what the rule asks, errors in its favour", *_SHELL),
    "cone_gap": number(CURVATURE, "smallest sampled cone gap of the best number of fast directions", *_SHELL),
    "radius_upper": number("parameter", "smallest sampled radius at which the rule has no answer (inf: none)"),
    "coverage": number("1", "radius_upper over the distance to the end of the dense training"),
    "num_fast": number("1", "fast directions of the splitting of the mask"),
    "concentration": number("1", "share of the smaller side on as many coordinates as it has dimensions"),
    "own_kept": number("1", "fraction of weights that the rule's own answer keeps (NaN: none)"),
}

COMPARISON: dict[str, Variable] = {
    name: Variable(("directory", "method", "level"), "float64", variable.units, variable.long_name)
    for name, variable in _KEPT.items()
}
COMPARISON |= {
    f"{name}_se": Variable(v.dims, "float64", v.units, f"standard error over replicates: {v.long_name}")
    for name, v in list(COMPARISON.items())
    if name.startswith(("test_", "train_", "kept"))
}
COMPARISON |= {
    "num_replicates": number("1", "replicates that are trained", "directory", "method", "level"),
    "solution": number(
        "1", "a measured scalar of the solutions, mean over replicates", "directory", "scalar", "method", "level"
    ),
}
