"""`fedbench compare`, `plan`, `merge` and `report --format` as typed, on hand-made records; see test_comparison."""

import json
import math

import pytest
from fedbench.leaderboard import load_board, sentences
from fedbench.leaderboard.comparison import contrast
from rich.cells import cell_len

from fedbench import cli, verbs
from fedbench.cell import load_suite
from fedbench.errors import SpecError
from fedbench.statistics import minimum_detectable_effect

OURS = (0.6, 0.6, 0.7, 0.7, 0.6, 0.7)


@pytest.fixture
def fedbench(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command in an empty folder, in a window of so many columns."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return run


@pytest.fixture
def duel(lab):
    """Return a lab with two methods on two tasks: alpha as in test_comparison, beta with no difference."""
    for seed, accuracy in enumerate(OURS, 1):
        lab.done("alpha", "fedavg", seed, 0.5)
        lab.done("alpha", "fedkper[tau=2]", seed, accuracy)
        lab.done("beta", "fedavg", seed, 0.5)
        lab.done("beta", "fedkper[tau=2]", seed, 0.5)
    return lab


def told(lab, track="robust", **options):
    found = contrast(load_board(lab.finish(track=track), "demo"), ["fedkper[tau=2]"], "fedavg", **options)
    return sentences.told(found, found.comparisons[0])


# --- sentences --------------------------------------------------------------------------------------------------------


def test_one_task_in_sentences(duel):
    # t(5) = 2.5706, so the half width is 2.5706 · 5.4772 / √6 = 5.75 points; 2 / 2⁶ = 0.031; g = 0.8407 · 2.7386.
    limit = 100 * minimum_detectable_effect(6) * math.sqrt(6 * 0.0025 / 5)
    assert told(duel, task="alpha") == [
        "fedkper[tau=2] is 15.00 points above fedavg on alpha (95 % interval +9.25 to +20.75, paired over 6 seeds).",
        "Sign-flip test over 6 cells (exact): p = 0.031: it is more than chance over seeds.",
        "They are not shown to be equivalent within ±0.50 points (two one-sided t tests: p = 1).",
        f"With this design, differences below {limit:.2f} points are not resolvable (80 % power, two-sided 5 %).",
        "alpha: Hedges g +2.30; fedkper[tau=2] wins 100 % of 36 pairs of runs (a tie is half a win).",
        "Question Q2, these tasks and a new seed: n = 6 cells (1 task × 6 seeds).",
        "No claim is made about other tasks (Q3): 1 independent source; 8 are needed.",
    ]


def test_two_tasks_in_sentences(duel):
    found = told(duel)
    assert found[0].startswith("fedkper[tau=2] is 7.50 points above fedavg on these 2 tasks (95 % interval +4.63")
    assert "Sign-flip test over 12 cells (exact): p = 0.031" in found[1]
    alpha, beta = (next(line for line in found if line.startswith(f"{task}:")) for task in ("alpha", "beta"))
    assert "exploratory sign-flip over 6 seeds p = 0.031 (Holm over 2 tasks 0.062)" in alpha
    assert "Hedges g not computed (the difference is 0 at all 6 seeds, which show no spread to test against)" in beta
    assert "wins 50 % of 36 pairs" in beta


def test_the_faithful_track_in_sentences(duel):
    found = "\n".join(told(duel, "faithful", task="alpha"))
    assert "Descriptive, without a test: on the faithful track all seeds share one partition" in found
    for claim in ("p =", "equivalent", "resolvable", "more than chance"):
        assert claim not in found


def test_equal_methods_are_not_called_different(duel):
    found = told(duel, task="beta")
    assert found[0].startswith("fedkper[tau=2] and fedavg are less than 0.005 points apart on beta")
    assert "p = 1: no difference is shown, which is not to say that there is none." in found[1]
    assert found[2].startswith("Equivalence not computed: the difference is 0 at all 6 seeds")


def test_two_seeds_say_what_is_missing(lab):
    for seed in (1, 2):
        lab.done("alpha", "fedavg", seed, 0.5)
        lab.done("alpha", "fedkper[tau=2]", seed, 0.5 + 0.1 * seed)
    assert "Test of a difference not computed: 2 cells, the smallest possible p is 0.5; 6 are needed." in told(lab)


# --- compare ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_compare_prints_and_draws_within_the_window(fedbench, duel, columns):
    results = duel.finish(track="robust")
    status, out, err = fedbench(
        "compare", "fedkper[tau=2]", "fedavg", "--suite", "demo", "--out", results, columns=columns
    )
    assert (status, err) == (0, "")
    assert all(cell_len(line) <= columns for line in out.splitlines())
    lines = out.splitlines()
    assert lines[0] == "fedkper[tau=2] minus fedavg"
    rows = {line.split("  ")[0]: line for line in lines if line.endswith("]")}
    assert rows["all 2 tasks"].endswith("+7.50 [+4.63, +10.37]")
    assert rows["alpha"].endswith("+15.00 [+9.25, +20.75]")
    assert rows["beta"].endswith("+0.00 [+0.00, +0.00]")


def test_compare_with_several_prints_each_against_the_last(fedbench, duel):
    for seed in range(1, 7):
        for task in ("alpha", "beta"):
            duel.done(task, "moon", seed, 0.4)
    results = duel.finish(track="robust")
    status, out, _ = fedbench("compare", "moon", "fedkper[tau=2]", "fedavg", "--suite", "demo", "--out", results)
    assert status == 0
    assert out.index("moon minus fedavg") < out.index("fedkper[tau=2] minus fedavg")
    assert "Holm over 2 comparisons" in " ".join(out.split())


def test_compare_models_by_mcnemar(fedbench, duel):
    results = duel.finish(track="robust")
    status, out, _ = fedbench(
        "compare", "fedkper[tau=2]", "fedavg", "--task", "alpha", "--models", 3, "--suite", "demo", "--out", results
    )
    assert status == 0
    text = " ".join(out.split())
    assert "at seed 3, the model of fedkper[tau=2] is 20.00 points above that of fedavg on alpha" in text
    assert "2 samples only fedkper[tau=2] has right, 0 only fedavg; p = 0.5." in text
    assert "Question Q1" in text
    assert "n = 10 test samples" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fedavg"], "name two methods or more"),
        ([], "METHOD... REFERENCE"),
        (["fedavg", "fedavg"], "cannot be compared with itself"),
        (["fedkpr[tau=2]", "fedavg"], "did you mean fedkper[tau=2]"),
        (["fedkper[tau=2]", "fedavg", "--task", "gamma"], "unknown task"),
        (["fedkper[tau=2]", "fedavg", "--metric", "acuracy"], "unknown metric"),
        (["fedkper[tau=2]", "fedavg", "--metric", "bytes_up"], "is measured in bytes"),
        (["fedkper[tau=2]", "fedavg", "--suite", "other"], "no suite 'other' was run"),
        (["fedkper[tau=2]", "fedavg", "--models", "1"], "--models compares two methods on one --task"),
        (["fedkper[tau=2]", "fedavg", "--models", "9", "--task", "alpha"], "seed-9 has no record"),
        (["fedkper[tau=2]", "fedavg", "--models", "x", "--task", "alpha"], "not a valid integer"),
        (["fedkper[tau=2]", "fedavg", "--models", "1", "--task", "alpha", "--metric", "bwt"], "leave out the rest"),
        (["moon", "fedavg"], "alpha/moon/seed-1 failed: loss is NaN"),
    ],
)
def test_wrong_comparisons_are_refused_with_the_mend(fedbench, duel, arguments, words):
    duel.failed("alpha", "moon", 1, "loss is NaN")
    results = duel.finish(track="robust")
    suite = [] if "--suite" in arguments else ["--suite", "demo"]
    status, out, err = fedbench("compare", *arguments, *suite, "--out", results)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


# --- plan -------------------------------------------------------------------------------------------------------------


def test_plan_counts_seeds_cells_and_time(tmp_path):
    suite = load_suite("quick-robust")
    seconds = {name: verbs.estimate(cell) for name, cell in _cells(suite).items()}
    found = verbs.plan(0.01, sd=0.01, methods=8, suite="quick-robust", results=tmp_path, jobs=4)
    (work,) = found.work
    assert (found.comparisons, work.resolution.seeds) == (7, 17)  # one deviation over seven comparisons
    assert work.cells == 17 * 8 * 3
    assert work.seconds == pytest.approx(17 * 8 * sum(seconds.values()) / 4)
    # The suite itself: twelve methods are eleven comparisons, and its three reference points run as well.
    found = verbs.plan(0.01, sd=0.01, suite="quick-robust", results=tmp_path, jobs=1)
    (work,) = found.work
    assert found.comparisons == 11
    assert work.cells == work.resolution.seeds * 15 * 3
    assert work.seconds == pytest.approx(work.resolution.seeds * 15 * sum(seconds.values()))


def _cells(suite):
    return {cell.task.name: cell for cell in suite.cells(methods=["fedavg"], seeds=[1])}


def test_plan_takes_the_spread_from_records_and_leaves_out_what_is_done(fedbench, lab):
    (cell,) = load_suite("quick-robust").cells(["heart"], ["fedavg"], [1])
    for seed in (1, 2, 3):
        lab.done("heart", "fedavg", seed, 0.5)
        lab.done("heart", "fedkper", seed, 0.5 + 0.1 * seed)
    # The plan looks for the suite's own records in their places.
    results = lab.finish("quick-robust", track="robust")
    (results / "heart" / "fedavg" / "0123456789ab").rename(results / "heart" / "fedavg" / cell.hash)
    cells = [c.model_copy(update={"hash": cell.hash}) if c.method == "fedavg" else c for c in lab.cells]
    for seed in (1, 2, 3):
        _rehash(results / "heart" / "fedavg" / cell.hash / f"seed-{seed}", cell.hash)
    lab.finish("quick-robust", cells=cells, track="robust")
    found = verbs.plan(0.1, results=results, suite="quick-robust", methods=None, jobs=1)
    (work,) = found.work
    assert work.resolution.tasks == ("heart",)
    assert work.resolution.sd == pytest.approx(0.1)  # 10, 20, 30 points
    assert (work.resolution.n, work.resolution.seeds) == (3, work.resolution.least)
    every = 15 * work.resolution.seeds
    assert work.cells == every - 3
    status, out, _ = fedbench("plan", "--effect", 10, "--out", results)
    text = " ".join(out.split())
    assert status == 0
    assert f"heart 10.00 3 {100 * work.resolution.detectable:.2f} {work.resolution.seeds} {work.cells}" in text
    assert "shared by 11 comparisons" in text
    assert "A spread from 3 seeds is itself uncertain" in text


def _rehash(folder, digest):
    """Let a hand-made record be that of another cell."""
    import hashlib

    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hash": digest}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["run.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sd", "0.5", "--effect", "0"], "effect must be a positive number"),
        (["--sd", "0.5", "--effect", "-1"], "effect must be a positive number"),
        (["--sd", "0.5", "--effect", "nan"], "effect must be a positive number"),
        (["--sd", "0.5", "--effect", "one"], "not a valid float"),
        (["--sd", "0"], "standard deviation must be a positive number"),
        (["--sd", "0.5", "--methods", "1"], "two or more are compared"),
        (["--sd", "0.5", "--power", "1"], "power must lie between"),
        (["--sd", "0.5", "--jobs", "0"], "jobs: must be at least 1"),
        (["--sd", "0.5", "--suite", "quik"], "did you mean quick"),
        (["--sd", "50", "--effect", "0.001"], "no number of seeds is worth that"),
        ([], "no suite 'quick-robust' was run in the results folder"),
    ],
)
def test_wrong_plans_are_refused(fedbench, arguments, words):
    status, out, err = fedbench("plan", *arguments)
    assert (status, out) == (2, "")
    assert words in err


# --- merge and report -------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_merge_as_typed(fedbench, tmp_path):
    cell = load_suite("quick").cells(["heart"], ["majority"], [1])[0]
    for name, seed in (("a", 1), ("b", 2)):
        verbs.run(verbs.Selection("quick", ["heart"], ["majority"], [seed]), tmp_path / name, reports=None, jobs=1)
    status, out, _ = fedbench("merge", "a", "b", "--into", "c")
    assert (status, out) == (0, "2 records, 0 of them found more than once and the same; plans: quick.\nwrote c\n")
    board = load_board(tmp_path / "c", "quick")
    assert board.count("done") == 2
    (tmp_path / "a" / "heart" / "majority" / cell.hash / "seed-1" / "rounds.parquet").write_bytes(b"")
    status, out, err = fedbench("merge", "a", "b", "--into", "d")
    assert (status, out) == (2, "")
    assert "rounds.parquet" in err
    assert "nothing was joined" in err
    status, out, _ = fedbench("merge", "a", "b", "--into", "d", "--leave-damaged")
    assert status == 1
    assert "left out: " in out
    status, _, err = fedbench("merge", "a", "b")
    assert (status, "--into" in err) == (2, True)


def test_the_margin_of_a_suite_reaches_the_board(tmp_path):
    text = 'name = "own"\ntitle = "Own"\ntrack = "robust"\ntasks = ["heart"]\nmethods = ["majority"]\nseeds = [1]\n'
    path = tmp_path / "own.toml"
    path.write_text(f"{text}margin = 0.01\n")
    verbs.run(verbs.Selection(str(path)), tmp_path / "results", reports=None, jobs=1)
    assert load_board(tmp_path / "results", "own").margin == 0.01
    path.write_text(f"{text}margin = 0\n")
    with pytest.raises(SpecError, match="margin"):
        load_suite(str(path))


@pytest.mark.parametrize(
    ("form", "name"), [("csv", "leaderboard.csv"), ("json", "leaderboard.json"), ("latex", "leaderboard.tex")]
)
def test_report_writes_a_table_beside_the_board_or_to_stdout(fedbench, demo, tmp_path, form, name):
    status, out, _ = fedbench("report", "--suite", "demo", "--format", form, "--out", demo)
    assert (status, out) == (0, f"wrote boards/demo/{name}\n")
    written = (tmp_path / "boards" / "demo" / name).read_text(encoding="utf-8")
    status, out, _ = fedbench("report", "--suite", "demo", "--format", form, "--out", demo, "--stdout")
    assert (status, out) == (0, written)
    assert [path.name for path in (tmp_path / "boards" / "demo").iterdir()] == [name]


def test_wrong_formats_are_refused(fedbench, demo, tmp_path):
    for arguments, words in (
        (["--format", "excel"], "unknown format 'excel'"),
        (["--stdout"], "say which with --format"),
        (["--format", "csv", "--suite", "other"], "no suite 'other' was run"),
    ):
        suite = [] if "--suite" in arguments else ["--suite", "demo"]
        status, out, err = fedbench("report", *arguments, *suite, "--out", demo)
        assert (status, out) == (2, "")
        assert words in err
    assert not (tmp_path / "boards").exists()
