"""The examples in docstrings, run by dotted name.

`pytest --doctest-modules` would import the modules of the top-level folders a second time, under other names.
"""

import doctest
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "fedbench"
MODULES = sorted(
    ".".join(("fedbench", *path.relative_to(FOLDER).with_suffix("").parts))
    for path in FOLDER.rglob("*.py")
    if ">>> " in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
