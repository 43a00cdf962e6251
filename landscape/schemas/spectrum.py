"""The words of spectra, and of the controls that a point can be measured under."""

from landscape.schemas.words import CURVATURE, MODEL, Variable, count, estimate, flag, label, number

SPECTRUM: dict[str, Variable] = {
    **MODEL,
    **estimate("eigenvalue", CURVATURE, "eigenvalue", "eigen"),
    "eigenvalue_se_valid": flag("whether the neighbouring gaps exceed 4 gap_se, so that eigenvalue_se holds", "eigen"),
    "eigenvalue_cross_fitted": number(CURVATURE, "Rayleigh quotient on data that did not choose the vector", "eigen"),
    "residual": number(CURVATURE, "norm of H v - lambda v from a fresh product", "eigen"),
    "converged": flag("whether the residual is within the tolerance", "eigen"),
    **estimate("gap", CURVATURE, "gap to the next smaller eigenvalue", "eigen"),
    "relative_gap": number("1", "gap over the magnitude of the eigenvalue below it", "eigen"),
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

TRAJECTORY: dict[str, Variable] = {
    "epoch_eigenvalue": number(CURVATURE, "eigenvalue after the epoch", "epoch", "eigen"),
    "epoch_residual": number(CURVATURE, "norm of H v - lambda v after the epoch", "epoch", "eigen"),
    "epoch_converged": flag("whether the residual is within the tolerance", "epoch", "eigen"),
    "epoch_loss": number("nat", "mean loss after the epoch", "epoch"),
    "epoch_gradient_norm": number("nat / parameter", "norm of the gradient after the epoch", "epoch"),
}
