"""MOON: features are drawn towards the global model's and away from those of the client's own last model.

Source: Li, He, Song, "Model-Contrastive Federated Learning", CVPR 2021, arXiv:2103.16257.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch.nn.functional as F
from annotated_types import Ge, Gt

from fedbench import Limit, Method, Range, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class MOON(Method):
    """Loss: CE + mu * l, l = -log(e^(cos(h, h_g)/T) / (e^(cos(h, h_g)/T) + e^(cos(h, h_p)/T))).

    h, h_g and h_p are the features of a sample by the model in training, by the model received and by the one that the
    client ended its previous participation with. The latter two are frozen.

    Deviations: features are the inputs of the last layer, as in the FedNTD repository; the paper inserts a projection
    head, which changes the model. A client without a previous model has no second term: the FedNTD repository pushes it
    away from the initial model, the authors' code from an untrained one after round 0.

    Parameters
    ----------
    mu : float, >= 0
        Strength of the contrast (mu). The default, 0.1, is that of the FedNTD repository, of which FedKPer's is a fork,
        and of its first author's training repository; the paper tunes it, to 5 or 1.
    temperature : float, > 0
        Temperature of the contrast (T). The default, 0.5, is from the same places, and the paper's.

    Cost: traffic as FedAvg; a model of state a client; two forward passes over the client's data a round.
    """

    mu: Annotated[float, Ge(0)] = 0.1
    temperature: Annotated[float, Gt(0)] = 0.5

    mechanism = "contrastive"
    space = (
        Range("mu", values=(0.1, 1.0, 5.0, 10.0), source="paper, experimental setup"),
        Range("temperature", values=(0.1, 0.5, 1.0), source="authors' repository"),
    )
    limits = (Limit(at={"mu": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{li2021model,
  title     = {Model-Contrastive Federated Learning},
  author    = {Li, Qinbin and He, Bingsheng and Song, Dawn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2021},
  eprint    = {2103.16257}
}
"""

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.mu == 0 or "previous" not in client.state:
            return loss
        near = F.cosine_similarity(batch.features, client.frozen(client.params)[batch].features)
        far = F.cosine_similarity(batch.features, client.frozen(client.state["previous"])[batch].features)
        return loss - self.mu * batch.mean(F.logsigmoid((near - far) / self.temperature))

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss).params
        client.state = {**client.state, "previous": model}
        return client.upload(model)
