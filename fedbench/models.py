"""Models, built without a single draw and then filled tensor by tensor from named streams.

A model is used as a function of its parameters, ``model(params, inputs) -> Output``, so that a client, a server and a
frozen teacher can share one module, and so that clients can be batched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
    buffers : mapping of str to tensor
        What the batch makes of the model's buffers, where it was passed for training; nothing otherwise.
    """

    logits: Tensor
    features: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the channels (dimension 1), with running statistics as buffers.

    Source: Ioffe, Szegedy, ICML 2015; momentum 0.1 and eps 1e-5 are torch's defaults. Deviations: new running
    statistics are returned with the output and never written in place, so that a model stays a function of its tensors.
    A batch of one value a channel is normalised by the running statistics.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("mean", torch.empty(channels))
        self.register_buffer("var", torch.empty(channels))

    def forward(self, x: Tensor, *, train: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the normalised batch and, for training, the new running statistics."""
        mean, var = self.mean, self.var
        n = x.numel() // x.shape[1]
        if not train or n == 1:
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=False), {}
        dims = [0, *range(2, x.dim())]
        seen, spread = x.detach().mean(dims), x.detach().var(dims)
        new = {"mean": 0.9 * mean + 0.1 * seen, "var": 0.9 * var + 0.1 * spread}
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True), new


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
    batch_norm : bool
        Normalise after each convolution.
    """

    def __init__(
        self, shape: tuple[int, ...], n_out: int, width: int, hidden: int, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        height, wide, channels = shape
        if min(height, wide) < 4:
            raise SpecError(f"images of {height} x {wide} are too small for a convolutional model; use at least 4 x 4.")
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.fc1 = nn.Linear(2 * width * (height // 4) * (wide // 4), hidden)
        self.head = nn.Linear(hidden, n_out)
        self.norm1 = BatchNorm(width) if batch_norm else None
        self.norm2 = BatchNorm(2 * width) if batch_norm else None

    def forward(self, x: Tensor, *, train: bool = False) -> Output:
        """Return logits and features for inputs of shape (B, height, width, channels)."""
        buffers: dict[str, Tensor] = {}
        x = x.permute(0, 3, 1, 2)  # the samples lie channels last, so this is a view in the layout oneDNN likes
        for i, (convolution, norm) in enumerate(((self.conv1, self.norm1), (self.conv2, self.norm2)), start=1):
            x = convolution(x)
            if norm is not None:
                x, new = norm(x, train=train)
                buffers |= {f"norm{i}.{name}": tensor for name, tensor in new.items()}
            x = F.relu(F.max_pool2d(x, 2))
        features = F.relu(self.fc1(x.flatten(1)))
        return Output(self.head(features), features, buffers)


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

    def forward(self, x: Tensor, *, train: bool = False) -> Output:
        """Return logits and features for inputs of shape (B, ...)."""
        features = F.relu(self.fc1(x.flatten(1)))
        return Output(self.head(features), features)


def is_norm(name: str) -> bool:
    """Say whether a tensor is one of batch normalisation, by the name of its layer (``norm1.weight``)."""
    return name.split(".")[-2].startswith("norm") if "." in name else False


def is_running_statistic(name: str) -> bool:
    """Say whether a tensor is a running statistic of batch normalisation."""
    return is_norm(name) and name.endswith((".mean", ".var"))


MODELS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "cnn4": lambda shape, n_out: ConvNet(shape, n_out, width=32, hidden=512),
    "cnn-small": lambda shape, n_out: ConvNet(shape, n_out, width=8, hidden=64),
    "cnn4-bn": lambda shape, n_out: ConvNet(shape, n_out, width=32, hidden=512, batch_norm=True),
    "cnn-small-bn": lambda shape, n_out: ConvNet(shape, n_out, width=8, hidden=64, batch_norm=True),
    "mlp": lambda shape, n_out: MLP(shape, n_out, hidden=16),
}
"""Models by the name that a task gives: the paper's CNN, a small one of 8 and 16 channels, both also with batch
normalisation, and a table's."""


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

    Attributes
    ----------
    names : tuple of str
        Its tensors, in order.
    buffers : frozenset of str
        Those that no optimiser trains: running statistics.

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
        self.buffers = frozenset(name for name, _ in self._module.named_buffers())
        self.names = tuple(name for name in self._module.state_dict())

    def __call__(self, params: Mapping[str, Tensor], inputs: Tensor, *, train: bool = False) -> Output:
        """Return what the model says of inputs of shape (B, ...) at some parameters; other tensors may stand by."""
        own = {name: params[name] for name in self.names}
        return functional_call(self._module, own, (inputs,), {"train": train} if train else {})

    def initial(self, streams: Streams) -> Params:
        """Return torch's default initial parameters, each tensor from its own stream.

        Weights and biases of a layer are uniform in +-1/sqrt(fan in); batch normalisation starts as the identity.
        """
        params: Params = {}
        for layer, module in self._module.named_modules():
            if not list(module.parameters(recurse=False)):
                continue
            if isinstance(module, BatchNorm):
                ones = {"weight", "var"}
                for kind, tensor in module.state_dict().items():
                    params[f"{layer}.{kind}"] = (torch.ones if kind in ones else torch.zeros)(tensor.shape)
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
        meta = self._module.state_dict()
        with FlopCounterMode(display=False) as counter:
            self(meta, torch.empty((1, *self.shape), device="meta"))
        return int(counter.get_total_flops())
