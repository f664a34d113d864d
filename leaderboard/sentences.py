"""What a comparison says, in sentences: the same ones in the terminal and on a page.

Every sentence names what it rests on; where something was not computed it says why. p is never printed without its
test, and a p that does not separate is never called equality.
"""

from __future__ import annotations

from fedbench.leaderboard.comparison import FAITHFUL, Contrast, Models, holm_over_tasks
from fedbench.leaderboard.text import count

from fedbench.statistics import NotComputed, bayesian_signed_rank
from fedbench.statistics.comparisons import DRAWS, Comparison, SignFlip, TaskComparison
from fedbench.statistics.planning import ALPHA
from fedbench.statistics.rank_tests import wilcoxon

SCANS = "Images count as independent; where several come from one patient, p is too small, the interval too narrow."


def points(value: float, *, signed: bool = True) -> str:
    """Return a fraction as points with two decimals; a minus is as wide as a plus, and a rounded zero has no sign."""
    shown = f"{value * 100:{'+' if signed else ''}.2f}"
    return "0.00" if shown in ("+0.00", "-0.00") else shown.replace("-", "−")


def probability(p: float) -> str:
    """Return ``= 0.0039``, or ``< 0.0001``."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"


def told(contrast: Contrast, comparison: Comparison) -> list[str]:
    """Return all that is said about one comparison of a contrast, one sentence a line."""
    tasks = contrast.grid.tasks
    where = f"on {tasks[0]}" if len(tasks) == 1 else f"on these {len(tasks)} tasks"
    return [
        headline(comparison, where, lower=contrast.metric.direction == "lower"),
        *tested(comparison),
        *(on_task(task, comparison) for task in comparison.tasks),
        *beyond(contrast, comparison),
    ]


def headline(comparison: Comparison, where: str, *, lower: bool = False) -> str:
    """Return how far apart two methods are, with the interval: ``fedkper is 1.20 points above fedavg on heart``."""
    found = comparison.difference
    side = "above" if found.mean > 0 else "below"
    pair = f"{comparison.method} is {points(abs(found.mean), signed=False)} points {side} {comparison.reference}"
    if points(found.mean) == "0.00":
        pair = f"{comparison.method} and {comparison.reference} are less than 0.005 points apart"
    interval = (
        "one seed, no interval"
        if found.low is None or found.high is None
        else f"95 % interval {points(found.low)} to {points(found.high)}, paired over {found.n} seeds"
    )
    return f"{pair} {where} ({interval}{'; lower is better' if lower else ''})."


def tested(comparison: Comparison) -> list[str]:
    """Return what the tests say: difference, equivalence, and what the design can resolve at all."""
    flip, equal, limit = comparison.sign_flip, comparison.equivalence, comparison.detectable
    lines = []
    if isinstance(flip, NotComputed) and flip.reason == FAITHFUL:
        why = FAITHFUL.removeprefix("not computed: ")
        lines.append(f"Descriptive, without a test: {why}, so numbers describe these runs only.")
    elif isinstance(flip, NotComputed):
        lines.append(f"Test of a difference {flip}.")
    elif not isinstance(comparison.p_holm, NotComputed):
        how = "exact" if flip.exact else f"{DRAWS:,} draws"
        adjusted = _adjusted(comparison.p_holm, comparison.comparisons)
        verdict = (
            "it is more than chance over seeds."
            if comparison.p_holm <= ALPHA
            else "no difference is shown, which is not to say that there is none."
        )
        lines.append(f"Sign-flip test over {flip.n} cells ({how}): p {probability(flip.p)}{adjusted}: {verdict}")
    if isinstance(equal, NotComputed):
        if not (isinstance(flip, NotComputed) and flip.reason == equal.reason):
            lines.append(f"Equivalence {equal}.")
    elif not isinstance(comparison.p_equivalence_holm, NotComputed):
        adjusted = _adjusted(comparison.p_equivalence_holm, comparison.comparisons)
        shown = "are equivalent" if comparison.p_equivalence_holm <= ALPHA else "are not shown to be equivalent"
        margin = points(equal.margin, signed=False)
        lines.append(
            f"They {shown} within ±{margin} points (two one-sided t tests: p {probability(equal.p)}{adjusted})."
        )
    if not isinstance(limit, NotComputed):
        among = f" over {comparison.comparisons} comparisons" if comparison.comparisons > 1 else ""
        lines.append(
            f"With this design, differences below {points(limit, signed=False)} points are not resolvable "
            f"(80 % power, two-sided 5 %{among})."
        )
    return lines


def on_task(task: TaskComparison, comparison: Comparison) -> str:
    """Return what is said of one task: effect sizes, and its own test, adjusted over the tasks."""
    effect = task.hedges_g
    if isinstance(effect, NotComputed):
        shown = f"Hedges g not computed ({effect.reason.removeprefix('not computed: ')})"
    else:
        shown = f"Hedges g {effect:+.2f}".replace("-", "−")
    won = f"{comparison.method} wins {100 * task.p_improvement:.0f} % of {count(task.n**2, 'pair')} of runs"
    parts = [shown, f"{won} (a tie is half a win)"]
    several = len(comparison.tasks) > 1
    if isinstance(task.sign_flip, SignFlip) and several:
        over = holm_over_tasks(comparison)
        adjusted = f" (Holm over {len(over)} tasks {over[task.task]:.2g})" if len(over) > 1 else ""
        parts.append(f"exploratory sign-flip over {task.n} seeds p {probability(task.sign_flip.p)}{adjusted}")
    elif isinstance(task.sign_flip, NotComputed) and several and task.sign_flip.reason != FAITHFUL:
        parts.append(f"its own test {task.sign_flip}")
    if not isinstance(task.detectable, NotComputed) and several:
        parts.append(f"resolves {points(task.detectable, signed=False)} points")
    return f"{task.task}: {'; '.join(parts)}."


def beyond(contrast: Contrast, comparison: Comparison) -> list[str]:
    """Return what is said about a new task, and which question was answered with how much."""
    grid, sources = contrast.grid, contrast.sources
    design = (
        f"Question Q2, these tasks and a new seed: n = {count(grid.cells, 'cell')} "
        f"({count(len(grid.tasks), 'task')} × {count(len(grid.seeds), 'seed')})."
    )
    if isinstance(sources, NotComputed):
        why = sources.reason.removeprefix("not computed: ")
        return [design, f"No claim is made about other tasks (Q3): {why}."]
    if contrast.track == "faithful":
        return [design, f"Question Q3, a new task: {FAITHFUL}."]
    ranked = wilcoxon(sources.differences(comparison.method, comparison.reference))
    posterior = bayesian_signed_rank(sources, comparison.method, comparison.reference, contrast.margin)
    return [
        design,
        f"Question Q3, a new task: n = {sources.n} independent sources; Wilcoxon signed-rank p "
        f"{probability(ranked.p)}; posterior probability that {comparison.method} is better by more than the margin "
        f"{posterior.better:.2f}, equivalent {posterior.equivalent:.2f}, worse {posterior.worse:.2f}.",
    ]


def of_models(found: Models) -> list[str]:
    """Return what is said about two concrete models (Q1)."""
    first, second, here, test, over = found.first, found.second, found.here, found.test, found.over_seeds
    side = "above" if here.difference > 0 else "below"
    gap = f"{points(abs(here.difference), signed=False)} points {side}" if here.difference else "as accurate as"
    lines = [
        f"After the last round at seed {found.seed}, the model of {first} is {gap} that of {second} on {found.task} "
        f"(95 % bootstrap over test samples {points(here.low)} to {points(here.high)}).",
        f"McNemar, exact: {test.only_first} samples only {first} has right, {test.only_second} only {second}; "
        f"p {probability(test.p)}.",
    ]
    if isinstance(over, NotComputed):
        lines.append(f"Interval over seeds and test samples {over}.")
    else:
        mark = ", descriptive below 10 seeds" if over.descriptive else ""
        lines.append(
            f"Over {over.seeds} seeds and the same test samples, {first} minus {second} is {points(over.difference)} "
            f"points (95 % crossed bootstrap {points(over.low)} to {points(over.high)}{mark})."
        )
    return [*lines, f"Question Q1, this checkpoint and this test set: n = {test.n:,} test samples. {SCANS}"]


def _adjusted(p: float, comparisons: int) -> str:
    return f"; with Holm over {comparisons} comparisons p {probability(p)}" if comparisons > 1 else ""
