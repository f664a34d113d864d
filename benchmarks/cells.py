"""A method as FedBench runs it: cells in worker processes of one thread, timed by their own records."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from setting import Round, Setting, arguments, setting, tell

from fedbench import registry
from fedbench.cell import Cell
from fedbench.executors import Options, run_cells
from fedbench.records import Record


def rounds_of(record: Record, the: Setting) -> list[Round]:
    """Return what each round of a record took."""
    names = ("seconds_train", "seconds_evaluate", "train_samples")
    columns = [record.rounds.column(name).to_pylist() for name in names]
    return [
        Round(train=train, evaluate=evaluate, trained=trained, evaluated=the.evaluated(t))
        for t, (train, evaluate, trained) in enumerate(zip(*columns, strict=True))
    ]


def main() -> None:
    """Measure as many cells at once as there are workers, one seed each."""
    parser = arguments(__doc__)
    parser.add_argument("--method", default="fedavg", help="a registered method (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: %(default)s)")
    given = parser.parse_args()
    the = setting(given.task, given.rounds)
    method = registry.methods.get(given.method)()
    cells = [Cell(the.task, given.method, method, "faithful", seed) for seed in range(1, given.workers + 1)]
    with TemporaryDirectory() as folder:
        for event in run_cells(cells, Options(results=Path(folder)), given.workers):
            if event.state == "failed":
                sys.exit(event.reason)
        tell(runs=[rounds_of(Record.open(cell.folder(Path(folder))), the) for cell in cells])


if __name__ == "__main__":
    main()
