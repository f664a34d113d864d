"""Checks 1 to 7: the record is whole, is what its manifest and its place say, and is what was asked for."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedbench import reading
from fedbench.cell import load_suite, suite_names
from fedbench.errors import RecordError, SpecError
from fedbench.reading import shown
from fedbench.records import COLUMNS, read_failure, stale
from fedbench.schema import FAILURE, FILES, MANIFEST, RUN, WEIGHTS, Manifest, Plan, PlannedCell, identity_hash
from fedbench.verification.checks import Failed, NotApplicable, check, fail_if
from fedbench.verification.subject import PLANS, Entry, Subject

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def _folders(subject: Subject) -> Iterator[tuple[str, Any]]:
    yield from ((entry.place, entry.folder) for entry in subject.entries)
    if not (subject.path / MANIFEST).exists():
        yield "the folder itself", subject.path


@check(1, "every file is there, nothing else, and no link", over=_folders)
def files(folder: Path) -> str:
    """Find what is missing, what does not belong there, and links, which lead a reader elsewhere."""
    if not (folder / MANIFEST).exists():
        return _no_links(folder)
    found = {item.name: item for item in folder.iterdir()}
    problems = [f"{name} is missing" for name in FILES if name not in found]
    known = {*FILES, MANIFEST, WEIGHTS}
    problems += [f"{shown(name)} is no file of a record" for name in sorted(found) if name not in known]
    irregular = (name for name, path in sorted(found.items()) if not stat.S_ISREG(path.lstat().st_mode))
    problems += [f"{shown(name)} is no regular file" for name in irregular]
    fail_if(problems)
    return f"{len(found)} files, {sum(path.lstat().st_size for path in found.values()):,} bytes"


def _no_links(root: Path) -> str:
    paths = [Path(folder, name) for folder, folders, names in os.walk(root) for name in (*folders, *names)]
    modes = ((path, path.lstat().st_mode) for path in sorted(paths))
    odd = (path.relative_to(root) for path, mode in modes if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)))
    fail_if((f"{shown(str(path))} is a link or a device" for path in odd), "delete it, or put the file itself there")
    return f"{len(paths):,} files and folders, no link"


@check(2, "every file has the SHA-256 that the manifest names")
def hashes(entry: Entry) -> str:
    """Find files that were changed after the record was written, or swapped with those of another."""
    try:
        manifest = Manifest(**reading.json_object(entry.folder / MANIFEST))
    except ValueError as error:
        raise Failed(f"{MANIFEST} is not valid: {shown(str(error))}") from None
    known = (*FILES, WEIGHTS)
    problems = [f"{MANIFEST} lists {shown(name)}, no file of a record" for name in manifest.files if name not in known]
    problems += [f"{MANIFEST} does not list {name}" for name in FILES if name not in manifest.files]
    if (entry.folder / WEIGHTS).exists() and WEIGHTS not in manifest.files:
        problems.append(f"{MANIFEST} does not list {WEIGHTS}")
    for name in known:
        if name in manifest.files:
            try:
                found = reading.sha256(entry.folder / name)
            except RecordError as error:
                problems.append(str(error))
                continue
            if found != manifest.files[name]:
                problems.append(f"{name} has {found[:12]}, the manifest says {shown(manifest.files[name][:12])}")
    fail_if(problems)
    return f"{len(manifest.files)} files"


@check(3, "every file can be read, and has the columns and arrays of its schema")
def schema(entry: Entry) -> str:
    """Find what cannot be read within bounds, is of another type, or is missing."""
    contents = entry.contents
    info, manifest = contents.record.info, contents.record.manifest
    problems = []
    if info.schema_version != manifest.schema_version:
        problems.append(f"{RUN} is of schema {info.schema_version}, {MANIFEST} of {manifest.schema_version}")
    tables = zip(COLUMNS.items(), (contents.rounds, contents.clients), strict=True)
    problems += [
        f"{name} lacks {column}" for (name, columns), there in tables for column in columns if column not in there
    ]
    fail_if(problems)
    return f"schema {info.schema_version}, {len(contents.arrays)} arrays, {len(contents.clients['round'].values)} rows"


@check(4, "the digest is that of the contents", needs=("schema",))
def digest(entry: Entry) -> str:
    """Find contents that were changed by somebody who renewed the hashes of the files."""
    record = entry.contents.record
    made = record.recomputed_digest()
    if made != record.digest:
        raise Failed(f"the contents have {made[:12]}, the manifest says {shown(record.digest[:12])}")
    return made


@check(5, "the hash is that of the identity, and the record stands in its place", needs=("schema",))
def identity(entry: Entry) -> str:
    """Find records in a wrong place, and identities that were changed."""
    contents = entry.contents
    info, stored = contents.record.info, contents.record.stored
    problems = []
    if (made := identity_hash(stored["identity"])) != info.hash:
        problems.append(f"the identity has the hash {made}, {RUN} says {shown(info.hash)}")
    own = f"{contents.task['name']}/{contents.method['name']}/{info.hash}/seed-{info.seed}"
    if own != entry.place:
        problems.append(f"the record is that of {shown(own)}, it stands in {shown(entry.place)}")
    for name, said, meant in (
        ("classes", list(info.classes), contents.task["data"].get("classes")),
        ("primary", info.primary, contents.task.get("primary")),
        ("label", info.label.partition("[")[0], contents.method["name"]),
        ("model", info.model.name, contents.task.get("model")),
    ):
        if said != meant:
            problems.append(f"{name} is {shown(said)}, its identity says {shown(meant)}")
    fail_if(problems)
    return own


@check(6, "the hash is that of the task, method and hyperparameters as installed here", needs=("schema",))
def spec(entry: Entry) -> str:
    """Find what was run with another protocol, hyperparameter or data than its name and version stand for."""
    contents = entry.contents
    try:
        cell = entry.cell
    except SpecError as error:
        raise Failed(f"its hyperparameters are none of {contents.method['name']}: {error}") from None
    info = contents.record.info
    problems = [*_differences("", cell.identity(), info.identity)]
    if not problems and cell.hash != info.hash:
        problems.append(f"the hash is {shown(info.hash)}, and installed {cell.hash}")
    if cell.label != info.label:
        problems.append(f"the label is {shown(info.label)}, and installed {cell.label}")
    fail_if(
        problems,
        "this is no record of that task and method: run the cell again, or give what was changed a name or version "
        "of its own",
    )
    return f"{cell.hash} from {cell.task.name} {cell.task.version}, {cell.label} {type(cell.method).version}"


def _differences(where: str, ours: Any, theirs: Any) -> Iterator[str]:
    """Yield where two specs differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            named = f"{where}.{key}".lstrip(".")
            if key not in theirs:
                yield f"{shown(named)} is missing, and installed {shown(ours[key])}"
            elif key not in ours:
                yield f"{shown(named)} is {shown(theirs[key])}, and not there in what is installed"
            else:
                yield from _differences(named, ours[key], theirs[key])
    elif ours != theirs:
        yield f"{where} is {shown(theirs)}, and installed {shown(ours)}"


def _plans(subject: Subject) -> Iterator[tuple[str, Any]]:
    if not subject.whole:
        yield "a part of a results folder", (subject, None)
    elif not subject.plans:
        yield f"no {PLANS}", (subject, None)
    for name, plan in subject.plans.items():
        yield f"{PLANS}/{name}.json", (subject, plan)


@check(7, "the cells and seeds of each plan are all there, and the plan is what the suite asks for", over=_plans)
def plans(asked: tuple[Subject, Plan | RecordError | None]) -> str:
    """Find cells and seeds that were asked for and are not there, and plans that ask for less than their suite."""
    subject, plan = asked
    if plan is None:
        raise NotApplicable("no plan says what should be there")
    if isinstance(plan, RecordError):
        raise plan
    again = f"`fedbench run --all --suite {plan.suite if _NAME.fullmatch(plan.suite) else 'NAME'}`"
    fail_if(_unlike_suite(plan), f"write the plan again: {again}, whole records stay")
    entries = {entry.place: entry for entry in subject.entries}
    skipped = [cell for cell in plan.cells if cell.path not in entries and cell.skipped]
    missing = [cell for cell in plan.cells if cell.path not in entries and not cell.skipped]
    told = [f"{len(missing)} of {len(plan.cells)} cells have no record: {_first(missing)}"] if missing else []
    told += [f"{shown(cell.path)} {reason}" for cell in missing if (reason := _reason(subject.root, cell, plan.track))]
    fail_if(told, f"run the suite to its end: {again}")
    there = [cell for cell in plan.cells if cell.path in entries]
    fail_if(
        (problem for cell in there for problem in _unlike_record(cell, entries[cell.path], plan.track)),
        "write the plan again, or run the cell again",
    )
    noted = f", {len(skipped)} skipped: {shown(skipped[0].skipped)}" if skipped else ""
    return f"{len(there)} of {len(plan.cells)} cells{noted}; seeds {_seeds(cell.seed for cell in plan.cells)}"


def _reason(root: Path, cell: PlannedCell, track: str) -> str:
    """Return why a cell has no record, where something in its place says so."""
    if not all(_NAME.fullmatch(part) for part in (cell.task, cell.method, cell.hash)):
        return "leads out of the folder"
    if (root / cell.path / FAILURE).is_file():
        try:
            return f"failed: {shown(read_failure(root / cell.path).reason)}"
        except RecordError as error:
            return f"failed: {error}"
    older = stale(root, cell, track)
    return f"is stale: {older}" if older else ""


def _first(cells: list[PlannedCell]) -> str:
    return ", ".join(shown(cell.path) for cell in cells[:3]) + (", ..." if len(cells) > 3 else "")


def _seeds(seeds: Any) -> str:
    return ", ".join(map(str, sorted(set(seeds))))


def _unlike_suite(plan: Plan) -> Iterator[str]:
    """Yield what a plan asks for otherwise than its suite: twice, fewer, or on another track."""
    for path, count in Counter(cell.path for cell in plan.cells).items():
        if count > 1:
            yield f"{shown(path)} is planned {count} times"
    asked: dict[tuple[str, str, str], set[int]] = {}
    for cell in plan.cells:
        asked.setdefault((cell.task, cell.method, cell.label), set()).add(cell.seed)
    if plan.suite not in suite_names():
        every = {seed for seeds in asked.values() for seed in seeds}
        for (task, _, label), seeds in asked.items():
            if seeds != every:
                yield f"{shown(label)} on {shown(task)} has the seeds {_seeds(seeds)}, others {_seeds(every)}"
        return
    suite = load_suite(plan.suite)
    if (plan.track, plan.margin) != (suite.track, suite.margin):
        yield f"track {plan.track} and margin {plan.margin}, the suite has {suite.track} and {suite.margin}"
    for (task, _, label), seeds in asked.items():
        if lacking := set(suite.seeds) - seeds:
            yield f"{shown(label)} on {shown(task)} lacks the seeds {_seeds(lacking)} of the suite"
    planned = {(task, method) for task, method, _ in asked}
    if not {method for _, method in planned} & set(suite.methods):
        return  # the plan of a submission, or of plug-ins alone
    for task in suite.tasks:
        if absent := [method for method in suite.methods if (task, method) not in planned]:
            yield f"{', '.join(absent)} on {task} are not planned, and are in the suite"


def _unlike_record(cell: PlannedCell, entry: Entry, track: str) -> Iterator[str]:
    """Yield where a planned cell and the record in its place differ."""
    if entry.place not in entry.subject.passed["schema"]:
        return
    contents = entry.contents
    for name, asked, made in (
        ("track", track, contents.track),
        ("label", cell.label, contents.record.info.label),
        ("hyperparameters", cell.hyperparameters, contents.method["hyperparameters"]),
        ("family", cell.family, contents.method.get("family")),
        ("hash", cell.hash, contents.record.info.hash),
    ):
        if asked != made:
            yield f"{entry.place}: planned with {name} {shown(asked)}, made with {shown(made)}"
