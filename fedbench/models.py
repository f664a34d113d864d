"""Models, built without a single draw and then filled tensor by tensor from named streams.

A model is used as a function of its parameters, ``model(params, inputs) -> Output``, so that a client, a server and a
frozen teacher can share one module, and so that clients can be batched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from fedbench.errors import SpecError, unknown
from fedbench.seeds import Streams

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Output:
    """What a model says of a batch.

    Parameters
    ----------
    logits : tensor (B, C)
    features : tensor (B, d)
        Input of the last linear layer.
    """

    logits: Tensor
    features: Tensor


class ConvNet(nn.Module):
    """conv5x5 - pool - ReLU, twice, then two linear layers; no batch norm, no dropout.

    Source: with 32 and 64 channels and 512 hidden units it is the "four-layer CNN" of FedKPer for 28 x 28 images
    (1,663,944 parameters for 3 channels and 8 classes). Deviations: the maximum is taken before the ReLU, which gives
    the same bits and is cheaper.

    Parameters
    ----------
    shape : (height, width, channels)
    n_out, width, hidden : int
        Classes; channels of the first convolution, the second has twice as many; units of the hidden layer.
    """

    def __init__(self, shape: tuple[int, ...], n_out: int, width: int, hidden: int) -> None:
        super().__init__()
        height, wide, channels = shape
        if min(height, wide) < 4:
            raise SpecError(f"images of {height} x {wide} are too small for a convolutional model; use at least 4 x 4.")
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.fc1 = nn.Linear(2 * width * (height // 4) * (wide // 4), hidden)
        self.head = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Output:
        """Return logits and features for inputs of shape (B, height, width, channels)."""
        x = x.permute(0, 3, 1, 2)  # the samples lie channels last, so this is a view in the layout oneDNN likes
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        features = F.relu(self.fc1(x.flatten(1)))
        return Output(self.head(features), features)


class MLP(nn.Module):
    """One hidden layer with ReLU, for tables.

    Parameters
    ----------
    shape : (features,)
    n_out, hidden : int
        Classes; units of the hidden layer.
    """

    def __init__(self, shape: tuple[int, ...], n_out: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(math.prod(shape), hidden)
        self.head = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Output:
        """Return logits and features for inputs of shape (B, ...)."""
        features = F.relu(self.fc1(x.flatten(1)))
        return Output(self.head(features), features)


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "cnn4": lambda shape, n_out: ConvNet(shape, n_out, width=32, hidden=512),
    "cnn-small": lambda shape, n_out: ConvNet(shape, n_out, width=8, hidden=64),
    "mlp": lambda shape, n_out: MLP(shape, n_out, hidden=16),
}
"""Models by the name that a task gives: the paper's CNN, a small one of 8 and 16 channels, and a table's."""


class Model:
    """A task's model as a function of its parameters.

    Parameters
    ----------
    name : str
        Key of `MODELS`.
    shape : tuple of int
        Shape of one input.
    n_out : int
        Width of the last layer.

    Raises
    ------
    SpecError
        The name is unknown.
    """

    def __init__(self, name: str, shape: tuple[int, ...], n_out: int) -> None:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
        self.name, self.shape = name, shape
        with torch.device("meta"):
            self._module = MODELS[name](shape, n_out)

    def __call__(self, params: Mapping[str, Tensor], inputs: Tensor) -> Output:
        """Return what the model says of inputs of shape (B, ...) at some parameters."""
        return functional_call(self._module, dict(params), (inputs,))

    def initial(self, streams: Streams) -> Params:
        """Return torch's default initial parameters, each tensor from its own stream.

        Weights and biases of a layer are uniform in +-1/sqrt(fan in).
        """
        params: Params = {}
        for layer, module in self._module.named_modules():
            if not list(module.parameters(recurse=False)):
                continue
            if not isinstance(module, nn.Conv2d | nn.Linear):
                raise TypeError(f"model {self.name}: no rule to draw the weights of {layer}, a {type(module).__name__}")
            bound = 1 / math.sqrt(module.weight[0].numel())
            for kind, tensor in module.named_parameters():
                name = f"{layer}.{kind}"
                values = streams.rng("init", tensor=name).uniform(-bound, bound, tuple(tensor.shape))
                params[name] = torch.from_numpy(values).to(torch.float32)
        return params

    def flops(self) -> int:
        """Return the floating-point operations of one sample's forward pass (a multiply-add counts as two)."""
        meta = dict(self._module.named_parameters())
        with FlopCounterMode(display=False) as counter:
            self(meta, torch.empty((1, *self.shape), device="meta"))
        return int(counter.get_total_flops())
