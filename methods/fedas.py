"""FedAS: a private head, a base aligned to the client's own features, and weights by Fisher information.

Source: Yang, Huang, Ye, "FedAS: Bridging Inconsistency in Personalized Federated Learning", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Ge

from fedbench import Limit, Method, Range, Server, Size, Upload, simplex

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor


@dataclass(frozen=True, kw_only=True)
class FedAS(Method):
    """Align: min over the received base of sum_c mean_i (f(x_i) - P_c)^2; then train base and head; a_k ~ tr F_k.

    P_c are the mean features of the client's class c by its own last base, tr F_k the squared norms of the gradients of
    all batches after training, summed. The size of a client's data does not enter. There is no global head.

    Deviations from the authors' code: each client aligns a copy (theirs aligns the server's model in place, so the next
    client gets an aligned one); short batches are kept; if all traces are zero the weights fall back to n_k.

    Parameters
    ----------
    align_epochs, align_batch : int, >= 0 and >= 1
        Passes and batch size of the alignment. The defaults, 1 and 16, are fixed in the authors' code and in PFLlib.
    align_lr : float, >= 0
        Learning rate of the alignment, by plain SGD and without decay. The default, 0.01, is fixed there too.
    weighting : bool
        Weigh clients by the traces (a_k); otherwise by n_k.

    Cost: the base down and up, and one number up; a base and a head of state; each round a forward pass by the last
    base, ``align_epochs`` passes of alignment and one pass with gradients for the trace.
    """

    align_epochs: Annotated[int, Ge(0)] = 1
    align_batch: Annotated[int, Ge(1)] = 16
    align_lr: Annotated[float, Ge(0)] = 0.01
    weighting: bool = True

    family = "personalised"
    mechanism = "partial sharing, weighting"
    space = (Range("align_lr", 1e-3, 1e-1, log=True, source="around the authors' 0.01"),)
    limits = (Limit(at={"align_epochs": 0, "weighting": False}, equals="fedper"),)
    bibtex = """
@inproceedings{yang2024fedas,
  title     = {{FedAS}: Bridging Inconsistency in Personalized Federated Learning},
  author    = {Yang, Xiyuan and Huang, Wenke and Ye, Mang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {11986--11995},
  year      = {2024}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared, size.shared + (16 if self.weighting else 8)

    def shared(self, name: str) -> bool:
        return not name.startswith("head.")

    def client_update(self, client: Client) -> Upload:
        model = client.fit(self.aligned(client), self.loss).params
        client.state = {**client.state, "base": {name: w for name, w in model.items() if self.shared(name)}}
        if not self.weighting:
            return client.upload(model)
        gradients = client.measure(self.loss, params=model, batch_size=client.protocol.batch_size, gradients=True)
        return client.upload(model, trace=float(sum(g.square().sum() for batch in gradients for g in batch.values())))

    def aligned(self, client: Client) -> dict[str, Tensor]:
        """Return the model received, its base trained to give the features of the client's last base."""
        if self.align_epochs == 0:
            return client.params
        features = client.outputs({**client.params, **client.state.get("base", client.initial)}).features
        sums = torch.eye(client.n_classes, device=features.device)[client.targets].T @ features
        given = {"prototypes": sums / client.class_counts.clamp(min=1)[:, None]}
        often: dict[str, Any] = {"epochs": self.align_epochs, "batch_size": self.align_batch}
        plain: dict[str, Any] = {"lr": self.align_lr, "momentum": 0.0, "weight_decay": 0.0, "stream": "align"}
        return client.fit(client.params, self.distance, train=self.shared, given=given, **often, **plain).params

    def distance(self, client: Client, batch: Batch) -> Tensor:
        """Return the squared distance to the prototypes: the mean over each class in the batch, summed over classes."""
        error = (batch.features - batch.given["prototypes"][batch.y]).square().mean(dim=1)
        share = batch.mean(torch.eye(client.n_classes, device=error.device)[batch.y])
        return batch.mean(error / share.clamp(min=1e-9)[batch.y])  # only padding is of a class without a share

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        traces = [upload["trace"] for upload in uploads] if self.weighting else []
        return simplex(traces) if sum(traces) > 0 else super().weights(server, uploads)

    def predictor(self, server: Server) -> Predictor | None:
        return None

    def personal(self, client: Client) -> Predictor | None:
        return {**client.params, **client.state.get("base", {})}  # what it last trained; a broadcast changes nothing
