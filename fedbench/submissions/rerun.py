"""The report of a re-run: what makes a submission verified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbench import reading
from fedbench.characters import shown
from fedbench.errors import RecordError
from fedbench.submissions import SubmissionError
from fedbench.submissions.rules import Incoming

SCHEMA = "fedbench-verification-1"
_AGAIN = (
    "keep the records with `fedbench submit check ARCHIVE --keep FOLDER`, and write what `fedbench verify FOLDER "
    "--rerun N --json` prints to a file"
)
_REFUSE = "ask the authors, or write it down with `fedbench submit refuse`"


def of_report(path: Path, incoming: Incoming) -> str:
    """Return in words what a report of ``fedbench verify --rerun N --json`` proves of a submission.

    Parameters
    ----------
    path : Path
        The report; of these records alone, or of a results folder that has them.
    incoming : Incoming
        The submission.

    Raises
    ------
    SubmissionError
        It is no such report, it is not about these records, no cell of theirs was trained again, or something of them
        failed.
    """
    try:
        report = reading.json_object(path)
    except RecordError as error:
        raise SubmissionError(f"the report {shown(str(error))}", _AGAIN) from None
    if report.get("schema") != SCHEMA:
        raise SubmissionError(f"{shown(str(path))} is no report of `fedbench verify`", _AGAIN)
    try:
        found = {check["name"]: _by_place(check, incoming) for check in report["checks"]}
    except (KeyError, TypeError, AttributeError):
        raise SubmissionError(f"{shown(str(path))} is no whole report of `fedbench verify`", _AGAIN) from None
    for place, digest in incoming.digests.items():
        state, evidence = found.get("digest", {}).get(place, ("", ""))
        if (state, evidence) != ("passed", digest):
            raise SubmissionError(
                f"the report is not about {place} with digest {digest}"
                + (f", but about digest {shown(evidence)}" if state == "passed" else ""),
                _AGAIN,
            )
    for name, places in found.items():
        for place, (state, evidence) in places.items():
            if state == "failed":
                raise SubmissionError(f"{place} failed in the report ({shown(name)}): {shown(evidence, 300)}", _REFUSE)
    again = [evidence for state, evidence in found.get("rerun", {}).values() if state == "passed"]
    if not again:
        raise SubmissionError("by the report, no cell of these records was trained again", _AGAIN)
    same = sum(evidence.startswith("the same digest") for evidence in again)
    cells = len(incoming.digests)
    told = f"{len(again)} of {cells} cells trained again: {same} with the same digest"
    return told if same == len(again) else f"{told}, {len(again) - same} within the tolerance for another platform"


def _by_place(check: Mapping[str, Any], incoming: Incoming) -> dict[str, tuple[str, str]]:
    """Return state and evidence of a check at each place of a submission."""
    return {
        item["where"]: (item["state"], item["evidence"])
        for item in check["findings"]
        if item["where"] in incoming.digests
    }
