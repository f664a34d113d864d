"""FedRS: a restricted softmax, in which a client hardly moves the classes that it lacks.

Source: Li, Zhan, "FedRS: Federated Learning with Restricted Softmax for Label Distribution Non-IID Data", KDD 2021,
doi:10.1145/3447548.3467254.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le

from fedbench import Limit, Method, Range

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedRS(Method):
    """Loss: CE(s_c * w_c'f + b_c, y), s_c = 1 for classes that the client has and alpha for others; no s_c in use.

    Deviations: our last layer has a bias, which is not scaled. From the authors' code: there s_c is graded,
    alpha + (1 - alpha) n_c / max n, and gradients are clipped; here it is the paper's.

    Parameters
    ----------
    alpha : float in [0, 1]
        Scale of the classes that the client lacks (alpha). The default, 0.5, is the middle of the authors' 0.1, 0.5
        and 0.9.

    Cost: traffic as FedAvg; the last layer is applied twice. The counts stay with the client.
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.5

    mechanism = "label-skew loss"
    space = (Range("alpha", 0.1, 0.9, source="authors' code"),)
    limits = (Limit(at={"alpha": 1.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{li2021fedrs,
  title     = {{FedRS}: Federated Learning with Restricted Softmax for Label Distribution Non-{IID} Data},
  author    = {Li, Xin-Chun and Zhan, De-Chuan},
  booktitle = {Knowledge Discovery and Data Mining (KDD)},
  pages     = {995--1005},
  year      = {2021}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        if self.alpha == 1:
            return super().loss(client, batch)
        scale = torch.where(client.class_counts > 0, 1.0, self.alpha)
        weight, bias = batch.params["head.weight"], batch.params["head.bias"]
        logits = F.linear(batch.features, scale[:, None] * weight, bias)
        return batch.mean(batch.task_loss(logits))
