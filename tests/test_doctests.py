"""The examples in docstrings, run by dotted name.

`pytest --doctest-modules` would import the modules of the top-level folders a second time, under other names.
"""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["fedbench.seeds", "fedbench.method", "fedbench.metrics", "fedbench.statistics"])
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
