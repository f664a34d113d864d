"""Write reports/performance.md from what `pytest benchmarks` measured, and from findings.md, which is written by hand.

What a round of each method takes is also written to methods/costs.json, which is installed: `fedbench ls methods`
shows it.

``python benchmarks/report.py [benchmark.json] [--out page.md]`` reads the JSON of pytest-benchmark. A measurement whose
``extra_info`` holds ``{"table": name, "row": {...}, "caption": text}`` is a row of a table of that name, or several
(``"rows"``); the caption may be left out. So another benchmark needs no change here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from textwrap import fill
from typing import Any

HERE = Path(__file__).parent
FINDINGS = HERE / "findings.md"
MEASURED, PAGE = HERE.parent / "build" / "benchmark.json", HERE.parent / "reports" / "performance.md"

PLAIN = "plain loop, 1 process of 2 threads"
PLAIN_TWICE = "plain loop, 2 processes of 1 thread"
FLOWER = "Flower simulation, 2 workers"
FEDBENCH = "FedBench, 1 worker"
FEDBENCH_TWICE = "FedBench, 2 workers"
FEDKPER = "FedBench, 1 worker, FedKPer"
VARIANTS = (PLAIN, PLAIN_TWICE, FLOWER, FEDBENCH, FEDBENCH_TWICE, FEDKPER)

DERIVED = {"PFLlib": 0.87, "FL-bench": 0.85}
"""Programs not measured here, and the share of the plain loop's time (1 process, same evaluation) that they took once.

Both ran as one process of two threads on images of this shape, on another processor.
"""

METHODS, TIME = "Methods", "time of a round"
"""The table of what methods cost, and its column of a round's time over that of FedAvg's."""
COSTS = HERE.parent / "methods" / "costs.json"

WARM_UP = 1
"""Rounds at the beginning of each run that are not counted, the same ones in all variants."""

Measurement = Mapping[str, Any]
Sitting = Mapping[str, Measurement]


# --- numbers --------------------------------------------------------------------------------------------------------


def seconds(told: Measurement, part: str) -> float:
    """Return the seconds of a round, ``"train"`` or ``"evaluate"``: the mean over counted rounds.

    Of runs that go side by side, each round counts for as many rounds as there are runs: this is throughput.
    """
    runs = told["runs"]
    return mean(each[part] for run in runs for each in counted(run)) / len(runs)


def total(told: Measurement) -> float:
    """Return the seconds of a whole round."""
    return seconds(told, "train") + seconds(told, "evaluate")


def counted(rounds: Sequence[Measurement]) -> Sequence[Measurement]:
    """Return the rounds after the warm-up.

    Raises
    ------
    ValueError
        There are none.
    """
    if len(rounds) <= WARM_UP:
        raise ValueError(f"{len(rounds)} round(s), of which the first {WARM_UP} are warm-up; measure more rounds.")
    return rounds[WARM_UP:]


def overhead(told: Measurement) -> float:
    """Return the share of FedBench's seconds that the bare loop of the same rounds does not take."""
    rounds = counted(told["overhead"])
    return 1 - sum(each["bare"] for each in rounds) / sum(each["fedbench"] for each in rounds)


def sittings(measurements: Iterable[Measurement]) -> list[Sitting]:
    """Return what was measured of each variant, by sitting."""
    found: dict[int, dict[str, Measurement]] = {}
    for each in measurements:
        if "variant" in each:
            found.setdefault(each["sitting"], {})[each["variant"]] = each
    return [found[sitting] for sitting in sorted(found)]


def over(every: Iterable[Sitting], value: Callable[[Sitting], float]) -> list[float]:
    """Return a value of each sitting that measured all it needs."""
    values = []
    for sitting in every:
        try:
            values.append(value(sitting))
        except KeyError:
            continue
    return values


def ratio(slow: str, fast: str) -> Callable[[Sitting], float]:
    """Return the function that divides the seconds of one variant by those of another of the same sitting."""
    return lambda sitting: total(sitting[slow]) / total(sitting[fast])


@dataclass(frozen=True)
class Target:
    """What is asked of the median over sittings.

    Parameters
    ----------
    what : str
        In words.
    value : callable
        Returns it for a sitting.
    bound : float
        The target.
    at_least : bool
        Whether it is a lower bound; if not, the value is to stay below it or reach it.
    unit : {"times", "%", "s"}
        How values are shown; per cent are given as shares.
    """

    what: str
    value: Callable[[Sitting], float]
    bound: float
    at_least: bool
    unit: str

    def met(self, values: Sequence[float]) -> bool:
        """Return whether the median of some values meets the target."""
        found = median(values)
        return found >= self.bound if self.at_least else found <= self.bound

    def number(self, value: float) -> str:
        """Return a value as it is shown, without its unit."""
        return f"{100 * value:.1f}" if self.unit == "%" else f"{value:.2f}"


TARGETS = (
    Target("plain loop (1 process) over FedBench (2 workers)", ratio(PLAIN, FEDBENCH_TWICE), 2.4, True, "times"),
    Target(
        "plain loop (2 processes) over FedBench (2 workers)", ratio(PLAIN_TWICE, FEDBENCH_TWICE), 1.8, True, "times"
    ),
    Target("Flower (2 workers) over FedBench (2 workers)", ratio(FLOWER, FEDBENCH_TWICE), 3.5, True, "times"),
    Target("FedKPer over FedAvg (FedBench, 1 worker)", ratio(FEDKPER, FEDBENCH), 1.15, False, "times"),
    Target("share of a round that is not arithmetic", lambda sitting: overhead(sitting["overhead"]), 0.05, False, "%"),
    Target("import of `fedbench.simulation`", lambda sitting: sitting["start"]["start"]["import"], 3.0, False, "s"),
    Target("start to first round", lambda sitting: sitting["start"]["start"]["first_round"], 3.0, False, "s"),
)


# --- tables ---------------------------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median of some values, and their range where there are several."""
    if not values:
        return "–"
    found = f"{median(values):.{digits}f}"
    return found if len(values) == 1 else f"{found} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def rounds_table(every: Sequence[Sitting]) -> str:
    """Return one row a variant: seconds, speed against the plain loop, memory, samples."""
    rows = []
    for name in VARIANTS:
        told = [sitting[name] for sitting in every if name in sitting]
        if not told:
            rows.append([name, "not measured", *["–"] * 6])
            continue
        memory = [each["memory_mib"] for each in told if each["memory_mib"]]
        passed = [mean(each[part] for each in counted(told[0]["runs"][0])) for part in ("trained", "evaluated")]
        rows.append(
            [
                name,
                spread([seconds(each, "train") for each in told]),
                spread([seconds(each, "evaluate") for each in told]),
                spread([total(each) for each in told]),
                spread(over(every, ratio(PLAIN, name))),
                f"{max(memory):,.0f}" if memory else "–",
                *(f"{samples:,.0f}" for samples in passed),
            ]
        )
    plain = over(every, lambda sitting: total(sitting[PLAIN]))
    for name, share in DERIVED.items():
        found = spread([share * value for value in plain])
        rows.append([f"{name} (derived)", "–", "–", found, f"{1 / share:.2f}", *["–"] * 3])
    header = ("variant", "train, s", "evaluate, s", "round, s", "times as fast as the first row", "memory, MiB")
    return table([*header, "samples trained", "samples evaluated"], rows)


def targets_table(every: Sequence[Sitting]) -> str:
    """Return one row a target: met, not met or not measured."""
    rows = []
    for target in TARGETS:
        values = over(every, target.value)
        bound = f"{'at least' if target.at_least else 'at most'} {target.number(target.bound)} {target.unit}"
        if values:
            ends = f"{target.number(min(values))} to {target.number(max(values))}"
            verdict = "met" if target.met(values) else "**not met**"
            rows.append([target.what, bound, f"{target.number(median(values))} {target.unit}", ends, verdict])
        else:
            rows.append([target.what, bound, "–", "–", "not measured"])
    return table(["", "target", "median over sittings", "range", ""], rows)


def other_tables(measurements: Iterable[Measurement]) -> list[str]:
    """Return the sections of other benchmarks, in order of appearance: a heading, a caption and a table each."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    captions: dict[str, str] = {}
    for each in measurements:
        if "table" in each:
            rows.setdefault(each["table"], []).extend(each["rows"] if "rows" in each else [each["row"]])
            if each.get("caption"):
                captions[each["table"]] = each["caption"]
    sections = []
    for name, found in rows.items():
        header = list(dict.fromkeys(key for row in found for key in row))
        body = table(header, [[shown(row.get(key)) for key in header] for row in found])
        sections.append("\n\n".join(filter(None, [f"## {name}", captions.get(name), body])))
    return sections


def shown(value: object) -> str:
    """Return a cell: floats with three digits, thousands set apart.

    Examples
    --------
    >>> [shown(value) for value in (12345, 0.012345, 9876.5, "a", None, True)]
    ['12,345', '0.0123', '9,876', 'a', '–', 'yes']
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", r"\|")


def costs(measurements: Iterable[Measurement]) -> dict[str, dict[str, float]]:
    """Return version and time of a round of each method that was measured, by name."""
    rows = [row for each in measurements if each.get("table") == METHODS for row in each["rows"]]
    rows.sort(key=lambda row: str(row["method"]))
    return {row["method"]: {"version": row["version"], "time": round(row[TIME], 2)} for row in rows}


# --- page -----------------------------------------------------------------------------------------------------------


def machine_table(measured: Mapping[str, Any], told: Iterable[Measurement]) -> str:
    """Return where and when the measurements were made, and what else ran."""
    machine, commit = measured["machine_info"], measured.get("commit_info", {})
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    dirty = " with changes" if commit.get("dirty") else ""
    # What ray starts is not accounted to who started it, so it would pass for other work.
    others = [each["other_work"] for each in told if each.get("other_work") and each.get("variant") != FLOWER]
    rows = [
        ("date", measured["datetime"][:10]),
        ("commit", f"{str(commit.get('id'))[:12]}{dirty}"),
        ("processor", f"{machine['processor']}, {machine['cores']} cores"),
        ("memory", f"{machine['memory_gib']:.0f} GiB"),
        ("system", machine["platform"]),
        ("versions", versions),
    ]
    if others:
        rows.append(("cores that other work took meanwhile", f"median {median(others):.2f}, at most {max(others):.2f}"))
    return table(["", ""], rows)


def how(machine: Mapping[str, Any], times: int) -> str:
    """Return how a round was measured."""
    protocol = machine["protocol"]
    return (
        f"Task `{machine['task']}`, FedAvg where nothing else is said: batches of {protocol['batch_size']}, "
        f"{protocol['local_epochs']} local epochs, SGD (learning rate {protocol['lr']:g}, momentum "
        f"{protocol['momentum']:g}, weight decay {protocol['weight_decay']:g}). All variants train the same clients in "
        "the same rounds and evaluate the same samples: the global model on the global test set, the validation set "
        "and every local test set, local models on their own. A run has "
        f"{protocol['rounds']} rounds, of which the first {WARM_UP} is not counted. Figures are medians over {times} "
        "sittings with the range in brackets; a sitting measures all variants, each in a fresh process, and ratios are "
        "taken within a sitting. Where two runs go side by side, their seconds are halved: that is the throughput of "
        "many runs, not the wait for one. Memory is the sum over processes of the most that each held. Samples are "
        "those of a round; training passes each once an epoch."
    )


def page(measured: Mapping[str, Any], findings: str) -> str:
    """Return the whole page.

    Parameters
    ----------
    measured : mapping
        The JSON of pytest-benchmark.
    findings : str
        What was written by hand; it is appended as it is.
    """
    told = [each["extra_info"] for each in measured["benchmarks"]]
    every = sittings(told)
    sections = ["# Speed", "`make bench` measures and writes this page, all but the findings at its end."]
    if every:
        sections += [
            "## One round",
            fill(how(measured["machine_info"], len(every)), 120),
            rounds_table(every),
            fill(
                "Derived: not measured here, but "
                + " and ".join(f"{share} ({name})" for name, share in DERIVED.items())
                + " times the plain loop in one process, as once measured side by side on another processor.",
                120,
            ),
            "## Targets",
            targets_table(every),
        ]
    sections += [*other_tables(told), "## Machine", machine_table(measured, told), findings.strip()]
    return "\n\n".join(sections) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="?", default=MEASURED)
    parser.add_argument("--out", type=Path, default=PAGE)
    given = parser.parse_args()
    measured = json.loads(given.measured.read_text(encoding="utf-8"))
    given.out.write_text(page(measured, FINDINGS.read_text(encoding="utf-8")), encoding="utf-8")
    if found := costs(each["extra_info"] for each in measured["benchmarks"]):
        COSTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
