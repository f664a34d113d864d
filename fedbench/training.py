"""One local training: what a method asks for, the plain loop that does it, and the contract of whatever else may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.func import grad
from torch.optim.sgd import sgd

from fedbench.errors import MethodError
from fedbench.kinds import Kind
from fedbench.models import Model, Output, Params

if TYPE_CHECKING:
    from fedbench.client import Client

Result = TypeVar("Result")


@dataclass(frozen=True)
class Fit:
    """What a local training gave.

    Parameters
    ----------
    params : dict of str to tensor
        Trained parameters, detached.
    steps : int
        SGD steps.
    lr : float
        Their learning rate.
    loss : float or None
        Mean of the loss over the steps; None without any.
    """

    params: Params
    steps: int
    lr: float
    loss: float | None


@dataclass
class Batch:
    """Some samples of one client, and the parameters at which a loss is asked for.

    Parameters
    ----------
    model, kind
        The task's.
    params : mapping of str to tensor
        The parameters being trained.
    x, y : tensors (B, ...), (B,)
        Inputs and targets.
    index : int64 tensor (B,)
        Positions within the client's training data; what `Frozen` is looked up by.
    given : mapping of str to tensor
        What `Client.fit` was given for the loss.
    real : bool tensor (B,) or None
        Which samples are no padding, where clients of unequal size are trained together; `mean` knows of it.
    train : bool
        Whether the batch is passed for training: batch normalisation then uses the batch's own statistics.
    """

    model: Model
    kind: Kind
    params: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    index: Tensor
    given: Mapping[str, Tensor] = field(default_factory=dict)
    real: Tensor | None = None
    train: bool = False

    def forward(self, params: Mapping[str, Tensor]) -> Output:
        """Return what the task's model says of this batch at some parameters."""
        return self.model(params, self.x, train=self.train)

    def gradients(self, loss: Callable[[Mapping[str, Tensor]], Tensor], at: Mapping[str, Tensor]) -> Params:
        """Return the gradients of ``loss(params)`` at some parameters, for losses that take steps of their own.

        They are part of what the loss depends on; ``detach`` them for a first-order method.
        """
        moved = {name: tensor for name, tensor in at.items() if name not in self.model.buffers}
        rest = {name: tensor for name, tensor in at.items() if name in self.model.buffers}
        return dict(grad(lambda params: loss({**rest, **params}))(moved))

    @cached_property
    def output(self) -> Output:
        """What the model being trained says; computed once."""
        return self.forward(self.params)

    @property
    def logits(self) -> Tensor:
        """Logits of the model being trained, of shape (B, C)."""
        return self.output.logits

    @property
    def features(self) -> Tensor:
        """Inputs of its last layer, of shape (B, d)."""
        return self.output.features

    def task_loss(self, logits: Tensor) -> Tensor:
        """Return the task's loss of each sample, of shape (B,)."""
        return self.kind.loss(logits, self.y)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the batch's samples of values of shape (B, ...)."""
        if self.real is None:
            return values.mean(dim=0)
        real = self.real.reshape(-1, *[1] * (values.dim() - 1))
        return torch.where(real, values, torch.zeros_like(values)).sum(dim=0) / self.real.sum().clamp(min=1)

    def part(self, positions: slice) -> Batch:
        """Return the samples at some positions as a batch of their own, at the same parameters.

        Where clients are trained together a part may be all padding; its means are zero.
        """
        x, y, index = self.x[positions], self.y[positions], self.index[positions]
        return replace(self, x=x, y=y, index=index, real=None if self.real is None else self.real[positions])


Loss = Callable[["Client", Batch], Tensor]
EditGradients = Callable[["Client", str, Tensor, Tensor], Tensor]
Project = Callable[["Client", Mapping[str, Tensor]], Mapping[str, Tensor]]
Until = Callable[[Sequence[float]], bool]


@dataclass(frozen=True)
class Training:
    """One local training of one client, as `Client.fit` resolved it.

    Parameters
    ----------
    params : mapping of str to tensor
        Where to start; not changed.
    names : tuple of str
        What is trained; the rest is passed through.
    loss : callable
        ``loss(client, batch)``, a scalar.
    batches : tuple of int64 tensors
        Positions within the client's training data, a tensor a step.
    lr, momentum, weight_decay : float
        SGD; momentum starts at zero.
    edit_gradients, project, until : callable or None
        See `Client.fit`.
    given : mapping of str to tensor
        What the loss finds in ``batch.given``.
    """

    params: Mapping[str, Tensor]
    names: tuple[str, ...]
    loss: Loss
    batches: tuple[Tensor, ...]
    lr: float
    momentum: float
    weight_decay: float
    edit_gradients: EditGradients | None = None
    project: Project | None = None
    until: Until | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)


class Trainer(Protocol):
    """What runs client procedures, and the local trainings that they ask for."""

    def each(self, procedures: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the procedures of a round's clients and return their results in the same order."""

    def fit(self, client: Client, training: Training) -> Fit:
        """Do one local training."""

    def describe(self) -> str:
        """Say how clients were trained, for the record."""


class OneByOne:
    """Trains one client after the other, step by step: the reference that any other trainer is held against."""

    def each(self, procedures: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the procedures one after the other."""
        return [procedure() for procedure in procedures]

    def describe(self) -> str:
        """Say so."""
        return "one client at a time"

    def fit(self, client: Client, training: Training) -> Fit:
        """Train by SGD; the work of a step is the loss, its gradient and one fused update."""
        # Weights of convolutions are trained channels last, as the samples lie; outside they are contiguous.
        leaves = {
            name: tensor.detach().clone(memory_format=_layout(tensor)).requires_grad_()
            for name, tensor in training.params.items()
            if name in training.names
        }
        live = {**training.params, **leaves}
        # The function behind torch.optim.SGD: the class loads torch's compiler, a second for every worker process.
        step = partial(
            sgd,
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            fused=True,
        )
        momenta = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        losses: list[Tensor] = []
        seen: list[float] = []
        for index in training.batches:
            batch = client.batch(live, index, training.given, train=True)
            value = training.loss(client, batch)
            if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
                raise MethodError(
                    f"the loss of client {client.id} in round {client.round} is {_described(value)}; it must be a "
                    "scalar tensor that depends on batch.params."
                )
            value.backward()
            gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
            with torch.no_grad():
                if training.edit_gradients is not None:
                    edit = partial(training.edit_gradients, client)
                    gradients = {name: edit(name, gradient, leaves[name]) for name, gradient in gradients.items()}
                step(
                    [leaves[name] for name in gradients],
                    list(gradients.values()),
                    [momenta[name] for name in gradients],
                )
                if training.project is not None:
                    for name, tensor in training.project(client, leaves).items():
                        leaves[name].copy_(tensor)
            for leaf in leaves.values():
                leaf.grad = None
            if client.model.buffers and "output" in vars(batch):  # computed, and so part of the loss
                live |= {name: tensor.detach() for name, tensor in batch.output.buffers.items()}
            losses.append(value.detach())
            if training.until is not None:
                seen.append(float(losses[-1]))
                if training.until(seen):
                    break
        return Fit(
            params={name: tensor.detach().contiguous() for name, tensor in live.items()},
            steps=len(losses),
            lr=training.lr,
            loss=mean_loss(losses),
        )


def mean_loss(losses: Sequence[Tensor]) -> float | None:
    """Return the mean of the losses of all steps, summed in their order in float64; None without any."""
    if not losses:
        return None
    values: list[float] = torch.stack(list(losses)).tolist()
    return sum(values) / len(values)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}" if value.dim() else "a tensor without a gradient"


def _layout(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
