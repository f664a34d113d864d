"""Versions of what decides scores: recorded in ``versions.toml`` with hashes, so that no change slips through.

    make versions                                  record what is new or has a higher version
    make versions ARGS="--same-scores fedprox"     record a change that changes no score

A record is good for as long as the versions in its identity are: of its task, its method, and the harness. So a change
to code that decides scores needs a higher ``version`` in that method or task, or `HARNESS_VERSION` in
``fedbench/cell.py``; `test_versions.py` fails otherwise. A change that changes no score (a name, a loop written anew)
is recorded with ``--same-scores``, which runs small cells with the last commit's code and with this code, on this
machine, and refuses where a digest differs. Digests are not kept in the file: bits differ between processors and
versions of torch, so they say something about two codes on one machine only.

What is hashed is the code as it is parsed, without what changes no score: docstrings, comments, annotations, messages
of errors and assertions, and the class attributes in `DECLARED`. The text of other strings counts: a random stream is
found by its name. Metrics have no version: they are computed from the records whenever a board is rendered, so that no
record goes stale by them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_name("versions.toml")
FOLDERS = ("methods", "tasks", "leaderboard")  # which stand beside the package, and are installed in it

HARNESS = (
    *("client", "datasets", "evaluation", "federation", "kinds", "method", "models", "partition", "resident"),
    *("seeds", "server", "simulation", "styles", "task", "together", "traffic", "training"),
)
"""Modules of `fedbench` that every score passes through."""

UNSCORED = {
    "cell": "says what a cell is; what it says is in the identity",
    "checkpoint": "hands over what it was given: tests of resume compare digests",
    "durable": "writes files whole",
    "environment": "notes where a cell ran",
    "errors": "raises",
    "outcome": "what metrics read, made from records",
    "reading": "checks what it reads, and changes nothing",
    "records": "stores what was computed; its layout has a version of its own, the schema's",
    "registry": "finds plug-ins",
    "schema": "the layout of records, with a version of its own",
    "toml": "reads files; what stands in them is in the identity",
    "upgrades": "reads records of earlier schemas",
}
"""Modules that the harness imports, and why no score depends on them."""

DECLARED = {"version", "family", "mechanism", "space", "limits", "bibtex"}
"""Class attributes of a method that are in the identity already, or that nothing is computed with."""

Item = dict[str, Any]


# --- hashes -----------------------------------------------------------------------------------------------------------


def fingerprint(source: str, *, only_definitions: bool = False) -> str:
    """Return twelve hexadecimal digits over what a module's code does, the same for Python 3.11 to 3.13.

    Parameters
    ----------
    source : str
        The module.
    only_definitions : bool
        Functions and classes alone: of a module of tasks, whose other statements declare what is in the identity.
        Empty, if it has none.
    """
    tree = ast.parse(source)
    if only_definitions:
        tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        if not tree.body:
            return ""
    return hashlib.sha256(_normalised(tree).encode()).hexdigest()[:12]


def _normalised(value: Any) -> str:
    """Write a syntax tree down without prose, and without fields that only some versions of Python have."""
    if isinstance(value, list):
        return f"[{','.join(_normalised(item) for item in _statements(value))}]"
    if not isinstance(value, ast.AST):
        return f"{type(value).__name__}:{value!r}"
    fields = {name: field for name, field in ast.iter_fields(value) if field is not None and field != []}
    for name in ("ctx", "kind", "type_comment", "type_params", "annotation", "returns", "simple"):
        fields.pop(name, None)
    kind = type(value).__name__
    if isinstance(value, ast.ClassDef):
        fields["body"] = [node for node in value.body if not _names(node) & DECLARED]
    elif isinstance(value, ast.AnnAssign):
        kind, fields["targets"] = "Assign", [fields.pop("target")]
    elif isinstance(value, ast.Raise) and isinstance(value.exc, ast.Call):
        fields["exc"] = value.exc.func
    elif isinstance(value, ast.JoinedStr):  # Python 3.12 puts empty texts into some
        fields["values"] = [part for part in value.values if getattr(part, "value", None) != ""]
    elif isinstance(value, ast.Assert):
        fields.pop("msg", None)
    return f"{kind}({','.join(f'{name}={_normalised(field)}' for name, field in sorted(fields.items()))})"


def _statements(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yield a list's nodes without docstrings, imports for annotations and other statements that do nothing."""
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Pass) or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _statements(node.orelse)
            continue
        yield node


def _names(node: ast.stmt) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def path_of(module: str, root: Path = ROOT) -> Path:
    """Return the file of a module of FedBench."""
    _, first, *rest = module.split(".")
    folder = root if first in FOLDERS else root / "fedbench"
    return folder.joinpath(first, *rest).with_suffix(".py")


def imported(module: str, root: Path = ROOT) -> set[str]:
    """Return the modules of `fedbench` that a module imports, those for annotations aside."""
    import fedbench

    found: set[str] = set()
    todo: list[ast.AST] = list(_statements(ast.parse(path_of(module, root).read_text(encoding="utf-8")).body))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("fedbench.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "fedbench":
            names = (alias.name for alias in node.names)
            found |= {f"fedbench.{fedbench._HOME.get(name, name)}" for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedbench."):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in whole if path_of(name, root).is_file()} or {str(node.module)}
        else:
            todo += [child for child in ast.iter_child_nodes(node) if child in _statements([child])]
    return {name for name in found if path_of(name, root).is_file()}


def closure(modules: Iterable[str], package: str, root: Path = ROOT) -> set[str]:
    """Return modules and all that they import within a package, by whatever way."""
    found: set[str] = set()
    todo = set(modules)
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= {other for other in imported(name, root) if other.startswith(f"{package}.")} - found
    return found


def items(root: Path = ROOT) -> dict[str, Item]:
    """Return version and hashes of everything that decides scores: ``harness``, ``methods.NAME``, ``tasks.NAME``."""
    from fedbench import PluginError, cell, registry

    def hashes(modules: Iterable[str], *, only_definitions: bool = False) -> Item:
        files = {name: path_of(name, root) for name in sorted(modules)}
        texts = {name: path.read_text(encoding="utf-8") for name, path in files.items() if path.is_file()}
        found = {name: fingerprint(text, only_definitions=only_definitions) for name, text in texts.items()}
        return {name: digest for name, digest in found.items() if digest}

    found = {"harness": {"version": getattr(cell, "HARNESS_VERSION", 1), **hashes(f"fedbench.{m}" for m in HARNESS)}}
    for name, module in _built_in("methods"):
        if path_of(module, root).is_file():  # else it is newer than this source tree
            version = registry.methods.get(name).version
            found[f"methods.{name}"] = {"version": version, **hashes(closure([module], "fedbench.methods", root))}
    for name, module in _built_in("tasks"):
        try:
            task = registry.tasks.get(name)
        except PluginError:
            if root == ROOT:
                raise
            continue  # it is newer than this source tree
        identity = json.dumps({**task.identity(), "version": None}, sort_keys=True)
        own = hashes(closure([module], "fedbench.tasks", root), only_definitions=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        found[f"tasks.{name}"] = {"version": task.version, "identity": digest, **own}
    return found


def _built_in(group: str) -> list[tuple[str, str]]:
    """Return name and module of FedBench's own plug-ins, as they are installed."""
    points = metadata.entry_points(group=f"fedbench.{group}")
    return sorted({(point.name, point.module) for point in points if point.module.startswith(f"fedbench.{group}.")})


# --- what is recorded -------------------------------------------------------------------------------------------------


def load(text: str) -> dict[str, Item]:
    """Return the items of a versions file."""
    tables = tomllib.loads(text)
    found = {"harness": tables["harness"]} if "harness" in tables else {}
    groups = {group: tables.get(group, {}) for group in ("methods", "tasks")}
    return found | {f"{group}.{name}": item for group, named in groups.items() for name, item in named.items()}


def dump(found: Mapping[str, Item]) -> str:
    """Write items as a versions file."""
    lines = ["# Versions and hashes of what decides scores. Written by `make versions`: see tests/versions.py."]
    for name, item in found.items():
        group, _, own = name.partition(".")
        lines += ["", f'[{group}."{own}"]' if own else f"[{group}]"]
        lines += [f"{json.dumps(key) if '.' in key else key} = {json.dumps(value)}" for key, value in item.items()]
    return "\n".join(lines) + "\n"


def changed(recorded: Mapping[str, Item], found: Mapping[str, Item]) -> dict[str, str]:
    """Return what has another hash at the version recorded, or a lower version: item by item, and what in it."""
    differing = {}
    for name in found.keys() & recorded.keys():
        was, now = recorded[name], found[name]
        parts = sorted(part for part in was.keys() | now.keys() if part != "version" and was.get(part) != now.get(part))
        if now["version"] < was["version"]:
            differing[name] = f"version {now['version']} is lower than {was['version']}, which was recorded"
        elif parts and now["version"] == was["version"]:
            differing[name] = f"{', '.join(parts)} changed, version {now['version']} did not"
    return dict(sorted(differing.items()))


def mends(differing: Mapping[str, str]) -> str:
    """Return what changed and the two mends, as a text for whoever changed it."""
    where = {"harness": "HARNESS_VERSION in fedbench/cell.py", "methods": "its `version`", "tasks": "its `version`"}
    lines = [f"  {name}: {what}" for name, what in differing.items()]
    raised = " or ".join(dict.fromkeys(where[name.partition(".")[0]] for name in differing))
    same = " ".join(f"--same-scores {name}" for name in differing)
    return "\n".join(
        [
            *lines,
            f"If a score can change by it: raise {raised}, then run `make versions`.",
            f'If none can: run `make versions ARGS="{same}"`, which compares small cells before and after.',
        ]
    )


# --- the same scores --------------------------------------------------------------------------------------------------


def cells(name: str) -> Iterator[Any]:
    """Yield the small cells that are run for an item; few rounds of data that is here."""
    from fedbench import Cell, SiteStyles, registry

    def small(task: str, rounds: int = 2, **changes: Any) -> Any:
        whole = registry.tasks.get(task)
        few = whole.protocol.but(rounds=rounds, local_epochs=1, personal_every=1)
        return whole.but(protocol=few, **changes)

    def cell(task: Any, method: str, track: Any = "faithful") -> Any:
        return Cell(task, method, registry.methods.get(method)(), track, 1)

    group, _, own = name.partition(".")
    if group == "methods":
        yield from (cell(small(task, rounds=3), own) for task in ("heart", "blood-mini-bn"))
    elif group == "tasks":
        yield from (cell(small(own, rounds=1), "fedavg", track) for track in ("faithful", "robust"))
    else:  # without state, with a client's, with the server's, personal heads, asked after the last round, adapting
        for method in ("fedavg", "moon", "fedadam", "scaffold", "fedper", "ccvr", "fedavg-ft", "local", "centralised"):
            yield cell(small("heart"), method)
        for method in ("fedavg", "fedbn"):
            yield cell(small("blood-mini-bn"), method)
        yield cell(small("blood-mini"), "fedkper", "robust")
        yield cell(small("blood-mini", styles=SiteStyles(), held_out=0.3), "fedavg-ft")


def describe(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the items of the code that is imported here, and the digests of the small cells of some of them."""
    from fedbench.simulation import run_cell

    digests: dict[str, list[str]] = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fedbench-versions-") as scratch:
            records = (run_cell(cell, Path(scratch) / str(at)) for at, cell in enumerate(cells(name)))
            digests[name] = [record.digest for record in records if record]
    return {"items": items(root), "digests": digests}


def described(root: Path, names: Sequence[str]) -> dict[str, Any]:
    """Call `describe` in a process of its own that imports the code of a source tree."""
    with tempfile.TemporaryDirectory(prefix="fedbench-layout-") as scratch:
        package = Path(scratch) / "fedbench"
        package.mkdir()
        for entry in [*(root / "fedbench").iterdir(), *(root / folder for folder in FOLDERS)]:
            (package / entry.name).symlink_to(entry.resolve())
        environment = {**os.environ, "PYTHONPATH": scratch, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--describe", str(root), *names]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=scratch)
    if done.returncode:
        sys.exit(f"the small cells cannot be run with the code in {root}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def committed(base: str, path: str) -> str | None:
    """Return a file as it is in a commit, or None if it has none."""
    done = subprocess.run(["git", "-C", str(ROOT), "show", f"{base}:{path}"], capture_output=True, text=True)
    return None if done.returncode else done.stdout


def same_scores(names: Sequence[str], base: str, recorded: Mapping[str, Item]) -> str:
    """Return why the scores of items cannot be said to be what they were in a commit; empty if they can.

    Parameters
    ----------
    names : sequence of str
        Items, such as ``harness`` or ``methods.fedavg``.
    base : str
        The commit.
    recorded : mapping of name to item
        What its versions file says.
    """
    with tempfile.TemporaryDirectory(prefix="fedbench-base-") as scratch:
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", base], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(scratch, filter="data")
        before = described(Path(scratch), names)
    if unsound := changed({name: recorded[name] for name in names}, before["items"]):
        told = "; ".join(f"{name}: {what}" for name, what in unsound.items())
        return f"{base} is not what its own versions file says ({told}); name an earlier commit with --base."
    after = described(ROOT, names)
    for name in names:
        was, now = before["digests"][name], after["digests"][name]
        if was != now:
            count = sum(a != b for a, b in zip(was, now, strict=True))
            return f"{name}: {count} of {len(now)} small cells have another digest than with {base}; raise the version."
    return ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Record versions and hashes; exit with a message where a version has to be raised first."""
    parser = argparse.ArgumentParser(description="Record versions and hashes of what decides scores.")
    parser.add_argument("--same-scores", action="append", default=[], metavar="NAME", help="its scores did not change")
    parser.add_argument("--base", default="HEAD", metavar="COMMIT", help="what a change is compared with (HEAD)")
    parser.add_argument("--describe", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.describe:
        root, *names = options.describe
        sys.stdout.write(f"{json.dumps(describe(Path(root), names))}\n")
        return
    found = items()
    if unknown := [name for name in options.same_scores if name not in found]:
        sys.exit(f"unknown: {', '.join(unknown)}; a name is harness, methods.NAME or tasks.NAME.")
    recorded = load(committed(options.base, f"tests/{FILE.name}") or "")
    differing = changed(recorded, found)
    if left := {name: what for name, what in differing.items() if name not in options.same_scores}:
        sys.exit(f"nothing was recorded, as a version has to be raised first:\n{mends(left)}")
    if differing and (fault := same_scores(list(differing), options.base, recorded)):
        sys.exit(f"nothing was recorded: {fault}")
    FILE.write_text(dump(found), encoding="utf-8")
    sys.stdout.write(f"wrote {FILE}: {len(found)} items, {len(differing)} of them changed with the scores they had.\n")


if __name__ == "__main__":
    main()
