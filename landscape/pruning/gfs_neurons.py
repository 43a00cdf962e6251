"""The neurons of a two-layer network on m examples, and every inner product of them that selection needs.

Neuron i answers phi_i(x) = h_i(x) b_i, a scalar activation times its C outgoing weights, scaled so that the dense
network is the plain average f = (1/N) sum_i phi_i plus an offset. Only the activations ``(m, N)`` and the weights
``(N, C)`` are held: the Gram matrix of the mC-long vectors is (H'H) * (BB') / m, entry by entry, so the ``(mC, N)``
matrix is never formed [our derivation]. Products run over chunks of examples in the dtype of the activations; sums
over chunks are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import InputError, MemoryLimitError
from landscape.pruning.gfs import Floats, Integers, Products

CHUNK = 1 << 26  # activations per chunk: 256 MiB in float32
GRAM_PAYS = 8  # the Gram matrix costs about as much as N / 8 single columns, each a pass over the activations


@dataclass(frozen=True, eq=False)
class Neurons:
    """Activations and outgoing weights of N neurons on m examples.

    Attributes
    ----------
    hidden
        h_i(x_n), ``(m, N)``.
    output
        b_i, ``(N, C)``, scaled so that the dense network is the mean over neurons.
    """

    hidden: Tensor
    output: Tensor

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit and empty sets."""
        if self.hidden.ndim != 2 or self.output.ndim != 2 or self.hidden.shape[1] != self.output.shape[0]:
            raise InputError(
                f"activations of shape {tuple(self.hidden.shape)} do not fit outgoing weights of shape "
                f"{tuple(self.output.shape)}; they are (examples, neurons) and (neurons, outputs)"
            )
        if not self.hidden.numel():
            raise InputError("there are no neurons or no examples to select on")

    @property
    def num_examples(self) -> int:
        """The number m of examples."""
        return self.hidden.shape[0]

    @property
    def num_neurons(self) -> int:
        """The number N of neurons."""
        return self.hidden.shape[1]

    def _chunks(self) -> Iterator[slice]:
        rows = max(1, CHUNK // self.num_neurons)
        for start in range(0, self.num_examples, rows):
            yield slice(start, min(start + rows, self.num_examples))

    def norm2(self) -> Floats:
        """Return |Phi_i|^2 = |h_i|^2 |b_i|^2 / m, ``(N,)``. Cost: O(mN)."""
        total = torch.zeros(self.num_neurons, dtype=torch.float64, device=self.hidden.device)
        for rows in self._chunks():
            total += self.hidden[rows].square().sum(0)
        return _host(total * self.output.double().square().sum(1) / self.num_examples)

    def project(self, field: Tensor) -> Floats:
        """Return <phi_i, field> / m, ``(N,)``, for a field ``(m, C)`` on the examples. Cost: O(mNC)."""
        total = torch.zeros(self.output.T.shape, dtype=torch.float64, device=self.hidden.device)
        for rows in self._chunks():
            total += field[rows].to(self.hidden.dtype).T @ self.hidden[rows]
        return _host((total.T * self.output.double()).sum(1) / self.num_examples)

    def response(self, weight: Floats) -> Tensor:
        """Return the network sum_i w_i phi_i on the examples, ``(m, C)``, for weights ``(N,)``. Cost: O(mNC)."""
        scaled = torch.as_tensor(weight).to(self.output.device)[:, None] * self.output.double()
        return self.hidden @ scaled.to(self.hidden.dtype)

    def members(self, index: Integers, rows: slice = slice(None)) -> Tensor:
        """Return phi_i on some examples for some neurons ``(c,)``, ``(m', C, c)``."""
        places = torch.as_tensor(index, device=self.hidden.device)
        return self.hidden[rows][:, None, places] * self.output[places].T.to(self.hidden.dtype)

    def columns(self, index: Integers) -> Floats:
        """Return the Gram columns <Phi_i, Phi_j> of the neurons j in ``index (c,)``, ``(N, c)``. Cost: O(mNc)."""
        places = torch.as_tensor(index, device=self.hidden.device)
        total = torch.zeros(len(index), self.num_neurons, dtype=torch.float64, device=self.hidden.device)
        for rows in self._chunks():
            chunk = self.hidden[rows]
            total += chunk[:, places].T.contiguous() @ chunk
        weights = self.output.double()
        return _host((total * (weights[places] @ weights.T) / self.num_examples).T)

    def combine(self, weight: Floats) -> Floats:
        """Return <Phi_i, sum_j w_j Phi_j>, ``(N,)``, for weights ``(N,)``. Cost: O(mNC)."""
        return self.project(self.response(weight))

    def products(self, target: Tensor, num_picks: int = 0) -> Products:
        """Return the least-squares problem of a target ``(m, C)`` (the offset of the network taken off it).

        Parameters
        ----------
        num_picks
            How many neurons will be picked; the full Gram matrix, ``8 N^2`` bytes, is formed where that is cheaper.
        """
        if target.shape != (self.num_examples, self.output.shape[1]):
            raise InputError(
                f"targets of shape {tuple(target.shape)} do not fit {self.num_examples} examples with "
                f"{self.output.shape[1]} outputs"
            )
        norm = float(target.double().square().sum()) / self.num_examples
        problem = Products(self.norm2(), self.project(target), norm, self.columns, self.combine)
        return problem.with_gram() if self.num_neurons <= GRAM_PAYS * num_picks else problem


def _host(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.cpu().numpy(), dtype=np.float64)


def activations(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor], memory: float | None = None
) -> Tensor:
    """Return the hidden layer s(x a_i + c_i), ``(m, N)``, computed in place chunk by chunk.

    Parameters
    ----------
    x
        Inputs ``(m, d)``.
    weight, bias
        Rows a_i ``(N, d)`` and c ``(N,)``.
    memory
        Bytes that the result may take.

    Raises
    ------
    MemoryLimitError
        The result is larger than that.

    Notes
    -----
    Cost: 2 m N d operations, and m N numbers of memory plus one chunk.
    """
    size = x.shape[0] * weight.shape[0] * x.element_size()
    if memory is not None and size > memory:
        raise MemoryLimitError(f"the hidden layer takes {size / 2**30:.2f} GiB, more than {memory / 2**30:.2f} GiB")
    hidden = x.new_empty(x.shape[0], weight.shape[0])
    rows = max(1, CHUNK // weight.shape[0])
    for part, out in zip(x.split(rows), hidden.split(rows), strict=True):
        torch.mm(part, weight.T, out=out)
        if bias is not None:
            out += bias
        out.copy_(activation(out))
    return hidden
