"""The suites that come with FedBench name what exists."""

from importlib import metadata

import pytest

from fedbench import registry
from fedbench.cell import load_suite, suite_names

TASKS = {
    "quick": ("faithful", ["blood-mini", "organa-mini", "heart"], 3),
    "paper": ("faithful", ["blood", "organc", "organs"], 3),
    "paper-blood": ("faithful", ["blood"], 1),
    "paper-local": ("faithful", ["blood", "organa"], 3),
    "robust": ("robust", ["blood", "organa", "pneumonia"], 10),
    "wide": ("faithful", ["blood-mini", "heart"], 1),
    "quick-robust": ("robust", ["blood-mini", "organa-mini", "heart"], 10),
}

PAPER_TABLE = (
    "fedavg", "fedprox", "fedcurv", "moon", "fedntd", "fedas",
    "fedala", "ditto", "fedper", "fedkd", "fedbabu", "fedkper",
)  # fmt: skip
BUILT_IN = {point.name for point in metadata.distribution("fedbench").entry_points if point.group == "fedbench.methods"}


def test_these_are_the_suites():
    assert suite_names() == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_suite_names_what_exists(name):
    suite = load_suite(name)
    track, tasks, seeds = TASKS[name]
    assert suite.name == name
    assert (suite.track, list(suite.tasks), suite.seeds) == (track, tasks, tuple(range(1, seeds + 1)))
    if name == "wide":
        assert sorted(suite.methods) == sorted(BUILT_IN)
    else:
        assert suite.methods == (*PAPER_TABLE, "local", "centralised", "majority")
    assert set(suite.tasks) <= set(registry.tasks.names())
    assert set(suite.methods) <= set(registry.methods.names())


def test_suites_of_one_track_share_cells():
    paper, local = (load_suite(name).cells(tasks=["blood"], methods=["fedavg"]) for name in ("paper", "paper-local"))
    assert [cell.hash for cell in paper] == [cell.hash for cell in local]
    assert len({cell.hash for cell in paper}) == 1
    robust = load_suite("robust").cells(tasks=["blood"], methods=["fedavg"])
    assert robust[0].hash != paper[0].hash
