"""What every method inherits: checked hyperparameters, weights on the simplex, FedAvg's defaults."""

import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Lt
from hypothesis import assume, given
from hypothesis import strategies as st

from fedbench import Download, Method, MethodError, Server, SpecError, Upload, simplex
from fedbench.seeds import Streams


@dataclass(frozen=True, kw_only=True)
class Toy(Method):
    """One hyperparameter of each type."""

    mu: Annotated[float, Ge(0)] = 1.0
    beta: Annotated[float, Gt(0), Lt(1)] = 0.5
    steps: Annotated[int, Ge(1)] = 3
    head_only: bool = False
    mode: Literal["mean", "sum"] = "mean"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("mu", "0.25", 0.25),
        ("mu", "1e-3", 0.001),
        ("mu", "2", 2.0),
        ("mu", 2, 2.0),
        ("steps", "7", 7),
        ("steps", 7.0, 7),
        ("head_only", "true", True),
        ("head_only", "off", False),
        ("head_only", "1", True),
        ("mode", "sum", "sum"),
    ],
)
def test_text_as_from_the_command_line_becomes_the_declared_type(name, text, value):
    method = Toy.configure("toy", {name: text})
    assert getattr(method, name) == value
    assert type(getattr(method, name)) is type(value)
    assert method.hyperparameters() == {**Toy.defaults(), name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mu", -0.1),
        ("mu", "abc"),
        ("mu", ""),
        ("mu", None),
        ("mu", "nan"),
        ("mu", "inf"),
        ("mu", math.nan),
        ("mu", math.inf),
        ("beta", 0),
        ("beta", 1),
        ("steps", 0),
        ("steps", 1.5),
        ("steps", "1.5"),
        ("head_only", "maybe"),
        ("head_only", 2),
        ("mode", "median"),
    ],
)
def test_a_wrong_value_names_method_hyperparameter_and_value(name, value):
    with pytest.raises(SpecError, match=rf"^Toy\.{name}: ") as caught:
        Toy.configure("toy", {name: value})
    assert repr(value) in str(caught.value)
    with pytest.raises(SpecError):
        Toy(**{name: value})


@pytest.mark.parametrize(("typo", "meant"), [("mue", "mu"), ("step", "steps"), ("headonly", "head_only")])
def test_an_unknown_hyperparameter_suggests_the_nearest(typo, meant):
    with pytest.raises(SpecError, match=f"unknown hyperparameter of toy '{typo}'; did you mean {meant}"):
        Toy.configure("toy", {typo: 1})


def test_a_far_off_hyperparameter_lists_all():
    with pytest.raises(SpecError, match="known: beta, head_only, mode, mu, steps"):
        Toy.configure("toy", {"qqqqq": 1})


@pytest.mark.parametrize("name", ["version", "family", "limits", "bibtex"])
def test_class_attributes_are_no_hyperparameters(name):
    with pytest.raises(SpecError, match="unknown hyperparameter"):
        Toy.configure("toy", {name: 1})
    assert name not in Toy.defaults()


def test_hyperparameters_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Toy().mu = 2


def test_equal_values_in_any_spelling_are_one_method():
    spelled = [Toy(mu=2), Toy(mu=2.0), Toy.configure("toy", {"mu": "2"}), Toy.configure("toy", {"mu": "2e0"})]
    assert len(set(spelled)) == 1
    assert len({repr(method.hyperparameters()) for method in spelled}) == 1


def test_defaults_are_the_values_of_an_instance_without_arguments():
    assert Toy.defaults() == Toy().hyperparameters()
    assert Method.defaults() == {}


# --- simplex ----------------------------------------------------------------------------------------------------


def test_simplex_by_hand():
    assert simplex([1, 3]) == [0.25, 0.75]
    assert simplex([5]) == [1.0]
    assert simplex([0, 2, 0]) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "values", [[], [0], [0, 0], [-1, 2], [1, math.nan], [1, math.inf], [-1], [-0.0], [math.inf, -math.inf]]
)
def test_what_cannot_be_scaled_is_refused_with_the_values(values):
    with pytest.raises(MethodError, match="finite, not negative and not all zero"):
        simplex(values)


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=60), st.floats(1e-3, 1e3))
def test_simplex_sums_to_one_keeps_proportions_and_ignores_scale(values, scale):
    assume(sum(values) > 1e-6)
    weights = simplex(values)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)
    assert all(weight >= 0 for weight in weights)
    assert weights == pytest.approx(simplex([scale * value for value in values]), rel=1e-9, abs=1e-12)
    largest = max(range(len(values)), key=values.__getitem__)
    for value, weight in zip(values, weights, strict=True):
        assert weight * values[largest] == pytest.approx(value * weights[largest], rel=1e-9)


@given(st.integers(1, 100))
def test_equal_values_are_an_unweighted_mean(count):
    assert simplex([7.5] * count) == pytest.approx([1 / count] * count, rel=1e-15)


# --- defaults: FedAvg -------------------------------------------------------------------------------------------


def make_server():
    params = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5])}
    return Server(params, params, n_clients=3, rounds=1, shared=lambda name: name != "b", streams=Streams(0))


def test_by_default_uploads_are_weighed_by_their_samples_and_averaged():
    server = make_server()
    uploads = [Upload(0, 10, {"w": torch.tensor([0.0, 4.0])}), Upload(2, 30, {"w": torch.tensor([4.0, 8.0])})]
    weights = Method().weights(server, uploads)
    assert weights == [0.25, 0.75]
    Method().server_update(server, uploads, weights)
    assert server.params["w"].tolist() == [3.0, 7.0]
    assert server.params["b"].tolist() == [0.5]


def test_by_default_a_client_is_sent_the_shared_part_and_nothing_is_queried():
    server = make_server()
    assert list(Method().broadcast(server, 1).params) == ["w"]
    assert Method().predictor(server) is server.params
    assert list(Method().query(server)) == []
    assert Method().shared("anything")


def test_a_method_that_queries_must_report():
    with pytest.raises(MethodError, match=r"Toy queries clients but defines no report\(\)"):
        Toy().report(None)


def test_extras_are_looked_up_by_name():
    assert Upload(0, 1, {}, {"score": 0.5})["score"] == 0.5
    assert Download({}, {"scale": 2})["scale"] == 2
    with pytest.raises(KeyError):
        Upload(0, 1, {})["score"]
