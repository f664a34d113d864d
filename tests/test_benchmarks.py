"""The report of the benchmarks computes what it says, and the loops compared do the same work."""

import doctest
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedbench import registry
from fedbench.cell import Cell
from fedbench.executors import Options, run_cells
from fedbench.models import Model
from fedbench.records import Record
from fedbench.seeds import Streams

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a script as it imports the others: from its own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def report(load):
    return load("report")


def told(variant, sitting, *runs, memory=100.0):
    """Each run is a list of (train, evaluate) seconds, a pair a round; the first round is warm-up."""
    rounds = [[{"train": a, "evaluate": b, "trained": 40, "evaluated": 7} for a, b in run] for run in runs]
    return {"variant": variant, "sitting": sitting, "runs": rounds, "memory_mib": memory}


WARM = (99.0, 99.0)


@pytest.fixture
def measurements(report):
    """Two sittings, hand-made: totals a round are 12 and 10 (plain), 4 and 5 (two workers), 6 and 6, 6.6 and 7.2."""
    return [
        told(report.PLAIN, 1, [WARM, (8, 2), (10, 4)], memory=300.0),
        told(report.FEDBENCH_TWICE, 1, [WARM, (6, 1), (8, 1)], [WARM, (6, 1), (8, 1)]),
        told(report.FEDBENCH, 1, [WARM, (5, 1), (5, 1)]),
        told(report.FEDKPER, 1, [WARM, (5.6, 1), (5.6, 1)]),
        told(report.PLAIN, 2, [WARM, (7, 1), (9, 3)], memory=1500.0),
        told(report.FEDBENCH_TWICE, 2, [WARM, (8, 2), (8, 2)], [WARM, (8, 2), (8, 2)]),
        told(report.FEDBENCH, 2, [WARM, (5, 1), (5, 1)]),
        told(report.FEDKPER, 2, [WARM, (6.2, 1), (6.2, 1)]),
        {
            "variant": "overhead",
            "sitting": 1,
            "overhead": [
                {"fedbench": 99, "bare": 1},
                {"fedbench": 6, "bare": 5.5},
                {"fedbench": 4, "bare": 4.1},
            ],
        },
        {"variant": "start", "sitting": 1, "start": {"import": 1.5, "first_round": 3.5}},
        {"table": "Clients", "row": {"clients": 100, "MiB": 50.25}, "caption": "Memory stays flat."},
        {"table": "Workers", "row": {"workers": 1}},
        {"table": "Clients", "row": {"clients": 10000, "s": 1234.5}},
    ]


@pytest.fixture
def measured(measurements):
    protocol = {"batch_size": 12, "local_epochs": 5, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-5, "rounds": 3}
    machine = {
        "processor": "Abacus",
        "cores": 2,
        "memory_gib": 24.0,
        "platform": "Linux",
        "versions": {"torch": "2.13"},
    }
    return {
        "datetime": "2026-11-21T15:00:00",
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "machine_info": {**machine, "task": "blood", "protocol": protocol},
        "benchmarks": [{"extra_info": each} for each in measurements],
    }


def test_seconds_leave_out_the_first_round_and_halve_what_went_side_by_side(report, measurements):
    alone, twice = measurements[:2]
    assert (report.seconds(alone, "train"), report.seconds(alone, "evaluate"), report.total(alone)) == (9, 3, 12)
    assert (report.seconds(twice, "train"), report.seconds(twice, "evaluate"), report.total(twice)) == (3.5, 0.5, 4)


def test_costs_are_those_of_the_table_of_methods(report):
    rows = [
        {"method": "moon", "version": 2, report.TIME: 1.504, "state": 1.0},
        {"method": "ditto", "version": 1, report.TIME: 2.0},
    ]
    measured = [{"table": "Workers", "rows": [{"method": "other"}]}, {"table": report.METHODS, "rows": rows}]
    assert report.costs(measured) == {"ditto": {"version": 1, "time": 2.0}, "moon": {"version": 2, "time": 1.5}}
    assert report.costs(measured[:1]) == {}


def test_the_costs_that_are_installed_are_the_published_ones(report):
    costs = json.loads(report.COSTS.read_text(encoding="utf-8"))
    page = report.PAGE.read_text(encoding="utf-8").partition(f"## {report.METHODS}\n")[2].partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    rows = {name.strip(): values for name, *values in cells}
    assert list(costs) == sorted(costs)
    for name, cost in costs.items():
        assert cost["version"] == int(rows[name][0]) == registry.methods.get(name).version
        assert cost["time"] == pytest.approx(float(rows[name][2]), abs=0.006)


def test_one_round_is_not_enough(report):
    with pytest.raises(ValueError, match="measure more rounds"):
        report.total(told("any", 1, [WARM]))


def test_ratios_are_taken_within_a_sitting(report, measurements):
    every = report.sittings(measurements)
    assert report.over(every, report.ratio(report.PLAIN, report.FEDBENCH_TWICE)) == [12 / 4, 10 / 5]
    assert report.over(every, report.ratio(report.FLOWER, report.FEDBENCH_TWICE)) == []


def test_the_overhead_is_what_the_bare_loop_does_not_take(report, measurements):
    (sitting, _) = report.sittings(measurements)
    assert report.overhead(sitting["overhead"]) == pytest.approx(1 - 9.6 / 10)


def rows_of(table):
    """Return the rows of a Markdown table by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in lines[2:]}


def test_the_table_of_rounds(report, measurements):
    rows = rows_of(report.rounds_table(report.sittings(measurements)))
    assert rows[report.PLAIN] == [
        "8.50 (8.00–9.00)",
        "2.50 (2.00–3.00)",
        "11.00 (10.00–12.00)",
        "1.00 (1.00–1.00)",
        "1,500",
        "40",
        "7",
    ]
    assert rows[report.FEDBENCH_TWICE][2:4] == ["4.50 (4.00–5.00)", "2.50 (2.00–3.00)"]
    assert rows[report.FLOWER][0] == "not measured"
    assert rows["PFLlib (derived)"][2:4] == ["9.57 (8.70–10.44)", "1.15"]


def test_targets_are_judged_by_the_median(report, measurements):
    rows = list(rows_of(report.targets_table(report.sittings(measurements))).values())
    assert rows == [
        ["at least 2.40 times", "2.50 times", "2.00 to 3.00", "met"],
        ["at least 1.80 times", "–", "–", "not measured"],
        ["at least 3.50 times", "–", "–", "not measured"],
        ["at most 1.15 times", "1.15 times", "1.10 to 1.20", "met"],
        ["at most 5.0 %", "4.0 %", "4.0 to 4.0", "met"],
        ["at most 3.00 s", "1.50 s", "1.50 to 1.50", "met"],
        ["at most 3.00 s", "3.50 s", "3.50 to 3.50", "**not met**"],
    ]


def test_tables_of_other_benchmarks_come_in_order_of_appearance(report, measurements):
    clients, workers = report.other_tables(measurements)
    assert clients == (
        "## Clients\n\nMemory stays flat.\n\n"
        "| clients | MiB | s |\n| --- | --- | --- |\n| 100 | 50.2 | – |\n| 10,000 | – | 1,234 |"
    )
    assert workers.splitlines()[0] == "## Workers"


def test_the_page_ends_with_what_was_written_by_hand(report, measured):
    page = report.page(measured, "## Findings\n\nIt depends.\n")
    assert page.endswith("\n\n## Findings\n\nIt depends.\n")
    assert "| processor | Abacus, 2 cores |" in page


def test_the_examples_of_the_report(report):
    assert doctest.testmod(report).failed == 0


def test_all_variants_of_the_report_are_measured(load, report):
    assert tuple(load("variants").SCRIPTS)[: len(report.VARIANTS)] == report.VARIANTS


def test_the_plain_loop_trains_and_evaluates_as_many_samples_as_fedbench(load, tmp_path):
    the = load("setting").setting("blood-mini", 1)
    (plain,) = load("plain_loop").run(1, "blood-mini", 1, threads=1)
    cell = Cell(the.task, "fedavg", registry.methods.get("fedavg")(), "faithful", 1)
    assert [event.reason for event in run_cells([cell], Options(results=tmp_path), 1) if event.state == "failed"] == []
    (ours,) = load("cells").rounds_of(Record.open(cell.folder(tmp_path)), the)
    assert (plain["trained"], plain["evaluated"]) == (ours["trained"], ours["evaluated"])
    assert plain["trained"] == the.federation.passes[0].sum()


def test_all_loops_compute_the_same_network(load):
    plain, overhead, the = load("plain_loop"), load("overhead"), load("setting").setting("blood-mini", 1)
    model = Model(the.task.model, the.task.data.shape, the.task.n_classes)
    params = model.initial(Streams(1))
    network = plain.CNN(the.task.n_classes, *plain.WIDTHS[the.task.model])
    network.load_state_dict(params)
    images = plain.Images(the.dataset.inputs[:5], the.dataset.targets[:5])
    x = torch.stack([image for image, _ in images])
    bare = overhead.BareLoop(the)
    expected = model(params, bare.inputs[:5]).logits
    torch.testing.assert_close(x.permute(0, 2, 3, 1), bare.inputs[:5])
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(overhead._logits(params, bare.inputs[:5]), expected)


def test_transforms_by_hand(load):
    plain = load("plain_loop")
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    image[0, 1] = [255, 0, 51]
    (x, label) = plain.Images(image[None], np.array([3]))[0]
    assert (x.shape, label) == ((3, 2, 2), 3)
    torch.testing.assert_close(x[:, 0, 1], torch.tensor([1.0, -1.0, -0.6]))
