"""PFedMe: personal models within reach of a common one, which follows them; pFedMe in its paper.

Source: T. Dinh, Tran, Nguyen, "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020, arXiv:2006.08848.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge, Gt

from fedbench import Method, Range, Upload, is_running_statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor, Server


@dataclass(frozen=True, kw_only=True)
class PFedMe(Method):
    """Client objective: min over theta of task loss(theta) + lam/2 * ||theta - w||^2, the Moreau envelope at w.

    A step: theta after K steps of rate eta_p from w on the batch, then w <- w - lr * lam * (w - theta). Server:
    w <- (1 - beta) w_t + beta sum_k p_k w_k. Personal model: theta, found from w_k in an epoch of inner steps.

    Deviations: theta of a step starts at w, where the authors' code goes on from the last batch's; the theta that is
    kept comes from all data of the client, not from its last batch. Only sampled clients train; in that code all do.
    Its weight decay of 0.001 on theta, which the paper has not, is left out.

    Parameters
    ----------
    lam : float, >= 0
        Strength of the pull (lambda); stable only while lr * lam < 1. The default, 15, is the authors'.
    inner_steps : int, >= 0
        Steps towards theta on a batch (K); the default, 5, is the authors'.
    inner_lr : float, > 0
        Their rate (eta_p); stable only while inner_lr * (lam + curvature) < 2. The default, 0.01, is FL-bench's; the
        authors take 0.09 for a small perceptron.
    beta : float, > 0
        Step of the server (beta); the default, 1, is the plain mean.

    Cost: traffic as FedAvg, K times its computation, and one epoch more; a model of state a client.
    """

    lam: Annotated[float, Ge(0)] = 15.0
    inner_steps: Annotated[int, Ge(0)] = 5
    inner_lr: Annotated[float, Gt(0)] = 0.01
    beta: Annotated[float, Gt(0)] = 1.0

    family = "personalised"
    mechanism = "regularisation"
    space = (
        Range("lam", 1.0, 30.0, log=True, source="around the authors' 15"),
        Range("inner_lr", 0.005, 0.1, log=True, source="from FL-bench's 0.01 to the authors' 0.1"),
    )
    bibtex = """
@inproceedings{dinh2020personalized,
  title     = {Personalized Federated Learning with {Moreau} Envelopes},
  author    = {{T. Dinh}, Canh and Tran, Nguyen H. and Nguyen, Tuan Dung},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2020},
  eprint    = {2006.08848}
}
"""

    def client_update(self, client: Client) -> Upload:
        w = client.fit(client.params, self.loss, momentum=0, weight_decay=0).params
        own = client.fit(w, self.near, given=w, epochs=1, lr=self.inner_lr, momentum=0, weight_decay=0, stream="theta")
        client.local = own.params
        client.state = {**client.state, "theta": own.params}
        return client.upload(w)

    def loss(self, client: Client, batch: Batch) -> Tensor:
        if batch.model.buffers:
            super().loss(client, batch)  # the pass whose running statistics are kept
        theta = w = {name: tensor.detach() for name, tensor in batch.params.items()}
        for _ in range(self.inner_steps):
            gradients = batch.gradients(lambda at: batch.mean(batch.task_loss(batch.forward(at).logits)), at=theta)
            slopes = {name: g + self.lam * (theta[name] - w[name]) for name, g in gradients.items()}
            theta = {**theta, **{name: theta[name] - self.inner_lr * slope for name, slope in slopes.items()}}
        return self._pull(batch.params, theta)

    def near(self, client: Client, batch: Batch) -> Tensor:
        return super().loss(client, batch) + self._pull(batch.params, batch.given)

    def _pull(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        return self.lam / 2 * torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum()

    def personal(self, client: Client) -> Predictor | None:
        return client.state.get("theta", client.params)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        mean, before = server.average(uploads, weights), server.params
        mixed = {k: w + self.beta * (mean[k] - w) for k, w in before.items() if not is_running_statistic(k)}
        server.params = mean if self.beta == 1 else {**mean, **mixed}
