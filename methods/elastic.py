"""Elastic aggregation: a global update damped where the clients' outputs are sensitive to a parameter, else amplified.

Source: Chen, Hu, Tan, Wei, Wu, "Elastic Aggregation for Federated Optimization", CVPR 2023, pp. 12187-12197; defaults
from FL-bench.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt

from fedbench import Method, Range, Size, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Server


@dataclass(frozen=True, kw_only=True)
class Elastic(Method):
    """w <- w_t + zeta sum_k p_k (w_k - w_t) with zeta = 1 + tau - sum_k p_k Omega_k / max_k Omega_k, a parameter each.

    Omega_k is client k's sensitivity at w_t: over batches of some of its inputs, without labels, the moving average
    Omega <- mu Omega + (1 - mu) |gradient of the batch's mean ||logits||^2|, from 0 on. So zeta is in [tau, 1 + tau];
    it is 1 where no client is sensitive.

    Deviations: whether the paper's maximum is over clients or over parameters could not be settled; it is over
    clients, as in FL-bench. FL-bench itself takes the loss' gradient and one Omega a tensor, and does not train on the
    inputs that Omega is measured with; here they are drawn anew in each round, and all are trained on. Running
    statistics are averaged.

    Parameters
    ----------
    tau : float, >= 0
        Least factor of an update (tau); 0.5 in FL-bench.
    mu : float, >= 0 and < 1
        Decay of the moving average (mu); 0.95 in FL-bench.
    share : float, > 0 and <= 1
        Share of the client's inputs that Omega is measured with; 0.3 in FL-bench.

    Cost: the model down, the model and Omega up; a pass with gradients over a share of the data a round. No state.
    """

    tau: Annotated[float, Ge(0)] = 0.5
    mu: Annotated[float, Ge(0), Lt(1)] = 0.95
    share: Annotated[float, Gt(0), Le(1)] = 0.3

    mechanism = "server optimiser"
    space = (Range("tau", 0.1, 1.0, source="around FL-bench's 0.5"),)
    bibtex = """
@inproceedings{chen2023elastic,
  title     = {Elastic Aggregation for Federated Optimization},
  author    = {Chen, Dengsheng and Hu, Jie and Tan, Vince Junkai and Wei, Xiaoming and Wu, Enhua},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {12187--12197},
  year      = {2023}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared, 2 * size.shared + 8

    def client_update(self, client: Client) -> Upload:
        drawn = client.rng("sensitivity").permutation(client.n)[: max(round(self.share * client.n), 1)]
        size = client.protocol.batch_size
        gradients = client.measure(self.output, params=client.params, data=drawn, batch_size=size, gradients=True)
        omega = {name: torch.zeros_like(gradient) for name, gradient in gradients[0].items()}
        for batch in gradients:
            omega = {name: self.mu * old + (1 - self.mu) * batch[name].abs() for name, old in omega.items()}
        return client.upload(client.fit(client.params, self.loss).params, sensitivity=omega)

    def output(self, client: Client, batch: Batch) -> Tensor:
        return batch.mean(batch.logits.square().sum(dim=1))

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        change = server.change(uploads, weights)
        moved = {}
        for name in uploads[0]["sensitivity"]:
            zeta = self.zeta([upload["sensitivity"][name] for upload in uploads], weights)
            moved[name] = server.params[name] + zeta * change[name]
        server.params = {**server.average(uploads, weights), **moved}

    def zeta(self, omegas: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Return the factor of each entry of a tensor's update."""
        stacked = torch.stack(list(omegas))
        mean = torch.tensordot(torch.tensor(weights).to(stacked), stacked, dims=1)
        largest = stacked.amax(dim=0)
        return torch.where(largest > 0, 1 + self.tau - mean / largest, 1.0)
