"""Tuning: on validation data alone, with an exact budget, and the same file whatever happens on the way."""

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fedbench import (
    Cell,
    Data,
    Dataset,
    Dirichlet,
    FedBenchError,
    Method,
    PartitionError,
    Protocol,
    Range,
    Record,
    SiteStyles,
    SpecError,
    Suite,
    Task,
    cli,
    registry,
    tuning,
    verbs,
)
from fedbench.cell import Tuned, load_suite, load_tuned
from fedbench.executors import Event, Options, run_cells, run_serially
from fedbench.federation import federate
from fedbench.metrics import evaluate
from fedbench.records import read_plan
from fedbench.resident import load_data
from fedbench.schema import identity_hash
from fedbench.simulation import run_cell

PUBLISHED = Path(__file__).parents[1] / "reports" / "records"


class Toy(Data):
    """Facts alone; the tests hand over the samples."""

    def locate(self, data_dir=None):
        return ()

    def fetch(self, data_dir=None):
        return ()

    def load(self, data_dir=None):
        raise AssertionError("a split needs no data file here")


def make_toy(held_out=0.0):
    return Task(
        name="toy",
        title="Toy",
        data=Toy(classes=("a", "b", "c"), shape=(1,), counts={}, license="CC0"),
        partitioner=Dirichlet(alpha=1.0, clients=5),
        held_out=held_out,
        model="mlp",
        protocol=Protocol(rounds=3, participation=0.5, local_epochs=2, batch_size=12, lr=0.01),
        source="toy",
    )


def make_samples(validation):
    """600 training samples, some for validation, 900 for the test; their ids are shuffled."""
    rng = np.random.default_rng(0)
    parts = np.split(rng.permutation(1500 + validation), [600, 600 + validation])
    labels = rng.integers(3, size=1500 + validation)
    return Dataset(np.zeros((len(labels), 1), np.float32), labels, *(np.sort(part) for part in parts))


# --- no test sample is reachable --------------------------------------------------------------------------------------

SPLITS = {
    "heart: neither test nor validation split": lambda: (registry.tasks.get("heart"), None),
    "heart with a hospital held out": lambda: (registry.tasks.get("heart").but(held_out=0.25), None),
    "blood-mini: both": lambda: (registry.tasks.get("blood-mini"), None),
    "blood-mini with styles": lambda: (registry.tasks.get("blood-mini").but(styles=SiteStyles()), None),
    "no validation split": lambda: (make_toy(), make_samples(validation=0)),
    "clients held out": lambda: (make_toy(held_out=0.4), make_samples(validation=60)),
}


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("track", ["faithful", "robust"])
@pytest.mark.parametrize("split", SPLITS)
def test_no_sample_that_a_board_is_made_of_is_trained_on_or_evaluated(split, track, seed):
    task, data = SPLITS[split]()
    data = data or load_data(task.data)
    if task.name == "blood-mini" and track == "robust":
        # At its own alpha a class has too few test samples.
        task = task.but(partitioner=Dirichlet(alpha=1.0, clients=8, min_size=10))
    real = federate(task, data, track, seed)
    ours = federate(task.but(evaluated_on="validation"), data, track, seed)

    forbidden = set(np.concatenate([data.test, real.global_test, *real.tests]).tolist())
    trained = set(np.concatenate(ours.train).tolist())
    evaluated = set(np.concatenate([ours.global_test, ours.validation, *ours.tests]).tolist())
    assert not forbidden & (trained | evaluated)
    assert not trained & evaluated
    assert len(ours.global_test)

    trainers = range(real.trainers)
    assert len(ours.train) == len(ours.tests) == ours.trainers == real.trainers
    assert all(np.array_equal(np.union1d(ours.train[k], ours.tests[k]), real.train[k]) for k in trainers)
    assert all(set(real.train[k].tolist()).isdisjoint(evaluated) for k in range(real.trainers, len(real.train)))
    assert ours.schedule_id() == real.schedule_id()
    if len(data.validation):
        assert np.array_equal(ours.global_test, data.validation)
    else:
        assert np.array_equal(ours.global_test, np.sort(np.concatenate(ours.tests)))


@pytest.mark.parametrize("track", ["faithful", "robust"])
def test_the_share_cut_from_each_client_is_that_of_the_local_tests(track):
    task, data = make_toy(), make_samples(validation=60)
    ours = federate(task.but(evaluated_on="validation"), data, track, 1)
    for train, test in zip(ours.train, ours.tests, strict=True):
        share = len(test) / (len(train) + len(test))
        # The faithful track rounds down, class by class; a stratified share is exact but for one sample.
        assert 0 < share <= 0.2 if track == "faithful" else abs(share - 0.2) < 1 / (len(train) + len(test))


def test_a_client_too_small_to_be_cut_again_is_an_error_with_a_mend():
    class Few(Dirichlet):
        def split(self, targets, sites, n_classes, rng):
            return [np.arange(5), np.arange(5, len(targets))]  # 5 samples: 1 test, 4 left; a fifth of 4 is none

    task = make_toy().but(partitioner=Few(alpha=1.0, clients=2))
    federate(task, make_samples(validation=60), "faithful", 0)
    with pytest.raises(PartitionError, match=r"client 0 of toy has 4 sample\(s\).*local validation.*use fewer clients"):
        federate(task.but(evaluated_on="validation"), make_samples(validation=60), "faithful", 0)


@pytest.mark.parametrize("name", ["heart", "blood-mini"])
def test_spoiled_test_samples_change_no_bit_of_a_trial(name, shrink, make_cell, tmp_path):
    task = shrink(name, rounds=2, local_epochs=1)
    data = load_data(task.data)
    real = federate(task, data, "faithful", 0)
    forbidden = np.concatenate([data.test, real.global_test, *real.tests])
    inputs, targets = data.inputs.copy(), data.targets.copy()
    inputs[forbidden] = np.nan  # the outputs for one of them would not be finite, which is an error
    targets[data.test] = 0  # labels of other samples decide which client has them
    cell = make_cell(task.but(evaluated_on="validation"), "fedkper", seed=0)
    plain = run_cell(cell, tmp_path / "plain", dataset=data)
    spoiled = run_cell(cell, tmp_path / "spoiled", dataset=replace(data, inputs=inputs, targets=targets))
    assert plain.digest == spoiled.digest


def test_cells_from_before_keep_their_hash():
    held = {json.loads(path.read_text())["hash"] for path in PUBLISHED.glob("blood/*/*/seed-1/run.json")}
    now = [cell.hash for cell in load_suite("paper-local").cells(["blood"], ["fedavg", "fedkper"], [1])]
    assert set(now) <= held
    task = registry.tasks.get("blood")
    assert "evaluated_on" not in task.identity()
    assert task.but(evaluated_on="validation").identity() == {**task.identity(), "evaluated_on": "validation"}


# --- the search -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Step(Method):
    """FedAvg whose clients go a part of the way: at 0 nothing is learned, and a large one is no number any more."""

    space: ClassVar[tuple[Range, ...]] = (Range("part", values=(0.0, 1.0), source="made up"),)

    part: float = 0.0

    def client_update(self, client):
        after = client.fit(client.params, self.loss).params
        return client.upload({name: old + self.part * (after[name] - old) for name, old in client.params.items()})


@dataclass(frozen=True, kw_only=True)
class Leap(Step):
    """The same with a part that cannot go well."""

    space: ClassVar[tuple[Range, ...]] = (Range("part", values=(1.0, 1e38), source="made up"),)

    part: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Doomed(Step):
    """Fails at everything."""

    def client_update(self, client):
        raise RuntimeError("no luck")


@dataclass(frozen=True, kw_only=True)
class Mixed(Step):
    """Whole numbers, and a default that is none of the range."""

    space: ClassVar[tuple[Range, ...]] = (Range("steps", 1, 3, source="made up"),)

    steps: int = 7


@dataclass(frozen=True, kw_only=True)
class Pick(Step):
    """Whole numbers that change nothing."""

    space: ClassVar[tuple[Range, ...]] = (Range("steps", 1, 15, source="made up"),)

    part: float = 1.0
    steps: int = 1


METHODS = {"pick": Pick, "step": Step, "leap": Leap, "doomed": Doomed, "mixed": Mixed}


@pytest.fixture(autouse=True)
def own_methods(monkeypatch):
    """Register the methods of these tests."""
    for name, method in METHODS.items():
        monkeypatch.setitem(registry.methods._loaded, name, method)


@pytest.fixture(scope="module")
def small(shrink):
    """The heart task, two rounds of it."""
    return shrink("heart", rounds=2, local_epochs=1)


def serially(results, ran=None):
    def run(cells):
        if ran is not None:
            ran.extend(cells)
        return run_serially(cells, Options(results))

    return run


def tuned_at(results, task, method="fedprox", *, run=None, budget=12, watch=lambda trial: None, **options):
    search = tuning.search(task, method, budget=budget, **options)
    return tuning.tune(search, results, run or serially(results), watch=watch)


@pytest.fixture(scope="module")
def reference(small, tmp_path_factory):
    """Return what an undisturbed search of twelve trials gives, and the folder of its records."""
    results = tmp_path_factory.mktemp("tuning")
    return tuned_at(results, small), results


def test_the_first_trial_is_the_defaults_and_each_score_is_that_of_its_record(reference, small):
    tuned, results = reference
    assert tuned.trial[0].hyperparameters == {"mu": 1.0}
    assert tuned.default_score == tuned.trial[0].score
    assert tuned.best_score == max(trial.score for trial in tuned.trial)
    chosen = [trial for trial in tuned.trial if trial.hyperparameters == tuned.hyperparameters]
    assert tuned.best_score == chosen[0].score
    for trial in tuned.trial:
        method = registry.methods.get("fedprox")(**trial.hyperparameters)
        cell = Cell(small.but(evaluated_on="validation"), "fedprox", method, "faithful", 0)
        values = evaluate(Record.open(cell.folder(results)).outcome)
        assert values["global_accuracy_mean"] == trial.score
        assert 0.001 <= trial.hyperparameters["mu"] <= 1
        assert float(f"{trial.hyperparameters['mu']:.3g}") == trial.hyperparameters["mu"]


def test_the_budget_is_exact(reference):
    tuned, results = reference
    cells = len(list(results.glob("heart/fedprox/*/seed-0/manifest.json")))
    assert (tuned.budget, tuned.trials, len(tuned.trial)) == (12, 12, 12)
    assert tuned.configurations == cells == len({trial.hyperparameters["mu"] for trial in tuned.trial})


def test_a_larger_budget_goes_on_where_a_smaller_one_ended(reference, small, tmp_path):
    less = tuned_at(tmp_path, small, budget=11)
    assert less.trial == reference[0].trial[:11]


def test_the_same_seed_gives_the_same_bytes_in_whatever_order_cells_end(reference, small, tmp_path):
    backwards = tuned_at(tmp_path, small, run=lambda cells: run_serially(cells[::-1], Options(tmp_path)))
    assert tuning.as_toml(backwards) == tuning.as_toml(reference[0])


def test_another_seed_makes_another_search(reference, small, tmp_path):
    other = tuned_at(tmp_path, small, seed=11)
    assert [t.hyperparameters for t in other.trial[1:]] != [t.hyperparameters for t in reference[0].trial[1:]]


@pytest.mark.parametrize("stop", [1, 7, 11])
def test_a_search_that_was_stopped_ends_with_the_same_bytes_and_runs_nothing_twice(reference, small, tmp_path, stop):
    first, second = [], []

    def interrupted(cells):
        for cell in cells:
            if len(first) == stop:
                raise KeyboardInterrupt
            first.append(cell)
            yield from run_serially([cell], Options(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        tuned_at(tmp_path, small, run=interrupted)
    again = tuned_at(tmp_path, small, run=serially(tmp_path, second))
    assert tuning.as_toml(again) == tuning.as_toml(reference[0])
    assert not set(first) & set(second)
    assert len(first) + len(second) == again.configurations


@pytest.mark.long
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_number_of_workers_changes_no_byte(reference, small, tmp_path, jobs):
    tuned = tuned_at(tmp_path, small, run=partial(run_cells, options=Options(tmp_path), jobs=jobs))
    assert tuning.as_toml(tuned) == tuning.as_toml(reference[0])


def test_what_learns_is_found(small, tmp_path):
    """At part 0 the model stays what it was, at part 1 it is FedAvg, which learns."""
    tuned = tuned_at(tmp_path, small, "step")
    assert tuned.hyperparameters == {"part": 1.0}
    assert tuned.best_score > tuned.default_score


def test_a_space_that_the_budget_covers_is_tried_whole(small, tmp_path):
    tuned = tuned_at(tmp_path, small, "ditto", budget=3)
    assert [trial.hyperparameters["lam"] for trial in tuned.trial] == [1.0, 0.1, 2.0]
    assert (tuned.budget, tuned.trials, tuned.sampler) == (3, 3, "every configuration of the space")


def test_a_default_beyond_the_range_counts_as_a_trial(small, tmp_path):
    tuned = tuned_at(tmp_path / "whole", small, "mixed", budget=4)
    assert [trial.hyperparameters["steps"] for trial in tuned.trial] == [7, 1, 2, 3]
    tuned = tuned_at(tmp_path / "sampled", small, "mixed", budget=3)
    assert tuned.trials == 3
    assert tuned.trial[0].hyperparameters == {"steps": 7}
    assert all(trial.hyperparameters["steps"] in (1, 2, 3) for trial in tuned.trial[1:])


def test_proposals_that_are_made_again_are_answered_by_the_record_and_count(small, tmp_path):
    ran = []
    tuned = tuned_at(tmp_path, small, "pick", run=serially(tmp_path, ran), budget=14)  # of 15 configurations
    assert tuned.trials == 14
    assert len(ran) == tuned.configurations == len({trial.hyperparameters["steps"] for trial in tuned.trial}) < 14
    scores = {}
    for trial in tuned.trial:
        assert scores.setdefault(tuple(trial.hyperparameters.items()), trial.score) == trial.score


@pytest.mark.parametrize(
    ("method", "metric", "used"),
    [
        ("fedprox", None, "global_accuracy_mean"),
        ("ditto", None, "personal_accuracy"),
        ("ditto", "local_accuracy_mean", "local_accuracy_mean"),
    ],
)
def test_what_is_optimised(small, method, metric, used):
    assert tuning.search(small, method, budget=2, metric=metric).metric.name == used


def test_a_lower_value_is_better_where_the_metric_says_so(small, tmp_path):
    tuned = tuned_at(tmp_path, small, "ditto", budget=3, metric="client_gap")
    assert tuned.best_score == min(trial.score for trial in tuned.trial)


def test_a_trial_that_diverges_counts_has_the_worst_score_and_is_told_of(small, tmp_path):
    seen = []
    tuned = tuned_at(tmp_path, small, "leap", budget=5, watch=seen.append)
    assert [(trial.failed, trial.score) for trial in tuned.trial] == [(False, tuned.best_score), (True, 0.0)]
    assert (tuned.trials, tuned.failed, tuned.hyperparameters) == (2, 1, {"part": 1.0})
    assert seen[0].reason == ""
    assert "not finite" in seen[1].reason or "NaN" in seen[1].reason


def test_where_all_trials_fail_nothing_is_chosen(small, tmp_path):
    with pytest.raises(FedBenchError, match=r"all 2 trials failed.*no luck"):
        tuned_at(tmp_path, small, "doomed")


def test_a_machine_that_fails_is_no_score(small, tmp_path):
    def run(cells):
        yield Event(cells[0], "failed", reason="No space left on device: x", machine=True)

    with pytest.raises(FedBenchError, match=r"No space left on device.*run again"):
        tuned_at(tmp_path, small, run=run)


def test_executors_tell_a_machine_that_fails_from_a_method_that_does(small, make_cell, tmp_path):
    (tmp_path / "file").touch()
    cell = make_cell(small, "doomed", seed=0)
    assert [event.machine for event in run_serially([cell], Options(tmp_path)) if event.is_last] == [False]
    cell = make_cell(small, "fedavg", seed=0)
    nowhere = Options(tmp_path / "file" / "results")
    assert [event.machine for event in run_serially([cell], nowhere) if event.is_last] == [True]


def test_a_metric_that_is_not_defined_is_an_error_with_a_mend(small, tmp_path):
    with pytest.raises(SpecError, match=r"held_out_accuracy is not defined for fedprox.*--metric"):
        tuned_at(tmp_path, small, metric="held_out_accuracy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "fedavg"}, "fedavg has nothing to tune"),
        ({"method": "fedprx"}, "unknown method 'fedprx'; did you mean fedprox"),
        ({"budget": 1}, "budget: must be at least 2"),
        ({"seed": -1}, "seed: must not be negative"),
        ({"seed": 1}, "seed: 1 is one that the suite .* evaluates"),
        ({"metric": "acuracy"}, "unknown metric to tune for 'acuracy'"),
        ({"metric": "seconds_train"}, "unknown metric to tune for 'seconds_train'"),
        ({"track": "slow"}, "unknown track 'slow'"),
    ],
)
def test_what_cannot_be_searched_is_refused(small, changes, message):
    with pytest.raises(SpecError, match=message):
        tuning.search(**{"task": small, "method": "fedprox", "budget": 5, **changes})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Range("parts", 0, 1), "unknown hyperparameter of step in Method.space: 'parts'; did you mean part"),
        (Range("part"), "needs low and high, or values"),
        (Range("part", 0.0, 1.0, log=True), "low must be positive, got 0"),
        (Range("part", 1.0, 0.5), "low must be below high"),
        (Range("part", values=(None, 1.0)), "values that are text, numbers or truth values"),
        (Range("part", values=("much",)), "Step.part: "),
    ],
)
def test_a_space_with_a_mistake_is_refused_before_anything_runs(small, monkeypatch, item, message):
    monkeypatch.setattr(Step, "space", (item,))
    with pytest.raises(SpecError, match=message):
        tuning.search(small, "step", budget=5)


def test_without_optuna_the_error_says_what_to_install(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SpecError, match=r'pip install "fedbench\[tune\]"'):
        tuned_at(tmp_path, small)


# --- the file, and suites that name it --------------------------------------------------------------------------------


def made(**changes):
    """What a search might have found, for the registered heart task."""
    values = {
        "fedbench": "0.1.0",
        "sampler": "optuna 5.0.0, TPE",
        "method": "fedkper",
        "method_version": registry.methods.get("fedkper").version,
        "task": "heart",
        "task_hash": identity_hash(registry.tasks.get("heart").identity()),
        "track": "faithful",
        "seed": 0,
        "metric": "global_accuracy_mean",
        "budget": 20,
        "trials": 20,
        "configurations": 20,
        "failed": 0,
        "default_score": 0.5,
        "best_score": 0.75,
        "hyperparameters": {"tau": 2.5, "lambda_max": 33.0},
        "searched": {"tau": {"low": 0.5, "high": 4.0, "log": True, "source": 'said "so"\\ \u007f \U0001fac0'}},
        "trial": [{"hyperparameters": {"tau": 1.0}, "score": 0.5}],
    }
    return Tuned(**{**values, **changes})


@pytest.fixture
def write_suite(tmp_path):
    """Return a function that writes tuned files and a suite that names them by relative paths, and loads it."""

    def written(*found, tasks=("heart", "blood-mini"), **changes):
        for number, tuned in enumerate(found):
            tuning.write(tuned, tmp_path / "tuned" / f"{number}.toml")
        values = {
            "name": "mine",
            "title": "Mine",
            "track": "faithful",
            "tasks": list(tasks),
            "methods": ["fedavg", "fedkper"],
            "seeds": [1, 2],
            "tuned": [f"tuned/{number}.toml" for number in range(len(found))],
            **changes,
        }
        lines = [f"{name} = {tuning._value(value)}" for name, value in values.items()]
        (tmp_path / "mine.toml").write_text("\n".join(lines))
        return load_suite(str(tmp_path / "mine.toml"))

    return written


def test_a_file_is_read_as_it_was_written(reference, tmp_path):
    for tuned in (reference[0], made()):
        tuning.write(tuned, tmp_path / "a" / "b.toml")
        found, about = load_tuned(tmp_path / "a" / "b.toml")
        assert found == tuned
        assert (about.task, about.metric, about.budget, about.seed) == (tuned.task, tuned.metric, tuned.budget, 0)


def test_a_suite_takes_tuned_values_for_that_task_and_method_alone(write_suite):
    suite = write_suite(made())
    assert isinstance(suite, Suite)
    for cell in suite.cells():
        is_tuned = (cell.task.name, cell.method_name) == ("heart", "fedkper")
        values = cell.method.hyperparameters()
        assert values == {**cell.method.defaults(), **({"tau": 2.5, "lambda_max": 33.0} if is_tuned else {})}
        assert (cell.tuning is not None) == is_tuned
    assert cell.tuning is None
    tuned = next(cell for cell in suite.cells(["heart"], ["fedkper"]))
    assert (tuned.tuning.budget, tuned.tuning.metric, tuned.tuning.seed) == (20, "global_accuracy_mean", 0)


def test_the_command_line_comes_before_the_suite_and_the_suite_before_what_was_tuned(write_suite):
    suite = write_suite(made(), overrides={"fedkper": {"tau": 3.0}})
    cell = suite.cells(["heart"], ["fedkper"])[0]
    assert (cell.method.tau, cell.method.lambda_max) == (3.0, 33.0)
    assert cell.tuning is None  # it is no longer what the search found
    cell = suite.cells(["heart"], ["fedkper"], (), {"fedkper": {"tau": "0.5"}})[0]
    assert (cell.method.tau, cell.method.lambda_max) == (0.5, 33.0)
    cell = suite.cells(["heart"], ["fedkper"], (), {"fedkper": {"tau": 2.5}})[0]
    assert cell.tuning is not None  # by hand, and yet the same


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gone"}, "unknown method 'gone'"),
        ({"task": "gone"}, "unknown task 'gone'"),
        (
            {"method_version": 99},
            r"fedkper was tuned at version 99, and is now \d.*`fedbench tune fedkper --task heart",
        ),
        ({"task_hash": "0" * 12}, "the task heart has changed since fedkper was tuned on it"),
        ({"track": "robust"}, "tuned on the robust track, but the suite is faithful; tune it with --track faithful"),
        ({"seed": 2}, "tuned with seed 2, which the suite evaluates as well"),
        ({"hyperparameters": {"tauu": 1.0}}, "unknown hyperparameter of fedkper 'tauu'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(write_suite, changes, message):
    with pytest.raises(SpecError, match=message):
        write_suite(made(**changes)).cells()


def test_a_seed_that_was_tuned_with_cannot_be_added(write_suite):
    suite = write_suite(made())
    with pytest.raises(SpecError, match="tuned with seed 0"):
        suite.cells(seeds=[0])


def test_two_files_for_one_method_on_one_task_are_refused(write_suite):
    with pytest.raises(SpecError, match="two tuned files of fedkper on heart"):
        write_suite(made(), made(budget=10)).cells()


def test_files_that_are_none_are_refused(write_suite, tmp_path):
    with pytest.raises(SpecError, match=r"absent.toml: No such file.*make it with `fedbench tune`"):
        write_suite(tuned=["absent.toml"]).cells()
    (tmp_path / "odd.toml").write_text("budget = 'many'")
    with pytest.raises(SpecError, match=r"tuned file .*odd.toml: Tuned: "):
        write_suite(tuned=["odd.toml"]).cells()
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"tuned file .*odd.toml"):
        write_suite(tuned=["odd.toml"]).cells()


def test_plans_and_boards_say_where_hyperparameters_came_from(write_suite, tmp_path, monkeypatch, small):
    from fedbench import leaderboard

    monkeypatch.setitem(registry.tasks._loaded, "heart", small)
    tuned = made(task_hash=identity_hash(small.identity()))
    write_suite(tuned, tasks=["heart"], seeds=[1])
    selection = verbs.Selection(str(tmp_path / "mine.toml"))
    verbs.run(selection, tmp_path / "results", reports=None, executor="serial")
    by_hand = replace(selection, overrides={"fedkper": {"tau": 4.0}})
    verbs.run(by_hand, tmp_path / "results", reports=None, executor="serial")
    plan = read_plan(tmp_path / "results" / "plans" / "mine.json")
    assert {cell.label: cell.tuning and cell.tuning.budget for cell in plan.cells} == {
        "fedavg": None,
        "fedkper[lambda_max=33.0,tau=2.5]": 20,
        "fedkper[lambda_max=33.0,tau=4.0]": None,
    }
    (task,) = leaderboard.load_board(tmp_path / "results", "mine").tasks
    assert {row.label: row.origin for row in task.rows} == {
        "fedavg": "defaults",
        "fedkper[lambda_max=33.0,tau=2.5]": "tuned, budget 20",
        "fedkper[lambda_max=33.0,tau=4.0]": "set by hand",
    }


def test_tuning_to_the_defaults_later_is_seen_for_seeds_that_are_done(write_suite, tmp_path, monkeypatch, small):
    """The cell is the same one, so only the plan can say that its hyperparameters were searched."""
    monkeypatch.setitem(registry.tasks._loaded, "heart", small)
    defaults = made(task_hash=identity_hash(small.identity()), hyperparameters={"tau": 1.0})
    for found in ((), (defaults,)):
        write_suite(*found, tasks=["heart"])
        selection = verbs.Selection(str(tmp_path / "mine.toml"), methods=["fedkper"], seeds=[2 if found else 1])
        verbs.run(selection, tmp_path / "results", reports=None, executor="serial")
    plan = read_plan(tmp_path / "results" / "plans" / "mine.json")
    assert [cell.tuning is None for cell in plan.cells if cell.method == "fedkper"] == [False, False]


def test_plans_from_before_are_read_as_before():
    for path in (PUBLISHED / "plans").glob("*.json"):
        assert all(cell.tuning is None for cell in read_plan(path).cells)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys, small):
    """Return a function that runs ``fedbench tune`` in an empty folder, on the small task, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setitem(registry.tasks._loaded, "heart", small)
    monkeypatch.setattr(verbs, "_events", lambda executor, cells, options, *rest: run_serially(cells, options))

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["tune", *map(str, arguments)])
        return (stop.value.code, *capsys.readouterr())

    return run


def test_the_command_writes_a_file_and_says_what_came_of_each_trial(command, tmp_path):
    status, out, err = command("leap", "--task", "heart", "--budget", "5")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert any(line.startswith("[1/5] part=1.0: ") and "(best " in line for line in lines)
    assert any(line.startswith("[2/5] part=1e+38: failed, counts as 0.0 %: ") for line in lines)
    assert "2 trials of a budget of 5, every configuration there is; 1 failed." in out
    path = tmp_path / "tuning" / "heart" / "leap.toml"
    assert lines[-1] == "wrote tuning/heart/leap.toml"
    before = path.read_bytes()
    path.unlink()
    assert command("leap", "--task", "heart", "--budget", "5")[0] == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fedavg", "--task", "heart"), "fedavg has nothing to tune"),
        (("fedprox", "--task", "hart"), "unknown task 'hart'; did you mean heart"),
        (("fedprox", "--task", "heart", "--jobs", "0"), "jobs: must be at least 1"),
        (("fedprox", "--task", "heart", "--budget", "0"), "budget: must be at least 2"),
        (("fedprox",), "Missing option '--task'"),
    ],
)
def test_bad_usage_writes_nothing(command, tmp_path, arguments, message):
    status, _, err = command(*arguments)
    assert status == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []
