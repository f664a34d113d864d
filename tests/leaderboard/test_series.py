"""Series: every number by hand."""

import numpy as np
import pytest
from fedbench.leaderboard import load_board, render
from fedbench.leaderboard.charts import Chart
from fedbench.leaderboard.runs import method_series
from fedbench.leaderboard.series import drop_after_download, series

from fedbench.metrics import EXAMPLE, backward_transfer, change_since_visit
from fedbench.outcome import Outcome
from fedbench.records import Record


def outcome(sampled, on_clients, local, offsets=(0, 4, 8), **others):
    """Make a federation with four test samples for each client, or as the offsets say; hits are counts per client."""
    sizes = np.diff(offsets)

    def bits(hits):
        return np.array([np.concatenate([np.arange(n) < h for n, h in zip(sizes, row, strict=True)]) for row in hits])

    rounds = len(sampled)
    nothing = np.zeros(rounds, dtype=np.int64)
    fields = {
        "n_classes": 2,
        "sampled": np.array(sampled, dtype=bool),
        "test_labels": np.array([0, 1]),
        "test_predictions": None,
        "test_probabilities": None,
        "validation": None,
        "offsets": np.array(offsets),
        "client_labels": np.zeros(offsets[-1], dtype=np.int64),
        "on_clients": None if on_clients is None else bits(on_clients),
        "local": None if local is None else bits(local),
        "personal_rounds": np.zeros(0, dtype=np.int64),
        "personal": None,
        "bytes_up": nothing + 1,
        "bytes_down": nothing + 2,
        "seconds_train": nothing + 0.5,
        "seconds_evaluate": nothing + 9.0,
        "train_samples": nothing + 10,
        "forward_samples": nothing + 1,
    }
    return Outcome(**(fields | others))


# Hits of 4. Client 0 takes part in rounds 0, 2 and 3, client 1 in rounds 1 and 3.
#
#           sampled   global model on clients   local models
#   round 0   0            2  1                   4  .
#   round 1      1         1  3                   .  3
#   round 2   0            3  0                   4  .
#   round 3   0  1         4  2                   2  4
FOUR = outcome(
    sampled=[[1, 0], [0, 1], [1, 0], [1, 1]],
    on_clients=[[2, 1], [1, 3], [3, 0], [4, 2]],
    local=[[4, 0], [0, 3], [4, 0], [2, 4]],
)


def test_retrogress_compares_what_a_client_left_with_with_what_it_is_given():
    # Round 2: client 0 left round 0 with 4/4 and gets the model of round 1, 1/4: it loses 75 points.
    # Round 3: client 0 left round 2 with 4/4 and gets the model of round 2, 3/4: 25 points; client 1 left round 1 with
    # 3/4 and gets 0/4: 75 points. Mean 50. Rounds 0 and 1: nobody took part before.
    drop = drop_after_download(FOUR)
    assert np.isnan(drop[:2]).all()
    assert drop[2:].tolist() == [0.75, 0.5]


def test_retrogress_is_negative_where_the_download_is_better():
    better = outcome([[1, 0], [1, 0]], on_clients=[[4, 0], [0, 0]], local=[[1, 0], [4, 0]])
    assert drop_after_download(better)[1] == -0.75


def test_forgetting_is_the_change_since_the_last_visit():
    # Client 0: seen at 2/4 (round 0), then 1/4, 3/4 against 2/4; after round 2 its record is 3/4, so 4/4 is +1/4.
    # Client 1: seen at 3/4 in round 1; 0/4 and 2/4 after that.
    change = change_since_visit(FOUR)
    assert np.isnan(change[0]).all()
    assert change[1:, 0].tolist() == [-0.25, 0.25, 0.25]
    assert np.isnan(change[1, 1])
    assert change[2:, 1].tolist() == [-0.75, -0.25]


@pytest.mark.parametrize("run", [FOUR, EXAMPLE])
def test_the_mean_of_a_round_of_forgetting_is_its_backward_transfer(run):
    change = change_since_visit(run)
    means = [np.mean(row[~np.isnan(row)]) if (~np.isnan(row)).any() else 0.0 for row in change]
    assert means == pytest.approx(backward_transfer(run).tolist())


def test_what_is_spent_is_cumulative():
    run = series(FOUR, seed=7, partition="p")
    assert (run.seed, run.partition) == (7, "p")
    assert run.bytes.tolist() == [3, 6, 9, 12]
    assert run.seconds.tolist() == [0.5, 1.0, 1.5, 2.0]  # evaluation is the benchmark's
    assert run.samples.tolist() == [11, 22, 33, 44]


def test_local_accuracy_is_known_where_a_client_took_part_alone():
    run = series(FOUR, seed=1, partition="p")
    assert run.local_by_client[3].tolist() == [0.5, 1.0]
    assert np.isnan(run.local_by_client[0, 1])
    assert run.local_accuracy.tolist() == [1.0, 0.75, 1.0, 0.75]
    assert run.sizes.tolist() == [4, 4]


def test_what_a_method_does_not_have_is_none():
    run = series(outcome([[1, 0], [0, 1]], on_clients=None, local=[[1, 0], [0, 1]]), seed=1, partition="p")
    assert run.global_accuracy is run.global_by_client is run.forgetting is run.retrogress is None
    assert run.personal_by_client is None
    alone = series(outcome([[0, 0]], on_clients=[[1, 1]], local=None), seed=1, partition="p")
    assert alone.local_accuracy is alone.local_by_client is alone.forgetting is alone.retrogress is None


def test_series_of_a_task_follow_the_board_and_skip_no_finished_seed(demo):
    alpha = load_board(demo, "demo", drawn=True).tasks[0]
    found = {method.label: method for method in method_series(alpha)}
    assert list(found) == [row.label for row in alpha.all_rows]
    assert [run.seed for run in found["fedavg"].runs] == [1, 2, 3]
    assert {run.partition for run in found["fedavg"].runs} == {"p"}
    assert [run.seed for run in found["fedprox"].runs] == [1, 2]  # the third failed
    assert found["fedavg"].runs[0].global_accuracy.tolist() == [0.5, 0.5]
    # Client 0 left round 0 with 2/4 and gets 4/4: the download gives it 50 points. Client 1 is new.
    assert found["fedavg"].runs[0].retrogress[1] == -0.5
    assert found["fedper"].runs[0].personal_by_client.tolist() == [1.0, 0.5]


def test_two_rows_of_one_label_are_told_apart(lab):
    first = lab.done("alpha", "fedavg", 1, 0.5)
    second = lab.done("alpha", "fedavg", 2, 0.5, hash="ba9876543210")
    moved = second.model_copy(update={"hash": "ba9876543210"})
    (lab.results / second.path).parent.parent.joinpath(moved.hash).mkdir()
    (lab.results / second.path).rename(lab.results / moved.path)
    results = lab.finish(cells=[first, moved])
    labels = [method.label for method in method_series(load_board(results, "demo", drawn=True).tasks[0])]
    assert labels == ["fedavg (0123456789ab)", "fedavg (ba9876543210)"]


def test_a_board_without_series_says_so(demo):
    with pytest.raises(ValueError, match=r"alpha/fedkper/0123456789ab/seed-1 has no series; .*drawn=True"):
        method_series(load_board(demo, "demo").tasks[0])


def test_each_record_is_opened_once(demo, tmp_path, monkeypatch):
    opened = []

    def count(folder, real=Record.open):
        opened.append(folder)
        return real(folder)

    monkeypatch.setattr(Record, "open", count)
    monkeypatch.setattr(Chart, "svg", lambda self: "<svg/>")
    render(demo, "demo", tmp_path / "out")
    done = [folder for folder in opened if folder.is_dir() and not folder.match("fedavg/*/seed-3")]
    assert len(set(done)) == 18
    assert len(done) == 18
