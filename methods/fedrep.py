"""FedRep: each client first fits a head of its own to the common representation, then the representation to it.

Source: Collins, Hassani, Mokhtari, Shakkottai, "Exploiting Shared Representations for Personalized Federated
Learning", ICML 2021, arXiv:2102.07078.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Method, Range

if TYPE_CHECKING:
    from fedbench import Client, Predictor, Server, Upload


@dataclass(frozen=True, kw_only=True)
class FedRep(Method):
    """Client k: v_k = argmin_v CE(w, v) by SGD on the head, then w_k by SGD on the base; w = sum_k p_k w_k.

    Personal model: the newest base under the client's own head; heads start alike at all clients. There is no global
    model.

    Deviations: bases are averaged by n_k, as in the authors' code, where the paper has equal sizes. Of that code the
    weight decay without biases is left out, and the 10 or more epochs on each head after the last round, before the
    final test: the head that is evaluated was fitted to an older base.

    Parameters
    ----------
    head_epochs, base_epochs : int, >= 0 and >= 1
        Local epochs on the head (E_h, the paper's tau) and then on the base (E_b); they stand for the protocol's
        local epochs. The defaults are the 5 epochs of the FedKPer protocol, divided as FL-bench does, so that training
        costs what FedAvg's costs there; the authors' code has 10 and 1 on CIFAR.

    Cost: base up and down, a head of state a client; E_h + E_b epochs, each with the gradient of its own part.
    """

    head_epochs: Annotated[int, Ge(0)] = 4
    base_epochs: Annotated[int, Ge(1)] = 1

    family = "personalised"
    mechanism = "partial sharing"
    space = (
        Range("head_epochs", 1, 10, log=True, source="up to the 10 of the authors' code"),
        Range("base_epochs", 1, 5, log=True, source="from the 1 of the authors' code to the FedKPer protocol's 5"),
    )
    bibtex = """
@inproceedings{collins2021exploiting,
  title     = {Exploiting Shared Representations for Personalized Federated Learning},
  author    = {Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai, Sanjay},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021},
  eprint    = {2102.07078}
}
"""

    def shared(self, name: str) -> bool:
        return not name.startswith("head.")

    def client_update(self, client: Client) -> Upload:
        fitted = client.fit(client.params, self.loss, train=self._private, epochs=self.head_epochs, stream="head")
        model = client.fit(fitted.params, self.loss, train=self.shared, epochs=self.base_epochs).params
        return client.upload(model)

    def _private(self, name: str) -> bool:
        return not self.shared(name)

    def predictor(self, server: Server) -> Predictor | None:
        return None
