"""FedRoD: one model with two heads, a generic one trained class-balanced and a personal one trained as the data are.

Source: Chen, Chao, "On Bridging Generic and Personalized Federated Learning for Image Classification", ICLR 2022,
arXiv:2107.00778.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge

from fedbench import Method, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fedbench import Batch, Client, Predictor, Upload


@dataclass(frozen=True, kw_only=True)
class FedRoD(Method):
    """Loss: CE(z + gamma log n_k, y) + CE(sg(z) + h_k(sg(f)), y); z generic logits, f features, sg stops gradients.

    The base and the generic head are averaged as FedAvg does, and with the plain logits z they are the global model;
    h_k stays with its client. Local and personal model: z + h_k(f), which is one linear head, the sum of both.

    Deviations: of the paper's balanced losses it is the balanced softmax, and the variant whose h_k comes from a
    hypernetwork is left out. The authors published no code. From PFLlib: h_k starts at zero, so that a client's first
    personal model is the generic one; a copy of the generic head would double its logits. A class that a client does
    not have gets a generic probability of zero in its loss, as n_k says.

    Parameters
    ----------
    gamma : float, >= 0
        Strength of the balancing (gamma). At the default, 1, it is the balanced softmax, as in the paper and the public
        codes; at 0 the global model is FedAvg's, bit for bit.

    Cost: traffic as FedAvg; a head of state a client, and a linear layer more a step.
    """

    gamma: Annotated[float, Ge(0)] = 1.0

    family = "personalised"
    mechanism = "label-skew loss, partial sharing"
    space = (Range("gamma", 0.25, 2.0, log=True, source="around the paper's 1"),)
    bibtex = """
@inproceedings{chen2022bridging,
  title     = {On Bridging Generic and Personalized Federated Learning for Image Classification},
  author    = {Chen, Hong-You and Chao, Wei-Lun},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2022},
  eprint    = {2107.00778}
}
"""

    def shared(self, name: str) -> bool:
        return not name.startswith("personal.")

    def init_client(self, client: Client) -> None:
        head = {f"personal.{kind}": torch.zeros_like(client.initial[f"head.{kind}"]) for kind in ("weight", "bias")}
        client.state = {"private": head}

    def loss(self, client: Client, batch: Batch) -> Tensor:
        generic, head = batch.logits, (batch.params["personal.weight"], batch.params["personal.bias"])
        personal = generic.detach() + F.linear(batch.features.detach(), *head)
        if self.gamma > 0:
            generic = generic + self.gamma * client.class_counts.log()  # minus infinity where a class is absent
        return batch.mean(batch.task_loss(generic)) + batch.mean(batch.task_loss(personal))

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss).params
        client.local = summed(model)
        return client.upload(model)

    def personal(self, client: Client) -> Predictor | None:
        return summed(client.params)


def summed(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model with the sum of both heads as its head."""
    return {
        **model,
        **{f"head.{kind}": model[f"head.{kind}"] + model[f"personal.{kind}"] for kind in ("weight", "bias")},
    }
