"""LG-FedAvg: every client has a representation of its own under a common head, the reverse of FedPer.

Source: Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency, "Think Locally, Act Globally: Federated
Learning with Local and Global Representations", 2020, arXiv:2001.01523.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedbench import Limit, Method, MethodError, Range

if TYPE_CHECKING:
    from fedbench import Predictor, Server


@dataclass(frozen=True, kw_only=True)
class LGFedAvg(Method):
    """Client k trains its own base v_k and the common head w together; w = sum_k p_k w_k, and v_k stays with it.

    Personal model: the client's own base under the newest head. There is no global model.

    Deviations: the paper's ensemble of all clients' models for a new device is left out. From the authors' code, which
    starts from a model that FedAvg has trained and weighs all heads alike: clients start from the common initial model,
    and heads are averaged by n_k.

    Parameters
    ----------
    common : str
        Layers that are shared, by name, such as ``"fc1,head"``. The default is the last linear layer, as in PFLlib.

    Cost: the head up and down, 0.25 % of the FedKPer protocol's model; a base of state a client; no computation beside
    FedAvg's.
    """

    common: str = "head"

    family = "personalised"
    mechanism = "partial sharing"
    space = (Range("common", values=("head", "fc1,head"), source="authors' code: the last few layers"),)
    limits = (Limit(at={"common": ""}, equals="local"),)
    bibtex = """
@misc{liang2020think,
  title  = {Think Locally, Act Globally: Federated Learning with Local and Global Representations},
  author = {Liang, Paul Pu and Liu, Terrance and Ziyin, Liu and Allen, Nicholas B. and Auerbach, Randy P. and
            Brent, David and Salakhutdinov, Ruslan and Morency, Louis-Philippe},
  year   = {2020},
  eprint = {2001.01523}
}
"""

    def shared(self, name: str) -> bool:
        return name.partition(".")[0] in self.common.split(",")

    def init_server(self, server: Server) -> None:
        layers = list(dict.fromkeys(name.partition(".")[0] for name in server.params))
        unknown = [layer for layer in self.common.split(",") if layer and layer not in layers]
        if unknown:
            raise MethodError(f"LGFedAvg.common: the model has no layer {unknown[0]!r}; it has {', '.join(layers)}.")

    def predictor(self, server: Server) -> Predictor | None:
        return server.params if all(self.shared(name) for name in server.params) else None
