"""FedAdam: FedAvg with Adam at the server.

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
arXiv:2003.00295, Algorithm 2; the authors' code for learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Lt

from fedbench import Method, Range, is_running_statistic

if TYPE_CHECKING:
    from fedbench import Server, Upload


@dataclass(frozen=True, kw_only=True)
class FedAdam(Method):
    """m <- beta1 m + (1 - beta1) d, v <- beta2 v + (1 - beta2) d^2, w <- w_t + eta m / (sqrt(v) + tau).

    Here d = sum_k p_k (w_k - w_t); at the start m = 0 and v = tau^2, and neither is corrected for it.

    Deviations: none from the paper, where v is at least tau^2 at the start. The authors' code starts with v = 0 and has
    beta2 = 0.999. Running statistics are averaged.

    Parameters
    ----------
    eta : float, > 0
        Learning rate of the server (eta). It does not follow the clients' schedule. The default, 0.01, was best on
        two of the six tasks of the authors' code; on the others it was 0.003 to 1.
    beta1 : float, >= 0 and < 1
        Decay of m (beta1); 0.9 in the paper.
    beta2 : float, >= 0 and < 1
        Decay of v (beta2); 0.99 in the paper.
    tau : float, > 0
        Adaptivity (tau), the smaller the more; 0.001 in the paper.

    Cost: traffic as FedAvg; two models of state at the server.
    """

    eta: Annotated[float, Gt(0)] = 0.01
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.99
    tau: Annotated[float, Gt(0)] = 1e-3

    mechanism = "server optimiser"
    space = (
        Range("eta", 1e-3, 1.0, log=True, source="best rates in the authors' code"),
        Range("tau", 1e-5, 0.1, log=True, source="best values in the authors' code"),
    )
    bibtex = r"""
@inproceedings{reddi2021adaptive,
  title     = {Adaptive Federated Optimization},
  author    = {Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and Rush, Keith and
               Kone{\v{c}}n{\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021},
  eprint    = {2003.00295}
}
"""

    def init_server(self, server: Server) -> None:
        trained = {name: w for name, w in server.params.items() if not is_running_statistic(name)}
        m = {name: torch.zeros_like(w) for name, w in trained.items()}
        server.state = {"m": m, "v": {name: torch.full_like(w, self.tau**2) for name, w in trained.items()}}

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        d, m, v = server.change(uploads, weights), server.state["m"], server.state["v"]
        m = {name: self.beta1 * m[name] + (1 - self.beta1) * d[name] for name in m}
        v = {name: self.beta2 * v[name] + (1 - self.beta2) * d[name].square() for name in v}
        moved = {name: server.params[name] + self.eta * m[name] / (v[name].sqrt() + self.tau) for name in m}
        server.params = {**server.average(uploads, weights), **moved}
        server.state = {"m": m, "v": v}
