"""FedFomo: each client mixes in those other clients' models that do better on its own validation samples.

Source: Zhang, Sapra, Fidler, Yeung, Alvarez, "Personalized Federated Learning with First Order Model Optimization",
ICLR 2021, arXiv:2012.08565, equations 3 and 4; the authors' code for how candidates are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from fedbench import Download, Limit, Method, Range, Server, Size, Upload, is_running_statistic

if TYPE_CHECKING:
    from torch import Tensor

    from fedbench import Batch, Client, Predictor


@dataclass(frozen=True, kw_only=True)
class FedFomo(Method):
    """Start of client i: w_i + sum_n s_n (w_n - w_i), s_n ~ max(L_i(w_i) - L_i(w_n), 0) / ||w_n - w_i||, sum s_n = 1.

    L_i is the loss on samples held out of its training data, the same in every round. If nobody does better it starts
    from w_i. The server sends the last models of those others whose s_n summed up to most so far; ties are broken at
    random, and so is an entry with a probability of epsilon - 0.05 t. There is no global model.

    Deviations: candidates are the stored models of all clients, not this round's alone. The authors' code compares
    with the mean of the candidates instead of w_i.

    Parameters
    ----------
    models : int, >= 0
        Other clients' models sent a round (M), or as many as there are.
    validation : float in (0, 1)
        Share of the training samples that is held out; 0.2 in the authors' code.
    epsilon : float in [0, 1]
        Exploration in the first round (epsilon); 0.3 in the authors' code.

    Cost: M models down, one up with M numbers; M + 1 forward passes over the held-out samples; a model of state a
    client, K at the server. Everybody is sent models of others.
    """

    models: Annotated[int, Ge(0)] = 5
    validation: Annotated[float, Gt(0), Lt(1)] = 0.2
    epsilon: Annotated[float, Ge(0), Le(1)] = 0.3

    family = "personalised"
    mechanism = "personal aggregation"
    space = (Range("models", values=(2, 5, 10), source="around the paper's 5 and 10"),)
    limits = (Limit(at={"models": 0}, equals="local"),)
    bibtex = """
@inproceedings{zhang2021personalized,
  title     = {Personalized Federated Learning with First Order Model Optimization},
  author    = {Zhang, Michael and Sapra, Karan and Fidler, Sanja and Yeung, Serena and Alvarez, Jose M.},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2021},
  eprint    = {2012.08565}
}
"""

    def traffic(self, size: Size) -> tuple[int | None, int | None]:
        return None, None  # there may be fewer than M other clients

    def init_server(self, server: Server) -> None:
        server.state = {"models": {}, "affinity": {}}

    def broadcast(self, server: Server, client_id: int) -> Download:
        rng, helped = server.rng("candidates", client=client_id), server.state["affinity"].get(str(client_id), {})
        others = rng.permutation([k for k in server.state["models"] if k != str(client_id)]).tolist()
        best = sorted(others, key=lambda k: -helped.get(k, 0.0))  # stable, so that ties stay in random order
        explores = rng.random(min(self.models, len(others))) < self.epsilon - 0.05 * server.round
        chosen: dict[str, Any] = {}
        for explore in explores:
            k = next(k for k in (others if explore else best) if k not in chosen)
            chosen[k] = server.state["models"][k]
        return Download({}, chosen)

    def client_update(self, client: Client) -> Upload:
        own = client.state.get("own", client.initial)
        train, held = client.split(self.validation, stream="validation")
        others = client.received.extra if len(held) else {}  # a single sample is trained on

        def risk(params: Mapping[str, Tensor]) -> float:
            return float(sum(client.measure(self.summed, params=params, data=held))) / len(held)

        before = risk(own) if others else 0.0
        gains = {k: max(0.0, before - risk(m)) / (distance(m, own) + 1e-5) for k, m in others.items()}
        shares = {k: gain / sum(gains.values()) for k, gain in gains.items() if gain > 0}
        start = {n: w + sum(share * (others[k][n] - w) for k, share in shares.items()) for n, w in own.items()}
        model = client.fit(start, self.loss, data=train if self.models else None).params
        client.state = {"own": model}
        return client.upload(model, shares=shares)

    def summed(self, client: Client, batch: Batch) -> Tensor:
        return batch.task_loss(batch.logits).sum()

    def server_update(self, server: Server, uploads: Sequence[Upload], weights: Sequence[float]) -> None:
        models, affinity = dict(server.state["models"]), dict(server.state["affinity"])
        for upload in uploads:
            k, before = str(upload.client), affinity.get(str(upload.client), {})
            models[k] = upload.params
            affinity[k] = {**before, **{j: before.get(j, 0.0) + share for j, share in upload["shares"].items()}}
        server.state = {"models": models, "affinity": affinity}

    def predictor(self, server: Server) -> Predictor | None:
        return None

    def personal(self, client: Client) -> Predictor | None:
        return client.state.get("own", client.initial)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return the Euclidean distance of two models."""
    return float(sum((a[n] - b[n]).square().sum() for n in a if not is_running_statistic(n))) ** 0.5
