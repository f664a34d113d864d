"""FedCurv: a quadratic pull towards the other clients' models, stiff where their Fisher information is large.

Source: Shoham, Avidor, Keren, Israel, Benditkis, Mor-Yosef, Zeitak, "Overcoming Forgetting in Federated Learning on
Non-IID Data", NeurIPS 2019 Workshop on Federated Learning for Data Privacy and Confidentiality, arXiv:1910.07796.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from fedbench import Download, Limit, Method, Range, Server, Size, Upload

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client


@dataclass(frozen=True, kw_only=True)
class FedCurv(Method):
    """Client objective: task loss + lambda * (<P, w * w> - 2 <Q, w>), P = sum_j u_j, Q = sum_j u_j * w_j, j not itself.

    u_j is the diagonal Fisher information at w_j, the last upload of client j: the square of a batch's mean gradient,
    averaged over batches. The term is sum_j <u_j, (w - w_j)^2> without its constant, so a loss may be negative.

    Deviations: the paper sums over the clients of the last round, see ``memory``. The FedNTD repository subtracts a
    client's own share from P and Q in place, which robs the next clients of the round; here every client has its own.

    Parameters
    ----------
    lam : float, >= 0
        Strength of the pull (lambda); stable only while lr * lambda * max(P) < 1. The default, 1, is that of the FedNTD
        repository, of which FedKPer's is a fork, and of its first author's; the paper tunes it.
    samples : int, >= 0
        The Fisher pass ends with the batch that exceeds this number. The default, 500, is from the same places.
    memory : {"all", "last"}
        Sum over every client ever sampled, as those repositories, or over the clients of the last round.

    Cost: three models down (one in round 0) and three up; two models a client at the server; a pass for u a round.
    """

    lam: Annotated[float, Ge(0)] = 1.0
    samples: Annotated[int, Ge(0)] = 500
    memory: Literal["all", "last"] = "all"

    mechanism = "regularisation"
    space = (Range("lam", 1e-2, 1e2, log=True, source="around the FedNTD repository's 1"),)
    limits = (Limit(at={"lam": 0.0}, equals="fedavg"),)
    bibtex = """
@inproceedings{shoham2019overcoming,
  title     = {Overcoming Forgetting in Federated Learning on Non-{IID} Data},
  author    = {Shoham, Neta and Avidor, Tomer and Keren, Aviv and Israel, Nadav and Benditkis, Daniel and
               Mor-Yosef, Liron and Zeitak, Itai},
  booktitle = {NeurIPS Workshop on Federated Learning for Data Privacy and Confidentiality},
  year      = {2019},
  eprint    = {1910.07796}
}
"""

    def traffic(self, size: Size) -> tuple[int, int]:
        return 3 * size.shared, 3 * size.shared + 8

    def init_server(self, server: Server) -> None:
        server.state = {"u": {}, "v": {}}

    def broadcast(self, server: Server, client_id: int) -> Download:
        others = [client for client in server.state["u"] if client != str(client_id)]
        if not others:
            return server.download()
        u, v = (total(server.state[name][client] for client in others) for name in ("u", "v"))
        return server.download(P=u, Q=v)

    def loss(self, client: Client, batch: Batch) -> Tensor:
        loss = super().loss(client, batch)
        if self.lam == 0 or not client.received.extra:
            return loss
        p, q, w = client.received["P"], client.received["Q"], batch.params
        return loss + self.lam * sum(((p[name] * w[name] - 2 * q[name]) * w[name]).sum() for name in p)

    def client_update(self, client: Client) -> Upload:
        model = client.fit(client.params, self.loss).params
        size = client.protocol.batch_size
        data = client.rng("fisher").permutation(client.n)[: (self.samples // size + 1) * size]
        gradients = client.measure(super().loss, params=model, data=data, batch_size=size, gradients=True)
        u = total({name: g.square() / -(-len(data) // size) for name, g in batch.items()} for batch in gradients)
        return client.upload(model, u=u, v={name: u[name] * model[name] for name in u})

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        super().server_update(server, uploads, weights)
        for name in ("u", "v"):
            kept = server.state[name] if self.memory == "all" else {}
            server.state = {**server.state, name: {**kept, **{str(u.client): u[name] for u in uploads}}}


def total(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Return the sums of tensors by name, in tensors of their own."""
    sums: dict[str, Any] = {}
    for part in parts:
        sums = {name: sums.get(name, 0) + tensor for name, tensor in part.items()}
    return sums
