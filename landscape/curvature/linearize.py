"""The curvature of batches of one shape as two graphs: one makes residuals of a batch, one multiplies.

The loss is traced once and rewritten; what depends on the parameters only (a BatchNorm folded into its convolution, a
weight norm) becomes a map phi = P(theta), and the curvature in phi is traced as ``jvp(grad(loss))`` and split by
dependence on the vector. With the gradient g in phi,

    H v = P'^T H_phi P' v + (d/dt P'(theta + t v)^T) g,

so that the map P costs its work once a product, not once a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp

from landscape.batches import Batch
from landscape.curvature.eager import transposed
from landscape.curvature.forward import Forward, NotTraceableError, record
from landscape.curvature.kinds import Tensors
from landscape.curvature.layout import Layout, tensors_of
from landscape.curvature.split import Split, split
from landscape.problem import Problem


class Linearization:
    """The curvature of the loss sum of batches of one shape at the problem's point.

    Attributes
    ----------
    graphs
        (phi, fixed, batch) -> residuals; (residuals, d phi) -> curvature in phi times d phi.

    Raises
    ------
    NotTraceableError
        Where the model or the loss cannot be traced.
    """

    def __init__(self, problem: Problem, kind: str, batch: Batch, forward: Forward) -> None:
        self.problem, self.kind, self.forward = problem, kind, forward
        given = forward.before(*forward.laid_out([*problem.parameters.values(), *problem.constants.values()]))
        self.phi = forward.laid_out(given[: forward.num_phi])
        self._fixed = forward.laid_out(given[forward.num_phi :])
        if not self.phi:
            raise NotTraceableError("the loss does not depend on the parameters")
        self.graphs = self._trace_product(batch)
        self._chain: _Chain | None = None

    def _trace_product(self, batch: Batch) -> Split:
        num_phi, num_fixed = len(self.phi), len(self._fixed)
        layout, values, network = Layout.of(batch), self.forward.values, self.forward.network

        def product(*flat: Tensor) -> tuple[Tensor, ...]:
            phi, fixed, direction = flat[:num_phi], flat[num_phi : num_phi + num_fixed], flat[-num_phi:]
            rows = self.forward.laid_out(flat[num_phi + num_fixed : -num_phi])
            if self.kind == "hessian":
                slope = grad(lambda *p: values(*p, *fixed, *rows)[0], argnums=tuple(range(num_phi)))
                return jvp(slope, phi, direction)[1]

            def outputs(*p: Tensor) -> tuple[list[Tensor], list[Tensor]]:
                return network.divide(values(*p, *fixed, *rows))

            # With has_aux, jvp returns three values, which its annotation does not say.
            z, pushed, others = jvp(outputs, phi, direction, has_aux=True)  # type: ignore[misc]
            if self.kind == "ggn":

                def head(y: list[Tensor]) -> Tensor:
                    return network.loss(y, others, layout.batch(rows))

                pushed = jvp(grad(head), (z,), (pushed,))[1]
            return vjp(outputs, *phi, has_aux=True)[1](pushed)

        return split(record(product, *self.phi, *self._fixed, *tensors_of(batch), *self.phi), num_phi)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Get ready for products: the curvature of P is weighted by the gradient in phi, summed over all batches."""
        if self.forward.used is not None:
            return
        leaves = [t.detach().requires_grad_() for t in self.phi]
        slope = [torch.zeros_like(t, dtype=torch.float64) for t in self.phi]
        for batch in batches if self.kind == "hessian" else ():
            rows = self.forward.laid_out(tensors_of(batch))
            with torch.enable_grad():
                loss = self.forward.values(*leaves, *self._fixed, *rows)[0]
            for total, part in zip(slope, transposed([loss], leaves, [torch.ones_like(loss)]), strict=True):
                total += part
        self._chain = _Chain(self.problem, self.forward, [g.to(t.dtype) for g, t in zip(slope, self.phi, strict=True)])

    def residuals(self, batch: Batch) -> list[Tensor]:
        """Return what the products with the curvature of a batch have in common. Cost: two forward passes."""
        return self.graphs.primal(*self.phi, *self._fixed, *tensors_of(batch))

    def multiply(self, residuals: Sequence[Tensor], pushed: Sequence[Tensor]) -> list[Tensor]:
        """Return the curvature of the batch in phi times d phi. Cost: six forward passes."""
        return self.graphs.tangent(*residuals, *pushed)

    def push(self, direction: Tensors) -> tuple[list[Tensor], list[Tensor]]:
        """Return d phi for a direction in theta, and the part of the product that the curvature of P contributes."""
        given = list(direction.values())
        if self._chain is None:
            used = [given[i] for i in self.forward.used or ()]
            return self.forward.laid_out(used), [torch.zeros_like(d) for d in given]
        pushed, bent = self._chain.push(given)
        return self.forward.laid_out(pushed), bent

    def pull(self, product: Sequence[Tensor], bent: Sequence[Tensor]) -> Tensors:
        """Return the product in theta for a product in phi, summed over the batches, and what ``push`` returned."""
        if self._chain is not None:
            pulled = self._chain.pull(product)
        else:
            places = dict(zip(self.forward.used or (), product, strict=True))
            pulled = [places.get(i, b) for i, b in enumerate(bent)]
            return dict(zip(self.problem.parameters, pulled, strict=True))
        return {name: a + b for name, a, b in zip(self.problem.parameters, pulled, bent, strict=True)}


class _Chain:
    """The map phi = P(theta): its derivative along a vector, the transpose of that, and its curvature weighted by g.

    Everything comes from the graph of P'^T g, which is kept: its transpose along v gives P' v in the place of g, and
    the curvature in the place of theta.
    """

    @torch.enable_grad()
    def __init__(self, problem: Problem, forward: Forward, slope: Sequence[Tensor]) -> None:
        self._theta = [p.detach().requires_grad_() for p in problem.parameters.values()]
        self._phi = forward.before(*forward.laid_out([*self._theta, *problem.constants.values()]))[: forward.num_phi]
        self._slope = [g.detach().requires_grad_() for g in slope]
        self._pulled = transposed(self._phi, self._theta, self._slope, create_graph=True)

    def push(self, direction: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return P' v, and the curvature of <P, g> times v."""
        found = transposed(self._pulled, [*self._slope, *self._theta], direction)
        return found[: len(self._slope)], found[len(self._slope) :]

    def pull(self, product: Sequence[Tensor]) -> list[Tensor]:
        """Return P'^T times a product in phi."""
        return transposed(self._phi, self._theta, product)
