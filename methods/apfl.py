"""APFL: each client mixes the global model with one of its own, and trains both.

Source: Deng, Kamani, Mahdavi, "Adaptive Personalized Federated Learning", 2020, arXiv:2003.13461, Algorithm 1; the
authors' code (FedTorch) for the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge, Le

from fedbench import Limit, Method, Range, is_running_statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor, Upload


@dataclass(frozen=True, kw_only=True)
class APFL(Method):
    """w as FedAvg; beside it v <- v - lr * alpha * grad L(m) at the mixture m = alpha v + (1 - alpha) w.

    Adaptive: alpha <- clip(alpha - lr * <v - w, grad L(m)>, 0, 1). The gradient at m does not reach w. v starts
    as the common start. Personal is the mixture of v and the newest global model, or the latter for a client that was
    never sampled; local is that of v and the w just trained.

    Deviations: w, v and alpha are stepped at once, where the paper steps w first. Protocol momentum acts on all three,
    its weight decay on w and v. The authors' code learns alpha in a round's first step only, and adds 0.02 alpha to its
    gradient. Batch-normalisation statistics of v are those of m, gathered in one more pass over the data.

    Parameters
    ----------
    alpha : float in [0, 1]
        Share of the client's own model (alpha), where it starts if it is learnt; 0.5 in the authors' code.
    adaptive : bool
        Learn it, each client its own; off in the authors' code.

    Cost: traffic as FedAvg; a second forward and backward pass a step; a model of state a client.
    """

    alpha: Annotated[float, Ge(0), Le(1)] = 0.5
    adaptive: bool = False

    family = "personalised"
    mechanism = "mixture"
    space = (Range("alpha", values=(0.25, 0.5, 0.75), source="paper, section 5"),)
    limits = (Limit(at={"alpha": 0.0, "adaptive": False}, equals="fedavg"),)
    bibtex = """
@article{deng2020adaptive,
  title   = {Adaptive Personalized Federated Learning},
  author  = {Deng, Yuyang and Kamani, Mohammad Mahdi and Mahdavi, Mehrdad},
  journal = {arXiv preprint arXiv:2003.13461},
  year    = {2020}
}
"""

    def client_update(self, client: Client) -> Upload:
        alpha = torch.tensor(self.alpha, device=client.targets.device)
        v = {f"v.{name}": tensor for name, tensor in client.state.get("v", client.initial).items()}
        after = client.fit(
            {**client.params, **v, "alpha": client.state.get("alpha", alpha)},
            self.loss,
            train=lambda name: (self.adaptive or name != "alpha") and not is_running_statistic(name),
            edit_gradients=self.undecayed if self.adaptive else None,
            project=self.clipped if self.adaptive else None,
        ).params
        w, v = ({name: after[prefix + name] for name in client.params} for prefix in ("", "v."))
        mixture = mixed(w, v, after["alpha"])
        if client.model.buffers:  # a pass that trains nothing
            still: dict[str, Any] = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}
            mixture = client.fit(mixture, super().loss, epochs=1, stream="statistics", **still).params
            v |= {name: mixture[name] for name in client.model.buffers}
        client.state, client.local = {"v": v, "alpha": after["alpha"]}, mixture
        return client.upload(w)

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.alpha == 0 and not self.adaptive:
            return loss
        w = {name: batch.params[name].detach() for name in client.initial}
        v = {name: batch.params[f"v.{name}"] for name in w}
        return loss + batch.mean(batch.task_loss(batch.forward(mixed(w, v, batch.params["alpha"])).logits))

    def undecayed(self, client: Client, name: str, gradient: Tensor, parameter: Tensor) -> Tensor:
        return gradient - client.protocol.weight_decay * parameter if name == "alpha" else gradient

    def clipped(self, client: Client, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"alpha": params["alpha"].clamp(0, 1)}

    def personal(self, client: Client) -> Predictor | None:
        w, own = client.params, client.state
        return mixed(w, own["v"], own["alpha"]) if own else w


def mixed(w: Mapping[str, Tensor], v: Mapping[str, Tensor], alpha: Tensor) -> dict[str, Tensor]:
    """Return (1 - alpha) w + alpha v, which is w or v to the bit at the ends."""
    return {name: (1 - alpha) * w[name] + alpha * tensor for name, tensor in v.items()}
