"""FedKD: a private teacher and a shared student teach each other; the student's changes cross the wire compressed.

Source: Wu, Wu, Lyu, Huang, Xie, "Communication-efficient federated learning via knowledge distillation", Nature
Communications 13:2032, 2022, arXiv:2108.13323; the authors' code where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor

from fedbench import Download, Method, MethodError, Range, Server, Size, Upload, is_running_statistic, simplex

if TYPE_CHECKING:
    from fedbench import Batch, Client, Predictor

TEACHER = "teacher."


@dataclass(frozen=True, kw_only=True)
class FedKD(Method):
    """Loss: A + (KL(p || q) + KL(q || p) + 2 H) / A over both models, A = CE(p, y) + CE(q, y), H = ||g - f W||^2.

    p and f are predictions and features of the student, q and g those of the teacher, W is a square map of the client.
    Student: w += mean_k U(w_k - w). Of each matrix U keeps the fewest singular values whose squares make up a share
    T(t) of all; T rises from T_start, before the first round, to T_end in the last. Changes cross the wire as factors,
    or whole where that is smaller; a client that missed a broadcast is sent the whole student. Global model: the
    student. Local and personal model: the teacher.

    Deviations: H is of the penultimate features, where the paper adds all hidden states and attentions of a
    transformer. Teacher and student have one architecture, start and learning rate; W starts as the identity, not at
    random. KL and H are means over classes and features, as in the authors' code. In that code, and in PFLlib, a
    matrix that needs all its singular values becomes zero, and a convolution is no matrix; here it is one, a row for
    each output channel. PFLlib also compresses parameters, not changes. Singular values travel within a factor.
    Gradients are clipped, each tensor's by its own norm; the authors do not, and PFLlib takes the norm over a model.
    Without it a client of one class diverges: its A goes to zero.

    Parameters
    ----------
    t_start, t_end : float in (0, 1]
        Share of the energy that is kept (T_start, T_end); at 1 nothing is lost. The defaults are those of the paper
        and of PFLlib, from which the FedKPer paper is likely to have its own.
    clip : float, > 0
        Largest norm of a tensor's gradient. The default is PFLlib's, whose authors advise 1 where that diverges.

    Cost: at most a model each way; two models are trained, two models and W are a client's state; an eigendecomposition
    of a Gram matrix (512 x 512 at the FedKPer protocol's model) for each matrix, at each client and at the server.
    """

    t_start: Annotated[float, Gt(0), Le(1)] = 0.95
    t_end: Annotated[float, Gt(0), Le(1)] = 0.98
    clip: Annotated[float, Gt(0)] = 10.0

    family = "personalised"
    mechanism = "distillation, compression"
    space = (
        Range("t_start", 0.5, 1.0, source="around the authors' 0.95"),
        Range("t_end", 0.5, 1.0, source="around the authors' 0.98"),
        Range("clip", 1.0, 10.0, log=True, source="PFLlib and its authors' advice"),
    )
    bibtex = """
@article{wu2022communication,
  title   = {Communication-efficient federated learning via knowledge distillation},
  author  = {Wu, Chuhan and Wu, Fangzhao and Lyu, Lingjuan and Huang, Yongfeng and Xie, Xing},
  journal = {Nature Communications},
  volume  = {13},
  number  = {2032},
  year    = {2022}
}
"""

    def traffic(self, size: Size) -> tuple[int | None, int | None]:
        return None, None  # how many singular values are sent is up to the data

    def energy(self, t: int, rounds: int) -> float:
        """Return the share T(t) of round t."""
        return self.t_start + (self.t_end - self.t_start) * (t + 1) / rounds

    def init_client(self, client: Client) -> None:
        head = client.initial["head.weight"]
        client.state = {"teacher": dict(client.initial), "map": torch.eye(head.shape[1], device=head.device)}

    def loss(self, client: Client, batch: Batch) -> Tensor:
        student, teacher = batch.output, batch.forward(teacher_of(batch.params))
        own = batch.mean(batch.task_loss(student.logits)) + batch.mean(batch.task_loss(teacher.logits))
        p, q = student.logits.log_softmax(dim=1), teacher.logits.log_softmax(dim=1)
        both = ((p.exp() - q.exp()) * (p - q)).mean(dim=1)  # KL(p || q) + KL(q || p)
        gap = (teacher.features - student.features @ batch.params["map"]).square().mean(dim=1)
        return own + batch.mean(both + 2 * gap) / own.clamp(min=1e-8)

    def clipped(self, client: Client, name: str, grad: Tensor, w: Tensor) -> Tensor:
        """Return a gradient of at most the norm ``clip``."""
        return grad * (self.clip / grad.norm().clamp(min=self.clip))

    def client_update(self, client: Client) -> Upload:
        student = dict(client.received.params) or plus(client.state["student"], client.received["change"])
        teacher = {TEACHER + name: tensor for name, tensor in client.state["teacher"].items()}
        start = {**student, **teacher, "map": client.state["map"]}
        after = client.fit(start, self.loss, edit_gradients=self.clipped).params
        client.local = teacher_of(after)
        client.state = {"student": student, "teacher": client.local, "map": after["map"]}
        change = {name: after[name] - tensor for name, tensor in student.items()}
        return client.upload({}, change=compressed(change, self.energy(client.round, client.rounds)))

    def personal(self, client: Client) -> Predictor | None:
        teacher: Predictor = client.state["teacher"]
        return teacher

    def init_server(self, server: Server) -> None:
        statistics = [name for name in server.params if is_running_statistic(name)]
        if statistics:
            raise MethodError(
                f"FedKD trains two models in one, which leaves {statistics[0]} behind; use a model without one."
            )
        server.state = {"last": {}}  # the round in which each client was sampled last; names are text

    def broadcast(self, server: Server, client_id: int) -> Download:
        missed = server.state["last"].get(str(client_id), -2) < server.round - 1
        return server.download() if missed else Download({}, {"change": server.state["change"]})

    def weights(self, server: Server, uploads: Sequence[Upload]) -> list[float]:
        return simplex(1 for _ in uploads)

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        sent = [
            (expanded(upload["change"], server.params), weight) for upload, weight in zip(uploads, weights, strict=True)
        ]
        mean = {name: torch.stack([weight * part[name] for part, weight in sent]).sum(dim=0) for name in server.params}
        change = compressed(mean, self.energy(server.round, server.rounds))
        last = server.state["last"] | {str(upload.client): server.round for upload in uploads}
        server.params = plus(server.params, change)  # what clients will hold, not the mean itself
        server.state = {"last": last, "change": change}


def teacher_of(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the teacher among the parameters that are trained together."""
    return {name.removeprefix(TEACHER): tensor for name, tensor in params.items() if name.startswith(TEACHER)}


def plus(model: Mapping[str, Tensor], change: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a model after a change that may be compressed."""
    return {name: model[name] + tensor for name, tensor in expanded(change, model).items()}


def compressed(change: Mapping[str, Tensor], energy: float) -> dict[str, Any]:
    """Return a change whose matrices are products of two factors, where these are smaller than the matrix."""
    return {name: tensor if tensor.dim() < 2 else factors(tensor, energy) for name, tensor in change.items()}


def expanded(change: Mapping[str, Any], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a change in the shapes of a model."""
    return {
        name: (sent if isinstance(sent, Tensor) else sent["left"] @ sent["right"]).reshape(model[name].shape)
        for name, sent in change.items()
    }


def factors(tensor: Tensor, energy: float) -> Tensor | dict[str, Tensor]:
    """Return u and diag(s) v of the smallest rank that keeps a share of the energy, or the tensor if it is smaller."""
    matrix = tensor.flatten(1)
    if not bool(torch.isfinite(matrix).all()):
        return tensor  # the harness refuses it, and says who sent it
    wide = matrix.double()
    values, vectors = torch.linalg.eigh(wide @ wide.T)  # squares of the singular values, the largest last, and u
    kept = values.clamp(min=0).flip(0).cumsum(0)
    rank = 1 + int((kept < energy * kept[-1]).sum())
    if rank * sum(matrix.shape) >= matrix.numel():
        return tensor
    left = vectors[:, -rank:].to(matrix.dtype).contiguous()
    return {"left": left, "right": left.T @ matrix}
