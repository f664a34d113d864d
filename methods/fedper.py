"""FedPer: FedAvg of the lower layers, while the last ones stay with their client.

Source: Arivazhagan, Aggarwal, Singh, Choudhary, "Federated Learning with Personalization Layers", 2019,
arXiv:1912.00818.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbench import Limit, Method, MethodError, Range

if TYPE_CHECKING:
    from fedbench import Predictor, Server


@dataclass(frozen=True, kw_only=True)
class FedPer(Method):
    """Client k trains the base w and its own last layers v_k together; w = sum_k p_k w_k, and v_k stays with it.

    Personal model: the newest base with the client's own layers, which start alike at all clients. There is no
    global model.

    Deviations: clients are sampled, where the paper has all of them in every round; so the own layers of a client may
    be older than the base under them. From the usual public codes (PFLlib, FL-bench): none.

    Parameters
    ----------
    private : str
        Layers that stay with their client, by name, such as ``"fc1,head"``: the paper's last K_P. The default, the last
        linear layer, is K_P = 1 of the paper and what the public codes do; the FedKPer paper names none.

    Cost: base up and down, the private layers of state a client; no computation beside FedAvg's.
    """

    private: str = "head"

    family = "personalised"
    mechanism = "partial sharing"
    space = (Range("private", values=("head", "fc1,head"), source="the paper: the last 1 to 4 blocks"),)
    limits = (Limit(at={"private": ""}, equals="fedavg"),)
    bibtex = """
@misc{arivazhagan2019federated,
  title  = {Federated Learning with Personalization Layers},
  author = {Arivazhagan, Manoj Ghuhan and Aggarwal, Vinay and Singh, Aaditya Kumar and Choudhary, Sunav},
  year   = {2019},
  eprint = {1912.00818}
}
"""

    def shared(self, name: str) -> bool:
        return name.partition(".")[0] not in self.private.split(",")

    def init_server(self, server: Server) -> None:
        layers = list(dict.fromkeys(name.partition(".")[0] for name in server.params))
        unknown = [layer for layer in self.private.split(",") if layer and layer not in layers]
        if unknown:
            raise MethodError(f"FedPer.private: the model has no layer {unknown[0]!r}; it has {', '.join(layers)}.")

    def predictor(self, server: Server) -> Predictor | None:
        return server.params if all(self.shared(name) for name in server.params) else None
