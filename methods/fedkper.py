"""FedKPer: selective distillation from the global model, and weights for reliable and diverse clients.

Source: Fowler, AlRegib, "FedKPer: Tackling Generalization and Personalization in Medical Federated Learning via
Knowledge Personalization", ICIP 2026, arXiv:2605.00698; the authors' code where the paper is silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt

from fedbench import Limit, Method, Range, Server, Size, Upload, simplex

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedKPer(Method):
    """Loss: CE(s, y) + lambda * tau^2 * KL(q || s), lambda = min(1 / CE(q, y), lambda_max); q from the global model.

    Weight of client k: its training accuracy a_k after training, times 1e-6 + H_k, the entropy of its training
    labels over log C. The size of its data does not enter.

    Deviations: if all scores are zero the weights fall back to n_k, where the authors' code divides zero by zero.

    Parameters
    ----------
    distil : bool
        The client's half; off is the paper's ablation "aggregation only".
    weighting : bool
        The server's half; off is the paper's ablation "distillation only".
    tau : float, > 0
        Temperature of both softmaxes (tau).
    lambda_max : float, >= 0
        Cap on the batch's trust in the global model (lambda_max).

    Cost: traffic as FedAvg plus one number up; one forward pass of the global model over the client's data a round,
    and one of its own for a_k. The entropy tells the server how mixed a client's labels are.
    """

    distil: bool = True
    weighting: bool = True
    tau: Annotated[float, Gt(0)] = 1.0
    lambda_max: Annotated[float, Ge(0)] = 10.0

    mechanism = "distillation, weighting"
    space = (
        Range("tau", 0.5, 4.0, log=True, source="usual temperatures of distillation"),
        Range("lambda_max", 1.0, 100.0, log=True, source="around the authors' 10"),
    )
    limits = (
        Limit(at={"distil": False, "weighting": False}, equals="fedavg"),
        Limit(at={"lambda_max": 0.0, "weighting": False}, equals="fedavg"),
    )
    bibtex = """
@inproceedings{fowler2026fedkper,
  title     = {{FedKPer}: Tackling Generalization and Personalization in Medical Federated Learning via Knowledge
               Personalization},
  author    = {Fowler, Z. and AlRegib, G.},
  booktitle = {IEEE International Conference on Image Processing (ICIP)},
  year      = {2026},
  eprint    = {2605.00698}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared, size.shared + (16 if self.weighting else 8)

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if not self.distil or self.lambda_max == 0:
            return loss
        teacher = client.frozen(client.params)[batch].logits
        trust = (1 / (batch.mean(batch.task_loss(teacher)) + 1e-8)).clamp(max=self.lambda_max)
        student = F.log_softmax(batch.logits / self.tau, dim=1)
        gap = F.kl_div(student, F.softmax(teacher / self.tau, dim=1), reduction="none").sum(dim=1)
        return loss + trust * self.tau**2 * batch.mean(gap)

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss).params
        if not self.weighting:
            return client.upload(model)
        accuracy = round(client.score(model), 4)  # the authors' code rounds it, and so it enters the weights
        return client.upload(model, score=accuracy * (1e-6 + label_entropy(client.class_counts.tolist())))

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        scores = [upload["score"] for upload in uploads] if self.weighting else []
        return simplex(scores) if sum(scores) > 0 else super().weights(server, uploads)


def label_entropy(counts: Sequence[float]) -> float:
    """Return the entropy of a label histogram over the log of the number of classes, in [0, 1]."""
    shares = [count / sum(counts) for count in counts]
    entropy = -sum(share * math.log(share + 1e-12) for share in shares)
    return min(max(entropy / (math.log(len(counts) + 1e-12) + 1e-12), 0.0), 1.0)
