"""FedProto: clients share no model, only the mean features of each class.

Source: Tan, Long, Liu, Zhou, Lu, Jiang, Zhang, "FedProto: Federated Prototype Learning across Heterogeneous Clients",
AAAI 2022, arXiv:2105.00243, Algorithm 1; the authors' code for the distance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge

from fedbench import Download, Limit, Method, Range, Server, Size, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor


@dataclass(frozen=True)
class Nearest:
    """Prefers the class whose prototype is nearest to the features."""

    model: Callable[[Mapping[str, Tensor], Tensor], Any]
    params: Mapping[str, Tensor]
    prototypes: Tensor
    known: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        features = self.model(self.params, inputs).features
        nearness = -(features[:, None] - self.prototypes).square().sum(dim=2)
        return torch.where(self.known, nearness, torch.finfo(nearness.dtype).min)


@dataclass(frozen=True, kw_only=True)
class FedProto(Method):
    """Loss: task loss + lam * mean over samples of ||f - P_y||^2 / d, f the features, P_y the global prototype.

    A sample whose class has no prototype yet adds nothing. After training a client sends the mean features of each
    class that it has; P_c is their mean, weighted by samples. A class that nobody of a round has keeps its P_c. Every
    client has a model of its own, from the common start; there is no global model.

    Deviations: means are those of the model after training; the authors' code takes them while it moves, and averages
    them over clients without weights. Personal is the client's own classifier unless ``nearest`` is set.

    Parameters
    ----------
    lam : float, >= 0
        Strength of the pull (lambda); 1 with this distance in the authors' code.
    nearest : bool
        Predict by the nearest global prototype, as the paper does.

    Cost: d numbers a class each way; a pass over the client's data a round; a model of state a client. Clients tell
    which classes they have and how often.
    """

    lam: Annotated[float, Ge(0)] = 1.0
    nearest: bool = False

    family = "personalised"
    mechanism = "prototypes"
    space = (Range("lam", 0.1, 10.0, log=True, source="around the authors' 1"),)
    limits = (Limit(at={"lam": 0.0, "nearest": False}, equals="local"),)
    bibtex = """
@inproceedings{tan2022fedproto,
  title     = {{FedProto}: Federated Prototype Learning across Heterogeneous Clients},
  author    = {Tan, Yue and Long, Guodong and Liu, Lu and Zhou, Tianyi and Lu, Qinghua and Jiang, Jing and
               Zhang, Chengqi},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2022},
  eprint    = {2105.00243}
}
"""

    def shared(self, name: str) -> bool:
        return False

    def traffic(self, size: Size) -> tuple[int | None, int | None]:
        return 4 * size.classes * size.features, None  # up it is a prototype and a count a class that the client has

    def init_server(self, server: Server) -> None:
        server.state = {"prototypes": {}}

    def broadcast(self, server: Server, client_id: int) -> Download:
        return server.download(prototypes=server.state["prototypes"])

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss, given=received(client)).params
        features, counts = client.outputs(model).features, client.class_counts.tolist()
        means = {str(c): features[client.targets == c].mean(dim=0) for c, count in enumerate(counts) if count}
        return client.upload(model, prototypes=means, counts={c: counts[int(c)] for c in means})

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.lam == 0:
            return loss
        gap = (batch.features - batch.given["prototypes"][batch.y]).square().mean(dim=1)
        return loss + self.lam * batch.mean(batch.given["known"][batch.y] * gap)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        prototypes = dict(server.state["prototypes"])
        for c in dict.fromkeys(c for upload in uploads for c in upload["prototypes"]):
            found = [(upload["counts"][c], upload["prototypes"][c]) for upload in uploads if c in upload["prototypes"]]
            prototypes[c] = sum(n * mean for n, mean in found) / sum(n for n, _ in found)
        server.state = {"prototypes": prototypes}

    def predictor(self, server: Server) -> Predictor | None:
        return None

    def personal(self, client: Client) -> Predictor | None:
        return Nearest(client.model, client.params, **received(client)) if self.nearest else client.params


def received(client: Client) -> dict[str, Tensor]:
    """Return the global prototypes, of shape (C, d), and which of them there are."""
    found, nothing = client.received["prototypes"], torch.zeros_like(client.initial["head.weight"][0])
    rows = [found.get(str(c), nothing) for c in range(client.n_classes)]
    known = torch.tensor([str(c) in found for c in range(client.n_classes)], device=nothing.device)
    return {"prototypes": torch.stack(rows), "known": known}
