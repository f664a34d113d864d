"""FedPAC: a shared base, features drawn to class means, and for each client the best mean of all heads.

Source: Xu, Tong, Huang, "Personalized Federated Learning with Feature Alignment and Classifier Collaboration", ICLR
2023, arXiv:2306.11867, Algorithm 1; the authors' code for what is fixed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from scipy.optimize import nnls

from fedbench import Download, Method, Range, Server, Size, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FedPAC(Method):
    """One epoch of the head, then of the base: task loss + lam * mean over samples of ||f - P_y||^2 / d.

    P_c is the mean feature of class c over all clients, weighted by samples; the client's own mean where there is none
    yet; the term begins in the second round. The base is averaged as in FedAvg. Client i's next head is
    sum_j a_j head_j, with a = argmin over the simplex of sum_j a_j^2 V_j + sum_c ||h_i[c] - sum_j a_j h_j[c]||^2 and
    shares below 0.001 left out; h_j[c] is the share of class c times its mean feature at the base received, V_j is
    (E ||f||^2 - sum_c ||h_j[c]||^2) / n_j. The personal model is the newest base with the client's head, which is the
    common start's until it is sampled. There is no global model.

    Deviations: heads of a round's participants alone are combined, as there may be others. A class that nobody of a
    round has keeps its mean. Momentum and weight decay are the protocol's (authors: 0.5 and 0.0005).

    Parameters
    ----------
    lam : float, >= 0
        Strength of the pull (lambda); 1 in the authors' code.
    head_lr : float, > 0
        Learning rate of the head's epoch, the same in all rounds; 0.1 in the authors' code.
    combine : bool
        Whether heads are combined; otherwise each client keeps its own, the paper's ablation.

    Cost: a model and C means down, a model and 2 C means up; an epoch of the head and two forward passes over the data
    a round; a least-squares problem in the number of participants for each of them. The server sees class counts.
    """

    lam: Annotated[float, Ge(0)] = 1.0
    head_lr: Annotated[float, Gt(0)] = 0.1
    combine: bool = True

    family = "personalised"
    mechanism = "partial sharing, prototypes, personal aggregation"
    space = (
        Range("lam", 0.1, 10.0, log=True, source="around the authors' 1"),
        Range("head_lr", 0.01, 0.1, log=True, source="from the protocol's to the authors'"),
    )
    bibtex = """
@inproceedings{xu2023personalized,
  title     = {Personalized Federated Learning with Feature Alignment and Classifier Collaboration},
  author    = {Xu, Jian and Tong, Xinyi and Huang, Shao-Lun},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2023},
  eprint    = {2306.11867}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        means = 4 * size.classes * size.features
        return size.shared + means + size.classes, size.shared + 2 * means + 8 * size.classes + 16

    def init_server(self, server: Server) -> None:
        means = torch.zeros_like(server.initial["head.weight"])
        server.state = {"heads": {}, "means": means, "known": torch.zeros_like(means[:, 0], dtype=torch.bool)}

    def broadcast(self, server: Server, client_id: int) -> Download:
        head = server.state["heads"].get(str(client_id), server.initial)
        model = {name: head[name] if of_head(name) else w for name, w in server.params.items()}
        return Download(model, {"means": server.state["means"], "known": server.state["known"]})

    def client_update(self, client: Client) -> Upload:
        features, means = class_means(client, client.params)
        h = means * (client.class_counts / client.n)[:, None]
        variance = float((features.square().sum() / client.n - h.square().sum()).clamp(min=0)) / client.n
        targets = torch.where(client.received["known"][:, None], client.received["means"], means)
        model = client.fit(client.params, super().loss, train=of_head, epochs=1, lr=self.head_lr, stream="head").params
        model = client.fit(model, self.loss, train=lambda n: not of_head(n), given={"means": targets}).params
        return client.upload(
            model, counts=client.class_counts, means=class_means(client, model)[1], h=h, variance=variance
        )

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.lam == 0 or client.round == 0:
            return loss
        return loss + self.lam * batch.mean((batch.features - batch.given["means"][batch.y]).square().mean(dim=1))

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        super().server_update(server, uploads, weights)  # the mean of the heads is nobody's
        counts = torch.stack([upload["counts"] for upload in uploads])
        sums, total = sum(n[:, None] * u["means"] for n, u in zip(counts, uploads, strict=True)), counts.sum(dim=0)
        means = torch.where(total[:, None] > 0, sums / total.clamp(min=1)[:, None], server.state["means"])
        h = np.stack([upload["h"].double().cpu().numpy() for upload in uploads])
        variance, heads = np.array([upload["variance"] for upload in uploads]), dict(server.state["heads"])
        for i, upload in enumerate(uploads):
            shares = combination(h[i], h, variance) if self.combine else np.eye(len(uploads))[i]
            heads[str(upload.client)] = {
                name: sum(float(a) * u.params[name] for a, u in zip(shares, uploads, strict=True) if a > 0)
                for name in upload.params
                if of_head(name)
            }
        server.state = {"heads": heads, "means": means, "known": server.state["known"] | (total > 0)}

    def predictor(self, server: Server) -> Predictor | None:
        return None


def of_head(name: str) -> bool:
    """Say whether a tensor belongs to the head."""
    return name.startswith("head.")


def class_means(client: Client, params: Any) -> tuple[Tensor, Tensor]:
    """Return the features of a client's samples, and their mean for each class, zero where it has none."""
    features = client.outputs(params).features
    members = F.one_hot(client.targets, client.n_classes).to(features.dtype)
    return features, members.T @ features / client.class_counts.clamp(min=1)[:, None]


def combination(mine: Values, h: Values, variance: Values) -> Values:
    """Return argmin over the simplex of sum_j a_j^2 V_j + ||mine - sum_j a_j h_j||^2, without shares below 0.001.

    With x = s a it is the non-negative least-squares problem min q(x) + (1 - sum x)^2: for given a the best s leaves
    q(a) / (1 + q(a)), which grows with q(a). So a is x over its sum, exactly.
    """
    columns = np.concatenate([np.diag(np.sqrt(variance)), (h - mine).reshape(len(h), -1).T])
    scale = np.sqrt(np.square(columns).sum(axis=0).mean()) or 1.0
    x, _ = nnls(np.vstack([columns / scale, np.ones(len(h))]), np.append(np.zeros(len(columns)), 1.0))
    kept = np.where(x / x.sum() < 1e-3, 0.0, x)
    return kept / kept.sum()
