"""Deterministic training with every-epoch checkpoints, resumable: ``python -m landscape.training``."""

from landscape.training.files import Branch, Trained, train
from landscape.training.loop import evaluate
from landscape.training.options import TrainOptions

__all__ = ["Branch", "TrainOptions", "Trained", "evaluate", "train"]
