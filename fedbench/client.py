"""What client code sees: one client's training data, what it was sent, and what it kept. Also the one local loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedbench.errors import MethodError
from fedbench.kinds import Kind
from fedbench.method import Download, Upload
from fedbench.models import Model, Output, Params
from fedbench.seeds import Streams
from fedbench.task import Indices, Protocol

if TYPE_CHECKING:
    from fedbench.method import Predictor

Loss = Callable[["Client", "Batch"], Tensor]


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
    """

    model: Model
    kind: Kind
    params: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    index: Tensor

    def forward(self, params: Mapping[str, Tensor]) -> Output:
        """Return what the task's model says of this batch at some parameters."""
        return self.model(params, self.x)

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
        return values.mean(dim=0)


@dataclass(frozen=True)
class Frozen:
    """Outputs of a model that does not change, for all training samples of a client."""

    outputs: Output

    def __getitem__(self, batch: Batch) -> Output:
        return Output(self.outputs.logits[batch.index], self.outputs.features[batch.index])


@dataclass
class Work:
    """Samples passed through a model: forward and backward, and forward only."""

    trained: int = 0
    forward: int = 0


@dataclass
class Client:
    """One client in one round, handed to a method's client procedures.

    Parameters
    ----------
    id, round, rounds : int
        Who, when (counted from 0), and the number of rounds (T).
    inputs, targets : tensors (n, ...), (n,)
        Its training data.
    n_classes : int
        Classes of the whole task (C).
    received : Download
        What it was sent this round.
    initial : mapping of str to tensor
        The common start.
    state : dict
        What it kept: tensors, dicts of tensors, numbers, by name. Replace, do not change in place.
    passes : int
        Samples of its local training this round: local epochs times n.
    train_loss : float or None
        Mean loss of the training proper, the one on the default stream; it is recorded.
    local : predictor or None
        What is evaluated as its local model; `upload` sets it to the uploaded model unless a method did.
    """

    id: int
    round: int
    rounds: int
    inputs: Tensor
    targets: Tensor
    n_classes: int
    received: Download
    initial: Mapping[str, Tensor]
    state: dict[str, Any]
    passes: int
    protocol: Protocol
    model: Model
    kind: Kind
    shared: Callable[[str], bool]
    streams: Streams
    local: Predictor | None = None
    work: Work = field(default_factory=Work)
    train_loss: float | None = None
    _frozen: dict[int, tuple[Mapping[str, Tensor], Frozen]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Training samples of this client."""
        return len(self.targets)

    @property
    def lr(self) -> float:
        """Learning rate of this round."""
        return self.protocol.lr_at(self.round)

    @cached_property
    def class_counts(self) -> Tensor:
        """Training samples of each class, int64 of shape (C,)."""
        return torch.bincount(self.targets, minlength=self.n_classes)

    @cached_property
    def params(self) -> Params:
        """The model the client starts from: what it received, and the private part that it kept."""
        return {**self.initial, **self.state.get("private", {}), **self.received.params}

    def rng(self, name: str, *, every_round: bool = True) -> np.random.Generator:
        """Return a stream of this client for a method's own draws: of this round, or the same one in every round."""
        depends = {"round": self.round} if every_round else {}
        return self.streams.rng(f"method/{name}", client=self.id, **depends)

    def fit(
        self,
        params: Mapping[str, Tensor],
        loss: Loss,
        *,
        train: Callable[[str], bool] = lambda name: True,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        edit_gradients: Callable[[str, Tensor, Tensor], Tensor] | None = None,
        project: Callable[[Params], Mapping[str, Tensor]] | None = None,
        until: Callable[[Sequence[float]], bool] | None = None,
        data: Indices | None = None,
        stream: str = "order",
    ) -> Fit:
        """Train by SGD and return the result: the one local loop of the house.

        Momentum starts at zero. Batches are consecutive pieces of one permutation an epoch; a last short one is kept.

        Parameters
        ----------
        params : mapping of str to tensor
            Where to start; not changed.
        loss : callable
            ``loss(client, batch)``, a scalar.
        train : callable
            Says by name what is trained; all, if not given. The rest is passed through.
        epochs, batch_size, lr, momentum, weight_decay : optional
            Those of the protocol, if not given.
        edit_gradients : callable, optional
            ``edit_gradients(name, gradient, parameter)`` returns what the optimiser sees.
        project : callable, optional
            ``project(params)`` returns what replaces the trained parameters after each step.
        until : callable, optional
            ``until(losses)`` says after each step, from the losses so far, whether to stop before ``epochs`` end.
        data : int64 array, optional
            Positions of the training samples to use; all, if not given.
        stream : str
            Name of the stream that orders the samples. A second training in a round names its own, so that it does
            not repeat the first one's order.

        Raises
        ------
        MethodError
            The loss became infinite or NaN.
        """
        protocol = self.protocol
        names = [name for name in params if train(name)]
        # Weights of convolutions are trained channels last, as the samples lie; outside they are contiguous.
        leaves = {
            name: params[name].detach().clone(memory_format=_layout(params[name])).requires_grad_() for name in names
        }
        live = {**params, **leaves}
        lr = self.lr if lr is None else lr
        optimiser = torch.optim.SGD(
            leaves.values(),
            lr=lr,
            momentum=protocol.momentum if momentum is None else momentum,
            weight_decay=protocol.weight_decay if weight_decay is None else weight_decay,
            fused=True,
        )
        total, steps, losses = torch.zeros((), dtype=torch.float64), 0, []
        for index in self._batches(stream, epochs, batch_size or protocol.batch_size, data):
            batch = Batch(self.model, self.kind, live, self.inputs[index], self.targets[index], index)
            value = loss(self, batch)
            if not isinstance(value, Tensor) or value.dim() or not value.requires_grad:
                raise MethodError(
                    f"the loss of client {self.id} in round {self.round} is {_described(value)}; it must be a scalar "
                    "tensor that depends on batch.params."
                )
            optimiser.zero_grad()
            value.backward()
            if edit_gradients is not None:
                for name, leaf in leaves.items():
                    if leaf.grad is not None:
                        leaf.grad = edit_gradients(name, leaf.grad, leaf.detach())
            optimiser.step()
            if project is not None:
                with torch.no_grad():
                    for name, tensor in project(leaves).items():
                        leaves[name].copy_(tensor)
            total += value.detach()
            steps += 1
            self.work.trained += len(index)
            if until is not None:
                losses.append(float(value.detach()))
                if until(losses):
                    break
        mean = float(total / steps) if steps else None
        if mean is not None and not np.isfinite(mean):
            raise MethodError(
                f"the loss of client {self.id} in round {self.round} became {mean} after {steps} steps; "
                "a smaller learning rate or a smaller regularisation may mend it."
            )
        if stream == "order":
            self.train_loss = mean
        return Fit({name: tensor.detach().contiguous() for name, tensor in live.items()}, steps, lr, mean)

    def outputs(self, params: Mapping[str, Tensor]) -> Output:
        """Return what a model says of all training samples, in order, in batches of the recorded size."""
        self.work.forward += self.n
        with torch.no_grad():
            pieces = [self.model(params, x) for x in self.inputs.split(self.protocol.evaluation_batch)]
        return Output(torch.cat([p.logits for p in pieces]), torch.cat([p.features for p in pieces]))

    def frozen(self, params: Mapping[str, Tensor]) -> Frozen:
        """Return the outputs of a model that does not change this round, computed at the first call.

        ``frozen(params)[batch]`` looks up the batch's samples. The same mapping gives the same outputs.
        """
        if id(params) not in self._frozen:
            self._frozen[id(params)] = (params, Frozen(self.outputs(params)))
        return self._frozen[id(params)][1]

    def score(self, params: Mapping[str, Tensor]) -> float:
        """Return the mean score on the client's training data: the accuracy, where targets are classes."""
        return float(self.kind.score(self.outputs(params).logits, self.targets).mean())

    def measure(
        self,
        value: Loss,
        *,
        params: Mapping[str, Tensor],
        data: Indices | None = None,
        batch_size: int | None = None,
        gradients: bool = False,
    ) -> list[Any]:
        """Return a value of each batch of the training data in order, without training.

        Parameters
        ----------
        value : callable
            ``value(client, batch)``, a tensor; a scalar if gradients are asked for.
        params : mapping of str to tensor
            Where to measure; not changed.
        data : int64 array, optional
            Positions of the training samples to use; all, if not given.
        batch_size : int, optional
            That of evaluation, if not given.
        gradients : bool
            Return a mapping of gradients by name for each batch, instead of the values.
        """
        measured: list[Any] = []
        pool = torch.arange(self.n) if data is None else torch.from_numpy(data)
        for index in pool.split(batch_size or self.protocol.evaluation_batch):
            live = {name: tensor.detach().clone().requires_grad_(gradients) for name, tensor in params.items()}
            batch = Batch(self.model, self.kind, live, self.inputs[index], self.targets[index], index)
            with torch.set_grad_enabled(gradients):
                result = value(self, batch)
            if gradients:
                measured.append(dict(zip(live, torch.autograd.grad(result, list(live.values())), strict=True)))
                self.work.trained += len(index)
            else:
                measured.append(result)
                self.work.forward += len(index)
        return measured

    def split(self, share: float, stream: str) -> tuple[Indices, Indices]:
        """Cut off a share of the training samples, the same ones in every round.

        Parameters
        ----------
        share : float in (0, 1)
            What is held out, rounded down, but at least one sample where there are two or more.
        stream : str
            Name of the stream that draws.

        Returns
        -------
        tuple of two int64 arrays
            Positions that remain, and positions held out, both ascending.
        """
        order = self.rng(stream, every_round=False).permutation(self.n)
        held = min(max(int(share * self.n), 1), self.n - 1)
        return np.sort(order[held:]), np.sort(order[:held])

    def upload(self, params: Mapping[str, Tensor], **extra: Any) -> Upload:
        """Return what is sent: the shared tensors of a trained model, n, and anything else by name.

        The private tensors are kept for the client's next round, and the model becomes its local model.
        """
        private = {name: tensor for name, tensor in params.items() if not self.shared(name)}
        if private:
            self.state = {**self.state, "private": private}
        if self.local is None and params:
            self.local = params
        return Upload(self.id, self.n, {k: v for k, v in params.items() if self.shared(k)}, extra)

    def _batches(self, stream: str, epochs: int | None, batch_size: int, data: Indices | None) -> Iterator[Tensor]:
        rng = self.streams.rng(stream, client=self.id, round=self.round)
        pool = np.arange(self.n) if data is None else data
        epochs = self.protocol.local_epochs if epochs is None and data is not None else epochs
        left = self.passes if epochs is None else epochs * len(pool)
        while left > 0:
            order = torch.from_numpy(rng.permutation(pool)[:left])
            left -= len(order)
            yield from order.split(batch_size)


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"a tensor of shape {tuple(value.shape)}" if value.dim() else "a tensor without a gradient"


def _layout(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
