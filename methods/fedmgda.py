"""FedMGDA+: a common descent direction of all clients, from updates of equal length.

Source: Hu, Shaloudegi, Zhang, Yu, "Federated Learning Meets Multi-Objective Optimization", IEEE TNSE 2022,
arXiv:2006.11489.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Gt, Le

from fedbench import Method, Range, Server, Upload, is_running_statistic


@dataclass(frozen=True, kw_only=True)
class FedMGDA(Method):
    """w <- w_t + eta_t sum_k l_k u_k, u_k = (w_k - w_t) / ||w_k - w_t||, l = argmin ||sum_k l_k u_k||^2.

    The weights l are on the simplex, none further than eps from equal. The direction harms no client as far as eps
    allows; the step's length, at most eta_t = eta * decay^t, does not depend on the clients' rate.

    Deviations: running statistics are averaged with l; a client without an update has no direction and no weight.

    Parameters
    ----------
    eps : float in [0, 1]
        How far weights may be from equal (eps); at 1 it is MGDA without restriction. The default, 0.1, is FLGo's.
    eta : float, > 0
        Rate of the server in the first round (eta); the default, 1, is FLGo's.
    decay : float in (0, 1]
        Factor on it after every round; the default is that of the clients' rate in the FedKPer protocol.

    Cost: traffic as FedAvg; products of all pairs of updates at the server, and a small quadratic program.
    """

    eps: Annotated[float, Ge(0), Le(1)] = 0.1
    eta: Annotated[float, Gt(0)] = 1.0
    decay: Annotated[float, Gt(0), Le(1)] = 0.99

    mechanism = "fairness"
    space = (
        Range("eps", values=(0.0, 0.1, 0.5, 1.0), source="grid of Ditto's authors"),
        Range("eta", 0.1, 3.0, log=True, source="around FLGo's 1"),
    )
    bibtex = """
@article{hu2022federated,
  title   = {Federated Learning Meets Multi-Objective Optimization},
  author  = {Hu, Zeou and Shaloudegi, Kiarash and Zhang, Guojun and Yu, Yaoliang},
  journal = {IEEE Transactions on Network Science and Engineering},
  year    = {2022},
  eprint  = {2006.11489}
}
"""

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        products, norms = _products(server, uploads)
        (moved,) = norms.nonzero()
        if not len(moved):
            return super().weights(server, uploads)
        cosines = products[np.ix_(moved, moved)] / np.outer(norms[moved], norms[moved])
        best = dict(zip(moved.tolist(), min_norm(cosines, self.eps).tolist(), strict=True))
        return [best.get(k, 0.0) for k in range(len(uploads))]

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        _, norms = _products(server, uploads)
        rate = self.eta * self.decay**server.round
        change = server.change(uploads, (rate * np.array(weights) / np.where(norms > 0, norms, 1)).tolist())
        moved = {name: w + change[name] for name, w in server.params.items() if not is_running_statistic(name)}
        server.params = {**server.average(uploads, weights), **moved}


def _products(server: Server, uploads: Sequence[Upload]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    products = np.zeros((len(uploads), len(uploads)))
    for name, w in server.params.items():
        if not is_running_statistic(name):
            updates = torch.stack([(upload.params[name] - w).flatten().double() for upload in uploads])
            products += (updates @ updates.T).cpu().numpy()
    return products, np.sqrt(np.diag(products))


def min_norm(products: npt.NDArray[np.float64], eps: float) -> npt.NDArray[np.float64]:
    """Minimise l'Pl over the simplex, |l_i - 1/m| <= eps: move weight between the pair that gains most, and again."""
    weights = np.full(len(products), 1 / len(products))
    low, high = (weights - eps).clip(min=0), (weights + eps).clip(max=1)
    for _ in range(10_000):
        slopes = products @ weights
        to, of = np.where(weights < high - 1e-12, slopes, np.inf), np.where(weights > low + 1e-12, slopes, -np.inf)
        i, j = to.argmin(), of.argmax()
        if not of[j] - to[i] > 1e-10:
            break
        curvature = products[i, i] + products[j, j] - 2 * products[i, j]
        amount = min((of[j] - to[i]) / max(curvature, 1e-300), high[i] - weights[i], weights[j] - low[j])
        weights[[i, j]] += amount, -amount
    return weights
