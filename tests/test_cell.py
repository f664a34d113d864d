"""Cells and suites: what is part of a cell's identity, and which cells a suite asks for."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fedbench import (
    Cell,
    Data,
    Dataset,
    Dirichlet,
    Method,
    Natural,
    Protocol,
    SiteStyles,
    SpecError,
    Suite,
    Task,
    registry,
)
from fedbench.cell import load_suite, suite_names


class Toy(Data):
    """Four samples."""

    def locate(self, data_dir=None):
        return ()

    def fetch(self, data_dir=None):
        return ()

    def load(self, data_dir=None):
        ids = np.arange(4)
        return Dataset(np.zeros((4, 1), np.float32), ids % 2, ids, ids[:0], ids[:0])


@dataclass(frozen=True, kw_only=True)
class Prox(Method):
    """A method with two hyperparameters."""

    mu: float = 1.0
    steps: int = 2


@dataclass(frozen=True, kw_only=True)
class NewerProx(Prox):
    """The same, changed since."""

    version: ClassVar[int] = 2


PROTOCOL = {"rounds": 10, "participation": 0.1, "local_epochs": 5, "batch_size": 12, "lr": 0.01}
DATA = {"classes": ("a", "b"), "shape": (1,), "counts": {"train": 4}, "license": "CC0"}


def make_task(name="toy", **changes):
    values = {
        "name": name,
        "title": "Toy",
        "data": Toy(**DATA),
        "partitioner": Dirichlet(alpha=0.5, clients=2, min_size=1),
        "model": "mlp",
        "protocol": Protocol(**PROTOCOL),
        "source": "toy",
    }
    return Task(**{**values, **changes})


def make_cell(task=None, name="prox", method=None, track="faithful", seed=1):
    return Cell(task or make_task(), name, method or Prox(), track, seed)


# --- identity ---------------------------------------------------------------------------------------------------


def test_a_hash_is_twelve_hexadecimal_digits_of_sha256_over_sorted_compact_json():
    cell = make_cell()
    text = json.dumps(cell.identity(), sort_keys=True, separators=(",", ":"))
    assert cell.hash == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert json.loads(text) == cell.identity()


OTHER_PROTOCOL = {
    "rounds": 11,
    "participation": 0.2,
    "local_epochs": 4,
    "batch_size": 13,
    "lr": 0.02,
    "momentum": 0.9,
    "weight_decay": 1e-5,
    "lr_decay": 0.99,
    "local_test": 0.3,
    "personal_every": 5,
    "evaluation_batch": 64,
}


def test_every_field_of_the_protocol_is_tried():
    assert set(OTHER_PROTOCOL) == set(Protocol.model_fields)


@pytest.mark.parametrize("field", OTHER_PROTOCOL)
def test_the_hash_changes_with_every_field_of_the_protocol(field):
    protocol = Protocol(**{**PROTOCOL, field: OTHER_PROTOCOL[field]})
    assert make_cell(make_task(protocol=protocol)).hash != make_cell().hash


OTHER_TASK = {
    "name": "toy2",
    "version": 2,
    "data": Toy(**{**DATA, "classes": ("a", "c")}),
    "partitioner": Natural(),
    "model": "cnn4",
    "protocol": Protocol(**{**PROTOCOL, "rounds": 3}),
    "primary": "balance_mean",
    "source": "elsewhere",
    "styles": SiteStyles(),
    "held_out": 0.5,
    "evaluated_on": "validation",
}
PROSE = {"title": "Another title", "description": "Another card"}


def test_every_field_of_a_task_is_tried():
    assert {*OTHER_TASK, *PROSE, "kind"} == set(Task.model_fields)  # there is one kind so far


@pytest.mark.parametrize("field", OTHER_TASK)
def test_the_hash_changes_with_every_field_of_the_task(field):
    assert make_cell(make_task(**{field: OTHER_TASK[field]})).hash != make_cell().hash


@pytest.mark.parametrize("change", [{"alpha": 0.1}, {"clients": 3}, {"min_size": 2}, {"max_tries": 5}], ids=str)
def test_the_hash_changes_with_every_parameter_of_the_split(change):
    other = Dirichlet(**{"alpha": 0.5, "clients": 2, "min_size": 1, **change})
    assert make_cell(make_task(partitioner=other)).hash != make_cell().hash


@pytest.mark.parametrize(
    "change",
    [
        {"method": Prox(mu=0.5)},
        {"method": Prox(steps=3)},
        {"method": NewerProx()},
        {"name": "prox2"},
        {"track": "robust"},
    ],
    ids=str,
)
def test_the_hash_changes_with_hyperparameters_version_name_and_track(change):
    assert make_cell(**change).hash != make_cell().hash


@pytest.mark.parametrize(
    "change", [{"seed": 7}, {"task": make_task(**PROSE)}, {"method": Prox(mu=1, steps=2)}], ids=["seed", "prose", "int"]
)
def test_the_hash_does_not_change_with_seed_prose_or_spelling(change):
    assert make_cell(**change).hash == make_cell().hash


@pytest.mark.parametrize(
    ("method", "label"),
    [
        (Prox(), "prox"),
        (Prox(mu=1.0), "prox"),
        (Prox(mu=0.1), "prox[mu=0.1]"),
        (Prox(steps=5, mu=0), "prox[mu=0.0,steps=5]"),
    ],
)
def test_a_label_shows_what_is_not_at_its_default(method, label):
    assert make_cell(method=method).label == label


def test_a_cell_knows_its_folder_and_its_name():
    cell = make_cell(method=Prox(mu=0.1), seed=3)
    assert str(cell) == "toy/prox[mu=0.1]/seed-3"
    assert cell.folder(Path("out")) == Path("out", "toy", "prox", cell.hash, "seed-3")


# --- suites -----------------------------------------------------------------------------------------------------


@pytest.fixture
def plugged(monkeypatch):
    """Tasks and methods of these tests, in place of the installed ones."""
    tasks = {name: make_task(name) for name in ("red", "green", "blue")}
    methods = {"avg": Method, "prox": Prox, "newer": NewerProx}
    for group, loaded in ((registry.tasks, tasks), (registry.methods, methods)):
        monkeypatch.setattr(group, "_points", {})
        monkeypatch.setattr(group, "_loaded", dict(loaded))


SUITE = {
    "name": "small",
    "title": "Small",
    "track": "faithful",
    "tasks": ("red", "green"),
    "methods": ("avg", "prox"),
    "seeds": (1, 2),
    "overrides": {"prox": {"mu": 0.5}},
}


def described(cells):
    return [(cell.task.name, cell.label, cell.seed) for cell in cells]


def test_a_suite_is_tasks_times_methods_times_seeds_in_this_order(plugged):
    assert described(Suite(**SUITE).cells()) == [
        (task, label, seed) for task in ("red", "green") for label in ("avg", "prox[mu=0.5]") for seed in (1, 2)
    ]


def test_all_cells_are_on_the_suite_s_track(plugged):
    assert {cell.track for cell in Suite(**{**SUITE, "track": "robust"}).cells()} == {"robust"}


def test_a_selection_keeps_its_own_order_and_drops_repeats(plugged):
    cells = Suite(**SUITE).cells(tasks=("green", "red", "green"), methods=("prox", "prox"), seeds=(2, 2))
    assert described(cells) == [("green", "prox[mu=0.5]", 2), ("red", "prox[mu=0.5]", 2)]


def test_what_a_suite_does_not_list_but_exists_can_be_chosen(plugged):
    assert described(Suite(**SUITE).cells(["blue"], ["newer"], [9])) == [("blue", "newer", 9)]


def test_settings_of_the_user_go_over_those_of_the_suite(plugged):
    cells = Suite(**SUITE).cells(["red"], ["prox"], [1], {"prox": {"steps": "4"}})
    assert described(cells) == [("red", "prox[mu=0.5,steps=4]", 1)]
    cells = Suite(**SUITE).cells(["red"], ["prox"], [1], {"prox": {"mu": "0.25"}})
    assert described(cells) == [("red", "prox[mu=0.25]", 1)]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"tasks": ["rad"]}, "unknown task 'rad'; did you mean red"),
        ({"methods": ["proxx"]}, "unknown method 'proxx'; did you mean prox"),
        ({"seeds": [-1]}, "seed: must not be negative, got -1"),
        ({"overrides": {"prox": {"mue": 1}}}, "unknown hyperparameter of prox 'mue'; did you mean mu"),
        ({"overrides": {"prox": {"mu": "abc"}}}, "Prox.mu: .* got 'abc'"),
        ({"methods": ["avg"], "overrides": {"prox": {"mu": 1}}}, "unknown method to set a hyperparameter of 'prox'"),
    ],
)
def test_a_wrong_selection_is_refused_with_the_nearest(plugged, selection, message):
    with pytest.raises(SpecError, match=message):
        Suite(**SUITE).cells(**selection)


@pytest.mark.parametrize(
    ("field", "value"),
    [("tasks", ()), ("methods", ()), ("seeds", ()), ("seeds", (-1,)), ("track", "both"), ("name", "A b"), ("cells", 1)],
)
def test_a_wrong_suite_names_the_field(field, value):
    with pytest.raises(SpecError, match=f"Suite: {field}"):
        Suite(**{**SUITE, field: value})


def test_suites_share_cells(plugged):
    other = Suite(**{**SUITE, "name": "other", "title": "Other", "seeds": (2, 3)})
    assert {cell.hash for cell in other.cells()} == {cell.hash for cell in Suite(**SUITE).cells()}


def test_a_suite_file_is_read_from_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\ntitle = "Mine"\ntrack = "robust"\ntasks = ["red"]\nmethods = ["prox"]\nseeds = [4, 5]\n'
        "[overrides.prox]\nmu = 0.5\n"
    )
    expected = Suite(
        name="mine", title="Mine", track="robust", tasks=("red",), methods=("prox",), seeds=(4, 5),
        overrides={"prox": {"mu": 0.5}},
    )  # fmt: skip
    assert load_suite(str(path)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("name = ", "suite .*mine.toml: "), ('name = "mine"', "title: field required"), ("x = 1", "x: extra inputs")],
)
def test_a_damaged_suite_file_is_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        load_suite(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_suite_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"nowhere\.toml: No such file"):
        load_suite(str(tmp_path / "nowhere.toml"))


def test_an_unknown_suite_suggests_the_nearest():
    with pytest.raises(SpecError, match="unknown suite 'quik'; did you mean quick"):
        load_suite("quik")


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_that_comes_along_is_whole(name):
    suite = load_suite(name)
    assert suite.name == name
    assert len(suite.cells()) == len(suite.tasks) * len(suite.methods) * len(suite.seeds)


def test_the_named_suites_come_along():
    assert {"quick", "paper", "paper-local", "robust", "quick-robust"} <= set(suite_names())


def test_a_suite_names_no_method_that_does_not_exist_in_its_overrides():
    suite = load_suite("quick").but(overrides={"fedprx": {"mu": 0.1}})
    with pytest.raises(SpecError, match=r"overrides of suite quick: 'fedprx'; did you mean fedprox"):
        suite.cells()
