"""FedDecorr: features of a batch kept from being correlated, against their collapse into few dimensions.

Source: Shi, Liang, Zhang, Tan, Bai, "Towards Understanding and Mitigating Dimensional Collapse in Heterogeneous
Federated Learning", ICLR 2023, arXiv:2210.00226; the authors' code for the scale of the term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge

from fedbench import Limit, Method, Range

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedDecorr(Method):
    """Loss: task loss + beta * N * mean over i != j of A_ij^2, A = Z'Z / N, Z the N standardised features of a batch.

    Deviations: the paper has ||A||_F^2 / d^2, the authors' code what stands above, about N times as much without the
    constant diagonal. Theirs are batches of 64; at 12 the same beta is about a sixth as strong.

    Parameters
    ----------
    beta : float, >= 0
        Strength (beta); the default, 0.1, is the authors'.

    Cost: traffic as FedAvg; N^2 d operations a step, for which ||Z'Z|| = ||ZZ'|| is used.
    """

    beta: Annotated[float, Ge(0)] = 0.1

    mechanism = "regularisation"
    space = (Range("beta", 0.01, 2.0, log=True, source="paper, 0.01 to 0.3, and six times that for small batches"),)
    limits = (Limit(at={"beta": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{shi2023towards,
  title     = {Towards Understanding and Mitigating Dimensional Collapse in Heterogeneous Federated Learning},
  author    = {Shi, Yujun and Liang, Jian and Zhang, Wenqing and Tan, Vincent Y. F. and Bai, Song},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2023},
  eprint    = {2210.00226}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        return loss if self.beta == 0 else loss + self.beta * correlation(batch)


def correlation(batch: Batch) -> Tensor:
    """Return N times the mean squared correlation of two different features; 0 for a single sample."""
    features = batch.features
    n = 1 / batch.mean(batch.mean(torch.eye(len(features), device=features.device)))  # N, without padding
    centred = features - batch.mean(features)
    variance = batch.mean(centred.square()) * n / (n - 1).clamp(min=1)
    z = centred / (variance + 1e-8).sqrt()
    whole = batch.mean(batch.mean((z @ z.T).square()))
    diagonal = batch.mean(z.square()).square().sum()
    return n * (whole - diagonal) / (z.shape[1] * (z.shape[1] - 1))
