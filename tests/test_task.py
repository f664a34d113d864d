"""Tasks and protocols: what is refused, what is identity, and arithmetic known by hand."""

import json
import math

import numpy as np
import pytest

from fedbench import Data, Dataset, Dirichlet, Natural, Protocol, SpecError, Task


class TwoClasses(Data):
    """Ten samples of two classes."""

    def locate(self, data_dir=None):
        return ()

    def fetch(self, data_dir=None):
        return ()

    def load(self, data_dir=None):
        ids = np.arange(10)
        return Dataset(np.zeros((10, 2), np.float32), ids % 2, ids, ids[:0], ids[:0])


class OtherClasses(TwoClasses):
    """The same facts under another name."""


PROTOCOL = {"rounds": 10, "participation": 0.1, "local_epochs": 5, "batch_size": 12, "lr": 0.01}
DATA = {"classes": ("a", "b"), "shape": (2,), "counts": {"train": 10}, "license": "CC0"}
TASK = {
    "name": "toy",
    "title": "Toy",
    "data": TwoClasses(**DATA),
    "partitioner": Dirichlet(alpha=0.5, clients=2, min_size=1),
    "model": "mlp",
    "protocol": Protocol(**PROTOCOL),
    "source": "toy",
}


@pytest.mark.parametrize(("clients", "sampled"), [(20, 2), (30, 3), (50, 5), (1, 1), (9, 1), (19, 1), (8, 1)])
def test_a_tenth_of_the_clients_takes_part_rounded_down_but_at_least_one(clients, sampled):
    assert Protocol(**PROTOCOL).sampled(clients) == sampled


@pytest.mark.parametrize("clients", range(1, 60))
def test_full_participation_is_everybody(clients):
    assert Protocol(**{**PROTOCOL, "participation": 1}).sampled(clients) == clients


def test_the_learning_rate_falls_by_a_factor_a_round():
    protocol = Protocol(**PROTOCOL, lr_decay=0.99)
    assert [protocol.lr_at(t) for t in range(3)] == pytest.approx([0.01, 0.0099, 0.009801], rel=1e-15)
    assert math.isclose(protocol.lr_at(99), 0.01 * math.exp(99 * math.log(0.99)), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("rounds", "every", "expected"),
    [
        (100, 10, [9, 19, 29, 39, 49, 59, 69, 79, 89, 99]),
        (10, 0, [9]),
        (10, 4, [3, 7, 9]),
        (3, 5, [2]),
        (3, 1, [0, 1, 2]),
    ],
)
def test_personal_models_are_evaluated_on_every_so_many_rounds_and_the_last(rounds, every, expected):
    assert Protocol(**{**PROTOCOL, "rounds": rounds}, personal_every=every).personal_rounds() == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("rounds", 1.5),
        ("participation", 0),
        ("participation", 1.01),
        ("participation", math.nan),
        ("local_epochs", -1),
        ("batch_size", 0),
        ("lr", -0.1),
        ("lr", math.inf),
        ("lr", math.nan),
        ("momentum", 1),
        ("momentum", math.nan),
        ("weight_decay", -1e-9),
        ("lr_decay", 0),
        ("lr_decay", 1.1),
        ("local_test", 0),
        ("local_test", 1),
        ("personal_every", -1),
        ("evaluation_batch", 0),
    ],
)
def test_a_protocol_out_of_range_names_the_field_and_the_value(name, value):
    with pytest.raises(SpecError, match=rf"Protocol: {name}: .*got {value}"):
        Protocol(**{**PROTOCOL, name: value})


def test_a_typo_and_a_missing_field_are_both_named():
    with pytest.raises(SpecError, match=r"roundz.*not permitted") as caught:
        Protocol(**{("roundz" if key == "rounds" else key): value for key, value in PROTOCOL.items()})
    assert "rounds: field required" in str(caught.value)


@pytest.mark.parametrize("name", ["", "Blood", "a b", "../x", "-a", ".a", "a/b", "a" * 65, "a\n"])
def test_a_task_name_is_safe_as_a_folder(name):
    with pytest.raises(SpecError, match="Task: name"):
        Task(**{**TASK, "name": name})


@pytest.mark.parametrize("name", ["a", "blood-mini", "x_1.2", "0", "a" * 64])
def test_good_names_pass(name):
    assert Task(**{**TASK, "name": name}).name == name


def test_a_spec_is_frozen_and_hashable():
    task = Task(**TASK)
    with pytest.raises(ValueError, match="frozen"):
        task.version = 2
    assert task == Task(**TASK)
    assert len({task, Task(**TASK), Task(**{**TASK, "version": 2})}) == 2


def test_identity_is_plain_json_without_prose_and_with_the_classes_of_its_parts():
    identity = Task(**TASK, description="long prose").identity()
    assert json.loads(json.dumps(identity)) == identity
    assert "title" not in identity
    assert "description" not in identity
    assert identity["data"]["type"] == "TwoClasses"
    assert identity["partitioner"] == {
        "type": "Dirichlet",
        "alpha": 0.5,
        "clients": 2,
        "min_size": 1,
        "max_tries": 2000,
    }
    assert set(identity["protocol"]) == set(Protocol.model_fields)


def test_identity_tells_parts_with_equal_fields_apart_by_class():
    other = Task(**{**TASK, "data": OtherClasses(**DATA)})
    assert other.identity() != Task(**TASK).identity()
    assert Task(**{**TASK, "partitioner": Natural()}).identity()["partitioner"] == {"type": "Natural"}


def test_n_classes_counts_the_declared_classes():
    assert Task(**TASK).n_classes == 2


@pytest.mark.parametrize(("name", "value"), [("version", 0), ("kind", "regression"), ("source", None)])
def test_a_task_out_of_range_names_the_field(name, value):
    with pytest.raises(SpecError, match=f"Task: {name}"):
        Task(**{**TASK, name: value})
