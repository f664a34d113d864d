"""How a value reads: the same words and digits on the page, in Markdown and in the terminal.

What comes from a record or a plan is hostile until checked: `printable` is the one place that makes it safe to look at,
and every renderer passes its texts through it before it adds the escapes of its own format.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedbench.leaderboard.board import Board, CellResult, Row, Score, TaskBoard

from fedbench.characters import visible
from fedbench.metrics import METRICS, Metric

NOT_DEFINED = "not defined"
ONE_SEED = "one seed"
BEST = "★"
TIED = "≈"
LONGEST = 4_000
"""Characters of one text that are shown; what is cut off says so, and stays whole in the record."""
LONGEST_CARD = 20_000
"""Characters of one docstring that are shown."""

# Differences and spreads of percentages are points, not percent.
_POINTS = frozenset({"bwt", "bwt_last", "client_sd", "client_gap"})


@dataclass(frozen=True)
class Column:
    """One column of a table: a metric under a short heading."""

    metric: str
    heading: str


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under a common heading, which says which model they read."""

    heading: str
    columns: tuple[Column, ...]


# BwT and consistency stand beside the accuracy of the same model: a constant predictor has perfect ones.
SCORES = (
    Group(
        "Global model",
        (
            Column("global_accuracy_mean", "Accuracy, mean over rounds"),
            Column("global_accuracy_last", "Accuracy, last round"),
            Column("bwt", "BwT"),
            Column("consistency_peak", "Consistency"),
        ),
    ),
    Group(
        "Local models",
        (
            Column("local_accuracy_mean", "Accuracy, mean over rounds"),
            Column("worst_sampled_accuracy", "Worst sampled client"),
            Column("local_consistency_peak", "Consistency"),
        ),
    ),
    Group(
        "Personal models",
        (
            Column("personal_accuracy", "Accuracy, last round"),
            Column("worst_all_accuracy", "Worst client"),
            Column("worst_fifth_accuracy", "Worst fifth"),
        ),
    ),
    Group("Both", (Column("balance", "Balance"),)),
)
COST = (
    Group("Traffic", (Column("bytes_up", "Sent by clients"), Column("bytes_down", "Sent to clients"))),
    Group(
        "Samples passed",
        (Column("train_samples", "Forward and backward"), Column("forward_samples", "Forward only")),
    ),
    Group("Wall clock", (Column("seconds_train", "Training"), Column("seconds_evaluate", "Evaluation"))),
)
# Seconds depend on what shared the machine: they stand on the pages of tasks and methods, not on the board.
BOARD = (*SCORES, *COST[:2])
_SHOWN = {column.metric for group in (*SCORES, *COST) for column in group.columns}
MORE = tuple(
    Group(
        heading,
        tuple(
            Column(name, metric.title)
            for name, metric in METRICS.items()
            if metric.model == model and name not in _SHOWN
        ),
    )
    for model, heading in (("global", "Global model"), ("local", "Local models"), ("personal", "Personal models"))
)


def unit(metric: Metric) -> str:
    """Return the unit in which a metric is printed."""
    if metric.unit == "fraction":
        return "points" if metric.name in _POINTS else "%"
    return metric.unit


def arrow(metric: Metric) -> str:
    """Return the arrow that says which way is better; empty where neither is."""
    return {"higher": "↑", "lower": "↓"}.get(metric.direction, "")


def direction(metric: Metric) -> str:
    """Return in words which way is better."""
    return {"higher": "higher is better", "lower": "lower is better"}.get(metric.direction, "neither way is better")


def figure(value: float, metric: Metric, *, signed: bool = False) -> str:
    """Return one number in the unit of `unit`.

    Parameters
    ----------
    value : float
        As the metric gives it: a fraction, bytes, seconds, samples or rounds.
    metric : Metric
        Says how to print it.
    signed : bool
        With a plus sign where positive.
    """
    if metric.unit == "bytes":
        return _bytes(value)
    if metric.unit == "samples":
        return f"{value:,.0f}"
    if metric.unit == "seconds":
        return f"{value:,.1f} s" if value < 10 else f"{value:,.0f} s"
    value = value * 100 if metric.unit == "fraction" else value
    # Shares of small counts often end on 5: those round away from zero, whatever their last binary digit says.
    text = f"{value + math.copysign(1e-9, value):{'+' if signed else ''}.1f}"
    # A rounded zero has no sign, and a minus is as wide as a plus.
    return "0.0" if text in ("-0.0", "+0.0") else text.replace("-", "−")


def mean(score: Score, metric: Metric) -> str:
    """Return the mean over seeds, or "not defined"."""
    if score.interval is None:
        return NOT_DEFINED
    return figure(score.interval.mean, metric, signed=metric.unit == "fraction" and metric.bounds[0] == -1)


def margin(score: Score, metric: Metric) -> str:
    """Return half the width of the 95 % t interval; empty for one seed and where nothing is defined."""
    interval = score.interval
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return figure((interval.high - interval.low) / 2, metric)


def estimate(score: Score, metric: Metric) -> str:
    """Return mean and half width, ``64.5 ± 2.1``; for a cost the mean alone, as it hardly depends on the seed."""
    half = margin(score, metric) if metric.unit == "fraction" else ""
    return f"{mean(score, metric)} ± {half}" if half else mean(score, metric)


def quantity(score: Score, metric: Metric) -> str:
    """Return an estimate with its unit, ``64.5 ± 2.1 %``."""
    return f"{estimate(score, metric)} {unit(metric)}" if metric.unit == "fraction" else estimate(score, metric)


def details(score: Score, metric: Metric) -> str:
    """Return what stands behind an estimate: the interval and the number of seeds."""
    interval = score.interval
    if interval is None:
        return f"{NOT_DEFINED}: the method has no such model, or the task no such data"
    if interval.low is None or interval.high is None:
        text = f"{ONE_SEED}, no interval"
    else:
        low, high = (figure(bound, metric) for bound in (interval.low, interval.high))
        text = f"95 % t interval {low} to {high} {unit(metric) if metric.unit == 'fraction' else ''}".rstrip()
        text += f", n = {interval.n} seeds"
    if score.undefined:
        text += f"; {NOT_DEFINED} at seed {', '.join(str(seed) for seed in score.undefined)}"
    return text


def seeds(row: Row) -> str:
    """Return how many seeds a row rests on: ``3``, ``2 of 3``, ``one seed``; over all tasks, ``4 of 6 cells``."""
    number = len({cell.seed for cell in row.cells})
    if not row.complete:
        return f"{len(row.done)} of {len(row.cells)}" + (" cells" if number < len(row.cells) else "")
    return ONE_SEED if number == 1 else str(number)


def tuning(row: Row) -> str:
    """Return how a row's hyperparameters were found; empty where they were not tuned."""
    return "; ".join(
        f"tuned on validation data of {of.task} for {of.metric}, budget {of.budget} trials, seed {of.seed}, "
        f"file with SHA-256 {of.digest[:16]}"
        for of in row.tunings
    )


def note(row: Row, primary: str | None) -> str:
    """Return why a method is not ranked; empty where it is, and for complete reference points."""
    if row.hole:
        return row.hole
    if row.rank is None and row.family != "reference" and primary is not None:
        return f"not ranked: {METRICS[primary].title} is {NOT_DEFINED}"
    return ""


def headline(task: TaskBoard) -> str:
    """Return a task in one line: name, samples, classes, clients, rounds, licence."""
    facts = dict(task.facts)
    counted = (f"{facts[name]} {name.lower()}" for name in ("Classes", "Clients", "Rounds") if name in facts)
    return shared((task.name, facts.get("Samples", ""), *counted, task.licence))


def some(names: Sequence[str], most: int = 6) -> str:
    """Return names in a sentence, the first ones and how many more."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 seed``, ``3 seeds``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def standing(row: Row) -> str:
    """Return whose a submitted row is and where it stands; empty for what the board's owner ran."""
    return shared((row.standing.state, row.standing.provider)) if row.standing else ""


def progress(board: Board) -> str:
    """Return how many cells are done, and how many stand in each other state."""
    others = [(name, board.count(name)) for name in ("missing", "failed", "skipped", "corrupt", "stale")]
    rest = ", ".join(f"{number} {name}" for name, number in others if number)
    return f"{board.count('done')} of {count(len(board.cells), 'cell')} done" + (f" ({rest})" if rest else "")


def caveats(board: Board) -> list[str]:
    """Return in plain words what the board can say and what it cannot."""
    n = len(board.seeds)
    submitted = any(row.standing for task in board.tasks for row in task.all_rows)
    if board.track == "faithful":
        first = (
            f"Descriptive: {_WORDS.get(n, str(n))} {'seed' if n == 1 else 'seeds'} on one split. "
            "On the faithful track all seeds share one partition of the data and one client schedule; "
            "a seed varies the initial weights and the order of the batches only. "
            "So the intervals say nothing about another federation."
        )
    else:
        first = (
            f"On the robust track each of the {n} seeds redraws the partition of the data, the initial weights, "
            "the client schedule and the order of the batches."
        )
    width = {3: ": with three seeds one reaches 2.5 standard deviations to each side"}.get(n, "")
    return [
        first,
        "A value is the mean over seeds ± half its 95 % t interval. Few seeds make such intervals wide"
        f"{width}. Whether methods can be told apart is said above each table; where no test could be made, a rank is "
        "the order of the means, nothing more.",
        "BwT and consistency stand beside accuracy because a constant predictor has perfect ones: "
        "read them only where accuracy is good.",
        "“Not defined” means that a method has no such model, or the task no such data. It is never counted as 0.",
        "Beside each method stands where its hyperparameters came from: its defaults, set by hand, or tuned on "
        "validation data in as many trials as the budget says. Methods compare fairly where all are at their defaults, "
        "or all tuned with one budget.",
        "A minimum over small test sets reads low: read the worst client together with the sizes of the local test "
        "sets, and the worst fifth for a steadier value.",
        "A method with a missing or failed seed is shown and not ranked. Reference points (training alone, all data "
        "in one place, the most frequent class) show what is easy and what is possible; they are never ranked.",
        "“1=” is a first place that several share, as no paired test separates them. The range with a rank, as 1–2, is "
        "its 95 % bootstrap interval over seeds. It is not corrected for the number of methods, so it can look surer "
        "than the test; with fewer than ten seeds it describes, nothing more.",
        *([_SUBMITTED] if submitted else []),
    ]


def printable(text: str) -> str:
    r"""Return text as one line on which everything is seen: nothing moves the cursor, turns the text or hides in it.

    Any white space is a space. Control characters, marks that change the direction of writing, characters without a
    width and halves of characters are shown by their number. More than four marks on one letter are left out, and a
    text of more than `LONGEST` characters is cut.

    Examples
    --------
    >>> printable("fed\u202egva\n2")
    'fed⟨U+202E⟩gva 2'
    """
    return visible(cut(text, LONGEST)).replace("\n", " ")


def cut(text: str, longest: int) -> str:
    """Return text of at most so many characters, and where it was longer a mark that says how long it is."""
    return text if len(text) <= longest else f"{text[:longest]} … [cut: {len(text):,} characters]"


def paragraphs(value: str) -> list[str]:
    """Return the paragraphs of a docstring, each on one line, without the rules under its headings."""
    parts = cut(value, LONGEST_CARD).split("\n\n")
    blocks = ([line for line in block.split("\n") if line.strip(" -=")] for block in parts)
    return [" ".join(" ".join(lines).split()) for lines in blocks if lines]


def blocks(docstring: str) -> list[tuple[str, str]]:
    """Return a docstring as (kind, content): ``heading``, ``paragraph``, or ``verbatim`` where lines matter.

    Numpydoc's sections are headings; what is indented, and everything under Parameters, Returns, Examples and
    References, stays as it was written.
    """
    found: list[tuple[str, str]] = []
    verbatim = False
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(cut(docstring, LONGEST_CARD))):
        lines = block.split("\n")
        if len(lines) > 1 and lines[1].strip() and not lines[1].strip(" -="):
            found.append(("heading", lines[0].strip()))
            verbatim = lines[0].strip() in _VERBATIM
            lines = lines[2:]
        if any(line.strip() for line in lines):
            as_written = verbatim and (lines[0].startswith((" ", "..", ">>>")) or any(map(_indented, lines)))
            if as_written or _indented(lines[0]):
                found.append(("verbatim", "\n".join(lines)))
            else:
                found.append(("paragraph", _FOOTNOTE.sub(r"\1", " ".join(" ".join(lines).split()))))
    return found


def lines(value: str) -> list[str]:
    """Return the lines of a text, each of them `printable`."""
    return [printable(line) for line in value.split("\n")]


def command(board: Board, cell: CellResult) -> str:
    """Return the one line that makes a cell again, into a folder of its own, ready for a shell."""
    planned = cell.planned
    changed = re.search(r"\[(.*)\]", planned.label)
    named = [part.partition("=")[0] for part in changed[1].split(",")] if changed else []
    settings = [name for name in named if name in planned.hyperparameters]
    parts = ["fedbench", "run", "--suite", board.suite, "--task", planned.task, "--method", planned.method]
    for name in settings:
        parts += ["--set", f"{planned.method}.{name}={_setting(planned.hyperparameters[name])}"]
    return shlex.join([*parts, "--seed", str(planned.seed), "--out", "again"])


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _indented(line: str) -> bool:
    return line.startswith((" ", "\t"))


def shared(parts: Iterable[str]) -> str:
    """Return the parts that are not empty, joined by a middle dot."""
    return " · ".join(part for part in parts if part)


_SUBMITTED = (
    "Rows with the name of a package were submitted by its authors. “Self-reported”: their records passed every check, "
    "and nobody else has run them. “Verified”: cells of them were trained again here, with the same result. "
    "“Superseded” and “withdrawn” rows have no values any more, and their names stay taken."
)
_FOOTNOTE = re.compile(r"(\[\d+\])_(?!\w)")  # reStructuredText: [1]_ points to the reference [1]
_VERBATIM = frozenset({"Parameters", "Returns", "Raises", "Examples", "References"})
_WORDS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}


def _bytes(value: float) -> str:
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {name}"
    return f"{value:,.0f} B"
