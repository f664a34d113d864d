"""FedAvgFT: FedAvg, whose model each client fine-tunes on its own data before use.

Source: Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage, "Federated Evaluation of On-device Personalization", 2019,
arXiv:1910.10252; why it works: Collins, Hassani, Mokhtari, Shakkottai, "FedAvg with Fine Tuning: Local Updates
Lead to Representation Learning", NeurIPS 2022, arXiv:2205.13692.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Limit, Method, Range

if TYPE_CHECKING:
    from fedbench import Client, Predictor


@dataclass(frozen=True, kw_only=True)
class FedAvgFT(Method):
    """Training is FedAvg's; personal model: w fine-tuned by SGD on the client's data, then forgotten.

    Deviations: optimiser, batch size and learning rate are those of the round, where the sources search for their own.

    Parameters
    ----------
    tune_epochs : int, >= 0
        Epochs of fine-tuning; at 0 it is FedAvg. The default, 5, is that of FedBABU's fine-tuning, so that the two
        differ by the model that is tuned alone.

    Cost: traffic and training as FedAvg. A personal evaluation trains every client for ``tune_epochs``.
    """

    tune_epochs: Annotated[int, Ge(0)] = 5

    family = "personalised"
    mechanism = "fine-tuning"
    space = (Range("tune_epochs", 1, 20, log=True, source="around 5 and 10, the usual numbers"),)
    limits = (Limit(at={"tune_epochs": 0}, equals="fedavg"),)
    bibtex = r"""
@misc{wang2019federated,
  title  = {Federated Evaluation of On-device Personalization},
  author = {Wang, Kangkang and Mathews, Rajiv and Kiddon, Chlo{\'e} and Eichner, Hubert and Beaufays, Fran{\c{c}}oise
            and Ramage, Daniel},
  year   = {2019},
  eprint = {1910.10252}
}
@inproceedings{collins2022fedavg,
  title     = {{FedAvg} with Fine Tuning: Local Updates Lead to Representation Learning},
  author    = {Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai, Sanjay},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2022},
  eprint    = {2205.13692}
}
"""

    def personal(self, client: Client) -> Predictor | None:
        return client.fit(client.params, self.loss, epochs=self.tune_epochs, stream="fine-tuning").params
