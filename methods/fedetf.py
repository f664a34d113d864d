"""FedETF: all clients train features towards one fixed classifier whose directions are as far apart as can be.

Source: Li, Shang, He, Lin, Wu, "No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with
Synthetic and Fixed Classifier", ICCV 2023, arXiv:2303.10058; the authors' code for the personal tuning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt

from fedbench import Download, Method, Range, Server, Size, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor


@dataclass(frozen=True)
class Cosines:
    """Scores a class by the scaled cosine between the projected features and its direction."""

    model: Callable[[Mapping[str, Tensor], Tensor], Any]
    params: Mapping[str, Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        return cosines(self.params, self.model(self.params, inputs).logits)


@dataclass(frozen=True, kw_only=True)
class FedETF(Method):
    """Loss: CE(b V^T m + log n_k, y), m = z / ||z||, z = W f + w0; FedAvg of everything but V.

    V = sqrt(C / (C-1)) U (I - 1 1^T / C), U a random orthogonal matrix: a simplex equiangular tight frame, drawn once.
    The projection to C dimensions has the shape of the last layer and its initial draw, and takes its place. b is
    learnt. n_k are the client's class counts: a class that it has not is not pushed away. Global: V^T m, without them.

    Personal, after the last round alone: the global model is trained like any client's, then in turns, without n_k, a
    copy of V (3 epochs, plain SGD at 0.1) and the projection (3 epochs at 0.05). Before, it is the global model.

    Deviations: as the base is fixed while they take turns, its features are computed once, in evaluation mode. Of the
    authors' widths C, 64 and others for the projection only C.

    Parameters
    ----------
    scale : float, > 0
        Where b starts; 1 or 10 in the authors' code, by model.
    turns : int, >= 0
        Turns of the personal tuning; 20 in the authors' code.

    Cost: traffic as FedAvg, one number more each way and V down; 120 epochs of the last layer and a round's training
    for each client when all is over, counted as adaptation.
    """

    scale: Annotated[float, Gt(0)] = 1.0
    turns: Annotated[int, Ge(0)] = 20

    mechanism = "label-skew loss, fixed classifier"
    space = (Range("scale", 1.0, 20.0, log=True, source="around the authors' 1 and 10"),)
    bibtex = """
@inproceedings{li2023no,
  title     = {No Fear of Classifier Biases: Neural Collapse Inspired Federated Learning with Synthetic and Fixed
               Classifier},
  author    = {Li, Zexi and Shang, Xinyi and He, Rui and Lin, Tao and Wu, Chao},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023},
  eprint    = {2303.10058}
}
"""

    def shared(self, name: str) -> bool:
        return name != "etf"

    def traffic(self, size: Size) -> tuple[int, int]:
        return size.shared + 4 + 4 * size.classes**2, size.shared + 4 + 8

    def init_server(self, server: Server) -> None:
        bias = server.initial["head.bias"]
        classes = len(bias)
        orthogonal, _ = np.linalg.qr(server.rng("etf").standard_normal((classes, classes)))
        etf = math.sqrt(classes / (classes - 1)) * orthogonal @ (np.eye(classes) - 1 / classes)
        server.params = {**server.params, "scale": bias.new_tensor(self.scale), "etf": torch.from_numpy(etf).to(bias)}

    def broadcast(self, server: Server, client_id: int) -> Download:
        return server.download(etf=server.params["etf"])

    def client_update(self, client: Client) -> Upload:
        model = client.fit({**client.params, "etf": client.received["etf"]}, self.loss, train=self.shared).params
        client.local = Cosines(client.model, model)
        return client.upload({name: tensor for name, tensor in model.items() if self.shared(name)})

    def loss(self, client: Client, batch: Batch) -> Tensor:
        return batch.mean(batch.task_loss(cosines(batch.params, batch.logits) + client.class_counts.log()))

    def predictor(self, server: Server) -> Predictor | None:
        return Cosines(server.model, server.params)

    def personal(self, client: Client) -> Predictor | None:
        model = {**client.params, "etf": client.received["etf"]}
        if client.round < client.rounds - 1:
            return Cosines(client.model, model)
        model = client.fit(model, self.loss, train=self.shared, stream="tune").params
        top = {name: model[name] for name in ("head.weight", "head.bias", "scale", "etf")}
        tune = partial(client.fit, loss=self.tuning, epochs=3, given={"features": client.outputs(model).features})
        for i in range(self.turns):
            plain: dict[str, Any] = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "stream": f"directions-{i}"}
            top = tune(top, train=lambda name: name == "etf", **plain).params
            top = tune(top, train=lambda name: name.startswith("head."), lr=0.05, stream=f"projection-{i}").params
        return Cosines(client.model, {**model, **top})

    def tuning(self, client: Client, batch: Batch) -> Tensor:
        features = batch.given["features"][batch.index]
        projected = F.linear(features, batch.params["head.weight"], batch.params["head.bias"])
        return batch.mean(batch.task_loss(cosines(batch.params, projected)))


def cosines(params: Mapping[str, Tensor], projected: Tensor) -> Tensor:
    """Return the cosines between projected features and the classes' directions, times the scale."""
    return params["scale"] * F.normalize(projected, dim=1) @ params["etf"]
