"""What MLflow reads back of a board's runs."""

import socket

import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.tracking import to_mlflow

# MLflow takes seconds to make its tables, and warns of what it imports.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture
def runs(demo, tmp_path, monkeypatch):
    """Return a function that exports the demo and reads the runs back, on a machine without a network."""

    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    def exported():
        written = to_mlflow(demo, load_board(demo, "demo"), tmp_path / "mlflow")
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
        number = client.get_experiment_by_name("demo").experiment_id
        return written, client, client.search_runs([number])

    return exported


def test_runs_have_values_rounds_and_origin(runs, demo):
    written, client, found = runs()
    board = load_board(demo, "demo")
    assert written == len(found) == board.count("done")
    (run,) = [
        run for run in found
        if (run.data.tags["task"], run.data.tags["method"], run.data.tags["seed"]) == ("alpha", "fedavg", "2")
    ]  # fmt: skip
    assert run.data.metrics["bwt"] == -0.125  # by hand, see conftest
    assert run.info.status == "FINISHED"
    (cell,) = [cell for cell in board.cells if cell.planned.path == run.info.run_name]
    assert run.data.tags["digest"] == cell.digest
    history = client.get_metric_history(run.info.run_id, "round/local_accuracy")
    assert [(item.step, item.value) for item in history] == [(0, 0.5), (1, 0.75)]
    assert "personal_accuracy" not in run.data.metrics  # not defined is not zero


def test_a_second_export_writes_nothing(runs):
    first, _, before = runs()
    second, _, after = runs()
    assert (first > 0, second, len(after)) == (True, 0, len(before))
