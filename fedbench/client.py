"""What client code sees: one client's training data, what it was sent, and what it kept. Also the one local loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from fedbench.training import Batch, EditGradients, Fit, Loss, OneByOne, Project, Trainer, Training, Until

if TYPE_CHECKING:
    from fedbench.method import Predictor


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
    targets : tensor (n,)
        Of its training data.
    read_inputs : callable
        Returns the inputs of its training data; a method uses ``client.inputs``.
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
    targets: Tensor
    read_inputs: Callable[[], Tensor]
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
    trainer: Trainer = field(default_factory=OneByOne)
    work: Work = field(default_factory=Work)
    train_loss: float | None = None
    _frozen: dict[int, tuple[Mapping[str, Tensor], Frozen]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Training samples of this client."""
        return len(self.targets)

    @cached_property
    def inputs(self) -> Tensor:
        """Its training data, of shape (n, ...); read when first asked for, as few clients are looked at so closely."""
        return self.read_inputs()

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
        held = {**self.state.get("private", {}), **self.received.params}
        return {
            name: held[name] if name in held else self.initial[name] for name in dict.fromkeys([*self.initial, *held])
        }

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
        edit_gradients: EditGradients | None = None,
        project: Project | None = None,
        until: Until | None = None,
        data: Indices | None = None,
        given: Mapping[str, Tensor] | None = None,
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
            Says by name what is trained; all, if not given, but never a buffer. The rest is passed through.
        epochs, batch_size, lr, momentum, weight_decay : optional
            Those of the protocol, if not given.
        edit_gradients : callable, optional
            ``edit_gradients(client, name, gradient, parameter)`` returns what the optimiser sees.
        project : callable, optional
            ``project(client, params)`` returns what replaces the trained parameters after each step.
        until : callable, optional
            ``until(losses)`` says after each step, from the losses so far, whether to stop before ``epochs`` end.
        data : int64 array, optional
            Positions of the training samples to use; all, if not given.
        given : mapping of str to tensor, optional
            What the loss finds in ``batch.given``.
        stream : str
            Name of the stream that orders the samples. A second training in a round names its own, so that it does
            not repeat the first one's order.

        Raises
        ------
        MethodError
            The loss became infinite or NaN.

        Notes
        -----
        On a GPU clients are trained together where ``loss``, ``edit_gradients`` and ``project`` are methods of the
        method (or functions) that read tensors from ``client`` and ``batch`` alone, and where nothing is asked
        ``until``: a function that holds tensors of one client's cannot be applied to many at once. All else is
        trained one client at a time, with the same result, and the record says so.
        """
        protocol = self.protocol
        training = Training(
            params=params,
            names=tuple(name for name in params if train(name) and self._is_trained(name)),
            loss=loss,
            batches=tuple(self._batches(stream, epochs, batch_size or protocol.batch_size, data)),
            lr=self.lr if lr is None else lr,
            momentum=protocol.momentum if momentum is None else momentum,
            weight_decay=protocol.weight_decay if weight_decay is None else weight_decay,
            edit_gradients=edit_gradients,
            project=project,
            until=until,
            given=given or {},
        )
        fit = self.trainer.fit(self, training)
        self.work.trained += sum(len(index) for index in training.batches[: fit.steps])
        if fit.loss is not None and not np.isfinite(fit.loss):
            raise MethodError(
                f"the loss of client {self.id} in round {self.round} became {fit.loss} after {fit.steps} steps; "
                "a smaller learning rate or a smaller regularisation may mend it."
            )
        if stream == "order":
            self.train_loss = fit.loss
        return fit

    def batch(
        self,
        params: Mapping[str, Tensor],
        index: Tensor,
        given: Mapping[str, Tensor] | None = None,
        *,
        train: bool = False,
    ) -> Batch:
        """Return some training samples, by position, with the parameters at which a loss is asked for."""
        x, y = self.inputs[index], self.targets[index]
        return Batch(self.model, self.kind, params, x, y, index, given or {}, train=train)

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
            live = {name: tensor.detach().clone() for name, tensor in params.items()}
            leaves = {name: leaf.requires_grad_(gradients) for name, leaf in live.items() if self._is_trained(name)}
            batch = self.batch(live, index)
            with torch.set_grad_enabled(gradients):
                result = value(self, batch)
            if gradients:
                measured.append(dict(zip(leaves, torch.autograd.grad(result, list(leaves.values())), strict=True)))
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

    def _is_trained(self, name: str) -> bool:
        return name not in self.model.buffers

    def _batches(self, stream: str, epochs: int | None, batch_size: int, data: Indices | None) -> Iterator[Tensor]:
        rng = self.streams.rng(stream, client=self.id, round=self.round)
        pool = np.arange(self.n) if data is None else data
        epochs = self.protocol.local_epochs if epochs is None and data is not None else epochs
        left = self.passes if epochs is None else epochs * len(pool)
        while left > 0:
            order = torch.from_numpy(rng.permutation(pool)[:left])
            left -= len(order)
            yield from order.split(batch_size)
