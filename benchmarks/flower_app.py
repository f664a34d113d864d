"""The clients of `flower`, in a module of their own so that Flower's workers can import them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from plain_loop import CNN, WIDTHS
from setting import Setting, setting
from torch import Tensor, nn

client_app = ClientApp()


@lru_cache(maxsize=1)
def preloaded(task: str, rounds: int) -> tuple[Setting, Tensor, Tensor]:
    """Return the setting and all its samples as tensors, channels first, read once a process."""
    the = setting(task, rounds)
    inputs = torch.from_numpy(the.dataset.inputs).permute(0, 3, 1, 2).contiguous().to(torch.float32)
    return the, inputs.div_(255).sub_(0.5).div_(0.5), torch.from_numpy(the.dataset.targets)


def network(the: Setting) -> CNN:
    """Return the model of the plain loop."""
    return CNN(the.task.n_classes, *WIDTHS[the.task.model])


def evaluate(model: nn.Module, inputs: Tensor, targets: Tensor, batch: int) -> MetricRecord:
    """Return accuracy and number of samples."""
    model.eval()
    with torch.no_grad():
        pieces = [model(x).argmax(dim=1) for x in inputs.split(batch)]
    accuracy = float((torch.cat(pieces) == targets).double().mean())
    return MetricRecord({"accuracy": accuracy, "num-examples": len(targets)})


def _received(message: Message, context: Context) -> tuple[CNN, Setting, Tensor, Tensor, int]:
    config = message.content["config"]
    the, inputs, targets = preloaded(config["task"], config["rounds"])
    model = network(the)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return model, the, inputs, targets, int(context.node_config["partition-id"])


@client_app.query()
def who(message: Message, context: Context) -> Message:
    """Say which client of the federation a node is."""
    answer = MetricRecord({"client": int(context.node_config["partition-id"])})
    return Message(RecordDict({"metrics": answer}), reply_to=message)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train on the client's samples, then evaluate the local model on its own test set."""
    model, the, inputs, targets, k = _received(message, context)
    protocol, ids, test = the.task.protocol, the.federation.train[k], the.federation.tests[k]
    x, y = inputs[ids], targets[ids]
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=protocol.lr_at(message.content["config"]["server-round"] - 1),
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )
    model.train()
    passed = 0
    for _ in range(protocol.local_epochs):
        for index in torch.from_numpy(np.random.default_rng().permutation(len(y))).split(protocol.batch_size):
            optimiser.zero_grad()
            F.cross_entropy(model(x[index]), y[index]).backward()
            optimiser.step()
            passed += len(index)
    tested = evaluate(model, inputs[test], targets[test], protocol.evaluation_batch)
    metrics = MetricRecord({"num-examples": len(y), "passed": passed, "tested": tested["num-examples"]})
    answer = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(answer, reply_to=message)


@client_app.evaluate()
def test(message: Message, context: Context) -> Message:
    """Evaluate the global model on the client's local test set."""
    model, the, inputs, targets, k = _received(message, context)
    ids = the.federation.tests[k]
    metrics = evaluate(model, inputs[ids], targets[ids], the.task.protocol.evaluation_batch)
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
