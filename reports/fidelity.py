"""Put our numbers beside those that the FedKPer paper reports, from the records in this folder.

``python reports/fidelity.py`` rewrites the table in ``fidelity.md``; with ``--check`` it only says whether the table is
what the records give.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

from fedbench.metrics import evaluate
from fedbench.records import Record
from fedbench.statistics import t_interval

HERE = Path(__file__).parent
PAGE, RECORDS, REPORTED = HERE / "fidelity.md", HERE / "records", HERE / "paper_table1.csv"
BEGIN, END = "<!-- table: written by fidelity.py -->", "<!-- end of table -->"
READINGS = {
    "global_accuracy_mean_over_rounds": ("global_accuracy_mean", "global_accuracy_last"),
    "bwt": ("bwt",),
    "global_consistency": ("consistency_peak", "consistency_step"),
    "local_accuracy_mean_over_rounds": ("local_accuracy_mean",),
    "worst_client_accuracy": ("worst_sampled_accuracy",),
    "balance": ("balance",),
}
"""Our metrics for each of the paper's columns; the first is the likely reading."""


def table() -> str:
    """Return the table as Markdown: task, method, metric, the paper's number, ours, the difference."""
    reported = {}
    with REPORTED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            reported[row["task"], row["method"], row["metric"]] = (float(row["value"]), row["origin"])
    values: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for manifest in sorted(RECORDS.glob("*/*/*/*/manifest.json")):
        record = Record.open(manifest.parent)
        task, method = record.info.identity["task"]["name"], record.info.label
        for metric, value in evaluate(record.outcome).items():
            if value is not None:
                values[task, method, metric][record.info.seed] = value
    lines = [
        "| task | method | metric | seeds | ours, % | reported, % (second hand) | ours less reported, points |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, method in sorted({(task, method) for task, method, _ in values}):
        for column, readings in READINGS.items():
            for metric in readings:
                seeds = values[task, method, metric]
                ours = t_interval([seeds[seed] for seed in sorted(seeds)])
                half = "" if ours.low is None else f" ± {100 * (ours.mean - ours.low):.1f}"
                paper, gap = "not known", ""
                if (task, method, column) in reported:
                    value, origin = reported[task, method, column]
                    paper = f"{100 * value:.1f}" + (" (derived)" if origin == "derived" else "")
                    gap = f"{100 * (ours.mean - value):+.1f}"
                which = ", ".join(map(str, sorted(seeds)))
                found = f"{100 * ours.mean:.1f}{half}"
                lines.append(f"| {task} | {method} | `{metric}` | {which} | {found} | {paper} | {gap} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write or check the table."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    fresh = f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"
    if arguments == ["--check"]:
        return int(fresh != text)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
