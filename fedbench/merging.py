"""Joining results folders into a new one: whole or not at all, and the folders that are joined stay as they are.

A record that stands in several is kept once if its digests agree; two results of one cell are refused by name, as one
of them is wrong. Checkpoints are not carried along: they stay where they are.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedbench.errors import RecordError, SpecError
from fedbench.records import NewerSchemaError, Record, copy, read_failure, read_plan, write_plan
from fedbench.schema import FAILURE, MANIFEST, Plan, PlannedCell
from fedbench.submissions import decisions

PLANS = "plans"
_SEED = re.compile(r"seed-\d+")
_SHOWN = 10


@dataclass(frozen=True)
class Merged:
    """What was joined.

    Parameters
    ----------
    into : Path
        The new results folder.
    records : int
        Records in it.
    same : int
        Copies of them that were found again, with the same digest, and kept once.
    failures : int
        Notes of cells that failed, where no folder has a record.
    plans : tuple of str
        Suites whose plans are in it.
    left_out : tuple of str
        Damaged records that are not in it, each with its reason.
    """

    into: Path
    records: int
    same: int
    failures: int
    plans: tuple[str, ...]
    left_out: tuple[str, ...]


def merge(folders: Sequence[Path], into: Path, *, leave_damaged: bool = False) -> Merged:
    """Join results folders into a new one.

    Every record is checked (hashes of its files, digest, place) where it stands, and its copy once more. All is made in
    a folder beside the new one, which is renamed when it is whole. A damaged record that another folder has whole is
    left out and named.

    Parameters
    ----------
    folders : sequence of Path, two or more
        Results folders; they are only read. Of plans and failure notes the newer counts, or else the earlier folder's.
    into : Path
        A folder that does not exist, or is empty.
    leave_damaged : bool
        Leave out, and name, damaged records that no folder has whole, which are otherwise refused.

    Raises
    ------
    SpecError
        A folder is no results folder or named twice, or the new one is in the way of something.
    RecordError
        A cell has two digests, a record is damaged or of a newer schema, two plans of a suite contradict each other, or
        two folders have decisions about submissions.
        Nothing was changed, here or there.
    """
    _check_folders(folders, into)
    found, damaged, same = _records(folders)
    stays = [reason for place, reasons in damaged.items() if place not in found for reason in reasons]
    if stays and not leave_damaged:
        raise RecordError(
            f"{_listed(stays)}\nnothing was joined. Run these cells again in their folder, or leave them out with "
            "--leave-damaged."
        )
    failures = {place: folder for place, folder in _failures(folders).items() if place not in found}
    plans = _plans(folders)
    decided = [folder for folder in folders if (folder / decisions.LOG).is_file()]
    if len(decided) > 1:
        raise RecordError(
            f"merge: {decided[0]} and {decided[1]} both have decisions about submissions, and two logs cannot be "
            "joined; nothing was. Add the archives of the one to the other with `fedbench submit add`."
        )
    parent = into.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=parent))
    try:
        for place, record in found.items():
            copy(record, staging / place)
        for place, folder in failures.items():
            (staging / place).mkdir(parents=True)
            shutil.copyfile(folder / place / FAILURE, staging / place / FAILURE)
        for folder in decided:  # or what was submitted would come out as the owner's own
            decisions.read(folder)
            shutil.copytree(folder / decisions.FOLDER, staging / decisions.FOLDER)
        for name, plan in plans.items():
            write_plan(staging / PLANS / f"{name}.json", plan)
        staging.chmod(0o755)
        staging.replace(into)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    left_out = tuple(reason for reasons in damaged.values() for reason in reasons)
    return Merged(into, len(found), same, len(failures), tuple(sorted(plans)), left_out)


def _check_folders(folders: Sequence[Path], into: Path) -> None:
    if len(folders) < 2:
        raise SpecError("merge: name two results folders or more.")
    for folder in folders:
        if not folder.is_dir():
            raise SpecError(f"merge: {folder} is no folder; name results folders that are there.")
        if not ((folder / PLANS).is_dir() or _places(folder)):
            raise SpecError(f"merge: {folder} is no results folder, as it has neither plans nor records.")
    real = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, path in zip(folders, real, strict=True) if real.count(path) > 1]:
        raise SpecError(f"merge: {' and '.join(twice)} are the same folder; name different ones.")
    if into.is_symlink() or (into.exists() and not into.is_dir()) or (into.is_dir() and any(into.iterdir())):
        raise SpecError(
            f"merge: {into} is there and not empty; name a new folder with --into, and this one among the others."
        )
    target = into.resolve()
    if inside := [str(folder) for folder, path in zip(folders, real, strict=True) if target.is_relative_to(path)]:
        raise SpecError(f"merge: {into} lies in {inside[0]}, which is only read; name a folder elsewhere with --into.")


def _places(folder: Path) -> list[str]:
    """Return where cells stand below a results folder: ``task/method/hash/seed-1``."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.glob("*/*/*/seed-*")
        if _SEED.fullmatch(path.name) and path.is_dir()
    )


def _records(folders: Sequence[Path]) -> tuple[dict[str, Record], dict[str, list[str]], int]:
    """Return the whole records and what is wrong with the others, by place; and how many copies were the same."""
    found: dict[str, Record] = {}
    damaged: dict[str, list[str]] = {}
    clashes, same = [], 0
    for folder in folders:
        for place in _places(folder):
            if not (folder / place / MANIFEST).is_file():
                continue
            try:
                record = _whole(folder / place, place)
            except NewerSchemaError:
                raise
            except RecordError as error:
                damaged.setdefault(place, []).append(str(error))
                continue
            other = found.get(place)
            if other is not None and other.digest != record.digest:
                clashes.append(
                    f"{place}: {other.folder} has digest {other.digest[:12]} ({other.info.environment.device}), "
                    f"{record.folder} has {record.digest[:12]} ({record.info.environment.device})"
                )
                continue
            same += other is not None
            # Of two copies that agree, the one that also has weights.
            if other is None or len(record.manifest.files) > len(other.manifest.files):
                found[place] = record
    if clashes:
        raise RecordError(
            f"one cell, two results:\n{_listed(clashes)}\nnothing was joined. One of them was made with other code or "
            "on another device, or was changed: keep the folder that you trust, or run the cell again."
        )
    return found, damaged, same


def _whole(folder: Path, place: str) -> Record:
    """Return a record whose files, digest and place are right."""
    record = Record.open(folder)
    try:
        record.verify()
        identity = record.info.identity
        own = f"{identity['task']['name']}/{identity['method']['name']}/{record.info.hash}/seed-{record.info.seed}"
    except (RecordError, OSError):
        raise
    except Exception as error:  # whoever wrote it hashed it as well: pyarrow and numpy can fail in many ways
        raise RecordError(f"{folder}: cannot be checked ({type(error).__name__}: {error}).") from None
    if own != place:
        raise RecordError(f"{folder}: the record is that of {own}.")
    return record


def _failures(folders: Iterable[Path]) -> dict[str, Path]:
    """Return in which folder the newest failure note of each cell stands."""
    newest: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        for place in _places(folder):
            if not (folder / place / FAILURE).is_file():
                continue
            try:
                at = read_failure(folder / place).at
            except NewerSchemaError:
                raise
            except RecordError:
                at = ""  # a damaged note still says that the cell failed
            if place not in newest or at > newest[place][0]:
                newest[place] = at, folder
    return {place: folder for place, (_, folder) in newest.items()}


def _plans(folders: Iterable[Path]) -> dict[str, Plan]:
    """Return the plans, those of one suite joined: all cells that either asks for."""
    plans: dict[str, Plan] = {}
    for folder in folders:
        for path in sorted((folder / PLANS).glob("*.json")):
            plan = read_plan(path)
            earlier = plans.setdefault(path.stem, plan)
            for what in ("suite", "track", "margin"):
                if getattr(earlier, what) != getattr(plan, what):
                    raise RecordError(
                        f"two plans of {path.stem} contradict each other: {what} is {getattr(earlier, what)} and, in "
                        f"{path}, {getattr(plan, what)}; nothing was joined. Rename one of the suites and run it again."
                    )
            cells = {cell.path: cell for cell in earlier.cells}
            for cell in plan.cells:
                cells[cell.path] = _joined(cells.get(cell.path, cell), cell)
            plans[path.stem] = earlier.model_copy(update={"cells": tuple(cells.values())})
    return plans


def _joined(first: PlannedCell, second: PlannedCell) -> PlannedCell:
    """Return a planned cell with what either knows of its tuning and versions; skipped only if it was on both sides."""
    known = {"tuning": first.tuning or second.tuning, "versions": first.versions or second.versions}
    return first.model_copy(update={"skipped": first.skipped if second.skipped else None, **known})


def _listed(lines: Sequence[str]) -> str:
    more = len(lines) - _SHOWN
    return "\n".join([*(f"  {line}" for line in lines[:_SHOWN]), *([f"  and {more} more"] if more > 0 else [])])
