"""FedDyn: local objectives bent by a linear and a quadratic term, so that their minima agree with the global one.

Source: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization",
ICLR 2021, arXiv:2111.04263, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Gt

from fedbench import Method, Range, Upload, is_running_statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Server


@dataclass(frozen=True, kw_only=True)
class FedDyn(Method):
    """Client: min over w of task loss - <g_k, w> + alpha/2 ||w - w_t||^2, then g_k <- g_k - alpha (w_k - w_t).

    Server: h <- h - alpha/K sum(w_k - w_t) and w <- mean(w_k) - h / alpha, both over the sampled clients, the mean
    without weights. So h is the mean of all g_k.

    Deviations: weight decay is the protocol's and comes on top. Running statistics are averaged. The authors' code
    also divides alpha by a client's share of the data and clips gradients at norm 10; neither is in Algorithm 1.

    Parameters
    ----------
    alpha : float, > 0
        Strength of the regulariser (alpha). The default, 0.1, is the largest of the paper's {0.1, 0.01, 0.001} and
        that of FedNTD's repository, on which FedKPer's is based; with few clients a round smaller ones are less stable.

    Cost: traffic as FedAvg; a model of state a client and at the server; about 5 operations a parameter and step.
    """

    alpha: Annotated[float, Gt(0)] = 0.1

    mechanism = "regularisation"
    space = (Range("alpha", 1e-3, 0.1, log=True, source="the paper's grid"),)
    bibtex = """
@inproceedings{acar2021federated,
  title     = {Federated Learning Based on Dynamic Regularization},
  author    = {Acar, Durmus Alp Emre and Zhao, Yue and Matas Navarro, Ramon and Mattina, Matthew and
               Whatmough, Paul N. and Saligrama, Venkatesh},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021},
  eprint    = {2111.04263}
}
"""

    def init_server(self, server: Server) -> None:
        trained = {name: w for name, w in server.params.items() if not is_running_statistic(name)}
        server.state = {"h": {name: torch.zeros_like(w) for name, w in trained.items()}}

    def init_client(self, client: Client) -> None:
        trained = {name: w for name, w in client.params.items() if not is_running_statistic(name)}
        client.state = {"g": {name: torch.zeros_like(w) for name, w in trained.items()}}

    def loss(self, client: Client, batch: Batch) -> Tensor:
        g, anchor, w = client.state["g"], client.params, batch.params
        linear = sum((g[name] * w[name]).sum() for name in g)
        quadratic = sum((w[name] - anchor[name]).square().sum() for name in g)
        return super().loss(client, batch) - linear + self.alpha / 2 * quadratic

    def client_update(self, client: Client) -> Upload:
        start, g = client.params, client.state["g"]
        model = client.fit(start, self.loss).params
        client.state = {**client.state, "g": {name: g[name] - self.alpha * (model[name] - start[name]) for name in g}}
        return client.upload(model)

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        return [1 / len(uploads)] * len(uploads)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        change, mean = server.change(uploads, weights), server.average(uploads, weights)
        share = len(uploads) / server.n_clients
        h = {name: old - self.alpha * share * change[name] for name, old in server.state["h"].items()}
        server.params = {**mean, **{name: mean[name] - h[name] / self.alpha for name in h}}
        server.state = {**server.state, "h": h}
