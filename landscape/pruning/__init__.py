"""Ways to prune a network; each writes a run of checkpoints (``python -m landscape.pruning METHOD --help``)."""
