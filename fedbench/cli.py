"""The command line. Every verb has a function in `fedbench.verbs`; here is only what is printed."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedbench import __version__
from fedbench.errors import DataError, FedBenchError, PluginError

if TYPE_CHECKING:
    from rich.console import Console

    from fedbench.executors import Event
    from fedbench.leaderboard.comparison import Contrast
    from fedbench.statistics.comparisons import Comparison
    from fedbench.tuning import Search, Trial
    from fedbench.verbs import CellState, Selection

COMPLETE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedbench")
def cli() -> None:
    """Federated learning on medical images: run methods on tasks, keep records, render boards.

    \b
    fedbench ls tasks                       what there is
    fedbench run --all                      every cell of the suite "quick"
    fedbench run --suite paper-local --task blood --method fedkper --seed 1
    fedbench status                         what is done, missing, failed
    fedbench new method NAME                a package to start from
    fedbench check NAME                     is a method sound?
    fedbench tune METHOD --task TASK        search its hyperparameters

    Exit status: 0 complete, 1 something failed or was skipped, 2 bad usage,
    130 interrupted.
    """  # noqa: D301 - the escape is click's mark for lines that must not be joined


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an arrow that a terminal cannot show must not end a run
    try:
        status = cli.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        status = _stop("interrupted; finished cells are whole, the others go on from their checkpoints.", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        status = USAGE
    except FedBenchError as error:
        status = _stop(str(error), USAGE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone, and that is its right
        status = COMPLETE
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        status = _stop(f"cannot use{where}: {error.strerror or error}; choose another place or mend it.", USAGE)
    sys.exit(status or COMPLETE)


def _stop(message: str, status: int) -> int:
    click.echo(f"fedbench: {message}", err=True)
    return status


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, emoji=False)


def _table(rows: Sequence[dict[str, str]]) -> None:
    """Print rows as a table that folds, and never cuts, in a narrow window."""
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        click.echo("nothing to list")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(escape(row.get(column, "")) for column in columns))
    _console().print(table)


_results = click.option(
    "--out", "results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
    help="Folder for records.",
)  # fmt: skip
_reports = click.option(
    "--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True,
    help="Folder for boards.",
)  # fmt: skip
_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Look for data here first, then in $FEDBENCH_DATA."
)


def _entries(rows: Sequence[dict[str, str]], below: Sequence[str]) -> None:
    """Print each row as a line of short facts, and under it, indented, the ones that are as long as they are."""
    from textwrap import wrap

    short = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in below]
    widths = {key: max(len(key), *(len(row.get(key, "")) for row in rows)) for key in short[:-1]}
    first, last = widths[short[0]] + 2, sum(widths.values()) + 2 * len(widths)
    width = max(_console().width, last + 20)
    for row in [{key: key for key in short}, *rows]:
        facts = wrap(row.get(short[-1], ""), width - last) or [""]
        head = "".join(row.get(key, "").ljust(wide + 2) for key, wide in widths.items())
        click.echo("\n".join([head + facts[0], *(" " * last + fact for fact in facts[1:])]).rstrip())
        for line in (line for key in below for line in wrap(row.get(key, ""), width - first)):
            click.echo(" " * first + line)


# --- looking ----------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("what", metavar="tasks|methods|suites|metrics")
def ls(what: str) -> None:
    """List tasks, methods, suites or metrics."""
    from fedbench import verbs

    rows = verbs.ls(what)
    if what not in ("methods", "tasks"):
        _table(rows)
        return
    own = ("fedbench ", "this process")
    _entries([{**row, "from": "" if row["from"].startswith(own) else f"from {row['from']}"} for row in rows],
             below=("title", "defaults", "from"))  # fmt: skip
    if what == "methods":
        click.echo(
            "\ndown, up: bytes of a sampled client in a round, in sizes of FedKPer's CNN"
            "\ntime: of a round, over FedAvg's, as measured (reports/performance.md)"
        )


@cli.command()
@click.argument("name")
@_data_dir
def show(name: str, data_dir: Path | None) -> None:
    """Print the card of a task, method, suite or metric; a task's with its split drawn."""
    from fedbench import verbs

    what, card = verbs.show(name, data_dir, max(40, shutil.get_terminal_size().columns))
    click.echo(f"{name} ({what})\n\n{card}")


@cli.command()
@click.argument("methods", nargs=-1, required=True, metavar="METHOD...")
def cite(methods: tuple[str, ...]) -> None:
    """Print BibTeX for methods."""
    from fedbench import verbs

    click.echo(verbs.cite(methods))


# --- writing one's own ------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("kind", type=click.Choice(["method", "task"]))
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it will stand; ./NAME if not given.")
def new(kind: str, name: str, folder: Path | None) -> None:
    """Write a package with a method or a task of your own to start from."""
    from fedbench import verbs

    for path in verbs.new(kind, name, folder):
        click.echo(f"wrote {path}")
    place = folder or Path(name)
    where = str(place) if place.is_absolute() else f"./{place}"  # without the dot pip would look for it on its index
    click.echo(f"next: pip install -e {where} pytest; pytest {where}; fedbench show {name}")


@cli.command()
@click.argument("names", nargs=-1, metavar="METHOD...")
@click.option("--all", "everything", is_flag=True, help="Every method there is.")
def check(names: tuple[str, ...], everything: bool) -> int:
    """Say whether methods keep to every rule of the harness, and if not, what to mend.

    A method is tried on three small made-up clients, and again under other
    conditions: a repeat, a resume after a kill, other samples at other
    clients, and more.
    """
    from fedbench import registry, verbs

    if bool(names) == everything:
        raise click.UsageError("name methods to check, or say --all.")
    verdicts = {name: verbs.check(name) for name in names}  # so that a name that is wrong is told at once
    bad = []
    for name in names or registry.methods.names():
        if len(names) != 1:
            click.echo(f"{name}:")
        try:
            findings = 0
            for verdict in verdicts.get(name) or verbs.check(name):
                findings += len(verdict.findings)
                if len(names) == 1 or verdict.findings:
                    click.echo(str(verdict))
        except PluginError as error:
            findings = 1
            click.echo(f"FOUND  {error}")
        bad += [name] * bool(findings)
    click.echo(f"{', '.join(bad)}: not sound yet." if bad else "sound.")
    return FAILED if bad else COMPLETE


# --- running ----------------------------------------------------------------------------------------------------------


def _selection(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--set", "settings", multiple=True, metavar="METHOD.NAME=VALUE", help="Set a hyperparameter."),
        click.option("--task-file", "task_files", multiple=True, type=click.Path(path_type=Path),
                     help="A task over your own data (TOML)."),
        click.option("--seed", "seeds", multiple=True, type=int, help="Only this seed; may be repeated."),
        click.option("--with-plugins", is_flag=True, help="Add all installed methods that are not FedBench's own."),
        click.option("--method", "methods", multiple=True, help="Only this method; may be repeated."),
        click.option("--task", "tasks", multiple=True, help="Only this task; may be repeated."),
        click.option("--suite", default="quick", show_default=True, help="Name of a suite, or a TOML file."),
    ):  # fmt: skip
        command = option(command)
    return command


def _select(
    suite: str,
    tasks: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    settings: tuple[str, ...],
    task_files: tuple[Path, ...],
    with_plugins: bool,
) -> Selection:
    from fedbench.verbs import Selection

    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings:
        target, equals, value = setting.partition("=")
        method, dot, name = target.partition(".")
        if not (equals and dot and method and name):
            raise click.UsageError(f"--set {setting}: write it as METHOD.NAME=VALUE, such as fedprox.mu=0.1")
        overrides.setdefault(method, {})[name] = value
    return Selection(suite, tasks, methods, seeds, overrides, task_files, with_plugins)


@cli.command()
@click.option("--all", "everything", is_flag=True, help="Every cell of the suite.")
@_selection
@click.option("--jobs", type=int, help="Workers at a time; as many as cores if not given, one on a GPU.")
@click.option(
    "--executor",
    default="processes",
    show_default=True,
    metavar="processes|serial|ray",
    help="What runs cells: worker processes, this process, or a Ray cluster.",
)
@click.option("--address", help="Address of the Ray cluster; a new one on this machine if not given.")
@click.option(
    "--storage",
    metavar="PATH|URL",
    help="Where a cluster's nodes leave checkpoints and records; a shared --out will do.",
)
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda|mps", help="Where cells compute.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0),
    metavar="MINUTES",
    help="Begin no round after so many minutes; the same command goes on from there.",
)
@_results
@_reports
@_data_dir
@click.option("--keep-weights", is_flag=True, help="Keep final models beside each record.")
@click.option("--checkpoint-seconds", type=click.FloatRange(min=0), default=20.0, show_default=True,
              help="Least time between two checkpoints of a cell.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="List the cells with their state and an estimate of time; run nothing.")
def run(
    everything: bool,
    jobs: int | None,
    executor: str,
    address: str | None,
    storage: str | None,
    device: str,
    time_limit: float | None,
    results: Path,
    reports: Path,
    data_dir: Path | None,
    keep_weights: bool,
    checkpoint_seconds: float,
    dry_run: bool,
    **chosen: Any,
) -> int:
    """Run what is missing of a suite, or of the cells chosen, and render its board."""
    from fedbench import verbs

    narrowed = any(chosen[key] for key in ("tasks", "methods", "seeds", "task_files"))
    if not everything and not narrowed:
        raise click.UsageError("say what to run: --all for every cell of the suite, or --task, --method, --seed.")
    selection = _select(**chosen)
    if dry_run:
        status = _print_states(verbs.status(selection, results, data_dir), jobs, every=True)
        _print_broken(selection.broken())
        return status
    console = _console()
    with _progress(console) as progress:
        summary = verbs.run(
            selection,
            results,
            reports=reports,
            executor=executor,
            jobs=jobs,
            address=address,
            storage=storage,
            device=device,
            time_limit=time_limit,
            data_dir=data_dir,
            keep_weights=keep_weights,
            checkpoint_seconds=checkpoint_seconds,
            begin=progress.begin,
            watch=progress.event,
        )
    _print_board(console, summary.suite, results)
    return _close(console, summary)


def _close(console: Console, summary: Any) -> int:
    counts = {state: summary.count(state) for state in ("done", "failed", "skipped")}
    console.print(
        f"{counts['done']} of {len(summary.cells)} cells done ({summary.ran} run now), "
        f"{counts['failed']} failed, {counts['skipped']} skipped."
        + (" The time was up: the same command goes on from the checkpoints." if summary.count("missing") else "")
    )
    reasons = dict.fromkeys(
        (item.cell.task.name if item.state == "skipped" else str(item.cell), item.state, item.reason)
        for item in summary.cells
        if item.state in ("failed", "skipped")
    )
    for what, state, reason in reasons:
        console.print(f"  {what}: {state}: {reason}", markup=False, soft_wrap=True)
    _print_broken(summary.broken)
    _print_pages(summary.pages)
    return COMPLETE if counts["done"] == len(summary.cells) and not summary.broken else FAILED


def _print_broken(plugins: Mapping[str, str]) -> None:
    for what, reason in plugins.items():
        click.echo(f"  {what}: broken: {reason}")


@cli.command()
@_selection
@_results
@_data_dir
def status(results: Path, data_dir: Path | None, **chosen: Any) -> int:
    """Say what is done, missing, failed or skipped."""
    from fedbench import verbs

    selection = _select(**chosen)
    result = _print_states(verbs.status(selection, results, data_dir), None, every=False)
    broken = selection.broken()
    _print_broken(broken)
    return FAILED if broken else result


def _print_states(states: Sequence[CellState], jobs: int | None, *, every: bool) -> int:
    import os

    shown = [item for item in states if every or item.state != "done"]
    if shown:
        _table(
            [
                {
                    "cell": str(item.cell),
                    "state": item.state,
                    "estimate": _duration(item.seconds) if item.seconds else "",
                    "reason": item.reason,
                }
                for item in shown
            ]
        )
    counts = {state: sum(item.state == state for item in states) for state in dict.fromkeys(i.state for i in states)}
    workers = max(1, min(jobs or os.cpu_count() or 1, len(states)))
    left = sum(item.seconds for item in states) / workers
    click.echo(
        f"{len(states)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items())
        + (f"; about {_duration(left)} on {workers} workers (rough)" if left else "")
    )  # fmt: skip
    return COMPLETE if not left and "skipped" not in counts else FAILED if not every else COMPLETE


@cli.command()
@click.argument("method")
@click.option("--task", required=True, help="Name of a task, or a TOML file over your own data.")
@click.option("--budget", default=20, show_default=True, metavar="TRIALS", help="The same for all methods.")
@click.option("--seed", default=0, show_default=True, help="One that no suite evaluates.")
@click.option("--metric", help="What to optimise; what ranks the task, or personal_accuracy, if not given.")
@click.option("--track", default="faithful", show_default=True, metavar="faithful|robust")
@click.option("--jobs", type=int, help="Workers at a time; as many as cores if not given.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("tuning"), show_default=True,
              help="Folder for what is found, and for records.")  # fmt: skip
@_data_dir
def tune(method: str, out: Path, **chosen: Any) -> None:
    """Search a method's hyperparameters for a task, on validation data.

    A suite names the file that comes of it: see docs/tuning.md.
    """
    from fedbench import verbs

    progress = _Trials(_console())
    tuned, path = verbs.tune(method, out=out, begin=progress.begin, watch=progress.trial, **chosen)
    click.echo("")
    _table(
        [
            {"": what, **{name: str(values[name]) for name in tuned.searched}, "score": progress.shown(score)}
            for what, values, score in (
                ("defaults", tuned.trial[0].hyperparameters, tuned.default_score),
                ("best", tuned.hyperparameters, tuned.best_score),
            )
        ]
    )
    all_there_are = ", every configuration there is" if tuned.trials < tuned.budget else ""
    failed = f"; {tuned.failed} failed" if tuned.failed else ""
    click.echo(f"\n{tuned.trials} trials of a budget of {tuned.budget}{all_there_are}{failed}.\nwrote {path}")


class _Trials:
    """Progress of a search: one line a trial."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self, search: Search) -> None:
        self.search, self.best = search, search.worst
        self.console.print(
            f"{search.method} on {search.task.name}: {search.budget} trials, seed {search.seed}, {search.track} track; "
            f"{search.metric.title} on validation data",
            markup=False,
        )

    def trial(self, trial: Trial) -> None:
        self.best = trial.score if self.search.better(trial.score, self.best) else self.best
        values = ", ".join(f"{name}={value}" for name, value in trial.values.items())
        ended = f"failed, counts as {self.shown(trial.score)}: {trial.reason}" if trial.reason else (
            f"{self.shown(trial.score)} (best {self.shown(self.best)})"
        )  # fmt: skip
        number = f"[{trial.number + 1}/{self.search.budget}]"
        self.console.print(f"{number} {values}: {ended}", markup=False, soft_wrap=True)

    def shown(self, score: float) -> str:
        from fedbench.leaderboard import text

        return f"{text.figure(score, self.search.metric)} {text.unit(self.search.metric)}"


@cli.command()
@click.option("--suite", default="quick", show_default=True, help="Name of the suite.")
@click.option(
    "--check",
    "published",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Render the sites of this folder from its records/ again, compare, and write nothing.",
)
@click.option("--format", "form", metavar="csv|json|latex", help="Write this file beside the board, and no board.")
@click.option("--stdout", is_flag=True, help="Print it, with --format, and write nothing.")
@_results
@_reports
def report(
    suite: str, published: Path | None, form: str | None, stdout: bool, results: Path, reports: Path
) -> int | None:
    """Render a suite's board from its records.

    --format csv or json gives a row for each cell and metric, latex the table
    of a paper.
    """
    from fedbench import records, verbs

    if published is not None:
        return _print_check(verbs.check_reports(published))
    if form is None and stdout:
        raise click.UsageError("--stdout prints a file: say which with --format csv, json or latex.")
    if form is not None:
        name, text = verbs.table(suite, form, results)
        if stdout:
            click.echo(text, nl=False)
        else:
            path = reports / suite / name
            records.write_atomic(path, text)
            click.echo(f"wrote {path}")
        return None
    pages = verbs.report(suite, results, reports)
    _print_board(_console(), suite, results)
    _print_pages(pages)
    return None


def _print_check(differing: Mapping[str, Sequence[str]]) -> int:
    for suite, files in differing.items():
        click.echo(f"{suite}: {'as the records give it' if not files else 'not what the records give:'}")
        for name in files:
            click.echo(f"  {name}")
    return FAILED if any(differing.values()) else COMPLETE


def _print_pages(pages: Sequence[Path]) -> None:
    """Name the two pages that a reader opens; the others are linked from the first."""
    for page in pages[:2]:
        click.echo(f"wrote {page}")


def _print_board(console: Console, suite: str, results: Path) -> None:
    from fedbench import leaderboard

    leaderboard.terminal(leaderboard.load_board(results, suite), console)


@cli.command()
@click.option("--mlflow", "folder", required=True, type=click.Path(path_type=Path), help="Where its database goes.")
@click.option("--suite", default="quick", show_default=True, help="Name of the suite.")
@_results
def export(folder: Path, suite: str, results: Path) -> None:
    """Write finished cells as runs that MLflow shows: no server, no network."""
    from fedbench import verbs

    click.echo(f"{verbs.export(suite, folder, results)} new runs in {folder}/mlflow.db")


# --- comparing --------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("methods", nargs=-1, required=True, metavar="METHOD... REFERENCE")
@click.option("--suite", default="quick", show_default=True, help="Name of the suite.")
@click.option("--task", help="On this task alone; on all of the suite if not given.")
@click.option("--metric", help="By this metric; by the one that ranks if not given.")
@click.option("--models", "seed", type=int, metavar="SEED", help="Compare two trained models, those of one seed.")
@_results
def compare(
    methods: tuple[str, ...], suite: str, task: str | None, metric: str | None, seed: int | None, results: Path
) -> None:
    """Say how far methods are from another, and how sure that is.

    Differences are paired by seed. With more than two methods the last is the
    reference, and p is corrected for the number of comparisons.
    """
    from fedbench import verbs
    from fedbench.leaderboard import sentences

    if len(methods) < 2:
        raise click.UsageError("name two methods or more; the last is the one that the others are compared with.")
    if seed is not None:
        if len(methods) != 2 or task is None or metric is not None:
            raise click.UsageError("--models compares two methods on one --task, by accuracy: leave out the rest.")
        _say(sentences.of_models(verbs.compare_models(*methods, task, seed, suite=suite, results=results)))
        return
    found = verbs.compare(methods[:-1], methods[-1], suite=suite, task=task, metric=metric, results=results)
    for number, comparison in enumerate(found.comparisons):
        if number:
            click.echo("")
        _print_comparison(found, comparison, suite)
    _say([f"Note: {note}." for note in found.notes])


def _print_comparison(found: Contrast, comparison: Comparison, suite: str) -> None:
    from fedbench.leaderboard import sentences, text
    from fedbench.leaderboard.forest import forest

    by = f"{found.metric.title}, {text.direction(found.metric)}; {suite}, {found.track} track"
    _say([f"{comparison.method} minus {comparison.reference}", by])
    rows = [(task.task, task.difference) for task in comparison.tasks]
    if len(rows) > 1:
        rows.insert(0, (f"all {len(rows)} tasks", comparison.difference))
    named = [(text.printable(name), interval) for name, interval in rows]
    click.echo("\n" + "\n".join(forest(named, found.margin, _width())) + "\n")
    _say(sentences.told(found, comparison))


def _width() -> int:
    return max(40, min(100, shutil.get_terminal_size().columns))


def _say(sentences: Sequence[str]) -> None:
    from textwrap import wrap

    from fedbench.leaderboard.text import printable

    for sentence in sentences:
        click.echo("\n".join(wrap(printable(sentence), _width(), subsequent_indent="  ", break_on_hyphens=False)))


@cli.command()
@click.option("--effect", default=1.0, show_default=True, metavar="POINTS", help="Difference to be found.")
@click.option("--suite", default="quick-robust", show_default=True, help="Name of a suite, or a TOML file.")
@click.option("--methods", type=int, metavar="N", help="How many are compared; those of the suite if not given.")
@click.option("--power", default=0.8, show_default=True, help="Probability of finding it.")
@click.option("--sd", type=float, metavar="POINTS", help="Spread of paired differences; from records if not given.")
@click.option("--metric", help="The metric that ranks, if not given.")
@click.option("--jobs", type=int, help="Workers at a time; as many as cores if not given.")
@_results
def plan(effect: float, sd: float | None, **chosen: Any) -> None:
    """Say how many seeds a difference needs and how long they take here."""
    from fedbench import verbs
    from fedbench.leaderboard.sentences import points
    from fedbench.statistics import NotComputed

    found = verbs.plan(effect / 100, sd=None if sd is None else sd / 100, **chosen)
    rows = []
    for item in found.work:
        r = item.resolution
        several = f"all {len(r.tasks)} tasks" if len(r.tasks) > 1 else r.tasks[0]
        rows.append(
            {
                "": several,
                "sd": points(r.sd, signed=False),
                "seeds": str(r.n),
                "resolve": "-" if isinstance(r.detectable, NotComputed) else points(r.detectable, signed=False),
                "needed": str(r.seeds) if r.least == r.most else f"{r.seeds} ({r.least}-{r.most})",
                "cells": f"{item.cells:,}",
                "time": _duration(item.seconds) if item.cells else "-",
            }
        )
    _say([f"Seeds to find a difference of {effect:g} {'point' if effect == 1 else 'points'}: {found.suite}, "
          f"{found.track} track"])  # fmt: skip
    click.echo("")
    _table(rows)
    click.echo("")
    taken = "as given" if sd is not None else "of each method's paired difference from fedavg, root mean square"
    _say(
        [
            f"Power {found.power:g}, two-sided 5 % shared by {found.comparisons} comparisons (first step of Holm). "
            "Q2: for a new seed on these tasks.",
            f"sd: over seeds, in points, {taken}; resolve: points that the seeds at hand find; needed: seeds "
            "(in brackets from the least to the most variable method); time: rough, on "
            f"{found.workers} {'worker' if found.workers == 1 else 'workers'}, of the cells still to be run.",
        ]
    )
    if sd is None and (few := min(item.resolution.n for item in found.work)) < 10:
        _say([f"A spread from {few} seeds is itself uncertain: run more of them before a plan is made of it."])
    if found.track == "faithful":
        _say(["On the faithful track seeds share one split and one schedule: no number of them says more than that."])


@cli.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULTS...")
@click.option("--into", required=True, type=click.Path(path_type=Path), help="The new results folder.")
@click.option("--leave-damaged", is_flag=True, help="Leave out records that are damaged, and name them.")
def merge(folders: tuple[Path, ...], into: Path, leave_damaged: bool) -> int:
    """Join results folders into a new one; what is joined is only read.

    A record that stands in several is kept once. If one cell has two
    results, both are named and nothing is joined.
    """
    from fedbench import verbs

    found = verbs.merge(folders, into, leave_damaged=leave_damaged)
    notes = f", {found.failures} failed" if found.failures else ""
    click.echo(f"{found.records} records{notes}, {found.same} of them found more than once and the same; "
               f"plans: {', '.join(found.plans) or 'none'}.")  # fmt: skip
    for reason in found.left_out:
        click.echo(f"  left out: {reason}")
    click.echo(f"wrote {found.into}")
    return FAILED if found.left_out else COMPLETE


# --- data -------------------------------------------------------------------------------------------------------------


@cli.group()
def data() -> None:
    """List, download and check data files."""


@data.command("ls")
@_data_dir
def data_ls(data_dir: Path | None) -> None:
    """Say which tasks have their data on this machine, and where."""
    from fedbench import verbs

    _table(verbs.data_ls(data_dir))


@data.command("fetch")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_data_dir
def data_fetch(names: tuple[str, ...], data_dir: Path | None) -> int:
    """Download what tasks or data sets need and is not here."""
    from fedbench import verbs

    result = COMPLETE
    for name in names:
        try:
            for path in verbs.data_fetch([name], data_dir)[name]:
                click.echo(f"{name}: {path}")
        except (DataError, PluginError) as error:
            result = _stop(str(error), FAILED)
    return result


@data.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_data_dir
def data_verify(names: tuple[str, ...], data_dir: Path | None) -> int:
    """Read and check data files: MD5, keys, types, shapes, labels."""
    from fedbench import verbs

    rows = verbs.data_verify(names, data_dir)
    _table(rows)
    bad = {"damaged", "missing"} if names else {"damaged"}
    return FAILED if any(row["state"] in bad for row in rows) else COMPLETE


# --- progress ---------------------------------------------------------------------------------------------------------


class _Lines:
    """Progress where nobody watches: one line a finished cell."""

    def __init__(self, console: Console) -> None:
        self.console, self.started = console, time.monotonic()
        self.costs: dict[Any, float] = {}
        self.left: dict[Any, float] = {}
        self.finished = 0

    def begin(self, states: Sequence[CellState]) -> None:
        self.costs = {item.cell: item.seconds for item in states if item.seconds}
        self.left = dict(self.costs)
        done = sum(item.state == "done" for item in states)
        self.console.print(f"{len(states)} cells: {done} done, {len(self.costs)} to run")

    def event(self, event: Event) -> None:
        self.note(event)
        if event.state != "running":
            self.console.print(self.line(event), markup=False, soft_wrap=True)

    def note(self, event: Event) -> None:
        share = 1 - event.round / event.rounds if event.state == "running" and event.rounds else 0.0
        self.left[event.cell] = self.costs[event.cell] * share
        self.finished += event.state != "running"

    def line(self, event: Event) -> str:
        detail = event.reason or (f"digest {event.digest[:12]}" if event.digest else "as the time was up")
        return f"[{self.finished}/{len(self.costs)}] {event.cell} {event.state}, {detail}{self.remaining()}"

    def remaining(self) -> str:
        """Return the time left, from the share of the estimated work that is done."""
        left, everything = sum(self.left.values()), sum(self.costs.values())
        spent = time.monotonic() - self.started
        done = everything - left
        return f", {_duration(spent * left / done)} left" if left and done > 0.02 * everything else ""


class _Live(_Lines):
    """Progress in a terminal: a bar over all, and one for each running cell."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        from rich.progress import BarColumn, Progress, TextColumn

        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
        )
        self.rows: dict[Any, Any] = {}

    def begin(self, states: Sequence[CellState]) -> None:
        super().begin(states)
        if self.costs:
            self.bars.start()
            self.total = self.bars.add_task("all cells", total=sum(self.costs.values()), detail="")

    def event(self, event: Event) -> None:
        self.note(event)
        if event.state == "running":
            if event.cell not in self.rows:
                self.rows[event.cell] = self.bars.add_task(str(event.cell), total=event.rounds, detail="")
            detail = f"round {event.round}/{event.rounds}"
            self.bars.update(self.rows[event.cell], completed=event.round, detail=detail)
        else:
            if event.cell in self.rows:
                self.bars.remove_task(self.rows.pop(event.cell))
            if event.state == "failed":
                self.bars.console.print(self.line(event), markup=False, soft_wrap=True)
        done = sum(self.costs.values()) - sum(self.left.values())
        detail = f"{self.finished}/{len(self.costs)}{self.remaining()}"
        self.bars.update(self.total, completed=done, detail=detail)


@contextmanager
def _progress(console: Console) -> Iterator[_Lines]:
    progress = _Live(console) if console.is_terminal else _Lines(console)
    try:
        yield progress
    finally:
        if isinstance(progress, _Live):
            progress.bars.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


if __name__ == "__main__":
    main()
