"""How much of a round of FedBench is not arithmetic.

In one process and on one thread, each round of a FedAvg cell is followed by the same round as bare PyTorch: for the
same clients as many steps on batches of the same sizes (gather, forward, loss, backward, fused SGD) in the same memory
layout, the weighted mean, and forward passes over the same held-out samples in the same pieces. No record, check,
checkpoint, copy for safety, count or method is in it, and no profiler in either, which would inflate small calls. What
FedBench takes longer is its overhead: the rest of a round is work that any loop around the same calls has to do.

A round of FedBench is timed from the outside, between two calls of ``watch``, so that checkpoints are in it; writing
the record, once a cell, is not. The bare round knows nothing of FedBench's kernels: were FedBench to use better ones,
the overhead would come out negative.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from setting import Setting, arguments, setting, tell
from torch import Tensor

from fedbench import registry
from fedbench.cell import Cell
from fedbench.models import Model, Params
from fedbench.seeds import Streams
from fedbench.simulation import run_cell


class BareLoop:
    """FedAvg as bare calls of PyTorch."""

    def __init__(self, the: Setting) -> None:
        self.task, self.split = the.task, the.federation
        model = Model(self.task.model, the.dataset.inputs.shape[1:], self.task.n_classes)
        self.params = model.initial(Streams(1))
        inputs = torch.from_numpy(the.dataset.inputs).to(torch.float32).div_(127.5).sub_(1)
        self.inputs, self.targets = inputs, torch.from_numpy(the.dataset.targets)
        self.held_out = self.samples(np.concatenate([self.split.global_test, self.split.validation, *self.split.tests]))

    def samples(self, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some samples."""
        return self.inputs[ids], self.targets[ids]

    def round(self, t: int) -> None:
        """Run round t."""
        clients = self.split.schedule[t].tolist()
        locals_ = [self.train(*self.samples(self.split.train[k]), self.task.protocol.lr_at(t)) for k in clients]
        sizes = [len(self.split.train[k]) for k in clients]
        self.params = {
            name: sum(size / sum(sizes) * local[name] for size, local in zip(sizes, locals_, strict=True))
            for name in self.params
        }
        self.evaluate(self.params, *self.held_out)
        for k, local in zip(clients, locals_, strict=True):
            self.evaluate(local, *self.samples(self.split.tests[k]))

    def train(self, inputs: Tensor, targets: Tensor, lr: float) -> Params:
        """Return what the global model becomes on a client."""
        protocol = self.task.protocol
        params = {name: _laid_out(tensor).requires_grad_() for name, tensor in self.params.items()}
        optimiser = torch.optim.SGD(
            params.values(), lr=lr, momentum=protocol.momentum, weight_decay=protocol.weight_decay, fused=True
        )
        for _ in range(protocol.local_epochs):
            for index in torch.randperm(len(targets)).split(protocol.batch_size):
                optimiser.zero_grad()
                F.cross_entropy(_logits(params, inputs[index]), targets[index]).backward()
                optimiser.step()
        return {name: tensor.detach() for name, tensor in params.items()}

    def evaluate(self, params: Params, inputs: Tensor, targets: Tensor) -> float:
        """Return an accuracy."""
        with torch.no_grad():
            pieces = [_logits(params, x) for x in inputs.split(self.task.protocol.evaluation_batch)]
        return float((torch.cat(pieces).argmax(dim=1) == targets).double().mean())


def _laid_out(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def _logits(params: Params, x: Tensor) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    for layer in ("conv1", "conv2"):
        x = F.conv2d(x, params[f"{layer}.weight"], params[f"{layer}.bias"], padding=2)
        x = F.relu(F.max_pool2d(x, 2))
    x = F.relu(F.linear(x.flatten(1), params["fc1.weight"], params["fc1.bias"]))
    return F.linear(x, params["head.weight"], params["head.bias"])


def side_by_side(the: Setting, clock: Callable[[], float] = time.perf_counter) -> list[dict[str, float]]:
    """Return for each round the seconds of FedBench and of the bare loop."""
    cell = Cell(the.task, "fedavg", registry.methods.get("fedavg")(), "faithful", 1)
    bare = BareLoop(the)
    rounds: list[dict[str, float]] = []
    resumed = clock()

    def watch(done: int, _: int) -> None:
        nonlocal resumed
        paused = clock()
        if done:
            bare.round(done - 1)
            rounds.append({"fedbench": paused - resumed, "bare": clock() - paused})
        resumed = clock()

    with TemporaryDirectory() as folder:
        run_cell(cell, Path(folder), watch=watch)
    return rounds


def main() -> None:
    """Measure a few rounds."""
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    tell(overhead=side_by_side(setting(given.task, given.rounds)))


if __name__ == "__main__":
    main()
