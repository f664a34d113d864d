"""A board's runs for MLflow, in a SQLite file in a folder: no server and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedbench.leaderboard.board import Board, CellResult, Row

from fedbench.errors import SpecError
from fedbench.metrics import global_accuracy, local_accuracy
from fedbench.records import Record

DATABASE = "mlflow.db"
_BATCH = 1000  # metrics that MLflow takes at a time


def to_mlflow(results: Path, board: Board, folder: Path) -> int:
    """Write each cell that is done as a run of an experiment named after the suite, and return how many there are new.

    A run has the hyperparameters, every metric that is defined, global and local accuracy by round, and as tags where
    it came from. A digest that the experiment has already is not written again. Look at them with
    ``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db``.

    Parameters
    ----------
    results : Path
        The folder that the board was read from.
    board : Board
        Of any track, with any holes: cells that are not done are no runs.
    folder : Path
        Made if it is not there.

    Raises
    ------
    SpecError
        MLflow is not installed.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    try:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise SpecError('this export needs MLflow, which is not installed; `pip install "fedbench[mlflow]"`.') from None
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(f"sqlite:///{(folder / DATABASE).absolute()}")
    experiment = client.get_experiment_by_name(board.suite)
    number = experiment.experiment_id if experiment else client.create_experiment(board.suite)
    written = 0
    for row, cell in _done(board):
        if client.search_runs([number], f"tags.digest = '{cell.digest}' and attributes.status = 'FINISHED'"):
            continue
        tags = {"task": cell.planned.task, "method": row.label, "track": board.track, "family": row.family}
        tags |= {"hash": cell.planned.hash, "digest": cell.digest, "seed": str(cell.seed)}
        run = client.create_run(number, run_name=cell.planned.path, tags=tags).info.run_id
        params = [Param(name, str(value)) for name, value in cell.planned.hyperparameters.items()]
        metrics = [Metric(name, value, 0, 0) for name, value in cell.values.items() if value is not None]
        outcome = Record.open(results / cell.planned.path).outcome
        by_round = {"global_accuracy": global_accuracy(outcome), "local_accuracy": local_accuracy(outcome)}
        for name, series in by_round.items():
            metrics += [Metric(f"round/{name}", float(v), 0, t) for t, v in enumerate(() if series is None else series)]
        client.log_batch(run, params=params)
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(run, metrics=metrics[start : start + _BATCH])
        client.set_terminated(run)
        written += 1
    return written


def _done(board: Board) -> Iterator[tuple[Row, CellResult]]:
    return ((row, cell) for task in board.tasks for row in task.all_rows for cell in row.done)
