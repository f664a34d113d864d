"""What a table shows of the statistics: ranks with ties, marks beside values, and one sentence wherever there are none.

The statistics themselves are `fedbench.leaderboard.comparison`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedbench.leaderboard import text
from fedbench.leaderboard.board import Board, Row, TaskBoard
from fedbench.leaderboard.comparison import Standing, Standings, name_of, standings
from fedbench.leaderboard.overall import overall

from fedbench.metrics import METRICS, Metric
from fedbench.statistics import NotComputed
from fedbench.statistics.comparisons import Comparison
from fedbench.statistics.planning import ALPHA
from fedbench.statistics.standings import RankInterval


@dataclass(eq=False)
class Verdicts:
    """The statistics of a board's tables by any metric; each is computed once, when it is asked for.

    Parameters
    ----------
    board : Board
        The board.
    """

    board: Board
    _found: dict[str | None, Standings] = field(default_factory=dict, repr=False)
    _tied: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def tables(self) -> tuple[Verdict, ...]:
        """All tables of the board in the order in which they are shown: all tasks, if there are several; then each."""
        wide = overall(self.board)
        return tuple(self.of(table) for table in (*([wide] if wide else []), *self.board.tasks))

    def of(self, table: TaskBoard) -> Verdict:
        """Return what is known of one table: a task, or all tasks, whose name is empty."""
        return Verdict(self, table)

    def standing(self, table: TaskBoard, metric: str | None = None) -> Standing:
        """Return the statistics of one table by a metric, or by the one that ranks."""
        if metric not in self._found:
            self._found[metric] = standings(self.board, metric)
        found = self._found[metric]
        return found.tasks[table.name] if table.name else found.across


@dataclass(frozen=True)
class Choice:
    """One answer to whoever asks which method to use.

    Parameters
    ----------
    purpose : str
        For what.
    metric : str
        The metric that answers it.
    best : str
        The complete methods with the best mean.
    value : str
        That mean, with its unit.
    sure : str
        Whether a test separates them from the others.
    """

    purpose: str
    metric: str
    best: str
    value: str
    sure: str


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one table shows of the statistics.

    Parameters
    ----------
    verdicts : Verdicts
        Those of the board.
    table : TaskBoard
        One task, or all.
    """

    verdicts: Verdicts
    table: TaskBoard

    @property
    def standing(self) -> Standing:
        """The statistics by the metric that ranks."""
        return self.verdicts.standing(self.table)

    def tested(self, metric: str) -> bool:
        """Say whether the first place by a metric is tested at all."""
        return METRICS[metric].unit == "fraction" and not isinstance(
            self.verdicts.standing(self.table, metric).top, NotComputed
        )

    def tied(self, metric: str) -> frozenset[str]:
        """Return the labels that a test does not separate from the best mean; none where nothing was tested.

        Where all are equal nobody is best, and nobody tied with them.
        """
        known, key = self.verdicts._tied, (self.table.name, metric)
        if key not in known:
            known[key] = self._tied(metric)
        return known[key]

    def _tied(self, metric: str) -> frozenset[str]:
        if METRICS[metric].unit != "fraction" or METRICS[metric].direction == "none" or not self.table.best(metric):
            return frozenset()
        found = self.verdicts.standing(self.table, metric).top
        members = () if isinstance(found, NotComputed) else found.members[1:]
        return frozenset(row.label for row in self.table.rows if name_of(row) in members)

    def place(self, row: Row) -> str:
        """Return a row's rank as it is shown: ``1=`` where it shares the first place by test; a dash for none."""
        if row.rank is None or self.table.primary is None:
            return "–"
        tied = self.tied(self.table.primary)
        return "1=" if row.label in tied or (tied and row.rank == 1) else str(row.rank)

    @property
    def choices(self) -> list[Choice]:
        """Which method for what, and how sure that is; a purpose without a best method is left out."""
        found = []
        for purpose, name in PURPOSES:
            best = sorted(self.table.best(name))
            if best:
                row = next(row for row in self.table.rows if row.label == best[0])
                value = text.quantity(row.scores[name], METRICS[name])
                if name == "bwt":  # never without accuracy: a constant predictor has a perfect one
                    accuracy = METRICS["global_accuracy_mean"]
                    value += f" at {text.quantity(row.scores[accuracy.name], accuracy)} global accuracy"
                tied = sorted(self.tied(name) - set(best))
                if not self.tested(name):
                    sure = "not tested"
                elif tied:
                    sure = f"tied with {text.some(tied, 3)}"
                else:
                    sure = "separated from all others"
                found.append(Choice(purpose, name, text.some(best, 3), value, sure))
        return found

    @property
    def basis(self) -> str:
        """What `choices` rest on."""
        track = self.verdicts.board.track
        how = (
            "described and not tested"
            if track == "faithful"
            else "and whether the paired test separates it from the others"
        )
        return f"The best mean among complete methods, {how}. Read BwT only where accuracy is good."

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What is said below the table, by label: why a row with values is not ranked, or is in no test."""
        table = self.table
        holes = [(row.label, text.note(row, table.primary)) for row in table.all_rows if row.valued]
        # Why a row is not ranked is why it is not tested, too.
        untested = [(row.label, self.left_out(row)) for row in table.rows if row.rank is not None]
        return [(label, note) for label, note in (*holes, *untested) if note]

    def left_out(self, row: Row) -> str:
        """Return why a row takes part in no test; empty where it does, and where nothing is tested."""
        return "" if self.standing.descriptive else self.standing.left_out.get(name_of(row), "")

    @property
    def places(self) -> Mapping[str, RankInterval]:
        """The bootstrap interval of each place, by label."""
        found = self.standing.ranks
        by_name = {} if isinstance(found, NotComputed) else {place.method: place for place in found}
        return {row.label: by_name[name_of(row)] for row in self.table.rows if name_of(row) in by_name}

    @property
    def sentence(self) -> str:
        """What the tests say about the first place, in one sentence."""
        if self.table.primary is None:
            return "No ranking: no record says by which one metric."
        found = self.standing.top
        if isinstance(found, NotComputed):
            return f"Ties at the top {found.reason}. A rank is the order of the means, nothing more."
        basis = (
            f"sign-flip test over {text.count(found.n, 'cell')}, Holm over {text.count(found.comparisons, 'pair')}, "
            f"level {ALPHA}"
        )
        if len(found.members) == 1:
            return f"{found.leader} stands first alone: it is separated from every other method ({basis})."
        number, others = text.count(len(found.members), "method"), text.some(found.members[1:])
        return f"{number} share rank 1: {found.leader} and, not separated from it, {others} ({basis})."


PURPOSES = (
    ("One model for everybody", "global_accuracy_mean"),
    ("The model right after local training", "local_accuracy_mean"),
    ("A model for each client", "personal_accuracy"),
    ("No client left behind", "worst_fifth_accuracy"),
    ("Remember what was learnt", "bwt"),
    ("Little traffic", "bytes_up"),
)
"""What a reader may want, and the metric that answers it."""


def decided(comparison: Comparison, metric: Metric) -> str:
    """Return what a comparison says in a word: better, worse, equivalent, undecided or not tested."""
    if not isinstance(comparison.p_holm, NotComputed) and comparison.p_holm <= ALPHA:
        better = (comparison.difference.mean > 0) == (metric.direction != "lower")
        return "better" if better else "worse"
    if not isinstance(comparison.p_equivalence_holm, NotComputed) and comparison.p_equivalence_holm <= ALPHA:
        return "equivalent"
    return "not tested" if isinstance(comparison.p_holm, NotComputed) else "undecided"
