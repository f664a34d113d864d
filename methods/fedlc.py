"""FedLC: logits calibrated by how often a client has seen each class.

Source: Zhang, Li, Li, Xu, Wu, Ding, Wu, "Federated Learning with Label Distribution Skew via Logits Calibration", ICML
2022, arXiv:2209.00189.
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
class FedLC(Method):
    """Loss: CE(z_c - tau * n_c^(-1/4), y), n_c the client's own training samples of class c; plain logits in use.

    A rare class must win by a larger margin. One that the client lacks has an infinite one: it leaves the softmax, and
    the client does not push it down.

    Deviations: the softmax runs over all classes, where the paper's denominator leaves out the right one; so do all
    public versions.

    Parameters
    ----------
    tau : float, >= 0
        Scale of the margins (tau). The default, 1, is that of PFLlib and FL-bench; FedDecorr's authors took 0.1.

    Cost: traffic as FedAvg; C operations a sample. The counts stay with the client.
    """

    tau: Annotated[float, Ge(0)] = 1.0

    mechanism = "label-skew loss"
    space = (Range("tau", 0.1, 3.0, log=True, source="around the public implementations' 0.1 and 1"),)
    limits = (Limit(at={"tau": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{zhang2022federated,
  title     = {Federated Learning with Label Distribution Skew via Logits Calibration},
  author    = {Zhang, Jie and Li, Zhiqi and Li, Bo and Xu, Jianghe and Wu, Shuang and Ding, Shouhong and Wu, Chao},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2022},
  eprint    = {2209.00189}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        if self.tau == 0:
            return super().loss(client, batch)
        margins = self.tau * client.class_counts**-0.25
        return batch.mean(batch.task_loss(batch.logits - margins))
