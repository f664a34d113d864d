"""FedPHP: each client keeps an average of its models over time, which also teaches its next one.

Source: Li, Zhan, Shao, Li, Song, "FedPHP: Federated Personalization with Inherited Private Models", ECML PKDD 2021,
doi:10.1007/978-3-030-86486-6_36; the authors' code (FedRepo) for what is fixed there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt

from fedbench import Method, Range

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor, Upload


@dataclass(frozen=True, kw_only=True)
class FedPHP(Method):
    """Loss: (1 - lam) CE(s, y) + lam H(softmax(p / tau), softmax(s)), p from the client's private model h.

    H is the cross entropy. After training h <- m h + (1 - m) w_i with m = mu * min(visits / expected visits, 1): at
    the first visit h becomes w_i, before it is the common start. The global model is averaged as in FedAvg. Personal is
    h, or the global model for a client that was never sampled.

    Deviations: only the transfer by soft labels, not that by the discrepancy of features (MMD). The authors' code
    clips gradients and makes at least five steps; this does neither.

    Parameters
    ----------
    lam : float in [0, 1]
        Weight of the private model's teaching (lambda); 0.05 in the authors' code, without teaching the global model
        is that of FedAvg. PFLlib's 1 leaves no task loss.
    mu : float in [0, 1)
        Largest momentum of the private model, reached once a client was sampled as often as is expected in the whole
        run; 0.9 in the authors' code.
    tau : float, > 0
        Temperature of the teacher alone; 4 in the authors' code.

    Cost: traffic as FedAvg; one forward pass over the client's data a round; a model of state a client.
    """

    lam: Annotated[float, Ge(0), Le(1)] = 0.05
    mu: Annotated[float, Ge(0), Lt(1)] = 0.9
    tau: Annotated[float, Gt(0)] = 4.0

    family = "personalised"
    mechanism = "distillation"
    space = (Range("lam", 0.01, 0.5, log=True, source="around the authors' 0.05 and 0.1"),)
    bibtex = """
@inproceedings{li2021fedphp,
  title     = {{FedPHP}: Federated Personalization with Inherited Private Models},
  author    = {Li, Xin-Chun and Zhan, De-Chuan and Shao, Yunfeng and Li, Bingshuai and Song, Shaoming},
  booktitle = {European Conference on Machine Learning (ECML PKDD)},
  year      = {2021},
  doi       = {10.1007/978-3-030-86486-6_36}
}
"""

    def init_client(self, client: Client) -> None:
        client.state = {"private_model": dict(client.initial), "visits": 0}

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.lam == 0:
            return loss
        teacher = F.softmax(client.frozen(client.state["private_model"])[batch].logits / self.tau, dim=1)
        taught = -(teacher * F.log_softmax(batch.logits, dim=1)).sum(dim=1)
        return (1 - self.lam) * loss + self.lam * batch.mean(taught)

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss).params
        before, visits = client.state["private_model"], client.state["visits"]
        momentum = self.mu * min(visits / max(int(client.protocol.participation * client.rounds), 1), 1.0)
        after = {name: momentum * before[name] + (1 - momentum) * w for name, w in model.items()}
        client.state = {"private_model": after, "visits": visits + 1}
        return client.upload(model)

    def personal(self, client: Client) -> Predictor | None:
        return client.state["private_model"] if client.state["visits"] else client.params
