"""No change to code that decides scores goes without a version; see `versions.py`."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedbench import Cell, registry
from fedbench import cell as cells

SCRIPT = Path(__file__).with_name("versions.py")
ROOT = Path(__file__).parents[1]

_spec = importlib.util.spec_from_file_location("versions", SCRIPT)
versions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(versions)


@pytest.fixture(scope="module")
def found():
    return versions.items()


@pytest.fixture(scope="module")
def recorded():
    return versions.load(versions.FILE.read_text(encoding="utf-8"))


def test_what_decides_scores_changes_with_its_version(found, recorded):
    differing = versions.changed(recorded, found)
    assert not differing, f"\n{versions.mends(differing)}"


def test_every_method_task_and_the_harness_are_recorded_at_their_version(found, recorded):
    outdated = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
    assert not outdated, f"not recorded: {', '.join(outdated)}. Run `make versions`."


def test_all_that_is_built_in_is_looked_at(found):
    for group, plugins in (("methods", registry.methods), ("tasks", registry.tasks)):
        own = {name for name in plugins.names() if plugins.origin(name).startswith("fedbench ")}
        assert {name.partition(".")[2] for name in found if name.startswith(f"{group}.")} == own
    assert found["methods.fedkper"].keys() == {"version", "fedbench.methods.fedkper"}
    assert found["harness"].keys() == {"version", *(f"fedbench.{name}" for name in versions.HARNESS)}


def test_every_module_that_the_harness_imports_is_said_to_decide_scores_or_not():
    roots = [f"fedbench.{name}" for name in ("simulation", "together")]
    roots += [module for group in ("methods", "tasks") for _, module in versions._built_in(group)]
    names = {name.split(".")[1] for name in versions.closure(roots, "fedbench")} - set(versions.FOLDERS)
    unsaid = names - set(versions.HARNESS) - versions.UNSCORED.keys()
    assert not unsaid, f"enter {', '.join(sorted(unsaid))} in HARNESS or in UNSCORED of tests/versions.py"
    assert set(versions.HARNESS) <= names, "what no score passes through any more"
    assert not set(versions.HARNESS) & versions.UNSCORED.keys()


def test_what_is_said_to_decide_no_score_is_there():
    assert all(versions.path_of(f"fedbench.{name}").is_file() for name in versions.UNSCORED)


def test_imports_are_followed(tmp_path):
    (tmp_path / "fedbench").mkdir()
    for name in ("task", "training", "method", "errors"):
        (tmp_path / "fedbench" / f"{name}.py").touch()
    (tmp_path / "fedbench" / "seeds.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "from fedbench import Task, errors\n"
        "if TYPE_CHECKING:\n    from fedbench.method import Method\n"
        "def late():\n    import fedbench.training\n"
    )
    assert versions.imported("fedbench.seeds", tmp_path) == {"fedbench.task", "fedbench.errors", "fedbench.training"}
    (tmp_path / "fedbench" / "task.py").write_text("from fedbench.method import Method\n")
    everything = {f"fedbench.{name}" for name in ("seeds", "task", "training", "method", "errors")}
    assert versions.closure(["fedbench.seeds"], "fedbench", tmp_path) == everything


SOURCE = (ROOT / "methods" / "fedprox.py").read_text(encoding="utf-8")
SMALL = '''
from __future__ import annotations
from typing import TYPE_CHECKING
import math
if TYPE_CHECKING:
    from torch import Tensor
class A(B):
    """Prose."""
    mu: float = 0.1
    mechanism = "averaging"
    def f(self, x: Tensor, n: int = 3) -> Tensor:
        # a comment
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}")
        assert n, "n"
        total: float = 0.0
        draw = self.rng(f"noise/{n}")
        return math.sqrt(x + self.mu * n) + draw + total
'''


def change(text, old, new):
    assert text.count(old) == 1, old
    return versions.fingerprint(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Prose."""', '"""Other prose,\n\n    with another line."""'),
        ('    """Prose."""\n', ""),
        ("# a comment", "# another"),
        (' got {n}")', ' and not {n}")'),
        (' got {n}")', ' got" + repr(n))'),
        ('assert n, "n"', "assert n"),
        ("x: Tensor, n: int = 3", "x, n: float = 3"),
        (" -> Tensor:", ":"),
        ("total: float = 0.0", "total = 0.0"),
        ("mu: float = 0.1", "mu: int = 0.1"),
        ('"averaging"', '"regularisation"'),
        ("    mechanism", "    version = 2\n    mechanism"),
        ("    mechanism", '    bibtex = """\n@article{a}\n"""\n    mechanism'),
        ("math.sqrt(x + self.mu * n) + draw", "(\n            math.sqrt((x + (self.mu * n)),) + draw\n        )"),
        ('f"noise/{n}"', "f'noise/{n}'"),
        ("    from torch import Tensor\n", "    from torch import Tensor\n    from numpy import ndarray\n"),
    ],
)
def test_prose_annotations_and_format_do_not_count(old, new):
    assert change(SMALL, old, new) == versions.fingerprint(SMALL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("= 0.1", "= 0.01"),
        ("n: int = 3", "n: int = 4"),
        ("n < 0", "n <= 0"),
        ("raise ValueError", "raise TypeError"),
        ("noise/", "other/"),  # another stream draws other numbers
        ("math.sqrt", "math.exp"),
        ("x + self", "x - self"),
        ("self.mu * n", "n * self.mu"),  # not the same bits, for all that is known
        ("total: float = 0.0", "total: float = 0"),
        ("assert n,", "assert not n,"),
        ("class A(B)", "class A(C)"),
        ("    def f", "    @staticmethod\n    def f"),
        ("    mechanism", "    pooled = True\n    mechanism"),
    ],
)
def test_what_is_computed_counts(old, new):
    assert change(SMALL, old, new) != versions.fingerprint(SMALL)


def test_a_copied_method_behaves_alike():
    assert change(
        SOURCE, "mu: Annotated[float, Ge(0)] = ", "mu: Annotated[float, Ge(0)] = 1 + "
    ) != versions.fingerprint(SOURCE)
    assert versions.fingerprint(f'"""Other."""\n{SOURCE}# The end.\n') == versions.fingerprint(SOURCE)


def test_fields_that_only_some_versions_of_python_have_do_not_count():
    """3.12 has type parameters, and empty texts in formats; constants have a kind where they are written u"..."."""
    tree = ast.parse("def f(x): return u'a'\nclass A: y = f'{x:{width}}'")
    before = versions._normalised(tree)
    tree.body[1].body[0].value.values[0].format_spec.values.append(ast.Constant(""))
    for node in tree.body:
        node.type_params = []
        node._fields = tuple(dict.fromkeys([*node._fields, "type_params"]))
    tree.body[0].body[0].value.kind = None
    assert versions._normalised(tree) == before


def test_of_a_module_of_tasks_only_functions_and_classes_count():
    declared = "from fedbench import Task\nA = Task(name='a')\n"
    assert versions.fingerprint(declared, only_definitions=True) == ""
    code = versions.fingerprint(f"{declared}def f(): return 1\n", only_definitions=True)
    assert code
    assert versions.fingerprint("def f(): return 1\nB = 3\n", only_definitions=True) == code
    assert versions.fingerprint("def f(): return 2\n", only_definitions=True) != code


def test_a_task_that_is_declared_anew_is_another(monkeypatch, found):
    task = registry.tasks.get("heart")
    monkeypatch.setitem(registry.tasks._loaded, "heart", task.but(protocol=task.protocol.but(rounds=11)))
    told = versions.changed(found, versions.items())
    assert told == {"tasks.heart": "identity changed, version 1 did not"}
    monkeypatch.setitem(registry.tasks._loaded, "heart", task.but(title="Prose", description="More prose"))
    assert not versions.changed(found, versions.items())
    monkeypatch.setitem(registry.tasks._loaded, "heart", task.but(version=2))
    assert {k: v for k, v in versions.items()["tasks.heart"].items() if v != found["tasks.heart"][k]} == {"version": 2}


WAS = {
    "harness": {"version": 1, "fedbench.seeds": "a"},
    "methods.fedavg": {"version": 2, "fedbench.methods.fedavg": "b"},
}


class TestWhatIsTold:
    def told(self, name, **changes):
        return versions.changed(WAS, {**WAS, name: {**WAS[name], **changes}})

    def test_nothing_where_nothing_changed(self):
        assert versions.changed(WAS, WAS) == {}

    def test_what_changed_and_both_mends(self):
        told = self.told("methods.fedavg", **{"fedbench.methods.fedavg": "c"})
        assert told == {"methods.fedavg": "fedbench.methods.fedavg changed, version 2 did not"}
        text = versions.mends(told)
        assert "raise its `version`, then run `make versions`" in text
        assert 'make versions ARGS="--same-scores methods.fedavg"' in text
        text = versions.mends(self.told("harness", **{"fedbench.seeds": "c"}))
        assert "fedbench.seeds changed" in text
        assert "raise HARNESS_VERSION in fedbench/cell.py" in text

    def test_a_module_that_is_added_or_gone(self):
        assert self.told("methods.fedavg", other="c") == {"methods.fedavg": "other changed, version 2 did not"}

    def test_nothing_where_the_version_is_higher(self):
        assert self.told("methods.fedavg", version=3, **{"fedbench.methods.fedavg": "c"}) == {}

    def test_a_version_does_not_go_down(self):
        assert "version 1 is lower than 2" in self.told("methods.fedavg", version=1)["methods.fedavg"]


def test_the_file_reads_back(found):
    assert versions.load(versions.dump(found)) == found
    assert versions.load("") == {}


def test_the_harness_is_in_the_identity_from_its_second_version_on(monkeypatch):
    cell = Cell(registry.tasks.get("blood"), "fedavg", registry.methods.get("fedavg")(), "faithful", 1)
    assert cells.HARNESS_VERSION == 1
    assert cell.hash == "500177e4d86d"  # as published
    monkeypatch.setattr(cells, "HARNESS_VERSION", 2)
    assert cell.identity()["harness"] == 2
    assert Cell(cell.task, "fedavg", cell.method, "faithful", 1).hash != "500177e4d86d"


@pytest.mark.long
class TestTheSameScores:
    """In a copy of this tree with a history of its own."""

    @pytest.fixture
    def copy(self, tmp_path):
        """Return a function that runs the script in the copy."""
        folder = tmp_path / "copy"
        for part in ("fedbench", *versions.FOLDERS):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "tests").mkdir()
        shutil.copy(SCRIPT, folder / "tests")
        layout = tmp_path / "layout" / "fedbench"
        layout.mkdir(parents=True)
        for entry in [*(folder / "fedbench").iterdir(), *(folder / part for part in versions.FOLDERS)]:
            (layout / entry.name).symlink_to(entry)

        def run(*arguments):
            command = [sys.executable, folder / "tests" / "versions.py", *arguments]
            path = {"PYTHONPATH": str(layout.parent), "PATH": "/usr/bin:/bin"}
            return subprocess.run(command, capture_output=True, text=True, env=path, cwd=tmp_path)

        def git(*arguments):
            subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)

        git("init")
        assert run().returncode == 0
        git("add", ".")
        git("-c", "user.name=A", "-c", "user.email=a@b", "commit", "-m", "First")
        run.folder = folder
        return run

    def edit(self, path, old, new):
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def test_what_can_and_what_cannot_be_recorded(self, copy):
        method, file = copy.folder / "methods" / "fedavgm.py", copy.folder / "tests" / "versions.toml"
        before, source = file.read_text(), method.read_text()
        constant = re.search(r"Annotated\[float, [^=]*\] = (0\.\d+)", source)
        assert constant

        # written in another way: refused at first, and recorded once the scores were compared
        method.write_text(source + "\n\n_UNUSED = 1\n")
        done = copy()
        assert done.returncode == 1
        assert "methods.fedavgm: fedbench.methods.fedavgm changed, version 1 did not" in done.stderr
        assert file.read_text() == before
        assert copy("--same-scores", "methods.fedavgm").returncode == 0
        assert len(set(file.read_text().splitlines()) - set(before.splitlines())) == 1

        # another constant: other scores
        file.write_text(before)
        method.write_text(source[: constant.start(1)] + "0.123" + source[constant.end(1) :])
        done = copy("--same-scores", "methods.fedavgm")
        assert done.returncode == 1
        assert "methods.fedavgm: 2 of 2 small cells have another digest than with HEAD" in done.stderr
        assert file.read_text() == before

        # a higher version
        self.edit(method, "    mechanism = ", "    version = 2\n    mechanism = ")
        assert copy().returncode == 0
        assert '[methods."fedavgm"]\nversion = 2\n' in file.read_text()

    def test_a_change_of_the_harness_that_changes_scores(self, copy):
        resident = copy.folder / "fedbench" / "resident.py"
        self.edit(resident, "(np.subtract, 0.5)", "(np.subtract, 0.4)")
        done = copy("--same-scores", "harness")
        assert "harness: " in done.stderr
        assert "have another digest than with HEAD; raise the version" in done.stderr

    def test_a_name_that_is_wrong(self, copy):
        done = copy("--same-scores", "fedavgm")
        assert done.returncode == 1
        assert "unknown: fedavgm; a name is harness, methods.NAME or tasks.NAME" in done.stderr
