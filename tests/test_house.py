"""The house: floors, and what no module may do. The code is read, not imported."""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fedbench

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "fedbench": "fedbench",
    "methods": "fedbench.methods",
    "tasks": "fedbench.tasks",
    "leaderboard": "fedbench.leaderboard",
}

# An import points to a lower floor, or stays within its own. A new module of `fedbench` is entered here.
FLOORS = {
    0: "cell characters errors method outcome registry schema seeds task toml upgrades",
    1: (
        "datasets durable federation locks merging metrics partition reading records release resident scaffold "
        "submissions submissions.adding submissions.archive submissions.checking "
        "submissions.confined submissions.decisions submissions.form submissions.packing submissions.rerun "
        "submissions.rules statistics statistics.aggregates "
        "statistics.bayes statistics.comparisons statistics.duels statistics.grid statistics.intervals "
        "statistics.planning statistics.rank_tests statistics.result statistics.sources statistics.standings "
        "statistics.two_models taskfile verification verification.answers verification.checks verification.draws "
        "verification.plausible verification.series verification.subject verification.whole"
    ),
    2: (
        "checkpoint client cluster environment evaluation executors kinds models server simulation splitcard storage "
        "styles testing together traffic training tuning verification.rerun"
    ),
    4: "cli verbs",
}
FLOOR = {f"fedbench.{name}": floor for floor, names in FLOORS.items() for name in names.split()}
BOARD = ("fedbench.leaderboard",)  # floor 2, beside the simulation; neither sees the other
PLUGINS = ("fedbench.methods", "fedbench.tasks")  # floor 3; they see the public API, and nobody sees them
SCRIPTS = ("fedbench.tasks.embedded.rebuild",)  # run by hand, never imported

# What a floor may import besides the standard library and what the floors below may.
LIBRARIES = {
    0: {"annotated_types", "numpy", "pydantic"},
    1: {"medmnist", "platformdirs", "pooch", "pyarrow", "requests", "scipy", "tqdm"},
    2: {"fsspec", "greenlet", "optuna", "ray", "safetensors", "torch"},
    4: {"click", "rich"},
}
BOARD_LIBRARIES = LIBRARIES[0] | LIBRARIES[1] | {"jinja2", "mlflow", "rich", "vl_convert"}

# Importing these must not import torch; nor medmnist, which does.
WITHOUT_TORCH = (
    *BOARD,
    "fedbench.tasks",
    "fedbench.executors",
    "fedbench.cluster",
    "fedbench.storage",
    "fedbench.cli",
    "fedbench.verbs",
)


@dataclass(frozen=True)
class Import:
    """One name that a module imports: from where, and whether as soon as the module itself is imported."""

    target: str
    name: str | None
    line: int
    at_once: bool
    typing: bool


@dataclass(frozen=True)
class Module:
    """One parsed file."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def floor(self) -> int:
        if inside(self.name, PLUGINS):
            return 3
        return 2 if inside(self.name, BOARD) else FLOOR.get(self.name, 0)

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _imports(tree: ast.Module, package: str) -> Iterator[Import]:
    def walk(node: ast.AST, at_once: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, at_once, typing)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else None
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield Import(source, alias.name, node.lineno, at_once, typing)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from walk(child, at_once, True)
            for child in node.orelse:
                yield from walk(child, at_once, typing)
        else:
            inner = at_once and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, inner, typing)

    return walk(tree, at_once=True, typing=False)


@cache
def modules() -> dict[str, Module]:
    """Parse every module of the four folders."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            home = name if path.name == "__init__.py" else name.rpartition(".")[0]
            found[name] = Module(name, path, tree, tuple(_imports(tree, home)))
    return found


def resolve(item: Import) -> str:
    """Return the module that an import reaches; names of the public API lead to where they are defined."""
    if item.name is not None and f"{item.target}.{item.name}" in modules():
        return f"{item.target}.{item.name}"
    if item.target == "fedbench" and item.name in fedbench._HOME:
        return f"fedbench.{fedbench._HOME[item.name]}"
    return item.target


def real_imports(module: Module) -> Iterator[tuple[Import, str]]:
    return ((item, resolve(item)) for item in module.imports if not item.typing)


def assert_none(defects: list[str], rule: str) -> None:
    assert not defects, "\n".join([rule, *defects])


def test_every_module_is_seen_and_has_a_floor() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(modules()) == len(files) >= 30
    core = {name for name in modules() if not inside(name, PLUGINS + BOARD)} - {"fedbench"}
    assert_none(sorted(core - set(FLOOR)), "enter these in FLOORS of tests/test_house.py:")
    assert_none(sorted(set(FLOOR) - core), "these are gone; take them out of FLOORS of tests/test_house.py:")


def test_imports_point_down() -> None:
    defects = []
    for module in modules().values():
        for item, target in real_imports(module):
            where = f"{module.at(item.line)} (floor {module.floor}) imports {target}"
            if not inside(target, ["fedbench"]):
                continue
            if target not in modules():
                defects.append(f"{where}, which does not exist")
            elif inside(target, PLUGINS) and not inside(module.name, PLUGINS):
                defects.append(f"{where}; the core finds plug-ins through the registry")
            elif modules()[target].floor > module.floor:
                defects.append(f"{where} of floor {modules()[target].floor}")
            elif modules()[target].floor == module.floor and inside(target, BOARD) != inside(module.name, BOARD):
                defects.append(f"{where}; leaderboard and simulation do not know each other")
    assert_none(defects, "an import may only point down:")


def test_modules_do_not_import_each_other_in_circles() -> None:
    graph = {
        module.name: {target for item, target in real_imports(module) if item.at_once and target in modules()}
        - {module.name}
        for module in modules().values()
    }
    TopologicalSorter(graph).prepare()


def test_each_floor_uses_its_own_libraries() -> None:
    defects = []
    for module in modules().values():
        allowed = set().union(*(names for floor, names in LIBRARIES.items() if floor <= module.floor))
        if inside(module.name, BOARD):
            allowed = BOARD_LIBRARIES
        for item, target in real_imports(module):
            library = target.partition(".")[0]
            if library not in allowed | {"fedbench", "__future__"} | sys.stdlib_module_names:
                defects.append(f"{module.at(item.line)} (floor {module.floor}) imports {library}")
    assert_none(defects, "not a library of this floor:")


def test_plug_ins_use_the_public_api_alone() -> None:
    public = {"Predictor", *fedbench.__all__}  # a Predictor is a type, it exists for annotations only
    defects = [
        f"{module.at(item.line)}: from {item.target} import {item.name}"
        for module in modules().values()
        if inside(module.name, PLUGINS) and module.name not in SCRIPTS
        for item in module.imports
        if inside(item.target, ["fedbench"]) and (item.target != "fedbench" or item.name not in public)
    ]
    assert_none(defects, "methods and tasks write `from fedbench import ...`, with names of its __all__:")


@pytest.mark.parametrize("name", sorted(fedbench.__all__))
def test_public_names_exist(name: str) -> None:
    assert getattr(fedbench, name) is not None


def test_no_torch_where_none_is_needed() -> None:
    heavy = {
        module.name
        for module in modules().values()
        for item, target in real_imports(module)
        if item.at_once and target.partition(".")[0] in ("torch", "torchvision", "medmnist")
    }

    def loads(name: str, seen: set[str]) -> Iterator[str]:
        seen.add(name)
        if name in heavy:
            yield name
        for item, target in real_imports(modules()[name]):
            if item.at_once and target in modules() and target not in seen:
                yield from loads(target, seen)

    light = [module.name for module in modules().values() if module.floor <= 1 or inside(module.name, WITHOUT_TORCH)]
    assert len(light) >= 15
    defects = [f"{name}, through {culprit}" for name in light for culprit in loads(name, set())]
    assert_none(defects, "importing these imports torch:")


GENERATORS = {
    "np.random.Generator",
    "np.random.PCG64",
    "np.random.RandomState",  # local and seeded: the schedule of the FedKPer protocol is drawn from it
    "np.random.SeedSequence",
}
TORCH_DRAWS = {
    f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")
}


def test_randomness_comes_from_named_streams() -> None:
    defects = []
    for module in modules().values():
        if module.name == "fedbench.testing":  # it looks whether a method touches the global states
            continue
        for item, target in real_imports(module):
            if target.partition(".")[0] in ("random", "secrets"):
                defects.append(f"{module.at(item.line)} imports {target}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node).replace("numpy.", "np.")
                first, _, last = name.rpartition(".")
                if (first == "np.random" and name not in GENERATORS) or (
                    name.startswith(("torch.", "nn.")) and last in ("manual_seed", "manual_seed_all", "seed")
                ):
                    defects.append(f"{module.at(node.lineno)} uses {name}")
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in TORCH_DRAWS:
                if any(keyword.arg == "generator" for keyword in node.keywords):
                    continue
                defects.append(f"{module.at(node.lineno)} calls {name} without a generator")
    assert_none(defects, "draws come from fedbench.seeds, client.rng or server.rng:")


PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def test_nothing_is_pickled() -> None:
    defects = []
    for module in modules().values():
        for item, target in real_imports(module):
            if target.partition(".")[0] in PICKLES:
                defects.append(f"{module.at(item.line)} imports {target}")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "torch.save"):
                defects.append(f"{module.at(node.lineno)} calls {ast.unparse(node.func)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                if ast.unparse(node.value) == "False":
                    continue
                defects.append(f"{module.at(node.value.lineno)} allows pickle")
    assert_none(defects, "a record or a data file may come from anybody:")


def code_lines(module: Module) -> int:
    """Return a method's lines without its docstrings and its BibTeX, which are as long as they need to be."""
    prose = [
        node
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
    ]
    lines = module.path.read_text(encoding="utf-8").splitlines()
    return len(lines) - sum(node.end_lineno - node.lineno + 1 for node in prose)


def test_methods_are_short() -> None:
    lengths = {module.path.name: code_lines(module) for module in modules().values() if module.floor == 3}
    lengths = {name: n for name, n in lengths.items() if (ROOT / "methods" / name).exists()}
    assert_none([f"{name}: {n} lines" for name, n in lengths.items() if n > 125], "at most 125 lines of code a method:")
