"""A round of federated training in every variant: `pytest benchmarks` measures them all.

A sitting measures all variants one after another, each in a fresh process; the next sitting goes through them in the
opposite order. So a machine that gets slower in between is not taken for a slower variant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from report import FEDBENCH, FEDBENCH_TWICE, FEDKPER, FLOWER, PLAIN, PLAIN_TWICE

if TYPE_CHECKING:
    from conftest import Script

SCRIPTS: dict[str, tuple[str, ...]] = {
    PLAIN: ("plain_loop.py", "--processes", "1", "--threads", "2"),
    PLAIN_TWICE: ("plain_loop.py", "--processes", "2", "--threads", "1"),
    FLOWER: ("flower.py",),
    FEDBENCH: ("cells.py", "--workers", "1"),
    FEDBENCH_TWICE: ("cells.py", "--workers", "2"),
    FEDKPER: ("cells.py", "--workers", "1", "--method", "fedkper"),
    "overhead": ("overhead.py",),
    "start": ("start.py",),
}
"""Script and arguments of each variant, and of what has a target besides."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Order all measurements by sitting."""
    metafunc.parametrize(
        ("sitting", "variant"),
        [
            pytest.param(sitting, variant, marks=[pytest.mark.flower] if variant == FLOWER else [])
            for sitting in range(1, metafunc.config.getoption("--sittings") + 1)
            for variant in (SCRIPTS if sitting % 2 else reversed(SCRIPTS))
        ],
    )


def test_variant(benchmark: Any, script: Script, pytestconfig: pytest.Config, sitting: int, variant: str) -> None:
    """Keep what a variant tells, beside the time that pytest-benchmark takes of the whole process."""
    options = {"python": pytestconfig.getoption("--flower-python")} if variant == FLOWER else {}
    told = benchmark.pedantic(script, args=SCRIPTS[variant], kwargs=options, rounds=1, iterations=1)
    benchmark.extra_info |= {"sitting": sitting, "variant": variant, **told}
