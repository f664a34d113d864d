"""Put our numbers beside those that the FedKPer paper reports, from the records in this folder.

``python reports/fidelity.py`` rewrites the tables in ``fidelity.md``; with ``--check`` it only says whether they are
what the records give.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from fedbench.leaderboard.fidelity import READINGS, reported

from fedbench.metrics import evaluate
from fedbench.records import Record
from fedbench.statistics import t_interval

HERE = Path(__file__).parent
PAGE, RECORDS = HERE / "fidelity.md", HERE / "records"
END = "<!-- end of table -->"

Values = dict[tuple[str, str, str], dict[int, float]]


def measured(track: str) -> Values:
    """Return each metric of the published records of the paper's tasks, by task, method and metric, then by seed."""
    values: Values = defaultdict(dict)
    tasks = {item.task for item in reported()}
    for manifest in sorted(RECORDS.glob("*/*/*/*/manifest.json")):
        record = Record.open(manifest.parent)
        identity = record.info.identity
        if identity["track"] == track and identity["task"]["name"] in tasks:
            for metric, value in evaluate(record.outcome).items():
                if value is not None:
                    values[identity["task"]["name"], record.info.label, metric][record.info.seed] = value
    return values


def paper_table() -> str:
    """Return the faithful records beside the paper's numbers, as Markdown."""
    known = {(item.task, item.method, item.column): item for item in reported()}
    values = measured("faithful")
    lines = [
        "| task | method | metric | seeds | ours, % | reported, % (second hand) | ours less reported, points |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, method in sorted({(task, method) for task, method, _ in values}):
        for column, readings in READINGS.items():
            for metric in readings:
                seeds = values.get((task, method, metric))
                if not seeds:  # the method has no such model
                    continue
                ours = t_interval([seeds[seed] for seed in sorted(seeds)])
                half = "" if ours.low is None else f" ± {100 * (ours.mean - ours.low):.1f}"
                paper, gap = "not known", ""
                if (task, method, column) in known:
                    item = known[task, method, column]
                    paper = f"{100 * item.value:.1f}" + (" (derived)" if item.derived else "")
                    gap = f"{100 * (ours.mean - item.value):+.1f}"
                which = ", ".join(map(str, sorted(seeds)))
                found = f"{100 * ours.mean:.1f}{half}"
                lines.append(f"| {task} | {method} | `{metric}` | {which} | {found} | {paper} | {gap} |")
    return "\n".join(lines)


def splits_table() -> str:
    """Return the robust records, one row a seed, each of which draws a split and a schedule of its own."""
    values = measured("robust")
    metrics = ("global_accuracy_mean", "bwt", "consistency_peak")
    lines = [
        "| task | seed (its own split) | method | " + " | ".join(f"`{metric}`, %" for metric in metrics) + " |",
        "| --- | --- | --- |" + " --- |" * len(metrics),
    ]
    rows = {(task, seed, method) for (task, method, _), seeds in values.items() for seed in seeds}
    for task, seed, method in sorted(rows):
        found = " | ".join(f"{100 * values[task, method, metric][seed]:.1f}" for metric in metrics)
        lines.append(f"| {task} | {seed} | {method} | {found} |")
    return "\n".join(lines)


TABLES = {"paper": paper_table, "splits": splits_table}


def main(arguments: list[str]) -> int:
    """Write or check the tables."""
    text = fresh = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin = f"<!-- table: {name}, written by fidelity.py -->"
        head, _, rest = fresh.partition(begin)
        _, _, tail = rest.partition(END)
        fresh = f"{head}{begin}\n\n{table()}\n\n{END}{tail}"
    if arguments == ["--check"]:
        return int(fresh != text)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
