"""FedAMP: each client is pulled towards a mean of all models in which those near to its own weigh most.

Source: Huang, Chu, Zhou, Wang, Liu, Pei, Zhang, "Personalized Cross-Silo Federated Learning on Non-IID Data", AAAI
2021, arXiv:2007.03797, Algorithm 1, and its heuristic variant, HeurFedAMP; PFLlib for the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Le

from fedbench import Download, Limit, Method, Range, Server, Upload, is_running_statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor


@dataclass(frozen=True, kw_only=True)
class FedAMP(Method):
    """Objective of client i: task loss + lam/(2 alpha) ||w - u_i||^2, from its own last model w_i on.

    u_i = (1 - sum_j xi_ij) w_i + sum_j xi_ij w_j over the other clients' last models, with
    xi_ij = alpha/sigma * exp(-||w_i - w_j||^2 / sigma). Heuristic: xi_ij = (1 - own) softmax_j(sigma cos(w_i, w_j)).
    There is no global model.

    Deviations: where the xi_ij sum to more than one they are scaled down to one, as the paper asks for an alpha that
    avoids it. A client that was never sampled lends its model to nobody. alpha stays what it is, where the paper lets
    it fall. PFLlib's pull has no gradient; this one has.

    Parameters
    ----------
    lam : float, >= 0
        Strength of the pull (lambda); stable only while lr * lam / alpha < 2.
    alpha : float, > 0
        Step of the message passing (alpha_k).
    sigma : float, > 0
        Squared distance at which attention has fallen to 1/e; heuristic: sharpness of the softmax. Squared distances
        grow with the model, so the default, 1, is local training with a pull to where it began for a large one.
    heuristic : bool
        Attend by cosines, as the paper does for deep networks.
    own : float in [0, 1]
        Heuristic: weight of the client's own model (xi_ii); the default is FedBench's.

    Cost: traffic as FedAvg; about 3 operations a parameter and step; a model of state a client and as many at the
    server, which reads all of them for each client.
    """

    lam: Annotated[float, Ge(0)] = 1.0
    alpha: Annotated[float, Gt(0)] = 1.0
    sigma: Annotated[float, Gt(0)] = 1.0
    heuristic: bool = False
    own: Annotated[float, Ge(0), Le(1)] = 0.5

    family = "personalised"
    mechanism = "personal aggregation, regularisation"
    space = (
        Range("lam", 0.01, 10.0, log=True, source="around PFLlib's 1"),
        Range("sigma", 0.1, 1000.0, log=True, source="squared distances of small to large models"),
    )
    limits = (Limit(at={"lam": 0.0}, equals="local"),)
    bibtex = """
@inproceedings{huang2021personalized,
  title     = {Personalized Cross-Silo Federated Learning on Non-{IID} Data},
  author    = {Huang, Yutao and Chu, Lingyang and Zhou, Zirui and Wang, Lanjun and Liu, Jiangchuan and Pei, Jian and
               Zhang, Yong},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2021},
  eprint    = {2007.03797}
}
"""

    def init_server(self, server: Server) -> None:
        server.state = {"models": {}}

    def broadcast(self, server: Server, client_id: int) -> Download:
        models = dict(server.state["models"])
        mine = models.pop(str(client_id), server.initial)
        xi = self.attention(mine, models)
        rest = 1 - sum(xi.values())
        return Download({name: rest * w + sum(xi[k] * m[name] for k, m in models.items()) for name, w in mine.items()})

    def attention(self, mine: Mapping[str, Tensor], others: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """Return the weight of each other client's model; they sum to at most one."""
        here, there = flat(mine), {k: flat(model) for k, model in others.items()}
        if self.heuristic:
            near = torch.tensor([float(torch.cosine_similarity(here, w, dim=0)) for w in there.values()])
            shares = (1 - self.own) * torch.softmax(self.sigma * near, dim=0)
            return dict(zip(there, shares.tolist(), strict=True))
        apart = {k: float((here - w).square().sum()) for k, w in there.items()}
        xi = {k: self.alpha / self.sigma * math.exp(-square / self.sigma) for k, square in apart.items()}
        return {k: x / max(sum(xi.values()), 1.0) for k, x in xi.items()}

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.lam == 0:
            return loss
        anchor, trained = client.received.params, [name for name in batch.params if not is_running_statistic(name)]
        return loss + self.lam / (2 * self.alpha) * sum((batch.params[n] - anchor[n]).square().sum() for n in trained)

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.state.get("own", client.initial), self.loss).params
        client.state = {"own": model}
        return client.upload(model)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        new = {str(upload.client): upload.params for upload in uploads}
        server.state = {"models": {**server.state["models"], **new}}

    def predictor(self, server: Server) -> Predictor | None:
        return None

    def personal(self, client: Client) -> Predictor | None:
        return client.state.get("own", client.initial)


def flat(model: Mapping[str, Tensor]) -> Tensor:
    """Return what is trained of a model as one vector."""
    return torch.cat([t.flatten() for name, t in model.items() if not is_running_statistic(name)])
