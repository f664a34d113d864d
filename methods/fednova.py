"""FedNova: averages what clients moved a step, so that who makes more steps does not count more than its data.

Source: Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
Optimization", NeurIPS 2020, arXiv:2007.07481.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbench import Method, Size, Upload, is_running_statistic

if TYPE_CHECKING:
    from fedbench import Client, Server


@dataclass(frozen=True, kw_only=True)
class FedNova(Method):
    """w <- w_t + tau_eff sum_k p_k (w_k - w_t) / A_k with tau_eff = sum_k p_k A_k and p_k = n_k / sum n.

    A_k is the sum of all weights with which the gradients of a client's steps enter its move (||a_k||_1 in the paper):
    the number of its steps tau_k without momentum, (tau_k - rho (1 - rho^tau_k) / (1 - rho)) / (1 - rho) with momentum
    rho.

    Deviations: the proximal and the server-momentum variants are left out. The "cross-client variance" of a common
    reimplementation is no part of the method. Running statistics are averaged by p_k.

    Cost: traffic as FedAvg plus one number up; no state, no extra pass.
    """

    mechanism = "weighting"
    bibtex = """
@inproceedings{wang2020tackling,
  title     = {Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization},
  author    = {Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. Vincent},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2020},
  eprint    = {2007.07481}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared, size.shared + 16

    def client_update(self, client: Client) -> Upload:
        fit = client.fit(client.params, self.loss)
        return client.upload(fit.params, gradient_weight=gradient_weight(fit.steps, client.protocol.momentum))

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        own = [upload["gradient_weight"] for upload in uploads]
        effective = sum(p * a for p, a in zip(weights, own, strict=True))
        change = server.change(uploads, [p * effective / a for p, a in zip(weights, own, strict=True)])
        moved = {name: w + change[name] for name, w in server.params.items() if not is_running_statistic(name)}
        server.params = {**server.average(uploads, weights), **moved}


def gradient_weight(steps: int, momentum: float) -> float:
    """Return the sum of all weights with which the gradients of SGD's steps enter its move; without momentum, steps.

    The gradient of a step moves w by 1, momentum, momentum^2, ... in that step and those after it.
    """
    steps = max(steps, 1)  # where none was made nothing moved, and 0 / 1 is what is meant
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
