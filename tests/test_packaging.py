"""What a user installs: the sdist, the wheel built from it, and the command without what it does not need."""

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "fedbench": "fedbench",
    "methods": "fedbench/methods",
    "tasks": "fedbench/tasks",
    "leaderboard": "fedbench/leaderboard",
}
LARGEST = 15_000_000  # bytes of the wheel, embedded data and all


def run(*command: object, cwd: Path, **environment: str) -> str:
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=inherited | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from fedbench.cli import main\n"
        "sys.argv = ['fedbench', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('loaded:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    shown, _, loaded = run(sys.executable, "-c", code, cwd=ROOT).rpartition("loaded:")
    assert "Usage" in shown
    heavy = {"jinja2", "medmnist", "numpy", "pandas", "pooch", "pyarrow", "pydantic", "scipy", "torch"}
    assert not heavy & set(loaded.split())


class Built(NamedTuple):
    """The wheel, what is in it, and a fresh environment that has it installed."""

    wheel: Path
    names: set[str]
    python: Path
    command: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build the sdist, from it the wheel, and install that without touching the environment of the tests."""
    base = tmp_path_factory.mktemp("built")
    backend = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    source = base / "source"  # setuptools leaves files beside what it builds
    source.mkdir()
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", backend, "build_sdist", base, cwd=source)
    with tarfile.open(next(base.glob("*.tar.gz"))) as archive:
        archive.extractall(base / "unpacked", filter="data")
    run(sys.executable, "-c", backend, "build_wheel", base, cwd=next((base / "unpacked").iterdir()))
    wheel = next(base.glob("*.whl"))

    venv.create(base / "venv", with_pip=False)
    bin_folder = base / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / Path(sys.executable).name
    if not python.exists():
        python = bin_folder / "python"
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=base).strip())
    # The dependencies are those of this environment; a path file does not bring its editable installs along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps")
    run(*pip, "--ignore-installed", wheel, cwd=base)
    return Built(wheel, set(zipfile.ZipFile(wheel).namelist()), python, bin_folder / "fedbench")


@pytest.mark.long
def test_wheel_holds_all_that_runs_and_nothing_else(built: Built) -> None:
    data = (
        "tasks/suites/*.toml",
        "tasks/embedded/*",
        "leaderboard/assets/*",
        "leaderboard/reported/*",
        "leaderboard/templates/*",
        "fedbench/py.typed",
        "fedbench/templates/**/*",
        "methods/costs.json",
    )
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    files += [path for pattern in data for path in ROOT.glob(pattern) if path.is_file()]
    expected = set()
    for path in files:
        folder, *rest = path.relative_to(ROOT).parts
        expected.add("/".join((FOLDERS[folder], *rest)))
    assert {"fedbench/py.typed", "fedbench/tasks/suites/quick.toml"} <= expected
    assert {name for name in built.names if ".dist-info/" not in name} == expected
    assert built.wheel.stat().st_size < LARGEST


@pytest.mark.long
def test_wheel_carries_licences_and_entry_points(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = f"fedbench-{project['version']}.dist-info"
    assert {f"{info}/licenses/{name}" for name in project["license-files"]} <= built.names
    points = configparser.ConfigParser(delimiters="=")
    points.read_string(zipfile.ZipFile(built.wheel).read(f"{info}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == project["scripts"]
    for group, named in project["entry-points"].items():
        assert dict(points[group]) == named


@pytest.mark.long
@pytest.mark.parametrize("place", ["elsewhere", "root"])
def test_installed_command_finds_its_plug_ins(built: Built, tmp_path: Path, place: str) -> None:
    # In the repository's root a plain `python` would find ./fedbench first, the command must not.
    cwd = ROOT if place == "root" else tmp_path
    assert "Usage" in run(built.command, "--help", cwd=cwd)
    assert "blood-mini" in run(built.command, "ls", "tasks", cwd=cwd)
    assert "fedkper" in run(built.command, "ls", "methods", cwd=cwd)
    home = run(built.python, "-P", "-c", "import fedbench.methods as m; print(m.__file__)", cwd=cwd)
    assert Path(home.strip()).is_relative_to(built.python.parents[1])


@pytest.mark.long
def test_every_plug_in_loads_from_the_wheel(built: Built, tmp_path: Path) -> None:
    code = (
        "from fedbench import registry\n"
        "for kind in (registry.methods, registry.tasks):\n"
        "    for name in kind.names():\n        print(name, kind.get(name))"
    )
    shown = run(built.python, "-W", "error", "-c", code, cwd=tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(shown.splitlines()) >= sum(len(named) for named in project["entry-points"].values())
