"""How products are computed; nothing here changes what they are."""

from __future__ import annotations

from dataclasses import dataclass

from landscape.errors import InputError

STRATEGIES = ("auto", "retained", "recomputed", "double_backward")


@dataclass(frozen=True)
class ProductOptions:
    """How curvature-vector products are computed, and with how much memory.

    Parameters
    ----------
    strategy
        ``retained``: trace the loss, and keep what the products of all batches have in common; ``recomputed``: make it
        anew in each product; ``double_backward``: no tracing; ``auto``: retained as far as ``memory`` goes and
        recomputed beyond, or double backward for models that cannot be traced and where tracing does not pay.
    memory
        Bytes that the products may take, model and data apart. The choice follows from this number, never from the
        memory that happens to be free.
    planned_products
        How many vectors are going to be multiplied; tracing takes seconds and pays for many.
    block
        How many vectors are multiplied together, at most.
    """

    strategy: str = "auto"
    memory: int = 2 * 2**30
    planned_products: int = 100
    block: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"unknown strategy {self.strategy!r}; use one of {', '.join(STRATEGIES)}")
        if self.memory <= 0 or self.planned_products < 0 or self.block < 1:
            raise InputError("memory and block must be positive, planned products must not be negative")
