"""SiloBN: FedAvg in which each client normalises by statistics of its own.

Source: Andreux, Ogier du Terrail, Beguier, Tramel, "Siloed Federated Learning for Multi-Centric Histopathology
Datasets", DCL workshop at MICCAI 2020, arXiv:2008.07424.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbench import Method, is_running_statistic

if TYPE_CHECKING:
    from fedbench import Predictor, Server


@dataclass(frozen=True, kw_only=True)
class SiloBN(Method):
    """w = sum_k p_k w_k for all tensors but the running means and variances of batch normalisation, which stay.

    Its scale and shift are shared, other than in FedBN. Personal model: the newest shared tensors with the client's own
    statistics. There is no global model. Training normalises by the batch, so the shared tensors are FedAvg's, bit for
    bit, and evaluation alone differs; on a model without batch normalisation nothing does: run it where there is one.

    Deviations: a new client is not served; the paper computes statistics for it from its unlabelled data. A client that
    was never sampled has the initial statistics, zero and one.

    Cost: traffic as FedAvg without the statistics, which are a client's state.
    """

    family = "personalised"
    mechanism = "partial sharing"
    bibtex = """
@inproceedings{andreux2020siloed,
  title     = {Siloed Federated Learning for Multi-Centric Histopathology Datasets},
  author    = {Andreux, Mathieu and Ogier du Terrail, Jean and Beguier, Constance and Tramel, Eric W.},
  booktitle = {Domain Adaptation and Representation Transfer, and Distributed and Collaborative Learning (DCL)},
  year      = {2020},
  eprint    = {2008.07424}
}
"""

    def shared(self, name: str) -> bool:
        return not is_running_statistic(name)

    def predictor(self, server: Server) -> Predictor | None:
        return server.params if all(self.shared(name) for name in server.params) else None
