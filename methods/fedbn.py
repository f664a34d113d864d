"""FedBN: FedAvg of everything but batch normalisation, which stays with its client.

Source: Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization",
ICLR 2021, arXiv:2102.07623.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbench import Method, is_norm

if TYPE_CHECKING:
    from fedbench import Predictor, Server


@dataclass(frozen=True, kw_only=True)
class FedBN(Method):
    """w = sum_k p_k w_k for all tensors but those of batch normalisation; its scale, shift and statistics stay.

    Personal model: the newest shared tensors with the client's own normalisation. There is no global model. On a model
    without batch normalisation FedBN is FedAvg, bit for bit: run it where there is one.

    Deviations: clients are averaged by n_k, as in FedAvg, where the authors' example weighs all alike.
    Layers of normalisation are found by what they are, not by "bn" in a name.

    Cost: traffic as FedAvg without the tensors of batch normalisation, which are a client's state.
    """

    family = "personalised"
    mechanism = "partial sharing"
    bibtex = """
@inproceedings{li2021fedbn,
  title     = {{FedBN}: Federated Learning on Non-{IID} Features via Local Batch Normalization},
  author    = {Li, Xiaoxiao and Jiang, Meirui and Zhang, Xiaofei and Kamp, Michael and Dou, Qi},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021},
  eprint    = {2102.07623}
}
"""

    def shared(self, name: str) -> bool:
        return not is_norm(name)

    def predictor(self, server: Server) -> Predictor | None:
        return server.params if all(self.shared(name) for name in server.params) else None
