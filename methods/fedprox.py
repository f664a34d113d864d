"""FedProx: FedAvg with a quadratic pull towards the weights received this round.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020,
arXiv:1812.06127, equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Limit, Method, Range

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedProx(Method):
    """Client objective: task loss + mu/2 * ||w - w_t||^2 over the trained parameters.

    Deviations: clients are sampled uniformly and averaged by n_k, as the authors' code does; the variable number of
    local epochs for stragglers is left out, as in every public baseline.

    Parameters
    ----------
    mu : float, >= 0
        Strength of the pull (mu); stable only while lr * mu < 2. The default, 1.0, is that of the training
        repository of FedKPer's first author; the paper itself tunes it in {0.001, 0.01, 0.1, 1}.

    Cost: traffic as FedAvg; about 3 operations a parameter and step.
    """

    mu: Annotated[float, Ge(0)] = 1.0

    mechanism = "regularisation"
    space = (Range("mu", 1e-3, 1.0, log=True, source="paper, section 5.2"),)
    limits = (Limit(at={"mu": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{li2020federated,
  title     = {Federated Optimization in Heterogeneous Networks},
  author    = {Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and Talwalkar, Ameet and
               Smith, Virginia},
  booktitle = {Machine Learning and Systems (MLSys)},
  year      = {2020},
  eprint    = {1812.06127}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.mu == 0:
            return loss
        anchor = client.params
        return loss + self.mu / 2 * sum((w - anchor[name]).square().sum() for name, w in batch.params.items())
