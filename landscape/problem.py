"""The mean loss of a network on its active coordinates: the one object that is measured.

``Problem`` holds a private copy of the model, the loss, the data in a fixed order and the set of active coordinates. A
pruned weight is held at zero and is no coordinate, so curvature is the principal submatrix ``H[active, active]``; a
subspace leaves the point unmoved and only restricts the coordinates. Nothing here touches the caller's model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape import batches as data_batches
from landscape import losses, masks, networks, parallel
from landscape.batches import TARGET_NAMES, Batch, batch_length
from landscape.errors import InputError
from landscape.losses import ExampleLoss, Loss


@dataclass(frozen=True)
class ProblemSettings:
    """How a model, a loss and data become a problem.

    Parameters
    ----------
    params
        Glob of parameter names; the other parameters are held fixed.
    subspace
        Parameter name -> bool tensor; only these coordinates are active, at the unmoved point.
    weight_decay
        C adds C/2 |theta|^2 over the active coordinates to loss, gradient and curvature.
    batchnorm
        ``running`` statistics as stored, those of each ``batch``, or ``recalibrate``: measured anew on this data.
    dtype, device
        Those of the model where None.
    batch_size
        Examples per pass over a tensor pair (iterables of batches come as they are).
    """

    params: str | None = None
    subspace: Mapping[str, Tensor] | None = None
    weight_decay: float = 0.0
    batchnorm: str = "running"
    dtype: torch.dtype | str | None = None
    device: torch.device | str | None = None
    batch_size: int = 250


@dataclass(frozen=True, eq=False)
class Problem:
    """The mean loss L(theta) = sum over batches of the loss sums / sum of the counts, in nats for cross entropy.

    Attributes
    ----------
    model
        A private copy in eval mode; its parameters are placeholders.
    parameters
        Name -> tensor of every parameter with an active coordinate (pruned weights are zero).
    constants
        The other parameters, and the buffers.
    batches
        The data of this rank, in order.
    index
        Active positions in the concatenated ``parameters``, ``(n,)`` sorted, or None for all.
    count, num_examples
        Sum of the loss counts and number of examples, over all ranks.
    """

    model: nn.Module
    loss_function: Loss
    parameters: dict[str, Tensor]
    constants: dict[str, Tensor]
    batches: tuple[Batch, ...]
    index: Tensor | None
    count: float
    num_examples: int
    num_params_total: int
    kept: float
    weight_decay: float = 0.0
    batchnorm: str = "running"
    data_sha256: str = ""

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        loss: Any,
        data: Any,
        mask: Mapping[str, Tensor] | None = None,
        settings: ProblemSettings | None = None,
    ) -> Problem:
        """Build the problem of an in-memory model.

        Parameters
        ----------
        model
            Any module. It is copied; the copy is put into eval mode. Parameters that do not require gradients are
            held fixed. Modules pruned by ``torch.nn.utils.prune`` bring their masks along.
        loss
            ``cross_entropy``, ``mse``, ``bce``, a ``torch.nn`` loss, or ``loss(outputs, batch) -> (sum, count)``.
        data
            A pair of tensors (x, y), or an iterable of batches, each a pair or a mapping of tensors.
        mask
            Parameter name -> 0/1 tensor; missing names are unpruned.

        Raises
        ------
        InputError
            Empty or non-finite input, a mask that does not fit, dropout left in training mode.

        Notes
        -----
        Cost: one forward pass over the data, which finds the count, and shape errors before anything long starts.
        """
        settings = settings or ProblemSettings()
        model, pruned = networks.private_copy(model)
        if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.training and m.p > 0 for m in model.modules()):
            raise InputError("the model has dropout in training mode, so its loss is random; call model.eval() first")
        mask = {**pruned, **(mask or {})}
        reference = next((p for p in model.parameters() if p.is_floating_point()), None)
        if reference is None:
            raise InputError("the model has no parameters")
        dtype = networks.as_dtype(settings.dtype) or reference.dtype
        device = torch.device(settings.device or reference.device)
        model = model.to(device=device, dtype=dtype).eval()
        size = settings.batch_size
        if settings.batchnorm != "batch":  # there the loss depends on the batches
            size = data_batches.shared_size(data, size, parallel.world())
        batches = tuple(data_batches.as_batches(data, size, dtype, device))
        parameters, constants, index, kept = _coordinates(model, mask, settings)
        problem = cls(
            model=model,
            loss_function=losses.of(loss),
            parameters=parameters,
            constants=constants,
            batches=tuple(parallel.shard(batches)),
            index=index,
            count=1.0,
            num_examples=sum(batch_length(batch) for batch in batches),
            num_params_total=sum(p.numel() for p in model.parameters()),
            kept=kept,
            weight_decay=settings.weight_decay,
            data_sha256=data_batches.fingerprint(batches),
        )
        return problem._with_batchnorm(settings.batchnorm, batches)._counted()

    @classmethod
    def from_function(cls, function: Callable[[Tensor], Tensor], theta: Tensor) -> Problem:
        """Build the problem of a plain function R^n -> R at the point ``theta (n,)``: one example, no data."""

        class Point(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.theta = nn.Parameter(theta.detach().clone())

            def forward(self, x: Tensor) -> Tensor:
                return function(self.theta).reshape(1) + 0 * x[:, 0]

        def loss(outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            return outputs.sum(), torch.ones_like(outputs).sum()

        data = (theta.new_zeros(1, 1), theta.new_zeros(1, 1))
        return cls.from_model(Point(), loss, data)

    # ---- coordinates -------------------------------------------------------------------------------------------

    @cached_property
    def theta(self) -> Tensor:
        """The active parameters, ``(n,)``."""
        return self.flatten(self.parameters)

    @property
    def num_params(self) -> int:
        """The number n of active coordinates."""
        return sum(self._sizes) if self.index is None else len(self.index)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters and products."""
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        """The device of parameters and products."""
        return next(iter(self.parameters.values())).device

    @property
    def _sizes(self) -> list[int]:
        return [p.numel() for p in self.parameters.values()]

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the active coordinates ``(n,)`` of full-shape tensors."""
        flat = torch.cat([tensors[name].reshape(-1) for name in self.parameters])
        return flat if self.index is None else flat.index_select(0, self.index)

    def unflatten(self, v: Tensor, base: Tensor | None = None) -> dict[str, Tensor]:
        """Return full-shape tensors that hold ``v (n,)`` on the active coordinates and zero (or ``base``) elsewhere."""
        if self.index is not None:
            full = v.new_zeros(sum(self._sizes)) if base is None else base.clone()
            v = full.index_copy_(0, self.index, v)
        parts = v.split(self._sizes)
        return {name: part.view(p.shape) for (name, p), part in zip(self.parameters.items(), parts, strict=True)}

    def parameters_at(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters at the point ``theta (n,)``; inactive coordinates keep their values."""
        base = torch.cat([p.reshape(-1) for p in self.parameters.values()])
        return self.unflatten(theta.to(base), base)

    def at(self, theta: Tensor) -> Problem:
        """Return the same problem at another point ``theta (n,)``."""
        if theta.shape != (self.num_params,):
            raise InputError(f"a point of shape {tuple(theta.shape)} does not fit {self.num_params} active parameters")
        return replace(self, parameters=self.parameters_at(theta))

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters of the network by name, inactive ones included."""
        values = {**self.constants, **self.parameters}
        return {name: values[name] for name, _ in self.model.named_parameters()}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Problem:
        """Return the same problem with other values for parameters of any kind, inactive ones included.

        Under ``recalibrate`` the BatchNorm statistics are measured anew at the new values.
        """
        point = replace(
            self,
            parameters={name: tensors.get(name, p) for name, p in self.parameters.items()},
            constants={name: tensors.get(name, p) for name, p in self.constants.items()},
        )
        return point._with_batchnorm("recalibrate", self.batches) if self.batchnorm == "recalibrate" else point

    def names(self) -> list[tuple[str, int]]:
        """Return (parameter name, number of its active coordinates) in the order of ``theta``."""
        if self.index is None:
            return list(zip(self.parameters, self._sizes, strict=True))
        edges = torch.tensor([0, *self._sizes]).cumsum(0).to(self.index.device)
        places = torch.searchsorted(self.index, edges)
        return list(zip(self.parameters, places.diff().tolist(), strict=True))

    # ---- values ------------------------------------------------------------------------------------------------

    def raw_outputs(self, parameters: Mapping[str, Tensor], batch: Batch) -> Any:
        """Return what the model returns for a batch."""
        if isinstance(batch, Mapping):
            inputs = {name: value for name, value in batch.items() if name not in TARGET_NAMES}
            return functional_call(self.model, {**self.constants, **parameters}, (), inputs)
        return functional_call(self.model, {**self.constants, **parameters}, (batch[0],))

    def outputs(self, parameters: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the output tensor for a batch: the model's tensor, its ``logits``, or the first of a tuple."""
        outputs = self.raw_outputs(parameters, batch)
        if isinstance(outputs, Tensor):
            return outputs
        if isinstance(outputs, Mapping) and "logits" in outputs:
            return outputs["logits"]
        if isinstance(outputs, (tuple, list)) and isinstance(outputs[0], Tensor):
            return outputs[0]
        raise InputError(f"the model returns {type(outputs).__name__}; wrap it so that it returns a tensor")

    def batch_loss(self, parameters: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss sum and the count of a batch (scalars; differentiable in ``parameters``)."""
        if isinstance(self.loss_function, ExampleLoss):
            return self.loss_function(self.outputs(parameters, batch), batch)
        value = self.loss_function(self.raw_outputs(parameters, batch), batch)
        if not (isinstance(value, tuple) and len(value) == 2):
            raise InputError("the loss must return (sum, count) tensors, e.g. nll.sum(), torch.tensor(len(y))")
        total, count = value
        return total, torch.as_tensor(count, dtype=total.dtype, device=total.device)

    @torch.no_grad()
    def loss(self, theta: Tensor | None = None) -> float:
        """Return the mean loss, at ``theta (n,)`` or at the problem's own point. Cost: one forward pass."""
        return self._evaluate(theta)[0]

    def accuracy(self, theta: Tensor | None = None) -> float | None:
        """Return the fraction of targets predicted, or None where the loss knows no classes. Cost: a forward pass."""
        return self._evaluate(theta)[1]

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Return the gradient of the mean loss, ``(n,)``, summed over batches in float64. Cost: one gradient."""
        point = self if theta is None else self.at(theta)
        mean = parallel.sum_ranks(point.gradient_sum()) / self.count
        return (mean + self.weight_decay * point.theta).to(self.dtype)

    def gradient_sum(self) -> Tensor:
        """Return the gradient of the sum of the losses of this rank's batches, ``(n,)`` float64."""
        total = torch.zeros(self.num_params, dtype=torch.float64, device=self.device)
        with networks.second_order_kernels(self.model), torch.enable_grad():
            for batch in self.batches:
                leaves = {name: p.detach().requires_grad_() for name, p in self.parameters.items()}
                value = self.batch_loss(leaves, batch)[0]
                grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
                total += self.flatten(dict(zip(leaves, grads, strict=True)))
        return total

    @torch.no_grad()
    def _evaluate(self, theta: Tensor | None = None) -> tuple[float, float | None, float]:
        """Return the mean loss, the accuracy and the count."""
        parameters = self.parameters if theta is None else self.parameters_at(theta)
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        with parallel.together(), networks.second_order_kernels(self.model):
            for batch in self.batches:
                sums += torch.stack(self._batch_values(parameters, batch))
        total, count, hits, targets = parallel.sum_ranks(sums).tolist()
        flat = self.theta if theta is None else theta
        decay = 0.5 * self.weight_decay * float(flat.double().square().sum()) if self.weight_decay else 0.0
        return total / count + decay if count else float("nan"), hits / targets if targets else None, count

    def _batch_values(self, parameters: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        """Return loss sum, count, hits and targets of a batch in float64 (targets 0: accuracy means nothing)."""
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        if not isinstance(self.loss_function, ExampleLoss):
            total, count = self.batch_loss(parameters, batch)
            return [total.double(), count.double(), zero, zero]
        outputs = self.outputs(parameters, batch)
        hits, targets = self.loss_function.hits(outputs, batch) or (zero, zero)
        sums, counts = self.loss_function.per_example(outputs, batch)
        return [
            sums.double().sum(),
            counts.double().sum(),
            hits.double().to(self.device),
            targets.double().to(self.device),
        ]

    # ---- construction ------------------------------------------------------------------------------------------

    def recounted(self) -> Problem:
        """Return the problem with the count and the number of examples of its present batches (after a split)."""
        number = torch.tensor([float(sum(batch_length(batch) for batch in self.batches))])
        return replace(self, num_examples=int(parallel.sum_ranks(number)))._counted()

    def _counted(self) -> Problem:
        loss, _, count = self._evaluate()
        if not count > 0:
            raise InputError("no target counts towards the loss (all ignored, or all class weights zero)")
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise InputError(f"the loss is {loss}: check the data, its normalisation and the weights")
        return replace(self, count=count)

    @torch.no_grad()
    def _with_batchnorm(self, policy: str, batches: tuple[Batch, ...]) -> Problem:
        """Put the BatchNorm policy into force on the private copy; every rank recalibrates on all ``batches``."""
        norms = networks.batchnorms(self.model, policy)
        if not norms:
            return self
        if policy == "running":
            return replace(self, batchnorm=policy)
        statistics = [f"{name}.{b}" for name in norms for b in ("running_mean", "running_var", "num_batches_tracked")]
        rest = replace(
            self, batchnorm=policy, constants={n: t for n, t in self.constants.items() if n not in statistics}
        )
        if policy == "batch":
            networks.use_batch_statistics(norms)
            return rest
        networks.start_recalibration(norms)
        for batch in batches:
            rest.raw_outputs(self.parameters, batch)
        self.model.eval()
        measured = {name: b.clone() for name, b in self.model.named_buffers() if name in statistics}
        return replace(rest, constants={**rest.constants, **measured})


def _coordinates(
    model: nn.Module, mask: Mapping[str, Tensor], settings: ProblemSettings
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None, float]:
    """Split the model's tensors into measured parameters and constants, and find the active coordinates."""
    tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in tensors.items():
        if not bool(torch.isfinite(p).all()):
            raise InputError(f"the parameter {name} holds NaN or infinite values")
    shapes = {name: p.shape for name, p in tensors.items()}
    keep = masks.validate(mask, shapes)
    for name, kept in keep.items():
        tensors[name] *= kept.to(tensors[name].device)
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    if settings.params is not None:
        matched = {name for name in wanted if fnmatchcase(name, settings.params)}
        if not matched:
            raise InputError(f"no parameter matches {settings.params!r}; there are {', '.join(list(shapes)[:6])}, ...")
        wanted = matched
    active = {name: kept for name, kept in keep.items() if name in wanted}
    if settings.subspace is not None:
        chosen = masks.validate(settings.subspace, shapes)
        wanted &= set(chosen)
        active |= {n: chosen[n] & active.get(n, torch.ones_like(chosen[n])) for n in chosen if n in wanted}
    parameters = {n: p for n, p in tensors.items() if n in wanted and (n not in active or bool(active[n].any()))}
    if not parameters:
        raise InputError("no coordinate is active: mask, subspace and params leave nothing to measure")
    constants = {n: p for n, p in tensors.items() if n not in parameters}
    constants |= {name: b.detach().clone() for name, b in model.named_buffers()}
    index = masks.active_index({n: m for n, m in active.items() if n in parameters}, {n: shapes[n] for n in parameters})
    index = None if index is None else index.to(next(iter(parameters.values())).device)
    return parameters, constants, index, masks.kept(keep, shapes)
