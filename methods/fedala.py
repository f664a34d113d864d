"""FedALA: clients start from a mixture of their own last model and the global one, with learned element-wise weights.

Source: Zhang, Hua, Wang, Song, Xue, Ma, Guan, "FedALA: Adaptive Local Aggregation for Personalized Federated Learning",
AAAI 2023, arXiv:2212.01197.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Le

from fedbench import Limit, Method, Range, Upload, is_norm

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor

WINDOW, THRESHOLD, MOST = 10, 0.1, 100  # of the first learning of W: epochs looked at, their spread, epochs at most


@dataclass(frozen=True, kw_only=True)
class FedALA(Method):
    """Start: w_hat = own + (w - own) * W in the top p layers, w below; W <- clip(W - eta * dCE/dW, 0, 1); then FedAvg.

    W is all ones at first and kept. At a client's first learning epochs go on until the losses settle, later there is
    one a round. A client without a model of its own, or whose own is the global one, starts from the latter.

    Deviations from the authors' code: only sampled clients learn W (theirs: all, each round); a random subset, not a
    block of neighbours, shuffled and with short batches kept; so what must settle is the mean loss of an epoch, not
    that of its last batch, and after 100 epochs the learning ends. Personal is the model after training.

    Parameters
    ----------
    eta : float, >= 0
        Learning rate of W (eta), by plain SGD. The default, 1, is that of the paper, the authors' code and PFLlib.
    share : float, in (0, 1]
        Share of the client's samples on which W is learned (s). The default, 0.8, is from the same places.
    layers : int, >= 1
        Layers from the top that are mixed (p). The default, 1, is the paper's; the code's ``layer_idx`` counts tensors.

    Cost: traffic as FedAvg; a model and p layers of state a client; ``share`` of a pass a round, and 11 to 100 such
    passes when a client first learns W.
    """

    eta: Annotated[float, Ge(0)] = 1.0
    share: Annotated[float, Gt(0), Le(1)] = 0.8
    layers: Annotated[int, Ge(1)] = 1

    family = "personalised"
    mechanism = "personal aggregation"
    space = (
        Range("eta", 0.1, 10.0, log=True, source="around the paper's 1"),
        Range("layers", values=(1, 2), source="the two smallest of the paper's study of p"),
    )
    limits = (Limit(at={"eta": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{zhang2023fedala,
  title     = {{FedALA}: Adaptive Local Aggregation for Personalized Federated Learning},
  author    = {Zhang, Jianqing and Hua, Yang and Wang, Hao and Song, Tao and Xue, Zhengui and Ma, Ruhui and
               Guan, Haibing},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2023},
  eprint    = {2212.01197}
}
"""

    def client_update(self, client: Client) -> Upload:
        model = client.fit(self.start(client), self.loss).params
        client.state = {**client.state, "own": model}
        return client.upload(model)

    def start(self, client: Client) -> Mapping[str, Tensor]:
        """Learn W and return the mixture."""
        own, new = client.state.get("own", client.params), client.params
        if self.eta == 0 or all(torch.equal(own[name], new[name]) for name in new):
            return new
        data = client.rng("subset").permutation(client.n)[: max(int(self.share * client.n), 1)]
        often: dict[str, Any] = {"epochs": 1}
        if "W" not in client.state:
            steps = -(-len(data) // client.protocol.batch_size)
            often = {"epochs": MOST, "until": partial(settled, steps=steps)}
        ones = {name: torch.ones_like(new[name]) for name in self.top(new)}
        plain: dict[str, Any] = {"lr": self.eta, "momentum": 0.0, "weight_decay": 0.0, "project": self.clipped}
        fit = client.fit(client.state.get("W", ones), self.mixed_loss, data=data, stream="ala", **often, **plain)
        client.state = {**client.state, "W": fit.params}
        return self.mixed(client, fit.params)

    def top(self, names: Iterable[str]) -> list[str]:
        """Return the tensors of the last p layers; normalisation is none of them."""
        layer = {name: name.rpartition(".")[0] for name in names if not is_norm(name)}
        return [name for name in layer if layer[name] in list(dict.fromkeys(layer.values()))[-self.layers :]]

    def mixed(self, client: Client, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return w_hat; `torch.lerp` is exact where W is 0 or 1."""
        own, new = client.state["own"], client.params
        return {**new, **{name: torch.lerp(own[name], new[name], w) for name, w in weights.items()}}

    def mixed_loss(self, client: Client, batch: Batch) -> Tensor:
        """Return the task loss of the mixture by the weights that are learned."""
        return batch.mean(batch.task_loss(batch.forward(self.mixed(client, batch.params)).logits))

    def clipped(self, client: Client, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return W within [0, 1]."""
        return {name: w.clamp(0, 1) for name, w in weights.items()}

    def personal(self, client: Client) -> Predictor | None:
        return client.state.get("own", client.params)


def settled(losses: Sequence[float], steps: int) -> bool:
    """Say at the end of an epoch, from the losses of all steps so far, whether the epochs' means change no more."""
    if len(losses) % steps:
        return False
    means = np.reshape(losses, (-1, steps)).mean(axis=1)
    return len(means) > WINDOW and bool(means[-WINDOW:].std() < THRESHOLD)
