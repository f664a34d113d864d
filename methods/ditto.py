"""Ditto: FedAvg, and beside it a personal model of each client that is pulled towards the global one.

Source: Li, Hu, Beirami, Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021,
arXiv:2012.04221, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Method, Range, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor


@dataclass(frozen=True, kw_only=True)
class Ditto(Method):
    """Global: FedAvg. Personal: v <- v - lr * (grad L(v) + lambda * (v - w)), from v_0 = w_0, w as received.

    Both see the same batches, as in the authors' code: the order of samples is that of every method's training. So, bit
    for bit, w is FedAvg's for every lambda, and at lambda = 0 v is the model of ``local``.

    Deviations: clients are sampled uniformly and w is averaged by n_k, as every method here; the authors' code samples
    by n_k and averages uniformly. Momentum and weight decay of the protocol hold for v too, each training with its own.
    The local model that is evaluated is v. A client that was never sampled has the common start.

    Parameters
    ----------
    lam : float, >= 0
        Strength of the pull (lambda); stable only while lr * lambda < 2. The default, 1, is that of the authors'
        examples; the paper has each client choose from {0.1, 1, 2}. (PFLlib's default, 0, is local training.)
    personal_epochs : int, >= 1, or None
        Passes of v over the data a round; None is as many as of w, as in the authors' code. PFLlib makes one.

    Cost: traffic as FedAvg; twice its training; a model of state a client.
    """

    lam: Annotated[float, Ge(0)] = 1.0
    personal_epochs: Annotated[int, Ge(1)] | None = None

    family = "personalised"
    mechanism = "regularisation"
    space = (Range("lam", values=(0.1, 1.0, 2.0), source="paper, section 4"),)
    bibtex = """
@inproceedings{li2021ditto,
  title     = {Ditto: Fair and Robust Federated Learning Through Personalization},
  author    = {Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021},
  eprint    = {2012.04221}
}
"""

    def client_update(self, client: Client) -> Upload:
        start = client.state.get("own", client.initial)
        client.local = client.fit(start, self.pulled, epochs=self.personal_epochs).params
        client.state = {**client.state, "own": client.local}
        return client.upload(client.fit(client.params, self.loss).params)  # last, as its loss is what is recorded

    def pulled(self, client: Client, batch: Batch) -> Tensor:
        """Return the objective of the personal model."""
        loss = self.loss(client, batch)
        if self.lam == 0:
            return loss
        anchor = client.params
        return loss + self.lam / 2 * sum((v - anchor[name]).square().sum() for name, v in batch.params.items())

    def personal(self, client: Client) -> Predictor | None:
        return client.state.get("own", client.initial)
