"""Packages to start from: a method or a task of one's own, with its entry point, a test and a README.

The files are written from those in ``templates/``: ``.in`` goes from their names, ``package`` in their paths becomes
the name of the package, and words such as ``$name`` are filled in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import Path
from string import Template

import numpy as np

import fedbench
from fedbench import registry
from fedbench.cell import suite_names
from fedbench.datasets import md5_of
from fedbench.errors import SpecError
from fedbench.metrics import METRICS
from fedbench.seeds import Streams

TEMPLATES = Path(__file__).parent / "templates"
NAME = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
LONGEST = 64  # characters, as of a task's name
IN_USE = {*fedbench.__all__, "Annotated", "Ge", "Tensor"}
"""What stands for something else in the file of a new method, so that its class cannot be called that."""

PATIENTS = {"north": 100, "south": 60, "west": 40}
"""Made-up patients of each site."""
EFFECT = (1.0, -1.0, 0.5, 0.0, 0.0)
"""How far the two classes are apart in each feature, in standard deviations."""


def new_method(name: str, folder: Path) -> list[Path]:
    """Write an installable package with a small method to start from.

    Parameters
    ----------
    name : str
        Name under which the method is registered: lower case letters, digits and hyphens.
    folder : Path
        Where the package will stand: a new or an empty folder.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    SpecError
        The name is not valid or taken, or the folder is not empty; nothing was written.
    """
    words = _words(name, folder)
    if words["Name"] in IN_USE or iskeyword(words["Name"]):
        raise SpecError(f"a method {name!r} would be a class {words['Name']}, which is something else; choose another.")
    return _write("method", folder, words)


def new_task(name: str, folder: Path) -> list[Path]:
    """Write an installable package with a small task over a file, which holds made-up patients, to start from.

    Parameters
    ----------
    name : str
        Name under which the task is registered: lower case letters, digits and hyphens.
    folder : Path
        Where the package will stand: a new or an empty folder.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    SpecError
        The name is not valid or taken, or the folder is not empty; nothing was written.
    """
    words = _words(name, folder)
    data = folder / "src" / words["package"] / f"{name}.npz"
    data.parent.mkdir(parents=True)
    _make_up(data)
    return sorted([data, *_write("task", folder, {**words, "md5": md5_of(data)})])


def _words(name: str, folder: Path) -> dict[str, str]:
    """Return what is filled into templates, once it is sure that a package can be written."""
    if not re.fullmatch(NAME, name) or len(name) > LONGEST:
        raise SpecError(
            f"the name {name!r} is not valid; use lower case letters, digits and hyphens, such as my-method: a letter "
            f"first, no hyphen last, {LONGEST} characters at most."
        )
    for group in (registry.methods, registry.tasks):
        if name in group.names():
            raise SpecError(
                f"there is a {group.what} {name!r} already (from {group.origin(name)}); choose another name."
            )
    if name in {*suite_names(), *METRICS}:
        raise SpecError(f"{name!r} is the name of a suite or metric; choose another name.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SpecError(f"{folder} is there already and not an empty folder; nothing was written, name another folder.")
    return {
        "name": name,
        "Name": "".join(part.capitalize() for part in name.split("-")),
        "package": f"fedbench_{name.replace('-', '_')}",  # so that no name can hide a module of another package
        "version": fedbench.__version__,
    }


def _write(kind: str, folder: Path, words: Mapping[str, str]) -> list[Path]:
    written = []
    for template in sorted((TEMPLATES / kind).rglob("*.in")):
        relative = template.relative_to(TEMPLATES / kind).as_posix().removesuffix(".in")
        path = folder / relative.replace("package", words["package"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(Template(template.read_text(encoding="utf-8")).substitute(words))
        written.append(path)
    return written


def _make_up(path: Path) -> None:
    """Write patients of two classes around two centres, those of each site moved a little, as sites differ."""
    rng = Streams(0).rng("made-up patients")
    sizes = list(PATIENTS.values())
    moved = np.repeat(rng.normal(scale=0.5, size=(len(sizes), len(EFFECT))), sizes, axis=0)
    classes = rng.integers(2, size=sum(sizes))
    features = moved + np.outer(classes, EFFECT) + rng.normal(size=moved.shape)
    np.savez(path, x=features.round(2).astype(np.float32), y=classes, site=np.repeat(list(PATIENTS), sizes))
