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
from fedbench.characters import visible
from fedbench.errors import DataError, FedBenchError, PluginError

if TYPE_CHECKING:
    from rich.console import Console

    from fedbench.executors import Event
    from fedbench.leaderboard.comparison import Contrast
    from fedbench.statistics.comparisons import Comparison
    from fedbench.submissions.checking import Checked
    from fedbench.submissions.decisions import Decision
    from fedbench.tuning import Search, Trial
    from fedbench.verbs import CellState, Selection
    from fedbench.verification import Report, Result
    from fedbench.verification.rerun import Drawn

COMPLETE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedbench")
def cli() -> None:
    """Federated learning on medical images: run methods on tasks, keep records, render boards.

    \b
    fedbench ls tasks                       what there is
    fedbench run --all                      every cell of the suite "quick"
    fedbench run --suite paper-local --task blood --method fedkper --seed 1
    fedbench status                         what is done, missing, failed, stale
    fedbench new method NAME                a package to start from
    fedbench check NAME                     is a method sound?
    fedbench tune METHOD --task TASK        search its hyperparameters
    fedbench verify results                 check every number of the records

    Exit status: 0 complete, 1 something failed, was skipped or is stale, 2 bad
    usage, 130 interrupted.
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
    click.echo(f"fedbench: {visible(message)}", err=True)
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
        table.add_row(*(escape(visible(row.get(column, ""))) for column in columns))
    _console().print(table)


_results = click.option(
    "--out", "results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
    help="Folder for records.",
)  # fmt: skip
_reports = click.option(
    "--reports", type=click.Path(path_type=Path), default=Path("boards"), show_default=True,
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
              help="Time between two checkpoints of a cell.")  # fmt: skip
@click.option("--checkpoint-rounds", type=click.IntRange(min=1), default=25, show_default=True,
              help="Rounds between two checkpoints at most, however fast they are.")  # fmt: skip
@click.option("--redo-stale/--keep-stale", default=None,
              help="Run cells again that an earlier version made, or not; asked for in a terminal.")  # fmt: skip
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
    checkpoint_rounds: int,
    redo_stale: bool | None,
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
            checkpoint_rounds=checkpoint_rounds,
            begin=progress.begin,
            watch=progress.event,
            redo_stale=lambda stale: _redo(stale) if redo_stale is None else redo_stale,
        )
    _print_board(console, summary.suite, results)
    return _close(console, summary)


def _redo(stale: Sequence[CellState]) -> bool:
    """Ask whether cells of an earlier version are run again; without a terminal they are not."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    what = "1 cell was" if len(stale) == 1 else f"{len(stale)} cells were"
    for reason in dict.fromkeys(item.reason for item in stale):
        click.echo(f"stale: {visible(reason)}")
    return click.confirm(f"{what} made with an earlier version. Run {'it' if len(stale) == 1 else 'them'} again?", True)


def _close(console: Console, summary: Any) -> int:
    counts = {state: summary.count(state) for state in ("done", "failed", "skipped", "stale")}
    console.print(
        f"{counts['done']} of {len(summary.cells)} cells done ({summary.ran} run now), "
        f"{counts['failed']} failed, {counts['skipped']} skipped"
        + (f", {counts['stale']} stale." if counts["stale"] else ".")
        + (" The time was up: the same command goes on from the checkpoints." if summary.count("missing") else "")
    )
    names: dict[str, Callable[[Any], str]] = {
        "failed": str,
        "skipped": lambda cell: cell.task.name,
        "stale": lambda cell: f"{cell.task.name}/{cell.label}",
    }
    reasons = dict.fromkeys(
        (names[item.state](item.cell), item.state, item.reason) for item in summary.cells if item.state in names
    )
    for what, state, reason in reasons:
        console.print(f"  {what}: {state}: {visible(reason)}", markup=False, soft_wrap=True)
    if counts["stale"]:
        console.print("Stale records stay as they are; the same command with --redo-stale runs their cells again.")
    _print_broken(summary.broken)
    _print_pages(summary.pages)
    return COMPLETE if counts["done"] == len(summary.cells) and not summary.broken else FAILED


def _print_broken(plugins: Mapping[str, str]) -> None:
    for what, reason in plugins.items():
        click.echo(f"  {what}: broken: {visible(reason)}")


@cli.command()
@_selection
@_results
@_data_dir
def status(results: Path, data_dir: Path | None, **chosen: Any) -> int:
    """Say what is done, missing, failed, skipped or stale (made with an earlier version)."""
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
@click.option("--with-records", is_flag=True, help="Put the records beside the board as well, as records.tar.xz.")
@_results
@_reports
def report(
    suite: str,
    published: Path | None,
    form: str | None,
    stdout: bool,
    with_records: bool,
    results: Path,
    reports: Path,
) -> int | None:
    """Render a suite's board from its records.

    --format csv or json gives a row for each cell and metric, latex the table
    of a paper. --out may also be a records.tar.xz.
    """
    from fedbench import durable, release, verbs

    if published is not None:
        return _print_check(verbs.check_reports(published))
    if form is None and stdout:
        raise click.UsageError("--stdout prints a file: say which with --format csv, json or latex.")
    with release.opened(results) as folder:
        if form is None:
            pages = verbs.report(suite, folder, reports, with_records=with_records)
            _print_board(_console(), suite, folder)
            _print_pages(pages)
            return None
        name, text = verbs.table(suite, form, folder)
    if stdout:
        click.echo(text, nl=False)
    else:
        path = reports / suite / name
        durable.write_atomic(path, text)
        click.echo(f"wrote {path}")
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
        click.echo(f"  left out: {visible(reason)}")
    click.echo(f"wrote {found.into}")
    return FAILED if found.left_out else COMPLETE


# --- submissions ------------------------------------------------------------------------------------------------------


_archive = click.argument("archive", type=click.Path(path_type=Path))
_board = click.option(
    "--to", "board", required=True, type=click.Path(path_type=Path), help="Results folder of the board."
)
_by = click.option("--by", default="", help="Who decides; the user's name if not given.")


@cli.group()
def submit() -> None:
    """Send in results of your own method, or decide on somebody's.

    \b
    fedbench submit pack METHOD --suite quick     your records as one archive
    fedbench submit check ARCHIVE                 is it sound? nothing of it is run
    fedbench submit add ARCHIVE --to FOLDER       join it to a board

    What each state means, and how to run a stranger's method: docs/submit.md.
    """  # noqa: D301 - as above


@submit.command("pack")
@click.argument("method")
@click.option("--suite", default="quick", show_default=True, help="Name of the suite that was run.")
@click.option("--row", "rows", multiple=True, metavar="LABEL", help="Only this setting; all if not given.")
@click.option("--notes", type=click.Path(path_type=Path), help="A text file for whoever decides.")
@click.option("--licence", help="Of the package; from its metadata if not given.")
@click.option("--url", help="Where its source is; from its metadata if not given.")
@click.option("--author", "authors", multiple=True, help="From its metadata if not given; may be repeated.")
@click.option("--contact", help="How to reach you, if you want that to be public.")
@click.option("--archive", "path", type=click.Path(path_type=Path), help="NAME-VERSION.fedbench.zip if not given.")
@_results
def submit_pack(method: str, suite: str, results: Path, notes: Path | None, **about: Any) -> None:
    """Pack a method's records into one archive, checked as it will be checked."""
    from fedbench import verbs

    try:
        text = "" if notes is None else notes.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"--notes {notes}: it is no text in UTF-8.") from None
    packed = verbs.submit_pack(method, suite, results, notes=text, **about)
    of = packed.checked.submission
    click.echo(f"{packed.cells} cells, {packed.size:,} bytes: {', '.join(packed.rows)} on {suite}")
    click.echo(f"as {of.provider}, {of.licence}, by {', '.join(of.authors)}; {len(of.environment)} installed packages "
               "are named in it" if of else "")  # fmt: skip
    click.echo(f"wrote {packed.path}, SHA-256 {packed.checked.sha256}")
    click.echo("next: add it to a fork of the board's repository under submissions/, and open a pull request")


@submit.command("check")
@_archive
@click.option("--to", "board", type=click.Path(path_type=Path), help="Check the rules of the board here as well.")
@click.option("--keep", type=click.Path(path_type=Path), help="Leave the checked records in this new folder.")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def submit_check(archive: Path, board: Path | None, keep: Path | None, as_json: bool) -> int:
    """Say whether an archive is sound; nothing of it is run, and nothing is written.

    Exit status: 0 sound, 1 something was found.
    """
    from fedbench import verbs

    checked = verbs.submit_check(archive, board, keep)
    _print_checked(checked, as_json)
    if checked.good and keep is not None and not as_json:
        click.echo(f"wrote {keep}")
    return COMPLETE if checked.good else FAILED


@submit.command("add")
@_archive
@_board
@click.option("--verified", is_flag=True, help="Its cells were trained again here; needs --rerun-report.")
@click.option("--rerun-report", "rerun", type=click.Path(path_type=Path), metavar="FILE",
              help="What `fedbench verify --rerun N --json` printed for its records.")  # fmt: skip
@click.option("--reason", default="", help="What stands in the log; what was done if not given.")
@_by
def submit_add(archive: Path, board: Path, verified: bool, rerun: Path | None, reason: str, by: str) -> int:
    """Check an archive and join it to a board, self-reported or --verified.

    Exit status: 0 added, 1 something was found and nothing was changed.
    """
    from fedbench import verbs

    if verified != (rerun is not None):
        raise click.UsageError("--verified and --rerun-report go together: the report is what verifies.")
    added = verbs.submit_add(archive, board, rerun=rerun, reason=reason, by=by)
    _print_checked(added.checked, False)
    if not added.checked.good:
        return FAILED
    _print_decisions(added.decisions)
    suite = added.checked.submission.suite if added.checked.submission else ""
    click.echo(f"next: fedbench report --suite {suite} --out {board}")
    return COMPLETE


@submit.command("refuse")
@_archive
@_board
@click.option("--reason", required=True, help="What stands in the log.")
@_by
def submit_refuse(archive: Path, board: Path, reason: str, by: str) -> None:
    """Write down that a sound archive was refused; it cannot be added any more."""
    from fedbench import verbs

    _print_decisions([verbs.submit_refuse(archive, board, reason=reason, by=by)])


@submit.command("withdraw")
@click.argument("name")
@_board
@click.option("--reason", required=True, help="Shown on the board.")
@click.option("--suite", help="From this suite's board alone.")
@_by
def submit_withdraw(name: str, board: Path, reason: str, suite: str | None, by: str) -> None:
    """Take a method's values off a board; its line stays, and its name stays taken."""
    from fedbench import verbs

    withdrawn = verbs.submit_withdraw(name, board, reason=reason, suite=suite, by=by)
    _print_decisions(withdrawn)
    for of in withdrawn:
        click.echo(f"next: fedbench report --suite {of.suite} --out {board}")


@submit.command("log")
@_board
@click.option("--since", type=click.Path(path_type=Path), metavar="FILE",
              help="Show what was decided since this earlier log, which must be its beginning.")  # fmt: skip
def submit_log(board: Path, since: Path | None) -> None:
    """Show where each submission stands, and every decision."""
    from fedbench import verbs
    from fedbench.characters import shown

    items, log = verbs.submit_log(board, since)
    _table(
        [
            {
                "method": item.added.method,
                "suite": item.added.suite,
                "provider": f"{item.added.distribution} {item.added.version}",
                "state": item.state,
                "reason": shown(item.reason, 200),
            }
            for item in items
        ]
    )
    click.echo("")
    _print_decisions(log)


def _print_checked(checked: Checked, as_json: bool) -> None:
    from fedbench.characters import shown

    if as_json:
        import json

        click.echo(json.dumps(checked.as_json(), indent=1))
        return
    for check in checked.checks:
        said = f": {shown(check.evidence, 400)}" if check.evidence else ""
        mark = "FOUND" if check.findings else "ok   " if check.applicable else "n/a  "
        _say([f"{check.number:2} {mark}  {shown(check.title)}{said}"])
        for finding in check.findings:
            _say([f"    {shown(finding.what, 400)}", f"    mend: {shown(finding.mend, 400)}"])
    if (of := checked.submission) is not None:
        click.echo(f"\n{of.method}: {of.provider} ({of.entry_point}), {shown(of.licence)}, {of.url}")
        click.echo(f"by {', '.join(map(shown, of.authors))}{f', {shown(of.contact)}' if of.contact else ''}")
        for line in of.notes.splitlines():
            click.echo(f"  | {shown(line, 400)}")
    found = len(checked.findings)
    click.echo("sound." if checked.good else f"not sound: {found} {'finding' if found == 1 else 'findings'}.")


def _print_decisions(decisions: Sequence[Decision]) -> None:
    from fedbench.characters import shown

    for of in decisions:
        _say([f"{of.at}  {of.action:11}  {of.method} of {of.distribution} {of.version} on {of.suite}, "
              f"archive {of.archive[:12]}, by {shown(of.by)}: {shown(of.reason, 200)}"])  # fmt: skip


@cli.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="FOLDER|records.tar.xz")
@click.option("--rerun", type=click.IntRange(min=1), metavar="N", help="Train N records again: runs their methods.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which records are drawn.")
@click.option("--yes", is_flag=True, help="Agree to run the methods, without being asked.")
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
@click.option("--jobs", type=int, help="Workers at a time, of a re-run; as many as cores if not given.")
@click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda|mps", help="Where a re-run computes.")
@_data_dir
def verify(path: Path, rerun: int | None, yes: bool, as_json: bool, **chosen: Any) -> int:
    """Check every number of a results folder, of any folder in it, or of a records.tar.xz.

    Numbered checks say what they found and how to mend it. Nothing is changed,
    and no method runs but with --rerun: see docs/verify.md.
    """
    import json

    from fedbench import release, verbs

    with release.opened(path) as folder:
        report = verbs.verify(folder, rerun=rerun or 0, agree=lambda drawn: yes or _agreed(drawn), **chosen)
    if as_json:
        click.echo(json.dumps(report.plain(), indent=1))
    else:
        _print_report(report)
    return COMPLETE if report.passed else FAILED


def _agreed(drawn: Drawn) -> bool:
    """Say whose code a re-run executes, and ask; without a terminal nobody can agree."""
    for method, origin in drawn.methods.items():
        click.echo(f"  {method}, from {origin}", err=True)
    cells = "1 cell" if len(drawn.entries) == 1 else f"{len(drawn.entries)} cells"
    click.echo(f"Training {cells} again runs the code of these methods on this machine, as you. If you do not trust "
               "it, run it in a container without network: docs/verify.md.", err=True)  # fmt: skip
    return sys.stdin.isatty() and click.confirm("Run it?", err=True)


def _print_report(report: Report) -> None:
    """Print what failed first, with evidence and mend, and then a line for each check."""
    from fedbench.leaderboard.text import printable

    for result in report.results:
        failed = result.of("failed")
        if failed:
            _say([f"{result.number} {result.name} failed: {result.title}: not so in {len(failed)} "
                  f"of {len(result.findings)}"])  # fmt: skip
        for finding in failed[:_TOLD]:
            _say([f"  {printable(finding.where)}: {finding.evidence}", f"    mend: {finding.mend}"])
        if len(failed) > _TOLD:
            _say([f"  and {len(failed) - _TOLD} more; --json has them all"])
        if failed:
            click.echo("")
    _table(
        [
            {
                "": f"{result.number:>2} {result.name}",
                "state": result.state if result.state != "not applicable" else "n/a",
                "found": _found(result),
            }
            for result in report.results
        ]
    )
    click.echo("")
    bad = [f"{result.number} ({result.name})" for result in report.results if result.state == "failed"]
    _say([f"{report.records} {'record' if report.records == 1 else 'records'}: "
          + (f"failed: {', '.join(bad)}" if bad else "all checks passed")])  # fmt: skip


_TOLD = 5  # findings of one check that are printed


def _found(result: Result) -> str:
    """Return what a check found: in each place where these are few, else how often, and why it was not made."""
    findings = result.findings
    if len(findings) == 1:
        return "see above" if result.state == "failed" else findings[0].evidence
    passed, failed, without = (result.of(state) for state in ("passed", "failed", "not applicable"))
    if len(findings) <= 2 * _TOLD and not any(item.where.count("/") == 3 for item in findings):
        counts = [f"{len(failed)} of {len(findings)} failed"] if failed else []
        return "; ".join([*counts, *(f"{item.where}: {item.evidence}" for item in (*passed, *without))])
    counts = [f"{len(failed)} failed"] if failed else []
    counts += [f"{len(passed)} of {len(findings)} passed"]
    reasons = list(dict.fromkeys(finding.evidence for finding in without))
    told = [f"{sum(item.evidence == reason for item in without)} n/a: {reason}" for reason in reasons]
    return "; ".join([result.title, ", ".join(counts), *told[:_TOLD]])


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
        if event.state != "running" or event.reason:
            self.console.print(self.line(event), markup=False, soft_wrap=True)

    def note(self, event: Event) -> None:
        share = 0.0 if event.is_last else 1 - event.round / (event.rounds or 1)
        self.left[event.cell] = self.costs[event.cell] * share
        self.finished += event.is_last

    def line(self, event: Event) -> str:
        detail = visible(event.reason) or (f"digest {event.digest[:12]}" if event.digest else "as the time was up")
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
            if event.reason:
                self.bars.console.print(self.line(event), markup=False, soft_wrap=True)
        else:
            if event.cell in self.rows:
                self.bars.remove_task(self.rows.pop(event.cell))
            if event.state in ("failed", "waiting"):
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
