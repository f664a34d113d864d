"""Draw global accuracy against seconds of training, from the records in this folder.

``python reports/budget.py`` writes ``budget.svg`` and the tables in ``budget.md``; with ``--check`` it only says
whether they are what the records give. The bytes of the figure are the same for the same records and the same versions
of Altair and vl-convert, which brings its own fonts.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import numpy.typing as npt

from fedbench.records import Record

HERE = Path(__file__).parent
PAGE, FIGURE, RECORDS = HERE / "budget.md", HERE / "budget.svg", HERE / "records"
END = "<!-- end of table -->"
METHODS = {"fedavg": "FedAvg", "fedkper": "FedKPer"}
SHARES = (0.25, 0.5, 0.75, 1.0)
STEP = 2.0
"""Seconds between two points of a curve."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """One seed: when each round of training was over, in seconds of training alone, and the accuracy then."""

    record: Record
    ends: Array
    accuracy: Array

    @classmethod
    def of(cls, record: Record) -> Run:
        """Return what a record holds of it."""
        seconds = record.rounds.column("seconds_train").to_numpy()
        return cls(record, np.cumsum(seconds), 100 * record.rounds.column("global_accuracy").to_numpy())

    def rounds(self, seconds: Array) -> npt.NDArray[np.int64]:
        """Return how many rounds are over after some seconds."""
        return np.searchsorted(self.ends, seconds, side="right")

    def at(self, seconds: Array) -> Array:
        """Return the accuracy after the last round that is over; none may be asked for before the first."""
        return self.accuracy[self.rounds(seconds) - 1]


Runs = dict[str, list[Run]]


def published() -> Runs:
    """Return the runs of each method on ``blood``, faithful track, by seed."""
    records = [Record.open(manifest.parent) for manifest in sorted(RECORDS.glob("blood/*/*/*/manifest.json"))]
    faithful = [record for record in records if record.info.identity["track"] == "faithful"]
    return {
        label: sorted(
            (Run.of(record) for record in faithful if record.info.label == label),
            key=lambda run: run.record.info.seed,
        )
        for label in METHODS
    }


def budget(runs: Runs) -> float:
    """Return the smaller total: the most seconds after which every run is still going or just over."""
    return float(min(run.ends[-1] for every in runs.values() for run in every))


def svg(runs: Runs) -> str:
    """Return the figure: mean over seeds as a line, smallest to largest as a band."""
    rows, ends = [], []
    for label, every in runs.items():
        first, last = max(run.ends[0] for run in every), min(run.ends[-1] for run in every)
        grid = STEP * np.arange(np.ceil(first / STEP), last // STEP + 1)  # of the same seconds for all methods
        curves = np.stack([run.at(grid) for run in every])
        points = zip(grid, curves.mean(axis=0), curves.min(axis=0), curves.max(axis=0), strict=True)
        rows += [
            dict(
                zip(
                    ("method", "seconds", "mean", "low", "high"),
                    (METHODS[label], *np.round(point, 3).tolist()),
                    strict=True,
                )
            )
            for point in points
        ]
        ends.append(rows[-1])
    longest = max(end["seconds"] for end in ends)
    x = alt.X(
        "seconds:Q",
        title="seconds of training (evaluation left out)",
        scale=alt.Scale(domain=[0, longest]),
        axis=alt.Axis(tickCount=6),
    )
    y_title = "global accuracy, % (mean and range over seeds)"
    colour = alt.Color(
        "method:N", scale=alt.Scale(domain=list(METHODS.values()), range=["#b34700", "#00588f"]), legend=None
    )
    dash = alt.StrokeDash(
        "method:N", scale=alt.Scale(domain=list(METHODS.values()), range=[[6, 3], [1, 0]]), legend=None
    )
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.18, interpolate="step-after").encode(
        y=alt.Y("low:Q", title=y_title, scale=alt.Scale(domain=[0, 100])), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2.2, interpolate="step-after").encode(
        y=alt.Y("mean:Q", title=y_title), strokeDash=dash
    )
    name = (
        alt.Chart(alt.Data(values=ends))
        .mark_text(align="left", dx=8, fontSize=16, fontWeight="bold", clip=False)
        .encode(x=x, y="mean:Q", text="method:N", color=colour)
    )
    chart = (
        alt.layer(band, line, name)
        .properties(width=640, height=380, background="white", padding=10)
        .configure(font="Liberation Sans, Arial, Helvetica, sans-serif")
        .configure_axis(labelFontSize=14, titleFontSize=15, titleFontWeight="normal", gridColor="#dddddd")
        .configure_view(stroke=None)
    )
    text = io.StringIO()
    chart.save(text, format="svg")
    return text.getvalue().rstrip("\n") + "\n"


def budget_table(runs: Runs) -> str:
    """Return accuracy and rounds at shares of the smaller total, as Markdown."""
    lines = [
        "| share of the smaller total | training, s | method | rounds over, by seed | global accuracy, % (range) |",
        "| --- | --- | --- | --- | --- |",
    ]
    whole = budget(runs)
    for share in SHARES:
        for label, every in runs.items():
            seconds = np.array(share * whole)
            found = np.array([float(run.at(seconds)) for run in every])
            rounds = ", ".join(str(int(run.rounds(seconds))) for run in every)
            lines.append(
                f"| {share:.0%} | {share * whole:.0f} | {METHODS[label]} | {rounds} "
                f"| {found.mean():.1f} ({found.min():.1f}–{found.max():.1f}) |"
            )
    return "\n".join(lines)


def seconds_table(runs: Runs) -> str:
    """Return where the seconds come from and how they differ over seeds, as Markdown."""
    lines = [
        "| method | seed | training, s | median round, s | longest round, s | where |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for label, every in runs.items():
        for run in every:
            rounds, env = np.diff(run.ends, prepend=0.0), run.record.info.environment
            threads = f"{env.threads} thread{'s' if env.threads > 1 else ''} of {env.cores} cores"
            lines.append(
                f"| {METHODS[label]} | {run.record.info.seed} | {run.ends[-1]:.0f} | {np.median(rounds):.1f} "
                f"| {rounds.max():.1f} | {env.processor}, {threads} |"
            )
    return "\n".join(lines)


TABLES = {"budget": budget_table, "seconds": seconds_table}


def main(arguments: list[str]) -> int:
    """Write or check figure and tables."""
    runs = published()
    text = fresh = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        begin = f"<!-- table: {name}, written by budget.py -->"
        head, _, rest = fresh.partition(begin)
        _, _, tail = rest.partition(END)
        fresh = f"{head}{begin}\n\n{table(runs)}\n\n{END}{tail}"
    figure = svg(runs)
    if arguments == ["--check"]:
        return int((fresh, figure) != (text, FIGURE.read_text(encoding="utf-8")))
    PAGE.write_text(fresh, encoding="utf-8")
    FIGURE.write_text(figure, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
