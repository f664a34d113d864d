"""The suites that come with FedBench name what exists."""

import pytest

from fedbench import registry
from fedbench.cell import load_suite, suite_names

TASKS = {
    "quick": ("faithful", ["blood-mini", "organa-mini", "heart"], 3),
    "paper": ("faithful", ["blood", "organc", "organs"], 3),
    "paper-local": ("faithful", ["blood", "organa"], 3),
    "robust": ("robust", ["blood", "organa", "pneumonia"], 10),
    "quick-robust": ("robust", ["blood-mini", "organa-mini", "heart"], 10),
}


def test_these_are_the_suites():
    assert suite_names() == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_suite_names_what_exists(name):
    suite = load_suite(name)
    track, tasks, seeds = TASKS[name]
    assert suite.name == name
    assert (suite.track, list(suite.tasks), suite.seeds) == (track, tasks, tuple(range(1, seeds + 1)))
    assert suite.methods == ("fedavg", "fedprox", "fedkper", "local", "centralised", "majority")
    assert set(suite.tasks) <= set(registry.tasks.names())
    assert set(suite.methods) <= set(registry.methods.names())


def test_suites_of_one_track_share_cells():
    paper, local = (load_suite(name).cells(tasks=["blood"], methods=["fedavg"]) for name in ("paper", "paper-local"))
    assert [cell.hash for cell in paper] == [cell.hash for cell in local]
    assert len({cell.hash for cell in paper}) == 1
    robust = load_suite("robust").cells(tasks=["blood"], methods=["fedavg"])
    assert robust[0].hash != paper[0].hash
