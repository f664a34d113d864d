"""How near one step is to its floor: each kernel alone, hot and at its best, against the step that is made of them.

The paper's CNN on 28 x 28 x 3 images, one thread; a training step of 12 samples, and an evaluation batch of 128. The
shortest of many interleaved repetitions counts: what is slower met other work, not more arithmetic.

    python benchmarks/step.py    prints the rows of the table as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "2"  # at most; what is measured here has one, but for the plain loop's step

import torch
import torch.nn.functional as F
from plain_loop import CNN
from torch import Tensor
from torch.optim.sgd import sgd

from fedbench.kinds import KINDS
from fedbench.models import Model
from fedbench.seeds import Streams

NHWC = torch.channels_last
BACKWARD = torch.ops.aten.convolution_backward


def laid_out(tensor: Tensor) -> Tensor:
    """Return a tensor as it lies in training: kernels and images channels last."""
    return tensor.contiguous(memory_format=NHWC) if tensor.dim() == 4 else tensor.contiguous()


def kernels(batch: int, params: dict[str, Tensor], *, train: bool) -> dict[str, Callable[[], Any]]:
    """Return the kernels of a step, or of an evaluation batch, each on inputs of its own."""
    x1, x2 = laid_out(torch.randn(batch, 3, 28, 28)), laid_out(torch.randn(batch, 32, 14, 14))
    y1, y2 = laid_out(torch.randn(batch, 32, 28, 28)), laid_out(torch.randn(batch, 64, 14, 14))
    flat, hidden = torch.randn(batch, 3136), torch.randn(batch, 512)
    w1, w2 = params["conv1.weight"], params["conv2.weight"]
    found: dict[str, Callable[[], Any]] = {
        "convolutions, forward": lambda: (
            F.conv2d(x1, w1, params["conv1.bias"], padding=2),
            F.conv2d(x2, w2, params["conv2.bias"], padding=2),
        ),
        "linear layers, forward": lambda: (
            F.linear(flat, params["fc1.weight"], params["fc1.bias"]),
            F.linear(hidden, params["head.weight"], params["head.bias"]),
        ),
        "pooling and ReLU, forward": lambda: (F.relu(F.max_pool2d(y1, 2)), F.relu(F.max_pool2d(y2, 2))),
    }
    if not train:
        return found
    shape = ([2, 2], [1, 1], False, [0, 0], 1)
    p1, i1 = F.max_pool2d(y1, 2, return_indices=True)
    p2, i2 = F.max_pool2d(y2, 2, return_indices=True)
    pool = torch.ops.aten.max_pool2d_with_indices_backward
    gradients = [torch.randn_like(tensor) for tensor in params.values()]
    speeds = [torch.zeros_like(tensor) for tensor in params.values()]
    return found | {
        "convolutions, backward": lambda: (
            BACKWARD(y2, x2, w2, [64], [1, 1], *shape, [True, True, True]),
            BACKWARD(y1, x1, w1, [32], [1, 1], *shape, [False, True, True]),
        ),
        "linear layers, backward": lambda: (
            hidden.T @ flat,
            hidden @ params["fc1.weight"],
            hidden.sum(0),
        ),
        "pooling and ReLU, backward": lambda: (
            pool(p1, y1, [2, 2], [2, 2], [0, 0], [1, 1], False, i1),
            pool(p2, y2, [2, 2], [2, 2], [0, 0], [1, 1], False, i2),
            torch.ops.aten.threshold_backward(p1, p1, 0),
            torch.ops.aten.threshold_backward(p2, p2, 0),
        ),
        "SGD": lambda: sgd(
            list(params.values()), gradients, speeds, lr=0.0, momentum=0.9, weight_decay=1e-5, dampening=0.0,
            nesterov=False, maximize=False, fused=True,
        ),
    }  # fmt: skip


def best(functions: dict[str, Callable[[], Any]], repetitions: int = 200) -> dict[str, float]:
    """Return the shortest time of each function in milliseconds, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return {name: 1000 * min(values) for name, values in times.items()}


def as_in_the_plain_loop(threads: int) -> dict[str, float]:
    """Return the same step and evaluation as `plain_loop.py` has them: images channels first, torch's default SGD."""
    torch.set_num_threads(threads)
    model = CNN(8, 32, 512)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-5)
    x, y = torch.randn(128, 3, 28, 28), torch.randint(8, (128,))

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(x[:12]), y[:12]).backward()
        optimiser.step()

    def evaluation() -> None:
        with torch.no_grad():
            model(x)

    return best({"step": step, "evaluation": evaluation})


def measure() -> list[dict[str, Any]]:
    """Return a row for each kernel, their sums, and the step and the evaluation batch made of them."""
    torch.set_num_threads(1)
    model, kind = Model("cnn4", (28, 28, 3), 8), KINDS["classification"]
    params = {name: laid_out(tensor) for name, tensor in model.initial(Streams(0)).items()}
    x, y = torch.randn(128, 28, 28, 3), torch.randint(8, (128,))
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    speeds = [torch.zeros_like(leaf) for leaf in leaves.values()]

    def step() -> None:
        kind.loss(model(leaves, x[:12]).logits, y[:12]).mean(0).backward()
        with torch.no_grad():
            sgd(
                list(leaves.values()), [leaf.grad for leaf in leaves.values()], speeds, lr=0.0, momentum=0.9,
                weight_decay=1e-5, dampening=0.0, nesterov=False, maximize=False, fused=True,
            )  # fmt: skip
        for leaf in leaves.values():
            leaf.grad = None

    def evaluation() -> None:
        with torch.no_grad():
            model(params, x)

    with torch.no_grad():
        train, evaluate = (best(kernels(batch, params, train=on)) for batch, on in ((12, True), (128, False)))
    whole = best({"step": step, "evaluation": evaluation})
    rows = [
        {"": name, "training step of 12, ms": train[name], "evaluation of 128, ms": evaluate.get(name)}
        for name in train
    ]
    sums = {"train": sum(train.values()), "evaluate": sum(evaluate.values())}
    for name, a, b in (
        ("**all kernels, each alone**", sums["train"], sums["evaluate"]),
        ("**as it runs**", whole["step"], whole["evaluation"]),
    ):
        rows.append({"": name, "training step of 12, ms": a, "evaluation of 128, ms": b})
    for threads in (1, 2):
        plain = as_in_the_plain_loop(threads)
        label = f"the plain loop's, {threads} thread{'s'[: threads - 1]}, no DataLoader"
        rows.append({"": label, "training step of 12, ms": plain["step"], "evaluation of 128, ms": plain["evaluation"]})
    reached = (sums["train"] / whole["step"], sums["evaluate"] / whole["evaluation"])
    rows.append(
        {
            "": "share of the floor that is reached",
            "training step of 12, ms": f"{reached[0]:.0%}",
            "evaluation of 128, ms": f"{reached[1]:.0%}",
        }
    )
    return rows


def test_step(benchmark: Any) -> None:
    """Keep the rows; they come from a fresh process of one thread."""
    done = benchmark.pedantic(
        lambda: subprocess.run([sys.executable, __file__], check=True, stdout=subprocess.PIPE, text=True),
        rounds=1,
        iterations=1,
    )
    caption = "The shortest of 200 interleaved repetitions of each kernel, on one thread, inputs at hand."
    benchmark.extra_info.update(table="The floor", rows=json.loads(done.stdout), caption=caption)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()))
