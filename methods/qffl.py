"""QFFL: q-FedAvg, which listens more to clients with a high loss.

Source: Li, Sanjabi, Beirami, Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, arXiv:1905.10497,
algorithm 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Method, Range, Size, Upload, is_running_statistic, simplex

if TYPE_CHECKING:
    from fedbench import Client, Server


@dataclass(frozen=True, kw_only=True)
class QFFL(Method):
    """Minimise sum_k F_k^(q+1) / (q+1): w <- w_t - sum_k F_k^q G_k / sum_k h_k over the sampled clients.

    F_k is the client's loss of w_t on all its training data, G_k = (w_t - w_k) / lr stands for its gradient, and
    h_k = q F_k^(q-1) ||G_k||^2 + F_k^q / lr bounds the curvature of F_k^(q+1) / (q+1), so that q needs no rate of its
    own. At q = 0 it is FedAvg with equal weights.

    Deviations: clients are sampled uniformly, where the paper samples by n_k; so the objective has equal weights. lr
    is that of the round. With momentum G_k, and with it ||G_k||^2, is larger than for plain steps: the server's step
    is then the shorter, the larger q.

    Parameters
    ----------
    q : float, >= 0
        How much a high loss counts (q). The paper tunes it from 0.001 to 5; the default is the smallest of these,
        which it takes for its one recurrent network.

    Cost: traffic as FedAvg plus two numbers up; a forward pass over the client's data a round. F_k tells the server
    how well a client is served.
    """

    q: Annotated[float, Ge(0)] = 0.001

    mechanism = "fairness"
    space = (Range("q", 1e-3, 5.0, log=True, source="paper, section 4"),)
    bibtex = """
@inproceedings{li2020fair,
  title     = {Fair Resource Allocation in Federated Learning},
  author    = {Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith, Virginia},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2020},
  eprint    = {1905.10497}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared, size.shared + 24

    def client_update(self, client: Client) -> Upload:
        start = client.params
        losses = client.measure(lambda _, batch: batch.task_loss(batch.logits).sum().double(), params=start)
        risk = float(sum(losses)) / client.n + 1e-10  # as the authors: a loss of zero has no power below one
        fit = client.fit(start, self.loss)
        moves = [(start[name] - w).double() for name, w in fit.params.items() if not is_running_statistic(name)]
        squared = float(sum(move.square().sum() for move in moves))
        power = risk**self.q / fit.lr
        bound = self.q * risk ** (self.q - 1) * squared / fit.lr**2 + power
        return client.upload(fit.params, power=power, bound=bound)

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        return simplex(upload["power"] for upload in uploads)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        length = sum(upload["power"] for upload in uploads) / sum(upload["bound"] for upload in uploads)
        change = server.change(uploads, weights)
        moved = {name: w + length * change[name] for name, w in server.params.items() if not is_running_statistic(name)}
        server.params = {**server.average(uploads, weights), **moved}
