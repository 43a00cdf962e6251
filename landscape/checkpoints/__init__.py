"""Checkpoints: ``load(path, options) -> Problem``, ``save``, ``read``; own and foreign formats, never any code."""

from landscape.checkpoints.files import Checkpoint, read, save
from landscape.checkpoints.problems import (
    ProblemOptions,
    load,
    load_state,
    model_of,
    open_data,
    problem_of,
    resolve_device,
)

__all__ = [
    "Checkpoint",
    "ProblemOptions",
    "load",
    "load_state",
    "model_of",
    "open_data",
    "problem_of",
    "read",
    "resolve_device",
    "save",
]
