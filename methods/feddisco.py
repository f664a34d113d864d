"""FedDisco: FedAvg with less weight for clients whose labels are far from balanced.

Source: Ye, Xu, Wang, Xu, Chen, Wang, "FedDisco: Federated Learning with Discrepancy-Aware Collaboration", ICML 2023,
arXiv:2305.19229; the authors' code for the measure and the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Limit, Method, Range, Size, Upload, simplex

if TYPE_CHECKING:
    from fedbench import Client, Server


@dataclass(frozen=True, kw_only=True)
class FedDisco(Method):
    """Weight of client k: proportional to max(p_k - a d_k + b, 0) with p_k = n_k / sum n over the sampled clients.

    The discrepancy d_k is KL(labels of k || uniform) over its sum for the sampled clients; 0 if all are balanced.

    Deviations: if no weight is left the weights fall back to p_k, where the authors' code fails. A client sends its
    divergence, a number, with every upload; in the authors' code the server knows all label counts.

    Parameters
    ----------
    a : float, >= 0
        What discrepancy costs (a); 0.5 in the authors' code.
    b : float, >= 0
        What every client gets (b), so that few weights become zero; 0.1 in the authors' code.

    Cost: traffic as FedAvg plus one number up. The number tells the server how mixed a client's labels are.
    """

    a: Annotated[float, Ge(0)] = 0.5
    b: Annotated[float, Ge(0)] = 0.1

    mechanism = "weighting"
    space = (
        Range("a", 0.05, 1.0, log=True, source="around the authors' 0.5"),
        Range("b", 0.01, 0.5, log=True, source="around the authors' 0.1"),
    )
    limits = (Limit(at={"a": 0.0, "b": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{ye2023feddisco,
  title     = {{FedDisco}: Federated Learning with Discrepancy-Aware Collaboration},
  author    = {Ye, Rui and Xu, Mingkai and Wang, Jianyu and Xu, Chenxin and Chen, Siheng and Wang, Yanfeng},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2023},
  eprint    = {2305.19229}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared, size.shared + 16

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss).params
        return client.upload(model, divergence=divergence_from_uniform(client.class_counts.tolist()))

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        sizes = super().weights(server, uploads)
        if self.a == 0 and self.b == 0:
            return sizes
        total = sum(upload["divergence"] for upload in uploads)
        discrepancies = [upload["divergence"] / total if total > 0 else 0.0 for upload in uploads]
        left = [max(p - self.a * d + self.b, 0.0) for p, d in zip(sizes, discrepancies, strict=True)]
        return simplex(left) if any(left) else sizes


def divergence_from_uniform(counts: Sequence[int]) -> float:
    """Return KL(labels || uniform) of a label histogram, in [0, log C]."""
    shares = [count / sum(counts) for count in counts if count]
    return max(sum(share * math.log(share * len(counts)) for share in shares), 0.0)
