"""Packages to start from: what is written, what is refused, and that a user can go on from there at once."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest

import fedbench
from fedbench import Limit, Method, SpecError, Task, registry
from fedbench.scaffold import new_method, new_task

ROOT = Path(__file__).parents[1]
NEW = pytest.mark.parametrize("new", [new_method, new_task], ids=["method", "task"])


@pytest.fixture
def imported(monkeypatch):
    """Return a function that imports the module of a package that was written, and forgets it after the test."""

    def load(folder, module):
        monkeypatch.syspath_prepend(folder / "src")
        monkeypatch.setitem(sys.modules, module, None)  # so that it is taken out again
        del sys.modules[module]
        return importlib.import_module(module)

    return load


def guide():
    """Return what docs/write-a-method.md shows: the class as it is written, and the loss as it becomes."""
    text = (ROOT / "docs" / "write-a-method.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    return tuple(block for block in blocks if "    def loss" in block)


# --- what is written ------------------------------------------------------------------------------------------------


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_method_is_four_files(tmp_path):
    written = new_method("steady-pull", tmp_path / "mine")
    assert {path.relative_to(tmp_path / "mine").as_posix() for path in written} == files_below(tmp_path / "mine")
    assert files_below(tmp_path / "mine") == {
        "README.md",
        "pyproject.toml",
        "src/fedbench_steady_pull/__init__.py",
        "tests/test_fedbench_steady_pull.py",
    }


def test_a_task_has_its_data_as_well(tmp_path):
    written = new_task("two-wards", tmp_path / "mine")
    assert {path.relative_to(tmp_path / "mine").as_posix() for path in written} == files_below(tmp_path / "mine")
    assert files_below(tmp_path / "mine") == {
        "README.md",
        "pyproject.toml",
        "src/fedbench_two_wards/__init__.py",
        "src/fedbench_two_wards/two-wards.npz",
        "tests/test_fedbench_two_wards.py",
    }


@NEW
def test_every_word_is_filled_in(new, tmp_path):
    for path in new("two-words", tmp_path):
        if path.suffix != ".npz":
            assert "$" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize(
    ("new", "group", "leads_to"),
    [(new_method, "methods", "fedbench_two_words:TwoWords"), (new_task, "tasks", "fedbench_two_words:TASK")],
    ids=["method", "task"],
)
def test_the_project_registers_it(new, group, leads_to, tmp_path):
    new("two-words", tmp_path)
    document = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))
    assert document["project"]["name"] == "fedbench-two-words"
    assert document["project"]["dependencies"] == [f"fedbench>={fedbench.__version__}"]
    assert (tmp_path / document["project"]["readme"]).is_file()
    assert document["project"]["entry-points"] == {f"fedbench.{group}": {"two-words": leads_to}}


def test_the_method_is_one(tmp_path, imported):
    new_method("steady-pull", tmp_path)
    method = imported(tmp_path, "fedbench_steady_pull").SteadyPull
    assert registry.methods.fits(method)
    assert method.__bases__ == (Method,)
    assert method.defaults() == {"mu": 0.1}
    assert method.limits == (Limit(at={"mu": 0.0}, equals="fedavg"),)
    with pytest.raises(SpecError):
        method(mu=-1)


def test_the_task_is_one_and_its_data_is_what_it_declares(tmp_path, imported):
    new_task("two-wards", tmp_path)
    task = imported(tmp_path, "fedbench_two_wards").TASK
    assert isinstance(task, Task)
    assert task.name == "two-wards"
    assert task.data.locate() == (tmp_path / "src" / "fedbench_two_wards" / "two-wards.npz",)
    data = task.data.load()
    assert np.bincount(data.sites).tolist() == [100, 60, 40]
    assert set(data.targets.tolist()) == {0, 1}
    assert "made up" in task.data.license


def test_where_the_data_lies_is_no_part_of_the_identity(tmp_path, imported):
    new_task("here", tmp_path / "one")
    new_task("here", tmp_path / "two")
    one = imported(tmp_path / "one", "fedbench_here").TASK
    two = imported(tmp_path / "two", "fedbench_here").TASK
    assert one.data.folder != two.data.folder
    assert one.identity() == two.identity()


@NEW
def test_two_packages_of_one_name_are_the_same(new, tmp_path):
    one, two = new("mine", tmp_path / "one"), new("mine", tmp_path / "two")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@NEW
def test_the_code_is_in_style(new, tmp_path):
    """In ruff's own, as nothing is known of the user's."""
    new("mine", tmp_path)
    for command in (["check", "--select", "E,F,W,I,B,UP"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", tmp_path]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_guide_shows_the_method_that_is_written(tmp_path):
    written = next(path for path in new_method("steady", tmp_path) if path.name == "__init__.py").read_text()
    shown, _ = guide()
    mu, limits, loss = (shown.index(word) for word in ("    mu: ", "    limits = ", "    def loss"))
    for part in (shown[mu:limits].rstrip(), shown[limits:loss].rstrip(), shown[loss:]):
        assert part in written


# --- what is refused ------------------------------------------------------------------------------------------------


@NEW
@pytest.mark.parametrize(
    "name",
    ["", "My", "my_method", "my.method", "1st", "-a", "a-", "a--b", "a b", "ä", "a\n", "../a", "/a", "a" * 65],
)
def test_a_name_that_is_not_valid(new, name, tmp_path):
    with pytest.raises(SpecError, match="is not valid; use lower case letters, digits and hyphens"):
        new(name, tmp_path / "mine")
    assert not any(tmp_path.iterdir())


@NEW
@pytest.mark.parametrize(("name", "what"), [("fedavg", "method"), ("fedprox", "method"), ("heart", "task")])
def test_the_name_of_a_built_in(new, name, what, tmp_path):
    with pytest.raises(SpecError, match=rf"there is a {what} '{name}' already \(from fedbench .*\); choose another"):
        new(name, tmp_path / "mine")
    assert not any(tmp_path.iterdir())


@NEW
def test_the_name_of_a_plug_in(new, tmp_path):
    registry.methods.add("acme", Method)
    try:
        with pytest.raises(SpecError, match="there is a method 'acme' already"):
            new("acme", tmp_path / "mine")
    finally:
        registry.methods.forget("acme")


@NEW
@pytest.mark.parametrize("name", ["quick", "bwt"])
def test_a_name_under_which_something_else_is_shown(new, name, tmp_path):
    with pytest.raises(SpecError, match=f"'{name}' is the name of a suite or metric"):
        new(name, tmp_path / "mine")


def test_a_class_that_would_hide_what_its_file_imports(tmp_path):
    """Each name that the file of a method imports, written in lower case, would be a class of that name."""
    (module,) = (path for path in new_method("mine", tmp_path / "mine") if path.name == "__init__.py")
    imports = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports for alias in node.names if alias.name[0].isupper() and node.level == 0}
    assert {"Method", "Limit", "Tensor", "Client"} <= names
    for name in (*names - {"TYPE_CHECKING"}, "None", "True", "False"):
        with pytest.raises(SpecError, match=f"would be a class {name}, which is something else"):
            new_method(name.lower(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@NEW
def test_nothing_is_overwritten(new, tmp_path):
    (tmp_path / "README.md").write_text("mine\n")
    with pytest.raises(SpecError, match="not an empty folder; nothing was written, name another folder") as caught:
        new("mine", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert files_below(tmp_path) == {"README.md"}
    assert (tmp_path / "README.md").read_text() == "mine\n"


@NEW
def test_a_file_in_the_place_of_the_folder(new, tmp_path):
    (tmp_path / "mine").write_text("mine\n")
    with pytest.raises(SpecError, match="not an empty folder"):
        new("mine", tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine\n"


@NEW
def test_an_empty_folder_is_filled(new, tmp_path):
    (tmp_path / "mine").mkdir()
    assert all(path.is_relative_to(tmp_path / "mine") for path in new("mine", tmp_path / "mine"))


# --- as a user does it ----------------------------------------------------------------------------------------------


def run(*command, cwd, status=0):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "PYTEST_"))}
    inherited["COLUMNS"] = "200"  # a table whose cells need not fold
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=inherited, capture_output=True, text=True)
    assert done.returncode == status, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Return the folder of commands of a new environment, which has FedBench installed from its wheel."""
    base = tmp_path_factory.mktemp("fresh")
    source = base / "source"  # setuptools leaves files beside what it builds
    source.mkdir()
    for name in ("fedbench", "methods", "tasks", "leaderboard"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_wheel({str(base)!r})", cwd=source)

    venv.create(base / "venv", with_pip=False)
    commands = base / "venv" / ("Scripts" if os.name == "nt" else "bin")
    show_packages = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(commands / "python", "-c", show_packages, cwd=base).strip())
    # The dependencies are those of this environment; a path file does not bring its editable installs along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install(commands, "--ignore-installed", next(base.glob("*.whl")), cwd=base)
    return commands


def install(commands, *what, cwd):
    pip = (sys.executable, "-m", "pip", "--python", commands / "python", "install", "--no-index", "--no-deps")
    run(*pip, *what, cwd=cwd)


def row(table, name):
    """Return the line of a table that begins with a name."""
    (line,) = (line for line in table.splitlines() if line.split()[:1] == [name])
    return line


@pytest.mark.long
def test_a_new_method_is_a_plug_in_at_once(fresh, tmp_path):
    shown = run(fresh / "fedbench", "new", "method", "steady-pull", cwd=tmp_path)
    package = tmp_path / "steady-pull"
    assert str(Path("steady-pull", "pyproject.toml")) in shown
    install(fresh, "--no-build-isolation", "-e", ".", cwd=package)
    assert "4 passed" in run(fresh / "python", "-m", "pytest", cwd=package)
    listed = run(fresh / "fedbench", "ls", "methods", cwd=tmp_path)
    assert row(listed, "steady-pull").split() == ["steady-pull", "global", "1x", "1x", "regularisation"]
    assert "from fedbench-steady-pull 0.1.0" in listed
    assert "to be changed into a method of your own" in run(fresh / "fedbench", "show", "steady-pull", cwd=tmp_path)
    assert "not tried" not in run(fresh / "fedbench", "check", "steady-pull", cwd=tmp_path)
    chosen = ("--task", "heart", "--method", "majority", "--seed", "1", "--with-plugins")
    assert "2 of 2 cells done" in run(fresh / "fedbench", "run", *chosen, cwd=tmp_path)


@pytest.mark.long
def test_the_guide_leads_to_a_row_on_the_board(fresh, tmp_path):
    run(fresh / "fedbench", "new", "method", "steady", cwd=tmp_path)
    install(fresh, "--no-build-isolation", "-e", "steady", cwd=tmp_path)
    module = tmp_path / "steady" / "src" / "fedbench_steady" / "__init__.py"
    head, _, _ = module.read_text(encoding="utf-8").partition("    def loss")
    head = head.replace("from fedbench", "import math\nimport torch\nfrom fedbench", 1)
    module.write_text(head + guide()[1], encoding="utf-8")
    run(fresh / "python", "-m", "pytest", "-k", "contract", "steady", cwd=tmp_path)
    chosen = ("--task", "heart", "--method", "fedavg", "--method", "steady", "--seed", "1")
    shown = run(fresh / "fedbench", "run", *chosen, cwd=tmp_path)
    assert "2 of 2 cells done" in shown  # of six: without the other seeds there is a row and no rank
    assert re.search(r"^ +steady +\d", shown, re.MULTILINE)


@pytest.mark.long
def test_a_new_task_is_a_plug_in_at_once(fresh, tmp_path):
    run(fresh / "fedbench", "new", "task", "two-wards", cwd=tmp_path)
    package = tmp_path / "two-wards"
    install(fresh, "--no-build-isolation", "-e", ".", cwd=package)
    assert "4 passed" in run(fresh / "python", "-m", "pytest", cwd=package)
    listed = run(fresh / "fedbench", "ls", "tasks", cwd=tmp_path)
    assert row(listed, "two-wards").split()[:4] == ["two-wards", "by", "site", "2"]
    assert "broken" not in listed
    assert "good" in row(run(fresh / "fedbench", "data", "verify", "two-wards", cwd=tmp_path), "two-wards")
    chosen = ("--task", "two-wards", "--method", "fedavg", "--method", "local", "--seed", "1")
    assert "2 of 2 cells done" in run(fresh / "fedbench", "run", *chosen, cwd=tmp_path)


@pytest.mark.long
def test_a_taken_name_is_refused_on_the_command_line(fresh, tmp_path):
    shown = run(fresh / "fedbench", "new", "method", "fedavg", cwd=tmp_path, status=2)
    assert shown.startswith("fedbench: there is a method 'fedavg' already (from fedbench ")
    assert not any(tmp_path.iterdir())
