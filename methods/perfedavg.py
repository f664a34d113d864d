"""PerFedAvg: a model from which one gradient step leads each client to a good one of its own.

Source: Fallah, Mokhtari, Ozdaglar, "Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic
Meta-Learning Approach", NeurIPS 2020, arXiv:2002.07948, algorithm 1; named Per-FedAvg there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from fedbench import Method, Range, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor, Server


@dataclass(frozen=True, kw_only=True)
class PerFedAvg(Method):
    """Client objective: L(w - alpha grad L(w; D1); D2), D1 and D2 the halves of a batch of 2B; server: plain mean.

    Personal model: w after ``adapt_steps`` steps on all of the client's training data, forgotten again.

    Deviations: the outer step is the protocol's SGD with its momentum, and its rate is that of the round, as in
    PFLlib, where the paper has a rate beta of its own. Without ``first_order`` the gradient through the inner step is
    exact, on D1, where the paper's Per-FedAvg (HF) estimates it from a third batch. A batch of one sample takes a
    plain step. The halves are the odd and the even positions of a batch, which is in random order.

    Parameters
    ----------
    alpha : float, >= 0
        Rate of the inner step (alpha); the default, 0.01, is the FedKPer protocol's learning rate, as in PFLlib.
    first_order : bool
        Whether the inner gradient is taken as a constant: the paper's Per-FedAvg (FO).
    adapt_steps : int, >= 0
        Full gradient steps to the personal model; the paper has one.

    Cost: traffic and passes as FedAvg, in half as many steps; without ``first_order`` about twice the computation. A
    personal evaluation takes ``adapt_steps`` passes over every client's data.
    """

    alpha: Annotated[float, Ge(0)] = 0.01
    first_order: bool = True
    adapt_steps: Annotated[int, Ge(0)] = 1

    family = "personalised"
    mechanism = "meta-learning"
    space = (
        Range("alpha", 1e-3, 0.1, log=True, source="a decade around the learning rate"),
        Range("adapt_steps", 1, 10, log=True, source="one, or a few, as the paper puts it"),
    )
    bibtex = """
@inproceedings{fallah2020personalized,
  title     = {Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic Meta-Learning Approach},
  author    = {Fallah, Alireza and Mokhtari, Aryan and Ozdaglar, Asuman},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2020},
  eprint    = {2002.07948}
}
"""

    def client_update(self, client: Client) -> Upload:
        fit = client.fit(client.params, self.loss, batch_size=2 * client.protocol.batch_size)
        return client.upload(fit.params)

    def loss(self, client: Client, batch: Batch) -> Tensor:
        if len(batch.y) == 1:
            return super().loss(client, batch)
        if batch.model.buffers:
            super().loss(client, batch)  # the pass whose running statistics are kept
        inner, outer = batch.part(slice(1, None, 2)), batch.part(slice(0, None, 2))
        w = batch.params
        start = {name: tensor.detach() for name, tensor in w.items()} if self.first_order else w
        gradients = inner.gradients(lambda at: inner.mean(inner.task_loss(inner.forward(at).logits)), at=start)
        adapted = {name: w[name] - self.alpha * g for name, g in gradients.items()}
        return outer.mean(outer.task_loss(outer.forward({**w, **adapted}).logits))

    def personal(self, client: Client) -> Predictor | None:
        w, n, steps = client.params, client.n, self.adapt_steps
        full = client.fit(
            w, super().loss, epochs=steps, batch_size=n, lr=self.alpha, momentum=0, weight_decay=0, stream="adapt"
        )
        return full.params

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        return [1 / len(uploads)] * len(uploads)
