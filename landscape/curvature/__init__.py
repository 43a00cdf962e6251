"""Curvature of the loss sum over batches, times vectors.

``kinds`` says what is multiplied, ``eager`` multiplies by double backward.
"""

from landscape.curvature.eager import double_backward
from landscape.curvature.kinds import KINDS, Network, along, check_kind, divisor

__all__ = ["KINDS", "Network", "along", "check_kind", "divisor", "double_backward"]
