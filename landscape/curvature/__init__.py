"""Curvature of the mean loss times vectors.

``kinds`` says what is multiplied; ``eager`` multiplies by double backward; ``forward``, ``split`` and ``linearize``
trace a loss into two graphs, which ``passes`` rewrites; ``products`` chooses, cuts the batches, and sums over them.
"""

from landscape.curvature.kinds import KINDS, along, check_kind
from landscape.curvature.options import STRATEGIES, ProductOptions
from landscape.curvature.products import Products

__all__ = ["KINDS", "STRATEGIES", "ProductOptions", "Products", "along", "check_kind"]
