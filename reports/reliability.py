"""Kill, tear, tamper and fuzz, and write down what came of it.

``python reports/reliability.py --kills 500 --fuzz-seconds 600`` runs the tests that are marked ``reliability`` with so
many random kills a method, and so many seconds of fuzzing a file format, and writes ``reliability.md`` from what they
counted. Every attempt is counted once it came out right; a test that fails is named, with nothing counted.

``python reports/reliability.py --read A.xml B.xml`` runs nothing, and reads what ``pytest --junitxml`` wrote of a run
of the tests on this machine and commit, such as that of ``make test`` and ``make test-long``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from fedbench.environment import environment

HERE = Path(__file__).parent
PAGE = HERE / "reliability.md"
FUZZED = "fuzzed inputs, "
SECONDS = "seconds of fuzzing"


def counted(report: ElementTree.Element) -> tuple[Counter[str], list[str]]:
    """Return how often each thing was tried and came out right, and the names of the tests that failed."""
    counts: Counter[str] = Counter()
    failed = []
    for case in report.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        for item in case.iter("property"):
            if item.get("name") == "tally":
                what, _, number = str(item.get("value")).rpartition(": ")
                counts[what] += int(number)
    return counts, failed


def page(counts: Counter[str], failed: list[str], by: str, about: str) -> str:
    """Return the report."""
    fuzzed = {what.removeprefix(FUZZED): n for what, n in counts.items() if what.startswith(FUZZED)}
    others = {what: n for what, n in counts.items() if not what.startswith(FUZZED) and what != SECONDS}
    lines = [
        "# What was done to FedBench, and what it withstood",
        "",
        f"Written by {by}, {about}.",
        "",
        "Killed, torn, full: after each the cell was run again, and its record had the digest of a run that nothing",
        "happened to. Tampered, hostile: each was refused by name, by the check that is meant for it, and nothing was",
        "written outside the folder. Of what is listed here, every single one came out so.",
        "",
        "| what | tried | withstood |",
        "| --- | ---: | ---: |",
        *(f"| {what} | {n:,} | {n:,} |" for what, n in sorted(others.items())),
        "",
    ]
    if fuzzed:
        lines += [
            f"Fuzzed for {counts[SECONDS] / 3600:.2f} hours in all, with libFuzzer's coverage of the code that reads,",
            "each file hashed anew after it was changed. An input counts if it was read, or refused with an error that",
            "FedBench raises on purpose, in under ten seconds and 512 MB.",
            "",
            "| file | inputs read or refused |",
            "| --- | ---: |",
            *(f"| {what} | {n:,} |" for what, n in sorted(fuzzed.items())),
            "",
        ]
    if failed:
        lines += ["## Not withstood", "", *(f"- `{name}`" for name in sorted(failed)), ""]
    return "\n".join(lines)


def write(counts: Counter[str], failed: list[str], by: str) -> None:
    """Write the report, with where and when."""
    where = environment("cpu")
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {where.commit or 'unknown'}, {where.processor}, {where.cores} cores, "
        f"Python {where.python}"
    )
    PAGE.write_text(page(counts, failed, by, about), encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="random kills of each method")
    parser.add_argument("--fuzz-seconds", type=int, default=5, help="of each file format")
    parser.add_argument("--read", nargs="+", type=Path, metavar="XML", help="run nothing, and read these")
    chosen = parser.parse_args()
    if chosen.read:
        found = [counted(ElementTree.parse(path).getroot()) for path in chosen.read]  # noqa: S314 - of one's own tests
        write(sum((counts for counts, _ in found), Counter()), [name for _, names in found for name in names],
              "`python reports/reliability.py --read` from what `make test` and `make test-long` counted")  # fmt: skip
        return
    settings = {"FEDBENCH_KILLS": str(chosen.kills), "FEDBENCH_FUZZ_SECONDS": str(chosen.fuzz_seconds)}
    with tempfile.TemporaryDirectory(prefix="fedbench-reliability-") as scratch:
        xml = Path(scratch, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "reliability", f"--junitxml={xml}"]
        status = subprocess.run([*command, str(HERE.parent / "tests")], env={**os.environ, **settings}).returncode
        counts, failed = counted(ElementTree.parse(xml).getroot())  # noqa: S314 - pytest has just written it
    write(
        counts, failed, f"`python reports/reliability.py --kills {chosen.kills} --fuzz-seconds {chosen.fuzz_seconds}`"
    )
    sys.exit(status)


if __name__ == "__main__":
    main()
