"""Plug-ins by entry point: found, loaded when asked for, and named with their distribution when something is wrong."""

import sys
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import NamedTuple

import pytest

from fedbench import FedBenchError, Method, PluginError, SpecError, Task
from fedbench import registry as module
from fedbench.registry import Registry


class Distribution(NamedTuple):
    name: str
    version: str


def point(name, value, distribution="acme-fl", version="1.2"):
    return metadata.EntryPoint(name, value, "acme.things")._for(Distribution(distribution, version))


@pytest.fixture
def installed(monkeypatch):
    """Return a function that sets which entry points are installed, and returns a registry of them."""
    plugin = ModuleType("acme_plugin")
    plugin.good, plugin.other = "a good thing", "another thing"
    monkeypatch.setitem(sys.modules, "acme_plugin", plugin)

    def install(*points, **options):
        def entry_points(*, group):
            assert group == "acme.things"
            return metadata.EntryPoints(points)

        monkeypatch.setattr(metadata, "entry_points", entry_points)
        return Registry("acme.things", "thing", **options)

    return install


def test_entry_points_are_listed_sorted_and_not_loaded(installed):
    registry = installed(point("zeta", "acme_plugin:good"), point("alpha", "no_such_module:thing"))
    assert registry.names() == ["alpha", "zeta"]
    assert list(registry.points()) == ["alpha", "zeta"]


def test_a_plugin_is_loaded_and_knows_its_origin(installed):
    registry = installed(point("good", "acme_plugin:good", "acme-fl", "1.2"))
    assert registry.get("good") == "a good thing"
    assert registry.origin("good") == "acme-fl 1.2"


def test_two_distributions_with_one_name_are_both_named_and_break_nothing_else(installed):
    registry = installed(
        point("good", "acme_plugin:good", "acme-fl", "1.2"),
        point("good", "acme_plugin:other", "emca-fl", "0.9"),
        point("other", "acme_plugin:other"),
    )
    assert registry.names() == ["good", "other"]
    assert registry.get("other") == "another thing"
    assert registry.origin("good") == "acme-fl 1.2 and emca-fl 0.9"
    with pytest.raises(PluginError, match="is registered 2 times") as caught:
        registry.get("good")
    for part in ("'good'", "acme-fl 1.2", "acme_plugin:good", "emca-fl 0.9", "acme_plugin:other", "uninstall"):
        assert part in str(caught.value)


def test_the_same_entry_point_seen_twice_is_no_collision(installed):
    registry = installed(point("good", "acme_plugin:good"), point("good", "acme_plugin:good"))
    assert registry.get("good") == "a good thing"


@pytest.mark.parametrize(
    ("value", "cause"),
    [("no_such_module:thing", "ModuleNotFoundError"), ("acme_plugin:missing", "AttributeError")],
)
def test_a_broken_plugin_is_named_by_distribution_and_others_still_work(installed, value, cause):
    registry = installed(point("broken", value, "acme-fl", "1.2"), point("good", "acme_plugin:good", "emca-fl"))
    with pytest.raises(PluginError, match=r"thing 'broken' of acme-fl 1\.2 cannot be imported from .*mend") as caught:
        registry.get("broken")
    assert value in str(caught.value)
    assert cause in str(caught.value)
    assert registry.names() == ["broken", "good"]
    assert registry.get("good") == "a good thing"


def test_a_plugin_that_raises_on_import_is_a_plugin_error(installed, tmp_path, monkeypatch):
    (tmp_path / "acme_raises.py").write_text("raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="RuntimeError: no licence"):
        installed(point("raises", "acme_raises:thing")).get("raises")


def test_a_plugin_that_exits_on_import_ends_nothing(installed, tmp_path, monkeypatch):
    (tmp_path / "acme_exits.py").write_text("raise SystemExit('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="SystemExit: no licence"):
        installed(point("exits", "acme_exits:thing")).get("exits")


def test_a_plugin_of_the_wrong_type_is_named_by_distribution(installed):
    registry = installed(point("good", "acme_plugin:good"), fits=lambda value: isinstance(value, int))
    message = r"acme_plugin:good of acme-fl 1\.2 is registered as the thing 'good', but is 'a good"
    with pytest.raises(PluginError, match=message):
        registry.get("good")


@pytest.mark.parametrize(
    ("error", "told"), [(SpecError("it is odd."), "it is odd; mend"), (KeyError("mu"), "KeyError: 'mu'; mend")]
)
def test_a_plugin_that_does_not_work_is_named_by_distribution(installed, error, told):
    def try_out(name, value):
        assert (name, value) == ("good", "a good thing")
        raise error

    registry = installed(point("good", "acme_plugin:good"), try_out=try_out)
    with pytest.raises(PluginError, match=rf"thing 'good' of acme-fl 1\.2 does not work: {told} or uninstall"):
        registry.get("good")


def test_what_others_installed_is_told_from_what_is_built_in(installed):
    registry = installed(
        point("own", "acme_plugin:good", "fedbench"),
        point("foreign", "acme_plugin:other"),
        point("both", "acme_plugin:good", "fedbench"),
        point("both", "acme_plugin:other"),
    )
    registry.add("mine", "my own thing")
    assert registry.installed() == ["both", "foreign"]


@dataclass(frozen=True, kw_only=True)
class Nameless(Method):
    mu: float


@pytest.mark.parametrize(
    ("name", "told"),
    [("../mine", "its name is not valid"), ("Mine", "its name is not valid"), ("mine", "Nameless.mu has no default")],
)
def test_a_method_must_have_a_name_for_folders_and_defaults(name, told):
    with pytest.raises(FedBenchError, match=told):
        module.methods.try_out(name, Nameless)


def test_a_task_must_call_itself_what_it_is_registered_as():
    module.tasks.try_out("heart", module.tasks.get("heart"))
    with pytest.raises(SpecError, match="it calls itself 'heart'; register it under that name"):
        module.tasks.try_out("hart", module.tasks.get("heart"))


@pytest.mark.parametrize("group", [module.methods, module.tasks], ids=["methods", "tasks"])
def test_all_that_is_built_in_works(group):
    for name in group.names():
        group.try_out(name, group.get(name))


@pytest.mark.parametrize("value", [Method(), dict, "fedavg", None], ids=repr)
def test_only_a_class_of_methods_is_a_method(value):
    assert not module.methods.fits(value)


def test_methods_are_classes_and_tasks_are_instances():
    assert module.methods.fits(Method)
    assert not module.tasks.fits(Task)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("fedavgg", "did you mean fedavg"),
        ("fedprx", "did you mean fedprox"),
        ("", "known: fedavg, fedprox"),
        ("x", "known: "),
    ],
)
def test_an_unknown_name_suggests_the_nearest(installed, given, hint):
    registry = installed(point("fedavg", "acme_plugin:good"), point("fedprox", "acme_plugin:other"))
    with pytest.raises(SpecError, match=f"unknown thing '{given}'") as caught:
        registry.get(given)
    assert hint in str(caught.value)


def test_an_unknown_name_of_an_empty_group_says_none(installed):
    with pytest.raises(SpecError, match="known: none"):
        installed().get("anything")


def test_what_is_added_lives_beside_entry_points_until_forgotten(installed):
    registry = installed(point("good", "acme_plugin:good"))
    registry.add("mine", "my own thing")
    assert registry.names() == ["good", "mine"]
    assert registry.get("mine") == "my own thing"
    assert registry.origin("mine") == "this process"
    registry.forget("mine")
    registry.forget("mine")
    assert registry.names() == ["good"]
    with pytest.raises(SpecError):
        registry.get("mine")


def test_a_taken_name_cannot_be_added(installed):
    registry = installed(point("good", "acme_plugin:good"))
    with pytest.raises(PluginError, match=r"'good' already exists \(from acme-fl 1\.2\)"):
        registry.add("good", "mine")
    registry.add("mine", "first")
    with pytest.raises(PluginError, match="'mine' already exists"):
        registry.add("mine", "second")
    assert registry.get("mine") == "first"


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedkper", "local", "centralised", "majority"])
def test_built_in_methods_come_through_entry_points(name):
    assert issubclass(module.methods.get(name), Method)
    assert module.methods.origin(name).startswith("fedbench ")
