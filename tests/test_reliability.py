"""The report on reliability says what the tests counted."""

import importlib
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

REPORTS = Path(__file__).parents[1] / "reports"
FOUND = """<testsuites><testsuite>
<testcase classname="tests.a" name="one"><properties>
  <property name="tally" value="kills at a round boundary: 6" /><property name="tally" value="full disks: 1" />
</properties></testcase>
<testcase classname="tests.a" name="two"><properties>
  <property name="tally" value="kills at a round boundary: 4" />
</properties></testcase>
<testcase classname="tests.b" name="three"><failure message="no" /></testcase>
<testcase classname="tests.c" name="four"><properties>
  <property name="tally" value="fuzzed inputs, plan: 1200" /><property name="tally" value="seconds of fuzzing: 1800" />
</properties></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def reliability(monkeypatch):
    """Return the script as a module."""
    monkeypatch.syspath_prepend(REPORTS)
    return importlib.import_module("reliability")


def test_tallies_are_summed_and_failures_named(reliability):
    counts, failed = reliability.counted(ElementTree.fromstring(FOUND))
    assert counts == Counter(
        {"kills at a round boundary": 10, "full disks": 1, "fuzzed inputs, plan": 1200, "seconds of fuzzing": 1800}
    )
    assert failed == ["tests.b::three"]


def test_the_page_has_every_count_and_every_failure(reliability):
    counts, failed = reliability.counted(ElementTree.fromstring(FOUND))
    page = reliability.page(counts, failed, "somebody", "today")
    assert "| kills at a round boundary | 10 | 10 |" in page
    assert "Fuzzed for 0.50 hours in all" in page
    assert "| plan | 1,200 |" in page
    assert "## Not withstood\n\n- `tests.b::three`" in page
    assert "Not withstood" not in reliability.page(counts, [], "somebody", "today")
