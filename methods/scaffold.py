"""SCAFFOLD: local steps corrected by control variates, which estimate a client's gradient and that of all clients.

Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning", ICML 2020, arXiv:1910.06378, Algorithm 1 with option II.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Gt

from fedbench import Download, Method, Range, Size, Upload, is_running_statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Client, Server


@dataclass(frozen=True, kw_only=True)
class SCAFFOLD(Method):
    """Client: w <- w - lr (g(w) - c_k + c) from w_t to w_k, then c_k <- c_k - c + (w_t - w_k) / (tau' lr).

    Server: w <- w_t + eta_g mean(w_k - w_t), without weights, and c <- c + (sum of the changes of c_k) / K.

    Deviations: the paper's local SGD has no momentum, and tau' is the number of its steps. Here tau' is what their
    gradients weigh in the client's move (see `gradient_weight`); with the number of steps c_k would come out up to
    1 / (1 - momentum) times too large. Weight decay counts as gradient. Running statistics have no control variate and
    are averaged. Option I, for which c_k takes another pass over the data, is left out.

    Parameters
    ----------
    eta_g : float, > 0
        Learning rate of the server (eta_g); the default, 1, is that of the paper's experiments.

    Cost: the model and c down, the model and the change of c_k up: twice FedAvg's traffic; a model of state a client
    and at the server; 2 operations a parameter and step.
    """

    eta_g: Annotated[float, Gt(0)] = 1.0

    mechanism = "variance reduction"
    space = (Range("eta_g", 0.1, 2.0, log=True, source="around the paper's 1"),)
    bibtex = """
@inproceedings{karimireddy2020scaffold,
  title     = {{SCAFFOLD}: Stochastic Controlled Averaging for Federated Learning},
  author    = {Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank J. and Stich, Sebastian
               and Suresh, Ananda Theertha},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2020},
  eprint    = {1910.06378}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return 2 * size.shared, 2 * size.shared + 8

    def init_server(self, server: Server) -> None:
        trained = {name: w for name, w in server.params.items() if not is_running_statistic(name)}
        server.state = {"c": {name: torch.zeros_like(w) for name, w in trained.items()}}

    def init_client(self, client: Client) -> None:
        client.state = {"c": {name: torch.zeros_like(c) for name, c in client.received["c"].items()}}

    def broadcast(self, server: Server, client_id: int) -> Download:
        return server.download(c=server.state["c"])

    def client_update(self, client: Client) -> Upload:
        start, c, own = client.params, client.received["c"], client.state["c"]
        fit = client.fit(start, self.loss, edit_gradients=self.corrected)
        scale = gradient_weight(fit.steps, client.protocol.momentum) * fit.lr
        new = {name: own[name] - c[name] + (start[name] - fit.params[name]) / scale for name in own}
        client.state = {**client.state, "c": new}
        return client.upload(fit.params, change={name: new[name] - own[name] for name in own})

    def corrected(self, client: Client, name: str, gradient: Tensor, w: Tensor) -> Tensor:
        return gradient - client.state["c"][name] + client.received["c"][name]

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        return [1 / len(uploads)] * len(uploads)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        change, c = server.change(uploads, weights), server.state["c"]
        moved = {name: server.params[name] + self.eta_g * change[name] for name in c}
        server.params = {**server.average(uploads, weights), **moved}
        new = {name: c[name] + sum(upload["change"][name] for upload in uploads) / server.n_clients for name in c}
        server.state = {**server.state, "c": new}


def gradient_weight(steps: int, momentum: float) -> float:
    """Return the sum of all weights with which the gradients of SGD's steps enter its move; without momentum, steps.

    The gradient of a step moves w by 1, momentum, momentum^2, ... in that step and those after it.
    """
    steps = max(steps, 1)  # where none was made nothing moved, and 0 / 1 is what is meant
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
