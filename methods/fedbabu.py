"""FedBABU: only the body is trained, under a random head that never moves; heads are made when clients need them.

Source: Oh, Kim, Yun, "FedBABU: Toward Enhanced Representation for Federated Image Classification", ICLR 2022,
arXiv:2106.06042.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Method, Range

if TYPE_CHECKING:
    from fedbench import Client, Predictor, Upload


@dataclass(frozen=True, kw_only=True)
class FedBABU(Method):
    """FedAvg on the base alone; the head is the common random start, at all clients and in all rounds.

    Global model: that base and head. Local: the same after a client's training. Personal: the global model, all of it
    fine-tuned on the client's data, which is repeated at each evaluation and then forgotten.

    Deviations: bases are averaged by n_k, where the authors' shards have equal size. Fine-tuning has the round's
    learning rate and the protocol's momentum and weight decay, as in PFLlib, not the 1e-3, 0.9 and 0 of the authors'
    notebook; that of the head or the base alone is left out. The head is left out of the optimiser: a gradient of zero,
    as in FL-bench, would not keep weight decay and momentum from moving it.

    Parameters
    ----------
    tune_epochs : int, >= 0
        Epochs of fine-tuning; at 0 the personal model is the global one. The default is the authors' 5, which are also
        the FedKPer protocol's local epochs; PFLlib has 10. That paper's table, of local models, does not depend on it.

    Cost: base up and down; training as FedAvg without the head's gradient. A personal evaluation trains every client
    for ``tune_epochs``: at the paper's 10 % participation that is ten rounds' worth.
    """

    tune_epochs: Annotated[int, Ge(0)] = 5

    family = "personalised"
    mechanism = "partial sharing, fine-tuning"
    space = (Range("tune_epochs", 1, 20, log=True, source="around the paper's 5 and PFLlib's 10"),)
    bibtex = """
@inproceedings{oh2022fedbabu,
  title     = {{FedBABU}: Toward Enhanced Representation for Federated Image Classification},
  author    = {Oh, Jaehoon and Kim, Sangmook and Yun, Se-Young},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2022},
  eprint    = {2106.06042}
}
"""

    def shared(self, name: str) -> bool:
        return not name.startswith("head.")

    def client_update(self, client: Client) -> Upload:
        return client.upload(client.fit(client.params, self.loss, train=self.shared).params)

    def personal(self, client: Client) -> Predictor | None:
        return client.fit(client.params, self.loss, epochs=self.tune_epochs, stream="fine-tuning").params
