"""FedAvgM: FedAvg with momentum at the server.

Source: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
arXiv:1909.06335, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt, Lt

from fedbench import Limit, Method, Range, is_running_statistic

if TYPE_CHECKING:
    from fedbench import Server, Upload


@dataclass(frozen=True, kw_only=True)
class FedAvgM(Method):
    """m <- beta m + d and w <- w_t + eta m, with d = sum_k p_k (w_k - w_t) and m = 0 at the start.

    Deviations: running statistics are averaged. No Nesterov momentum, which some reimplementations add; others take
    (1 - beta) d, which is this with eta scaled.

    Parameters
    ----------
    beta : float, >= 0 and < 1
        Momentum (beta); the default, 0.9, is that of the paper's main comparison.
    eta : float, > 0
        Learning rate of the server (eta); 1 in the paper. It does not follow the clients' schedule.

    Cost: traffic as FedAvg; a model of state at the server.
    """

    beta: Annotated[float, Ge(0), Lt(1)] = 0.9
    eta: Annotated[float, Gt(0)] = 1.0

    mechanism = "server optimiser"
    space = (
        Range("beta", values=(0.0, 0.7, 0.9, 0.97, 0.99, 0.997), source="the paper's grid"),
        Range("eta", 0.03, 1.0, log=True, source="up to the paper's 1"),
    )
    limits = (Limit(at={"beta": 0.0, "eta": 1.0}, equals="fedavg", exact=False),)
    bibtex = """
@article{hsu2019measuring,
  title   = {Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification},
  author  = {Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew},
  journal = {arXiv preprint arXiv:1909.06335},
  year    = {2019}
}
"""

    def init_server(self, server: Server) -> None:
        trained = {name: w for name, w in server.params.items() if not is_running_statistic(name)}
        server.state = {"m": {name: torch.zeros_like(w) for name, w in trained.items()}}

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        d = server.change(uploads, weights)
        m = {name: self.beta * old + d[name] for name, old in server.state["m"].items()}
        moved = {name: server.params[name] + self.eta * m[name] for name in m}
        server.params = {**server.average(uploads, weights), **moved}
        server.state = {**server.state, "m": m}
