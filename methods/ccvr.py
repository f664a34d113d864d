"""CCVR: FedAvg, whose last layer is trained once more, on features drawn from what clients say of theirs.

Source: Luo, Chen, Hu, Zhang, Liang, Feng, "No Fear of Heterogeneity: Classifier Calibration for Federated Learning
with Non-IID Data", NeurIPS 2021, arXiv:2106.05001.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from fedbench import Client, Limit, Method, Range, Server, Upload


@dataclass(frozen=True, kw_only=True)
class CCVR(Method):
    """After FedAvg's last round: head <- argmin CE over ``samples`` features of each class c from N(mu_c, Sigma_c).

    Each client reports number, mean and scatter of its features of each class under the final model, so that mu_c and
    Sigma_c are exactly those of all data together. What the server makes of the model is recorded as final.

    Deviations: the retraining, which the paper leaves open, is plain SGD from the trained head. What is sent is (n - 1)
    times the covariance, and for classes that a client has. Features are drawn along the eigenvectors of Sigma_c, which
    needs no jitter where it is singular; they may be negative.

    Parameters
    ----------
    samples : int, > 0
        Virtual features a class (M_c); the paper has 100 to 1000, depending on the data, smduan/Fed-CCVR 2000.
    epochs : int, >= 0
        Passes over them, as many as in smduan/Fed-CCVR; at 0 nothing is asked for, and it is FedAvg.
    lr : float, > 0
        Rate of the retraining; the default moves as far as that code does by 0.001 and momentum 0.9.

    Cost: FedAvg; once, for all clients, the model down, d + d^2 floats a class up and a pass over the data. The mean of
    a single sample of a class is its features.
    """

    samples: Annotated[int, Gt(0)] = 500
    epochs: Annotated[int, Ge(0)] = 10
    lr: Annotated[float, Gt(0)] = 0.01

    mechanism = "calibration"
    space = (Range("samples", 100, 1000, log=True, source="paper"), Range("lr", 1e-3, 0.1, log=True, source="usual"))
    limits = (Limit(at={"epochs": 0}, equals="fedavg"),)
    bibtex = """
@inproceedings{luo2021no,
  title     = {No Fear of Heterogeneity: Classifier Calibration for Federated Learning with Non-{IID} Data},
  author    = {Luo, Mi and Chen, Fei and Hu, Dapeng and Zhang, Yifan and Liang, Jian and Feng, Jiashi},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2021},
  eprint    = {2106.05001}
}
"""

    def query(self, server: Server) -> Sequence[int]:
        return range(server.n_clients) if server.round == server.rounds and self.epochs else ()

    def report(self, client: Client) -> Upload:
        features = client.outputs(client.params).features.double()
        groups = {str(c): features[client.targets == c] for c in client.targets.unique().tolist()}
        return client.upload({}, **{c: moments(group) for c, group in groups.items()})

    def receive(self, server: Server, reports: Sequence[Upload]) -> None:
        rng, drawn = server.rng("virtual"), {}
        for c in sorted({int(c) for report in reports for c in report.extra}):
            mean, covariance = pooled([report[str(c)] for report in reports if str(c) in report.extra])
            values, vectors = torch.linalg.eigh(covariance)
            noise = torch.from_numpy(rng.standard_normal((self.samples, len(mean)))).to(mean)
            drawn[c] = (mean + noise @ (vectors * values.clamp(min=0).sqrt()).T).float()
        x, y = torch.cat(list(drawn.values())), torch.tensor(list(drawn)).repeat_interleave(self.samples)
        head = [server.params[f"head.{part}"] for part in ("weight", "bias")]
        for _ in range(self.epochs):
            for index in torch.from_numpy(rng.permutation(len(y))).split(64):  # as in smduan/Fed-CCVR
                head = [tensor.detach().requires_grad_() for tensor in head]
                loss = F.cross_entropy(F.linear(x[index], *head), y[index].to(x.device))
                head = [w - self.lr * g for w, g in zip(head, torch.autograd.grad(loss, head), strict=True)]
        server.params = {**server.params, "head.weight": head[0].detach(), "head.bias": head[1].detach()}


def moments(features: Tensor) -> dict[str, Any]:
    """Return number, mean and scatter of some features, as they are sent."""
    centred = features - features.mean(dim=0)
    return {"n": len(features), "mean": features.mean(dim=0).float(), "scatter": (centred.T @ centred).float()}


def pooled(groups: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the union of groups of features from the moments of each."""
    means = torch.stack([group["mean"] for group in groups]).double()
    n = torch.tensor([group["n"] for group in groups]).to(means)
    mean = n @ means / n.sum()
    between = (means - mean).T * n @ (means - mean)
    within = torch.stack([group["scatter"] for group in groups]).sum(dim=0, dtype=torch.float64)
    return mean, (within + between) / (n.sum() - 1).clamp(min=1)
