"""The command line and the functions beside it, as a newcomer meets them."""

import json
import re
import subprocess
import sys

import pytest

from fedbench import SpecError, cli, registry, verbs
from fedbench.records import Record, read_plan
from fedbench.testing import RULES


@pytest.fixture
def fedbench(tmp_path, monkeypatch, capfd):
    """Return a function that runs a command in an empty folder with an empty home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FEDBENCH_MIRROR", "http://127.0.0.1:9/none")  # nothing listens there
    monkeypatch.delenv("FEDBENCH_DATA", raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return stop.value.code, out, err

    return run


HEART = ("run", "--task", "heart", "--method", "fedavg", "--seed", "1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the results folder of one finished cell."""
    results = tmp_path_factory.mktemp("finished")
    verbs.run(verbs.Selection("quick", ["heart"], ["fedavg"], [1]), results, reports=None, jobs=1)
    return results


def test_run_writes_records_and_board_and_a_second_run_does_nothing(fedbench, tmp_path):
    status, out, _ = fedbench(*HEART)
    assert status == 0
    assert "1 of 1 cells done (1 run now), 0 failed, 0 skipped." in out
    assert "[1/1] heart/fedavg/seed-1 done, digest " in out
    page = tmp_path / "boards" / "quick" / "index.html"
    before = page.read_bytes()
    assert (tmp_path / "boards" / "quick" / "leaderboard.md").is_file()
    status, out, _ = fedbench(*HEART)
    assert (status, "(0 run now)" in out) == (0, True)
    assert page.read_bytes() == before


def test_the_plan_lists_the_whole_suite(fedbench, tmp_path):
    fedbench(*HEART)
    plan = json.loads((tmp_path / "results" / "plans" / "quick.json").read_text())
    assert len(plan["cells"]) == 3 * 15 * 3


def test_a_set_hyperparameter_is_a_cell_of_its_own(fedbench):
    fedbench("run", "--task", "heart", "--method", "fedprox", "--seed", "1", "--set", "fedprox.mu=0.01")
    status, out, _ = fedbench("status", "--task", "heart", "--method", "fedprox", "--seed", "1")
    assert (status, "1 missing" in out) == (1, True)
    status, out, _ = fedbench(
        "status", "--task", "heart", "--method", "fedprox", "--seed", "1", "--set", "fedprox.mu=0.01"
    )
    assert (status, out.strip()) == (0, "1 cells: 1 done")


def test_a_dry_run_writes_nothing(fedbench, tmp_path):
    status, out, _ = fedbench("run", "--all", "--dry-run", "--jobs", "2")
    assert status == 0
    assert "135 cells: 135 missing; about" in out
    assert "blood-mini/fedkper/seed-3" in out
    assert not (tmp_path / "results").exists()


def test_a_task_without_data_is_skipped_and_the_rest_runs(fedbench, tmp_path):
    chosen = ("--task", "organc", "--task", "heart", "--method", "majority", "--seed", "1")
    status, out, _ = fedbench("run", *chosen)
    assert status == 1
    assert "1 of 2 cells done (1 run now), 0 failed, 1 skipped." in out
    reason = next(line for line in out.splitlines() if "organc: skipped" in line)
    for part in ("organcmnist.npz is not on this machine", str(tmp_path), "fedbench data fetch organc"):
        assert part in reason
    status, out, _ = fedbench("status", *chosen)
    assert "1 done, 1 skipped" in out or "1 skipped, 1 done" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "say what to run: --all"),
        (["run", "--task", "hart"], "unknown task 'hart'; did you mean heart or path?"),
        (["run", "--task", "heart", "--method", "fedavgg"], "unknown method 'fedavgg'; did you mean fedavg"),
        (["run", "--all", "--suite", "quik"], "unknown suite 'quik'; did you mean quick"),
        (["run", "--all", "--suite", "no.toml"], "suite file no.toml: No such file"),
        (["run", "--all", "--set", "fedprox.nu=1"], "unknown hyperparameter of fedprox 'nu'; did you mean mu?"),
        (
            ["run", "--all", "--set", "fedprox.mu=-1"],
            "FedProx.mu: input should be greater than or equal to 0, got '-1'",
        ),
        (["run", "--all", "--set", "fedprox.mu=high"], "FedProx.mu: input should be a valid number"),
        (["run", "--all", "--set", "mu=1"], "write it as METHOD.NAME=VALUE"),
        (["run", "--all", "--set", "fedamp.mu=1"], "unknown method to set a hyperparameter of 'fedamp'"),
        (["run", "--task", "heart", "--seed", "-1"], "seed: must not be negative, got -1"),
        (["run", "--task", "heart", "--seed", "one"], "'one' is not a valid integer"),
        (["run", "--all", "--jobs", "0"], "jobs: must be at least 1, got 0"),
        (["run", "--task-file", "none.toml"], "none.toml"),
        (["ls", "everything"], "known: methods, metrics, suites, tasks"),
        (["show", "fedkpr"], "did you mean fedkper"),
        (["cite", "fedav"], "did you mean fedavg"),
        (["data", "fetch", "bloodmnst"], "unknown task or data set 'bloodmnst'; did you mean bloodmnist"),
        (["report"], "quick"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_answered_in_a_line(fedbench, tmp_path, arguments, message):
    status, _, err = fedbench(*arguments)
    assert message in err
    assert status == 2
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_a_results_folder_that_cannot_be_written_is_named(fedbench, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    status, _, err = fedbench(*HEART, "--out", tmp_path / "file" / "results")
    assert status == 2
    assert "cannot be written (Not a directory); choose another one with --out." in err


def test_a_record_of_a_newer_schema_is_refused_and_kept(fedbench, finished, tmp_path):
    import shutil

    results = tmp_path / "results"
    shutil.copytree(finished, results)
    manifest = next(results.rglob("manifest.json"))
    manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    before = manifest.read_text()
    status, _, err = fedbench(*HEART, "--out", results)
    assert status == 2
    assert "schema version 99, this FedBench reads up to 1; update FedBench" in err
    assert manifest.read_text() == before


def test_a_corrupt_record_is_named_and_run_again(fedbench, finished, tmp_path):
    import shutil

    results = tmp_path / "results"
    shutil.copytree(finished, results)
    digest = Record.open(next(results.rglob("manifest.json")).parent).digest
    predictions = next(results.rglob("predictions.npz"))
    predictions.write_bytes(predictions.read_bytes()[:-1])
    chosen = HEART[1:]
    status, out, _ = fedbench("status", *chosen, "--out", results)
    assert (status, "1 corrupt" in out, "SHA-256" in " ".join(out.split())) == (1, True, True)
    status, _, _ = fedbench(*HEART, "--out", results)
    assert status == 0
    assert Record.open(predictions.parent).digest == digest


def test_help_loads_nothing_heavy():
    code = "import sys; from fedbench import cli\n"
    code += "try: cli.main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Federated learning on medical images" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"torch", "numpy", "scipy", "pydantic", "pyarrow", "jinja2", "rich", "medmnist"}


def test_ls_shows_every_built_in(fedbench):
    for what, names in (
        ("tasks", ("blood", "organc", "organs", "heart")),
        ("methods", ("fedavg", "fedkper", "majority")),
        ("suites", ("quick-robust", "paper-local")),
        ("metrics", ("bwt", "worst_sampled_accuracy")),
    ):
        status, out, _ = fedbench("ls", what)
        first = {line.split()[0] for line in out.splitlines() if line.split()}
        assert (status, first >= set(names)) == (0, True)


def test_show_prints_the_card(fedbench):
    assert "mu : float, >= 0" in fedbench("show", "fedprox")[1]
    assert "100 rounds, 10% of the clients a round, 5 local epochs, batch 12" in fedbench("show", "blood")[1]
    assert "heart" in fedbench("show", "quick")[1]
    heart = fedbench("show", "heart")[1]
    assert "31 to 202 a client" in heart  # sizes less the fifth that is tested; the hospitals have 303, 294, 123, 200
    assert " 1 disease       @ @ O @" in heart
    assert fedbench("show", "bwt")[0] == 0


def test_cite_prints_bibtex(fedbench):
    status, out, _ = fedbench("cite", "fedkper", "local")
    assert (status, "2605.00698" in out, "% local: a reference point without a paper" in out) == (0, True, True)


def test_data_verbs(fedbench):
    status, out, _ = fedbench("data", "ls")
    assert (status, "bloodmnist.npz is not on" in " ".join(out.split())) == (0, True)
    status, out, _ = fedbench("data", "verify", "heart", "blood-mini")
    assert (status, "740 samples" in out, "2,640 samples" in out) == (0, True, True)
    status, _, err = fedbench("data", "fetch", "organs")
    assert (status, "organsmnist.npz" in err) == (1, True)


def test_a_task_over_own_data_runs_and_has_a_board_of_its_own(fedbench, tmp_path):
    lines = ["age,marker,hospital,ill"]
    lines += [f"{30 + i % 40},{(i * 7) % 13},{'north' if i % 3 else 'south'},{int(i % 40 > 20)}" for i in range(120)]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "mine.toml").write_text(
        """
        [task]
        name = "mine"
        title = "Two hospitals of mine"
        source = "mine"
        [data]
        file = "mine.csv"
        label = "ill"
        site = "hospital"
        [partition]
        kind = "natural"
        [model]
        name = "mlp"
        [protocol]
        rounds = 2
        participation = 1.0
        local_epochs = 1
        batch_size = 8
        lr = 0.01
        """
    )
    try:
        status, out, err = fedbench("run", "--task-file", "mine.toml", "--method", "fedavg", "--seed", "1")
        assert status == 0, out + err
        assert (tmp_path / "boards" / "mine" / "index.html").is_file()
    finally:
        registry.tasks.forget("mine")


def test_verbs_return_values(finished):
    states = verbs.status(verbs.Selection("quick", ["heart"], ["fedavg"], [1, 2]), finished)
    assert [item.state for item in states] == ["done", "missing"]
    assert states[0].seconds == 0 < states[1].seconds
    with pytest.raises(SpecError, match="jobs"):
        verbs.run(verbs.Selection("quick"), finished, jobs=-1)


def test_a_board_mixes_no_versions(monkeypatch, tmp_path):
    chosen = verbs.Selection("quick", ["heart"], ["fedavg"], [1])
    verbs.run(chosen, tmp_path / "results", reports=None, jobs=1)
    monkeypatch.setattr(registry.methods.get("fedavg"), "version", 2)
    verbs._write_plan(tmp_path / "results", chosen.load()[0], verbs.status(chosen, tmp_path / "results"))
    plan = read_plan(tmp_path / "results" / "plans" / "quick.json")
    hashes = {cell.hash for cell in plan.cells if (cell.task, cell.method) == ("heart", "fedavg")}
    assert hashes == {chosen.load()[1][0].hash}


def test_a_broken_task_leaves_the_data_of_the_others_alone(monkeypatch):
    from importlib.metadata import EntryPoint

    points = {**registry.tasks.points(), "zz": (EntryPoint("zz", "no_such_module:ZZ", "fedbench.tasks"),)}
    monkeypatch.setattr(registry.tasks, "_points", points)
    states = {row["task"]: row["state"] for row in verbs.data_ls()}
    assert (states["heart"], states["zz"]) == ("here", "broken")
    assert [row["state"] for row in verbs.data_verify(["heart", "zz"])] == ["good", "damaged"]


def test_a_reports_folder_that_cannot_be_written_is_named(fedbench, finished, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    status, _, err = fedbench("report", "--out", finished, "--reports", tmp_path / "file")
    assert status == 2
    assert "file/quick cannot be written (Not a directory); the records are whole: run `fedbench report" in err


def test_verifying_data_that_is_named_and_absent_fails(fedbench):
    status, out, _ = fedbench("data", "verify", "organc")
    assert (status, "missing" in out) == (1, True)


def test_a_broken_plug_in_is_listed_by_name_and_hides_nothing(monkeypatch):
    from importlib.metadata import EntryPoint

    points = {**registry.methods.points(), "bad": (EntryPoint("bad", "no_such_module:Bad", "fedbench.methods"),)}
    monkeypatch.setattr(registry.methods, "_points", points)
    rows = {row["name"]: row for row in verbs.ls("methods")}
    assert "cannot be imported from no_such_module:Bad" in rows["bad"]["title"]
    assert rows["fedavg"]["family"] == "global"


# --- one's own methods and tasks --------------------------------------------------------------------------------------

ACME = '''"""Acme: FedAvg, half of the way.

Source: unpublished.
"""
from fedbench import Method


class Acme(Method):
    """w <- w_t + (mean w_k - w_t) / 2. Deviations: none. Cost: as FedAvg."""

    def server_update(self, server, uploads, weights):
        mean = server.average(uploads, weights)
        server.params = {name: (w + mean[name]) / 2 for name, w in server.params.items()}


class Leaky(Acme):
    """Weights that sum to two. Deviations: none. Cost: as FedAvg."""

    def weights(self, server, uploads):
        return [2 / len(uploads)] * len(uploads)
'''
ONE = """
name = "one"
title = "One cell a method"
track = "faithful"
tasks = ["heart"]
methods = ["majority"]
seeds = [1]
"""


@pytest.mark.long
def test_installed_methods_join_a_suite_when_asked(fedbench, plugged, tmp_path):
    plugged("acme-fl", ACME, methods={"acme": "Acme"})
    (tmp_path / "one.toml").write_text(ONE)
    status, out, err = fedbench("run", "--suite", "one.toml", "--all", "--with-plugins")
    assert (status, "2 of 2 cells done (2 run now), 0 failed, 0 skipped." in out) == (0, True), out + err
    assert len(list((tmp_path / "results" / "heart" / "acme").rglob("manifest.json"))) == 1
    plan = read_plan(tmp_path / "results" / "plans" / "one.json")
    assert {cell.method for cell in plan.cells} == {"majority", "acme"}
    assert fedbench("status", "--suite", "one.toml", "--with-plugins")[1].strip() == "2 cells: 2 done"
    assert fedbench("status", "--suite", "one.toml")[1].strip() == "1 cells: 1 done"
    assert "3 done" not in fedbench("status", "--suite", "one.toml", "--method", "acme", "--with-plugins")[1]


@pytest.fixture
def broken_ones(plugged):
    """Install a good method, and by other packages one of each kind of broken ones."""
    plugged("acme-fl", ACME, methods={"acme": "Acme"})
    plugged("raises-fl", "raise RuntimeError('no licence')", methods={"raises": "Raises"}, tasks={"raises-too": "T"})
    plugged("wrong-fl", "Wrong = dict", methods={"wrong": "Wrong"}, tasks={"wrong-too": "Wrong"})
    plugged("takes-fl", ACME, methods={"fedprox": "Acme", "acme": "Leaky"}, tasks={"breast": "Acme"})


BROKEN = {
    "method raises": ("raises-fl 1.2", "RuntimeError: no licence"),
    "method wrong": ("wrong-fl 1.2", "registered as the method 'wrong', but is <class 'dict'>"),
    "method acme": ("acme-fl 1.2", "takes-fl 1.2", "registered 2 times"),
    "method fedprox": ("takes-fl 1.2", "fedbench 0.1.0", "registered 2 times"),
}


def test_broken_plug_ins_are_reported_at_the_end_of_a_run_and_stop_nothing(fedbench, broken_ones, plugged, tmp_path):
    plugged("good-fl", ACME, methods={"good": "Acme"})
    (tmp_path / "one.toml").write_text(ONE.replace('["majority"]', '["majority", "fedprox"]'))
    status, out, err = fedbench("run", "--suite", "one.toml", "--all", "--with-plugins", "--executor", "serial")
    assert (status, "2 of 2 cells done (2 run now)" in out, err) == (1, True, ""), out + err
    end = out.partition("2 of 2 cells done")[2].splitlines()
    for what, parts in BROKEN.items():
        (line,) = (line for line in end if line.startswith(f"  {what}: broken: "))
        for part in (*parts, "uninstall"):
            assert part in line
    status, out, _ = fedbench("status", "--suite", "one.toml", "--with-plugins")
    assert (status, "2 cells: 2 done" in out, out.count(": broken: ")) == (1, True, 4)
    status, out, _ = fedbench("run", "--suite", "one.toml", "--all", "--with-plugins", "--dry-run")
    assert (status, out.count(": broken: ")) == (0, 4)
    status, out, _ = fedbench("status", "--suite", "one.toml", "--method", "majority")
    assert (status, out.strip()) == (0, "1 cells: 1 done")


def test_where_all_that_was_chosen_is_broken_nothing_is_run(fedbench, broken_ones, tmp_path):
    for chosen in (("--task", "heart", "--method", "raises"), ("--task", "raises-too")):
        status, _, err = fedbench("run", *chosen)
        assert (status, "of raises-fl 1.2 cannot be imported" in err) == (2, True)
    status, _, err = fedbench("run", "--task", "heart", "--method", "wrong", "--method", "majorty")
    assert (status, "unknown method 'majorty'; did you mean majority?" in err) == (2, True)
    assert not (tmp_path / "results").exists()


def test_what_is_set_for_a_broken_method_does_not_stop_the_others(broken_ones):
    chosen = verbs.Selection(tasks=["heart"], methods=["fedprox", "majority"], overrides={"fedprox": {"mu": "0.1"}})
    suite, cells = chosen.load()
    assert {cell.method_name for cell in cells} == {"majority"}
    assert "fedprox" not in suite.methods
    assert list(chosen.broken()) == ["method fedprox"]


def test_broken_plug_ins_hide_nothing_from_who_looks(fedbench, broken_ones):
    status, out, _ = fedbench("ls", "methods")
    assert (status, out.count("broken: ")) == (0, 4)
    for part in ("from raises-fl 1.2", "from wrong-fl 1.2", "from acme-fl 1.2 and takes-fl 1.2"):
        assert part in out
    status, out, _ = fedbench("ls", "tasks")
    assert (status, out.count("broken: "), "Heart disease" in out) == (0, 3, True)
    assert fedbench("show", "fedavg")[0] == 0
    status, _, err = fedbench("show", "fedprox")
    assert (status, "is registered 2 times: " in err) == (2, True)
    status, out, _ = fedbench("data", "ls")
    assert (status, {"heart", "raises-too"} <= {line.split()[0] for line in out.splitlines()}) == (0, True)
    status, out, err = fedbench("data", "fetch", "raises-too", "heart")
    assert (status, "RuntimeError: no licence" in err, out.startswith("heart: ")) == (1, True, True)


def test_new_writes_a_package_and_says_how_to_go_on(fedbench, tmp_path):
    status, out, _ = fedbench("new", "method", "steady-pull")
    assert status == 0
    assert (tmp_path / "steady-pull" / "src" / "fedbench_steady_pull" / "__init__.py").is_file()
    *written, last = out.splitlines()
    assert {line.removeprefix("wrote ") for line in written} == {
        str(path.relative_to(tmp_path)) for path in (tmp_path / "steady-pull").rglob("*") if path.is_file()
    }
    assert last == "next: pip install -e ./steady-pull pytest; pytest ./steady-pull; fedbench show steady-pull"
    status, out, _ = fedbench("new", "task", "two-wards", "--folder", tmp_path / "wards")
    assert (status, f"pytest {tmp_path / 'wards'};" in out) == (0, True)
    assert (tmp_path / "wards" / "pyproject.toml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["new", "method", "fedavg"], "there is a method 'fedavg' already"),
        (["new", "method", "My"], "the name 'My' is not valid"),
        (["new", "suite", "mine"], "'suite' is not one of 'method', 'task'"),
        (["check", "fedprx"], "unknown method 'fedprx'; did you mean fedprox"),
        (["check", "fedprox", "fedprx"], "unknown method 'fedprx'; did you mean fedprox"),
        (["check"], "name methods to check, or say --all"),
        (["check", "fedprox", "--all"], "name methods to check, or say --all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_new_and_check_answer_bad_usage_in_a_line(fedbench, tmp_path, arguments, message):
    status, out, err = fedbench(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert not [path for path in tmp_path.iterdir() if path.name != "home"]


def test_check_gives_a_verdict_on_each_rule(fedbench):
    status, out, _ = fedbench("check", "majority")
    *verdicts, last = out.splitlines()
    assert (status, last) == (0, "sound.")
    assert [line.split()[1].rstrip(":") for line in verdicts if not line.startswith(" ")] == list(RULES)
    assert all(line.startswith(("ok ", "       note: ")) for line in verdicts)


def test_check_names_what_is_to_be_mended(fedbench, plugged):
    plugged("acme-fl", ACME, methods={"leaky": "Leaky"})
    status, out, _ = fedbench("check", "leaky")
    assert (status, out.splitlines()[-1]) == (1, "leaky: not sound yet.")
    assert "FOUND  weights: Give weights that are finite, not negative, and sum to one." in out
    assert "are [1.0, 1.0] for 2 uploads" in out
    assert "fedbench.simplex" in out
    assert "resume: not checked until weights is mended" in out


@pytest.mark.long
def test_check_of_all_goes_on_after_a_broken_one(fedbench, plugged, monkeypatch):
    plugged("acme-fl", ACME, methods={"leaky": "Leaky", "absent": "Absent"})
    points = registry.methods.points()
    few = {name: points[name] for name in ("absent", "fedavg", "leaky", "majority")}
    monkeypatch.setattr(registry.methods, "_points", few)
    status, out, _ = fedbench("check", "--all")
    lines = out.splitlines()
    assert (status, lines[-1]) == (1, "absent, leaky: not sound yet.")
    assert [line for line in lines if line.removesuffix(":") in few] == [f"{name}:" for name in few]
    assert lines[1].startswith("FOUND  method 'absent' of acme-fl 1.2 cannot be imported")
    assert lines[2:5] == [
        "fedavg:",
        "leaky:",
        "FOUND  weights: Give weights that are finite, not negative, and sum to one.",
    ]


def test_methods_are_listed_with_their_traffic_within_80_columns(fedbench, monkeypatch, plugged):
    plugged("acme-fl", ACME.replace("class Acme(Method):", "class Acme(Method):\n    mechanism = 'word ' * 20"),
            methods={"acme": "Acme"})  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = fedbench("ls", "methods")
    lines = out.splitlines()
    assert (status, max(map(len, lines)) <= 80) == (0, True)
    assert lines[0].split() == ["name", "family", "down", "up", "time", "mechanism"]
    rows = {line.split()[0]: line.split() for line in lines if line[:1].strip()}
    assert rows["fedavg"] == ["fedavg", "global", "1x", "1x", "1.00x", "averaging"]
    assert rows["acme"][4] == "word"  # whose round nobody has measured
    assert re.fullmatch(r"fedprox global 1x 1x \d\.\d\dx regularisation", " ".join(rows["fedprox"]))
    assert rows["scaffold"][2:4] == ["2x", "2x"]  # the model and a control variate, each way
    assert rows["elastic"][2:4] == ["1x", "2x"]  # and Omega, up
    assert rows["fedkd"][2:4] == ["varies", "varies"]
    assert rows["local"][2:4] == ["0x", "<0.01x"]
    below = out.partition("fedprox ")[2].splitlines()
    assert below[1].strip().startswith("FedProx: FedAvg with a quadratic pull")
    assert below[3].strip() == "mu=1.0"
    assert "from acme-fl 1.2" in out
    assert "from fedbench" not in out
