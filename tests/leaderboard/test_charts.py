"""Charts: right numbers by hand, the same bytes each time, hostile names as text, and a sentence where nothing fits."""

import doctest
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import altair
import numpy as np
import pytest
import vl_convert
from fedbench.leaderboard import load_board
from fedbench.leaderboard import series as series_module
from fedbench.leaderboard.charts import (
    Chart,
    accuracy_curves,
    critical_difference,
    forest,
    gains,
    heat_map,
    javascript,
    rank_ranges,
    retrogress,
    strips,
    theme,
    tradeoff,
    tradeoffs,
)
from fedbench.leaderboard.charts import chart as chart_module
from fedbench.leaderboard.charts.chart import GREY, HUES, identifier, named, spread
from fedbench.leaderboard.charts.curves import common, stretches
from fedbench.leaderboard.charts.ranks import _whole
from fedbench.leaderboard.charts.tradeoff import Point, front
from fedbench.leaderboard.figures import figure_pages
from fedbench.leaderboard.runs import method_series
from fedbench.leaderboard.verdicts import Verdicts

from fedbench.statistics import Interval
from fedbench.statistics.standings import RankInterval

HOSTILE = (
    "<script>alert(1)</script>|`x`",
    "</svg><img src=x onerror=alert(1)>",
    '"quoted" & \'quoted\' {{7*7}} ${x} datum["method"]',
    "x" * 5000,
    "\u202eevil\u202c\nline\x00two",
    "\u05e9\u05dc\u05d5\u05dd",
)


@pytest.fixture
def full(demo, lab):
    """Return the demonstration with a second method that has personal models, so that every kind can be drawn."""
    for seed in (1, 2, 3):
        lab.done("alpha", "ditto", seed, 0.5, models=("global", "local", "personal"))
    return lab.finish()


def board(results):
    return load_board(results, "demo", drawn=True)


def alpha(results):
    task = board(results).tasks[0]
    return task, method_series(task)


def every_chart(results):
    """Return one of each kind, from the synthetic records and from plain numbers."""
    task, methods = alpha(results)
    runs = {method.label: method.runs for method in methods}
    found = [
        *tradeoffs(task, seconds=True),
        *(accuracy_curves(methods, task.name, over, model) for over in OVERS for model in ("global", "local")),
        retrogress(methods, task.name),
        heat_map(runs["fedavg"][0], "fedavg", task.name),
        strips(methods, task.name),
        gains(methods, task.name, "fedper"),
        critical_difference({"a": 1.2, "b": 1.8, "c": 3.0}, [["a", "b"]], 0.9, "cd", "Critical difference"),
        rank_ranges([place("a", 1), place("b", 2)], "ranks", "Ranks"),
        forest([("a", Interval(0.01, 0.005, 0.015, 10))], margin=0.01, reference="b", name="forest", title="Forest"),
    ]
    return {chart.name: chart for chart in found if isinstance(chart, Chart)}


OVERS = ("rounds", "bytes", "seconds")


def place(method, rank):
    return RankInterval(question="Q2", n=10, unit="seeds", method=method, rank=rank, low=1, high=2, descriptive=False)


def layers(chart, **wanted):
    """Return the layers whose mark has these properties."""
    return [
        layer
        for layer in chart.spec["layer"]
        if all(layer["mark"].get(name) == value for name, value in wanted.items())
    ]


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("module", [chart_module, series_module], ids=lambda module: module.__name__)
def test_examples_of_the_docstrings(module):
    result = doctest.testmod(module)
    assert (result.attempted > 2, result.failed) == (True, 0)


# ---- Trade-off ---------------------------------------------------------------------------------------------


def points(*pairs):
    return [
        Point(f"p{n}", "global", Interval(x, None, None, 1), Interval(y, None, None, 1))
        for n, (x, y) in enumerate(pairs)
    ]


def test_pareto_front_of_five_points():
    # p0 and p2 and p4 are beaten by nobody; p1 is beaten by p2, p3 equals p2 on y and is beaten on x.
    five = points((10, 90), (20, 70), (30, 80), (25, 80), (40, 60))
    assert [point.label for point in front(five, cost=False)] == ["p0", "p2", "p4"]
    # Where x is a cost: p0 has the most for the least, and beats them all.
    assert [point.label for point in front(five, cost=True)] == ["p0"]
    assert [p.label for p in front(points((10, 50), (20, 70), (30, 60), (20, 65), (40, 90)), cost=True)] == [
        "p0",
        "p1",
        "p4",
    ]


def test_equal_points_are_on_the_front_together():
    assert [point.label for point in front(points((10, 50), (10, 50), (10, 40)), cost=False)] == ["p0", "p1"]


def test_tradeoff_draws_means_whiskers_and_reference_points(lab):
    for seed, accuracy in ((1, 0.5), (2, 0.6), (3, 0.7)):
        lab.done("alpha", "fedavg", seed, accuracy)
        lab.done("alpha", "best", seed, accuracy + 0.2)
        lab.done("alpha", "majority", seed, 0.6, family="reference")
    task = board(lab.finish()).tasks[0]
    chart = tradeoff(task, "global", "local")
    rows = {row["method"]: row for row in chart.spec["data"]["values"]}
    # 50, 60, 70: mean 60, half width 4.3027 * 10 / sqrt(3) = 24.84. Local accuracy is 62.5 at each seed.
    assert (rows["fedavg"]["x"], rows["fedavg"]["x0"], rows["fedavg"]["x1"]) == (60, 35.16, 84.84)
    assert (rows["fedavg"]["y"], rows["fedavg"]["y0"], rows["fedavg"]["y1"]) == (62.5, 62.5, 62.5)
    assert {name for name, row in rows.items() if row["front"]} == {"best"}
    assert rows["majority"]["family"] == "reference"
    assert "On the Pareto front, from left to right: best (80.0 % (55.2 to 104.8, 3 seeds)" in chart.description
    # Against bytes, 2 MB up and 4 MB down: no place across for a reference point, so a line.
    costs = tradeoff(task, "bytes", "global")
    assert {row["method"]: row["x"] for row in costs.spec["data"]["values"]} == {"fedavg": 6e6, "best": 6e6}
    assert {"y": 60.0, "method": "majority"} in [v for layer in layers(costs) for v in _values(layer)]


def _values(layer):
    return layer.get("data", {}).get("values", [])


def test_holes_and_undefined_values_are_named_and_not_drawn(demo):
    chart = tradeoff(board(demo).tasks[0], "global", "local")
    assert {row["method"] for row in chart.spec["data"]["values"]} == {"fedavg", "fedkper[distil=False]"}
    assert "fedper, majority (a value is not defined)" in chart.description
    assert "fedprox (2 of 3 seeds: seed 3 failed: loss is NaN in round 2)" in chart.description


def test_a_sentence_stands_where_no_method_is_whole(demo, lab):
    missing = tradeoff(board(demo).tasks[0], "global", "personal")  # fedper alone has personal models, no global one
    assert missing == (
        "Personal accuracy against global accuracy cannot be drawn: no method of alpha has both values at every "
        "planned seed."
    )


def test_seconds_are_drawn_only_where_asked_for(demo):
    task = board(demo).tasks[0]
    names = [chart.name for chart in tradeoffs(task) if isinstance(chart, Chart)]
    assert names
    assert not [name for name in names if "seconds" in name]
    assert "tradeoff_alpha_seconds_global" in [c.name for c in tradeoffs(task, seconds=True) if isinstance(c, Chart)]


# ---- Curves ------------------------------------------------------------------------------------------------


def test_band_is_the_t_interval_of_three_seeds(demo):
    task, methods = alpha(demo)
    chart = accuracy_curves(methods, task.name)
    rows = [row for row in chart.spec["data"]["values"] if row["method"] == "fedavg"]
    # 50, 60, 70 in both rounds: 60 ± 24.84.
    assert rows == [
        {"method": "fedavg", "look": 0, "n": 0, "x": (1, 2), "y": (60, 60), "low": (35.2, 35.2), "high": (84.8, 84.8)}
    ]


def test_two_seeds_are_two_lines_and_no_band(demo):
    task, methods = alpha(demo)
    chart = accuracy_curves(methods, task.name)
    rows = [row for row in chart.spec["data"]["values"] if row["method"] == "fedprox"]
    assert [row["y"] for row in rows] == [(60, 60), (80, 80)]
    assert not any("low" in row for row in rows)
    assert "With missing seeds: fedprox (2 of 3 seeds: seed 3 failed" in chart.description
    assert "fedper (not defined)" in chart.description


def test_curves_over_bytes_count_both_directions_and_leave_reference_points_out(demo):
    task, methods = alpha(demo)
    chart = accuracy_curves(methods, task.name, "bytes")
    rows = {row["method"]: row for row in chart.spec["data"]["values"]}
    assert rows["fedavg"]["x"] == (3e6, 6e6)  # 1 MB up and 2 MB down a round
    assert "majority" not in rows
    assert "majority (reference point)" in chart.description


def test_a_moment_has_the_accuracy_of_the_last_round_that_was_over():
    # Seed 1 ends its rounds at 1, 2, 3 s, seed 2 at 2, 4, 6 s. Both are through a round from 2 s on, and 3 s is the end
    # of the first. At 2, 2.5 and 3 s seed 1 is at 20, 20, 30 and seed 2 at 100, 100, 100.
    grid, values = common(
        [(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])), (np.array([2.0, 4, 6]), np.array([100.0, 200, 300]))],
        "seconds",
    )
    assert grid.tolist() == [2, 2.5, 3]
    assert values.tolist() == [[20, 20, 30], [100, 100, 100]]


def test_long_runs_are_thinned_and_keep_their_last_round():
    rounds = np.arange(1.0, 201)
    grid, values = common([(rounds, rounds / 1000)], "rounds")
    assert len(grid) == 50  # every fourth of 200
    assert (grid[0], grid[-1], values[0, -1]) == (4, 200, 0.2)


def test_retrogress_is_averaged_over_tenths_of_the_run():
    nan = float("nan")
    drop = np.array([nan, nan, 0.1, 0.3, nan, 0.5] + [0.2] * 14)  # 20 rounds, two a tenth
    middles, means = stretches(drop)
    assert middles.tolist() == [3.5, 5.5, *np.arange(7.5, 20, 2)]
    assert means[:3] == pytest.approx([0.2, 0.5, 0.2])


def test_retrogress_of_the_hand_made_records(demo):
    task, methods = alpha(demo)
    rows = {row["method"]: row for row in retrogress(methods, task.name).spec["data"]["values"]}
    # Client 0 leaves round 0 with 2/4 and is given a model with 4/4: 50 points won, at every seed.
    assert rows["fedavg"]["y"] == (-50,)
    assert rows["fedavg"]["x"] == (2,)


def test_twelve_at_most_are_in_colour_and_fedavg_is_among_them(lab):
    for n in range(20):
        lab.done("alpha", f"m{n:02}", 1, 0.5 + n / 100)
    lab.done("alpha", "fedavg", 1, 0.1)
    task, methods = alpha(lab.finish())
    looks = {row["method"]: row["look"] for row in accuracy_curves(methods, task.name).spec["data"]["values"]}
    assert looks["fedavg"] == 0
    assert sorted(look for look in looks.values() if look >= 0) == list(range(12))
    chosen = accuracy_curves(methods, task.name, highlight=["m03", "m01"]).spec["data"]["values"]
    assert {row["method"]: row["look"] for row in chosen if row["look"] >= 0} == {"m03": 0, "m01": 1}


def test_names_stand_apart_and_near_their_lines():
    placed = spread([10, 11, 12, 90], 14, 0, 100)
    assert np.diff(placed).min() >= 14
    assert placed[3] == 90
    assert np.mean(placed[:3]) == pytest.approx(14)  # 0, 14, 28: pushed up from the edge
    assert spread([5, 5, 5], 60, 0, 100) == [0, 50, 100]
    assert spread([], 10, 0, 1) == []


# ---- Forgetting and clients --------------------------------------------------------------------------------


def test_heat_map_of_the_hand_made_record(demo):
    _, methods = alpha(demo)
    run = next(method for method in methods if method.label == "fedavg").runs[0]
    chart = heat_map(run, "fedavg", "alpha")
    # Client 0 was seen at 4/4 in round 1 and stands at 3/4 in round 2; client 1 comes in round 2.
    assert chart.spec["data"]["values"] == [
        {"client": "0 (4)", "t": [2], "n": [1], "change": [-25], "visits": [1, 2]},
        {"client": "1 (4)", "t": [], "n": [], "change": [], "visits": [2]},
    ]
    assert "client 0 stands worst, at −25" in chart.description


def test_heat_map_without_a_global_model_is_a_sentence(demo):
    _, methods = alpha(demo)
    run = next(method for method in methods if method.label == "fedper").runs[0]
    assert "cannot be drawn: the method has no global model" in heat_map(run, "fedper", "alpha")


def test_strips_show_every_client_with_its_test_set(demo):
    task, methods = alpha(demo)
    chart = strips(methods, task.name)
    (row,) = chart.spec["data"]["values"]  # fedper alone has personal models: 4/4 and 2/4 at three seeds
    assert (row["method"], row["y"], row["size"]) == ("fedper", [100, 50] * 3, [4] * 6)
    assert (row["mean"], row["low"]) == (75, 50)
    assert "Not drawn: fedkper[distil=False], fedavg, majority (not defined); fedprox (2 of 3" in chart.description


def test_gains_are_paired_by_client_and_seed(lab):
    def personal(*hits):
        return {
            "personal_client_correct": np.packbits(
                np.array([[1] * h + [0] * (4 - h) for h in hits]).ravel()[None], axis=-1
            )
        }

    models = ("global", "local", "personal")
    for seed in (1, 2):
        lab.done("alpha", "fedavg", seed, 0.5, models=models)  # 4/4 and 2/4
        lab.done("alpha", "better", seed, 0.5, models=models, **personal(3, seed + 2))  # 3/4, and 3/4 or 4/4
    lab.done("alpha", "local", 1, 0.5, models=models, family="reference")
    task, methods = alpha(lab.finish())
    rows = {row["method"]: row for row in gains(methods, task.name, "fedavg").spec["data"]["values"]}
    assert rows["better"] == {"method": "better", "x": [-25, 25, -25, 50], "mean": 6.2, "gain": 2, "lose": 2}
    assert rows["local"]["x"] == [0, 0]
    # `local` has one seed: what the others did at the second has nothing to be compared with.
    against = gains(methods, task.name, "local")
    assert (
        against == "Gains and losses of every client against local cannot be drawn: no method of alpha shares its "
        "clients and seeds."
    )


def test_clients_say_how_many_seeds_stand_for_a_method(lab):
    models = ("global", "local", "personal")
    for seed in (1, 2):
        lab.done("alpha", "fedavg", seed, 0.5, models=models)
    lab.done("alpha", "better", 1, 0.5, models=models)
    lab.failed("alpha", "better", 2, "loss is NaN")
    task, methods = alpha(lab.finish())
    for chart in (strips(methods, task.name), gains(methods, task.name, "fedavg")):
        assert "better (1 of 2 seeds)" in {row["method"] for row in chart.spec["data"]["values"]}


def test_clients_of_different_partitions_are_not_compared(lab):
    lab.done("alpha", "fedavg", 1, 0.5, models=("global", "local", "personal"))
    lab.done("alpha", "other", 1, 0.5, models=("global", "local", "personal"), partition="q")
    task, methods = alpha(lab.finish())
    assert "no method of alpha shares its clients and seeds" in gains(methods, task.name, "fedavg")


def test_without_the_baseline_there_is_a_sentence(demo):
    task, methods = alpha(demo)
    assert gains(methods, task.name, "local") == (
        "Gains and losses of every client against local cannot be drawn: alpha has no finished run of local with "
        "personal models."
    )


# ---- Ranks and differences ---------------------------------------------------------------------------------


def test_critical_difference_diagram_of_demsar():
    # Demšar (2006), figure 1a: four variants of C4.5, CD 1.25 at α = 0.10; three and three are not told apart.
    ranks = {"C4.5": 3.143, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    groups = [["C4.5", "C4.5+cf", "C4.5+m"], ["C4.5+m", "C4.5+cf", "C4.5+m+cf"]]
    chart = critical_difference(ranks, groups, 1.25, "cd", "Critical differences")
    (bars,) = layers(chart, strokeWidth=5)
    assert [(bar["from"], bar["to"]) for bar in _values(bars)] == [(1.924, 2.933), (1.96, 3.183)]  # 0.04 beyond
    drawn = texts(chart.svg())
    assert {"1.96 C4.5+m+cf", "2.00 C4.5+m", "2.89 C4.5+cf", "3.14 C4.5", "critical difference 1.25"} <= set(drawn)
    assert "Not told apart: C4.5+m, C4.5+cf, C4.5; C4.5+m+cf, C4.5+m, C4.5+cf." in chart.description


def test_one_method_has_no_ranks():
    assert "cannot be drawn" in critical_difference({"a": 1.0}, [], None, "cd", "Ranks")
    assert "cannot be drawn" in rank_ranges([place("a", 1)], "ranks", "Ranks")


def test_a_group_with_an_unknown_label_is_refused():
    with pytest.raises(KeyError, match="c"):
        critical_difference({"a": 1.0, "b": 2.0}, [["a", "c"]], 1.0, "cd", "Ranks")


def test_rank_intervals_are_drawn_best_first():
    chart = rank_ranges([place("b", 2), place("a", 1)], "ranks", "Ranks")
    assert [(row["method"], row["low"], row["high"]) for row in chart.spec["data"]["values"]] == [
        ("a", 1, 2),
        ("b", 1, 2),
    ]
    assert "a 1 (1 to 2), b 2 (1 to 2)" in chart.description


def test_ticks_of_a_rank_axis():
    assert _whole(2) == [1, 2]
    assert _whole(8) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert _whole(15) == [1, 4, 6, 8, 10, 12, 15]  # 2 would touch 1, and 14 would touch 15


def test_differences_from_the_reference_stand_with_the_best_first(lab):
    for label, accuracy in (("fedavg", 0.4), ("amid", 0.5), ("best", 0.9), ("worst", 0.1)):
        for seed in (1, 2, 3):
            lab.done("alpha", label, seed, accuracy)
    shown = board(lab.finish())
    pages = figure_pages({verdict.table.name: verdict for verdict in Verdicts(shown).tables})
    ranks = next(page for page in pages if page.path == "ranks.html")
    charts = {drawn.name: drawn for _, found in ranks.sections for drawn in found if isinstance(drawn, Chart)}
    rows = charts["differences_alpha"].spec["data"]["values"]
    assert [row["label"] for row in rows] == ["best", "amid", "worst"]


def test_forest_says_which_intervals_leave_zero():
    rows = [
        ("up", Interval(0.02, 0.01, 0.03, 5)),
        ("down", Interval(-0.02, -0.03, -0.01, 5)),
        ("open", Interval(0.01, -0.01, 0.03, 5)),
        ("single", Interval(0.01, None, None, 1)),
    ]
    chart = forest(rows, margin=0.005, reference="fedavg", name="forest", title="Differences")
    found = {row["label"]: row for row in chart.spec["data"]["values"]}
    assert {label: row["kind"] for label, row in found.items()} == {
        "up": "better",
        "down": "worse",
        "open": "not told apart",
        "single": "one seed",
    }
    assert (found["up"]["x"], found["up"]["low"], found["up"]["high"]) == (2, 1, 3)
    assert "down −2.0 (−3.0 to −1.0) (worse)" in chart.description
    assert "from −0.5 to 0.5 counts as equal" in chart.description
    (band,) = layers(chart, type="rect")
    assert _values(band) == [{"a": -0.5, "b": 0.5}]
    assert forest([], margin=0.01, reference="fedavg", name="x", title="Differences").startswith("Differences cannot")


# ---- What all charts share ---------------------------------------------------------------------------------


def test_every_spec_follows_the_schema_and_every_picture_is_whole(full):
    charts = every_chart(full)
    kinds = {re.split("[-_]", name)[0]: (name, chart) for name, chart in charts.items()}
    assert len(charts) >= 14
    assert len(kinds) == 9
    for name, chart in kinds.values():
        altair.Chart.from_dict(json.loads(json.dumps(chart.spec)), validate=True)  # an independent reader of the schema
        json.dumps(chart.spec, allow_nan=False)
        assert re.fullmatch(r"[a-z0-9_-]+", name)
        root = ElementTree.fromstring(chart.svg(width=360))
        assert root.get("role") == "img"
        assert root.get("aria-label") == f"{chart.title}. {chart.description}"
        assert 340 <= float(root.get("width")) <= 380, name


def test_pictures_have_the_same_bytes_each_time_and_in_each_process(full):
    chart = every_chart(full)["tradeoff_alpha_global_local"]
    first = chart.svg(width=360)
    assert chart.svg(width=400) != first
    assert every_chart(full)["tradeoff_alpha_global_local"].svg(width=360) == first
    script = (
        "import sys, json; from fedbench.leaderboard.charts import Chart\n"
        "name, title, description, spec = json.load(sys.stdin)\n"
        "sys.stdout.write(Chart(name, title, description, spec).svg(width=360))"
    )
    given = json.dumps([chart.name, chart.title, chart.description, chart.spec])
    again = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True, text=True, check=True)
    assert again.stdout == first


def test_pictures_in_one_page_share_no_identifier(full):
    chart = every_chart(full)["forgetting_alpha_fedavg_seed-1"]
    other = every_chart(full)["curves_alpha_rounds-global"]
    pictures = [chart.svg(), chart.svg(width=360), other.svg()]
    ids = [set(re.findall(r'\bid="([^"]*)"', picture)) for picture in pictures]
    assert ids[0]  # a gradient at least
    assert len(set.union(*ids)) == sum(map(len, ids))
    for found, picture in zip(ids, pictures, strict=True):
        assert set(re.findall(r"url\(#([^)]*)\)", picture)) <= found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name, lab):
    cells = []
    for n, label in enumerate((name, "fedavg")):
        cell = lab.done("alpha", f"m{n}", 1, 0.5 + n / 10, models=("global", "local", "personal"))
        cells.append(cell.model_copy(update={"label": label}))
    task, methods = alpha(lab.finish(cells=cells))
    runs = methods[0].runs
    found = [
        tradeoff(task, "global", "local"),
        accuracy_curves(methods, task.name),
        strips(methods, task.name),
        gains(methods, task.name, "fedavg"),
        heat_map(runs[0], name, name),
        critical_difference({name: 1.0, "b": 2.0}, [[name, "b"]], 1.0, name, name),
        rank_ranges([place(name, 1), place("b", 2)], name, name),
        forest([(name, Interval(0.1, None, None, 1))], margin=0.01, reference=name, name=name, title="Forest"),
    ]
    for chart in found:
        assert isinstance(chart, Chart), chart
        assert re.fullmatch(r"[a-z0-9_-]{1,200}", chart.name)
        picture = chart.svg()
        root = ElementTree.fromstring(picture)  # well-formed: nothing broke out of its place
        kinds = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert kinds <= {
            "svg",
            "g",
            "path",
            "line",
            "text",
            "rect",
            "defs",
            "clipPath",
            "linearGradient",
            "stop",
            "tspan",
            "circle",
            "style",
        }
        assert not [
            name for element in root.iter() for name in element.attrib if name.startswith("on") or "href" in name
        ]
        assert len(picture) < 100_000
        assert named(name) in json.dumps(chart.spec, ensure_ascii=False).replace('\\"', '"') + chart.title
        expressions = re.findall(r'"(?:expr|filter|calculate|test)": "([^"]*)"', json.dumps(chart.spec))
        assert not [text for text in expressions if "alert" in text or "quoted" in text or "evil" in text]
        assert "http" not in json.dumps({key: value for key, value in chart.spec.items() if key != "$schema"})


def test_names_show_control_characters_and_lose_what_is_too_long():
    assert named("a\u202eb\nc\x00d") == "a⟨U+202E⟩b c⟨U+0000⟩d"
    assert named("x" * 200) == "x" * 79 + "…"
    assert identifier("../etc/passwd").startswith("etc-passwd-")
    assert identifier("A") != identifier("a")
    assert re.fullmatch(r"x-[0-9a-f]{16}", identifier("\u05e9"))


def luminance(colour):
    """Return the relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#fbfbfa", "#181c21", "#111418"])
def test_colours_are_seen_on_light_and_dark_pages(page):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert all(contrast(colour, page) >= 3 for colour in (*HUES, GREY))  # WCAG 2.1, 1.4.11: graphical objects
    axis = theme(dark=luminance(page) < 0.5)["axis"]
    assert contrast(axis["labelColor"], page) >= 4.5  # 1.4.3: text
    assert contrast(axis["titleColor"], page) >= 4.5


def test_the_script_is_offline_whole_and_small():
    script = javascript()
    assert javascript() == script
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert 500_000 < len(script.encode()) < 1_500_000
    assert "vegaEmbed" in script
    assert f"Vega {vl_convert.get_vega_version()}, Vega-Lite 6.4" in script[:200]
    head = script.partition("*/")[0]
    assert "University of Washington Interactive Data Lab" in head
    assert "THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS" in head


@pytest.mark.long
@pytest.mark.browser
def test_charts_work_in_a_page_that_forbids_everything_else(full, tmp_path):
    from playwright import sync_api as playwright

    task, methods = alpha(full)
    charts = [accuracy_curves(methods, task.name), *every_chart(full).values()]
    charts.append(
        forest(
            [(name, Interval(0.1, 0.05, 0.15, 3)) for name in HOSTILE],
            margin=0.01,
            reference=HOSTILE[0],
            name="hostile",
            title=HOSTILE[1],
        )
    )
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    parts = [f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">']
    parts += ["<title></title><body>", "<script>", javascript(), "</script>"]
    for n, chart in enumerate(charts):
        spec, config = (json.dumps(part).replace("<", "\\u003c") for part in (chart.spec, theme(dark=False)))
        options = f"{{config: {config}, renderer: 'svg', ast: true, actions: false}}"
        parts.append(f'<div id="c{n}" style="width: 100%"></div><script>')
        parts.append(f"vegaEmbed('#c{n}', {spec}, {options}).then(() => {{ document.title += '.' }})</script>")
    page_file = tmp_path / "page.html"
    page_file.write_text("\n".join(parts), encoding="utf-8")
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--headless"])
        page = browser.new_page(viewport={"width": 360, "height": 800})
        messages, requests = [], []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: messages.append("dialog"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        page.wait_for_function(f"document.title.length === {len(charts)}")
        assert requests == [page_file.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("script").count() == 1 + len(charts)  # no name became one
        thick = (
            "[...document.querySelectorAll('#c0 path')].filter(p => p.getAttribute('stroke-width') === '3.5').length"
        )
        assert page.evaluate(thick) == 0
        page.select_option("#c0 select", label="fedprox")
        page.wait_for_function(f"{thick} === 2")  # two of its seeds are done: two lines
        page.locator("#c0 .mark-line path").first.wait_for(state="attached")
        assert messages == []
        browser.close()
