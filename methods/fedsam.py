"""FedSAM: sharpness-aware local training, for minima that are flat enough to be averaged.

Source: Qu, Li, Duan, Liu, Tang, Lu, "Generalized Federated Learning via Sharpness Aware Minimization", ICML 2022,
arXiv:2206.02618; also Caldarola, Caputo, Ciccone, "Improving Generalization in Federated Learning by Seeking Flat
Minima", ECCV 2022, arXiv:2203.11834.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge

from fedbench import Limit, Method, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedSAM(Method):
    """Loss of a batch: L(w + e), e = rho * g / ||g||, g = grad L(w) on the same batch; no gradient through e.

    So the gradient at w is that at w + e, and the base optimiser applies it at w, which was never left.

    Deviations: none.

    Parameters
    ----------
    rho : float, >= 0
        Radius of the ascent over all parameters (rho); the default, 0.05, is the usual one of SAM.

    Cost: traffic as FedAvg; a second forward and backward pass a step. With batch normalisation a third forward pass,
    for running statistics at w.
    """

    rho: Annotated[float, Ge(0)] = 0.05

    mechanism = "regularisation"
    space = (Range("rho", 0.01, 0.5, log=True, source="around SAM's usual 0.05"),)
    limits = (Limit(at={"rho": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{qu2022generalized,
  title     = {Generalized Federated Learning via Sharpness Aware Minimization},
  author    = {Qu, Zhe and Li, Xingyu and Duan, Rui and Liu, Yao and Tang, Bo and Lu, Zhuo},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2022},
  eprint    = {2206.02618}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        if self.rho == 0:
            return super().loss(client, batch)
        if batch.model.buffers:
            super().loss(client, batch)  # the pass whose running statistics are kept

        def risk(params: Mapping[str, Tensor]) -> Tensor:
            return batch.mean(batch.task_loss(batch.forward(params).logits))

        gradients = batch.gradients(risk, at={name: w.detach() for name, w in batch.params.items()})
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        ascended = {name: batch.params[name] + self.rho / (norm + 1e-12) * g for name, g in gradients.items()}
        return risk({**batch.params, **ascended})
