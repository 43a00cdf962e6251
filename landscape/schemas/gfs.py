"""The words of greedy forward selection."""

from landscape.schemas.words import Variable, count, flag, label, number

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
    "pick_drift": number(
        "1", "largest Jaccard distance of the picks to those of the four checkpoints before", *_SELECTED
    ),
    "score_drift": number("1", "largest 1 - Spearman's correlation of the neurons' norms, likewise", *_TRAINED),
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

_LINEAGE = ("method", "replicate", "step")

CHILDREN: dict[str, Variable] = {
    "instability_loss": number("nat", "rise of the loss between two children over the mean of their losses", *_LINEAGE),
    "instability_error": number("1", "rise of the error between two children over the mean of theirs", *_LINEAGE),
    "instability_error_se": number("1", "standard error of that rise over the examples", *_LINEAGE),
    "child_loss": number("nat", "mean loss of the children", *_LINEAGE),
    "child_error": number("1", "mean error of the children", *_LINEAGE),
    "mask_distance": number("1", "largest Hamming distance of the mask to those of the four before", *_LINEAGE),
    "mask_drift": number("1", "the same in units of that of random masks", *_LINEAGE),
    "stable_step": number("1", "training step from which the children agree", *_LINEAGE[:2]),
    "mask_distance_step": number("1", "training step at which the early-bird mask is drawn", *_LINEAGE[:2]),
    "mask_drift_step": number("1", "the same by the distance in units of that of random masks", *_LINEAGE[:2]),
}
