"""FedNTD: distillation from the global model over the classes that a sample is not of.

Source: Lee, Jeong, Shin, Bae, Yun, "Preservation of the Global Knowledge by Not-True Distillation in Federated
Learning", NeurIPS 2022, arXiv:2106.03097.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt

from fedbench import Limit, Method, Range

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedNTD(Method):
    """Loss: CE(s, y) + beta * tau^2 * KL(q~ || s~), softmaxes over the logits without that of the true class.

    q are the outputs of the model received, which stays frozen. With two classes nothing is left to distil, and the
    method is FedAvg.

    Deviations: none from the authors' code, but for its class default tau = 3, which their configuration overrides.

    Parameters
    ----------
    beta : float, >= 0
        Strength of the distillation (beta). The default, 1, is that of the paper and of the authors' repository, of
        which FedKPer's is a fork.
    tau : float, > 0
        Temperature of both softmaxes (tau). The default, 1, is from the same places.

    Cost: traffic as FedAvg; one forward pass of the global model over the client's data a round.
    """

    beta: Annotated[float, Ge(0)] = 1.0
    tau: Annotated[float, Gt(0)] = 1.0

    mechanism = "distillation"
    space = (
        Range("beta", 0.1, 10.0, log=True, source="around the authors' 1"),
        Range("tau", 0.5, 4.0, log=True, source="usual temperatures of distillation"),
    )
    limits = (Limit(at={"beta": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{lee2022preservation,
  title     = {Preservation of the Global Knowledge by Not-True Distillation in Federated Learning},
  author    = {Lee, Gihun and Jeong, Minchan and Shin, Yongjin and Bae, Sangmin and Yun, Se-Young},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2022},
  eprint    = {2106.03097}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.beta == 0:
            return loss
        teacher = not_true(client.frozen(client.params)[batch].logits, batch.y) / self.tau
        student = not_true(batch.logits, batch.y) / self.tau
        gap = F.kl_div(F.log_softmax(student, dim=1), F.softmax(teacher, dim=1), reduction="none").sum(dim=1)
        return loss + self.beta * self.tau**2 * batch.mean(gap)


def not_true(logits: Tensor, y: Tensor) -> Tensor:
    """Return the logits of all classes but the true one, of shape (B, C - 1)."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, others + (others >= y[:, None]))
