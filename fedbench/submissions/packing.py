"""What an author runs: one archive of a method's records, after the same checks that a maintainer will run."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedbench import registry
from fedbench.durable import replacing
from fedbench.errors import unknown
from fedbench.records import Record, read_plan, state
from fedbench.schema import FILES, MANIFEST, WEIGHTS, Plan
from fedbench.submissions import SubmissionError, archive, form
from fedbench.submissions.archive import PLANS, RECORDS
from fedbench.submissions.checking import Checked, check
from fedbench.submissions.form import FORM, FORM_VERSION, PACKAGES, Package, Submission

_SHOWN = 10


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Parameters
    ----------
    path : Path
        The archive.
    size : int
        Its bytes.
    cells : int
        Records in it.
    rows : tuple of str
        Labels, one or more: each setting of the method is a row of its own.
    checked : Checked
        What a maintainer will see.
    """

    path: Path
    size: int
    cells: int
    rows: tuple[str, ...]
    checked: Checked


def pack(
    method: str,
    suite: str,
    results: Path,
    *,
    notes: str = "",
    licence: str | None = None,
    url: str | None = None,
    authors: Sequence[str] = (),
    contact: str | None = None,
    rows: Sequence[str] = (),
    path: Path | None = None,
) -> Packed:
    """Pack a method's records of a suite into one archive, whole or not at all; the same records give the same bytes.

    Weights stay at home. What is packed is checked as a maintainer will check it, before the archive is put in place.

    Parameters
    ----------
    method : str
        Registered name; its code is not run.
    suite : str
        A suite that was run.
    results : Path
        The results folder; it is only read.
    notes : str
        Plain text for whoever decides.
    licence, url, authors, contact
        Of the package; taken from its metadata where not given.
    rows : sequence of str
        Only these labels; every setting of the method that was run, if empty.
    path : Path, optional
        Where the archive goes; ``NAME-VERSION.fedbench.zip`` in the current folder, if not given.

    Raises
    ------
    SubmissionError
        The method is not one that can be submitted, a cell is missing, a record does not pass its checks, or another
        archive is in the way.
    SpecError, RecordError
        No such method, or the suite was never run there.
    """
    point = _point(method)
    plan = _planned(method, suite, results, rows)
    records = [Record.open(results / cell.path) for cell in plan.cells]
    files: dict[str, bytes | Path] = {f"{PLANS}/{plan.suite}.json": _json(plan)}
    for cell, record in zip(plan.cells, records, strict=True):
        place = f"{RECORDS}/{cell.path}"
        files |= {f"{place}/{name}": record.folder / name for name in FILES}
        without = {name: digest for name, digest in record.manifest.files.items() if name != WEIGHTS}
        files[f"{place}/{MANIFEST}"] = _json(record.manifest.model_copy(update={"files": without}))
    dist = point.dist
    assert dist is not None
    about: Any = dist.metadata
    submission = _form(
        schema_version=FORM_VERSION,
        method=method,
        distribution=dist.name,
        version=dist.version,
        entry_point=point.value,
        licence=licence or about.get("License-Expression") or about.get("License"),
        url=url or _url(about),
        authors=tuple(authors) or _authors(about),
        contact=contact,
        notes=notes,
        suite=plan.suite,
        python=platform.python_version(),
        platform=platform.platform(),
        environment=environment(),
        created=max(record.info.started for record in records),
        files={name: _sha256(content) for name, content in sorted(files.items())},
    )
    target = path or Path(submission.file_name)
    with tempfile.TemporaryDirectory(prefix="fedbench-pack-") as scratch:
        made = Path(scratch) / target.name
        archive.write(made, files | {FORM: _json(submission)})
        checked = check(made, results, rules=False)
        if not checked.good:
            wrong = checked.findings
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise SubmissionError(f"nothing was packed: {wrong[0].what}{more}", wrong[0].mend)
        _put(made, target)
    labels = tuple(dict.fromkeys(cell.label for cell in plan.cells))
    return Packed(target, target.stat().st_size, len(records), labels, checked)


def environment() -> tuple[str, ...]:
    """Return ``name==version`` of every installed distribution, sorted."""
    fits = TypeAdapter(Package)
    found = set()
    for dist in metadata.distributions():
        try:
            found.add(fits.validate_python(f"{dist.name}=={dist.version}"))
        except ValidationError:  # a broken installation has neither
            continue
    return tuple(sorted(found, key=str.lower)[:PACKAGES])


def _point(method: str) -> metadata.EntryPoint:
    points = registry.methods.points().get(method, ())
    if not points:
        raise unknown("method", method, registry.methods.installed())
    if any(point.dist is not None and point.dist.name == registry.OWN for point in points):
        raise SubmissionError(
            f"the method {method} is built in: its rows are made by whoever runs the board", "submit one of your own"
        )
    if len(points) > 1:
        raise SubmissionError(f"the method {method} is registered {len(points)} times", "uninstall all but one")
    (point,) = points
    if point.dist is None:
        raise SubmissionError(
            f"the method {method} is of no installed distribution", "put it in a package: `fedbench new method NAME`"
        )
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", point.dist.version):
        raise SubmissionError(
            f"{point.dist.name} {point.dist.version} is no release, as versions must be comparable",
            "give it a version of numbers and dots, install it and pack again",
        )
    return point


def _planned(method: str, suite: str, results: Path, rows: Sequence[str]) -> Plan:
    """Return the plan with the method's cells alone, all of which have a record."""
    path = results / PLANS / f"{suite}.json"
    if not path.is_file():
        known = sorted(item.stem for item in (results / PLANS).glob("*.json"))
        raise SubmissionError(
            f"no suite {suite!r} was run in {results}; there: {', '.join(known) or 'none'}",
            f"run it: `fedbench run --suite {suite} --method {method} --out {results}`",
        )
    plan = read_plan(path)
    cells = [cell for cell in plan.cells if cell.method == method]
    labels = {cell.label for cell in cells}
    for row in rows:
        if row not in labels:
            raise unknown(f"row of {method}", row, labels)
    cells = [cell for cell in cells if not rows or cell.label in rows]
    if not cells:
        raise SubmissionError(
            f"{method} was never run on {suite} in {results}",
            f"run it: `fedbench run --suite {suite} --method {method} --out {results}`",
        )
    holes = [
        f"{cell.task}/{cell.label}/seed-{cell.seed} is {found}"
        for cell in cells
        if (found := state(results / cell.path)[0]) != "done"
    ]
    if holes:
        more = f" and {len(holes) - _SHOWN} more" if len(holes) > _SHOWN else ""
        raise SubmissionError(
            f"{len(holes)} of {len(cells)} cells have no record: {', '.join(holes[:_SHOWN])}{more}",
            "run them with `fedbench run`, or name the rows that are whole with --row",
        )
    return plan.model_copy(update={"cells": tuple(cell.model_copy(update={"skipped": None}) for cell in cells)})


def _form(**values: Any) -> Submission:
    options = {"licence": "--licence", "url": "--url", "authors": "--author"}
    if lacking := [name for name in options if not values[name]]:
        raise SubmissionError(
            f"the package {values['distribution']} does not say its {', '.join(lacking)}",
            f"add it to its pyproject.toml, or say it with {', '.join(options[name] for name in lacking)}",
        )
    try:
        return Submission(**values)
    except ValidationError as error:
        raise SubmissionError(form.explained(error), "say it otherwise, in the package or by an option") from None


def _url(about: Any) -> str:
    """Return where the package's source is: the entry that says so, or else the first."""
    urls = [item.partition(",")[::2] for item in about.get_all("Project-URL") or ()]
    source = [url for label, url in urls if label.strip().lower() in ("source", "repository", "code", "source code")]
    found = [*source, about.get("Home-page") or "", *(url for _, url in urls)]
    return next((url.strip() for url in found if url.strip()), "")


def _authors(about: Any) -> tuple[str, ...]:
    """Return names without addresses: those are for ``contact``, if their owner wants that."""
    names = (about.get("Author") or "").split(",")
    mails = [item.partition("<")[0].strip(' "') for item in (about.get("Author-email") or "").split(",")]
    return tuple(name.strip() for name in [*names, *mails] if name.strip() and "@" not in name)


def _put(made: Path, target: Path) -> None:
    if target.exists():
        if target.is_file() and target.read_bytes() == made.read_bytes():
            return
        raise SubmissionError(
            f"{target} is there already, and is another archive", "name another file with --archive, or delete it"
        )
    with replacing(target) as part:
        shutil.copyfile(made, part)


def _json(value: Any) -> bytes:
    text: str = value.model_dump_json(indent=1)
    return text.encode() + b"\n"


def _sha256(content: bytes | Path) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()
