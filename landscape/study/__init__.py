"""Studies: what is measured on a run of trainings, at which points, and what is still missing.

``python -m landscape.study measure RUN`` plans what is missing, shows its cost and measures it;
``landscape.open_study(RUN)`` opens all results as one Dataset.
"""

from landscape.study.measure import Done, Effort, measure, status
from landscape.study.plan import Selection, expand
from landscape.study.requests import AlignmentOptions, MeasureOptions, Request

__all__ = [
    "AlignmentOptions",
    "Done",
    "Effort",
    "MeasureOptions",
    "Request",
    "Selection",
    "expand",
    "measure",
    "status",
]
