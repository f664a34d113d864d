"""Tables of made-up results, and the published ones that several files use."""

import numpy as np
import pytest

from fedbench.statistics import Grid, Value


@pytest.fixture(scope="session")
def make_results():
    """Return a factory of {method: {(task, seed): Value}} from {method: array (T, S)}, all cells paired."""

    def make(tables, tasks=None):
        results = {}
        for method, table in tables.items():
            rows = np.atleast_2d(np.asarray(table, dtype=float))
            names = tasks or [f"task{t}" for t in range(len(rows))]
            results[method] = {
                (name, seed): Value(
                    float(rows[t, seed]), {i: f"{i}-{name}-{seed}" for i in ("partition", "init", "schedule", "order")}
                )
                for t, name in enumerate(names)
                for seed in range(rows.shape[1])
            }
        return results

    return make


@pytest.fixture(scope="session")
def make_grid(make_results):
    """Return a factory of grids from {method: array (T, S)}."""

    def make(tables, direction="higher", tasks=None):
        return Grid.of(make_results(tables, tasks), direction=direction)

    return make


@pytest.fixture(scope="session")
def demsar():
    """AUC of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets: Demšar 2006, table 6."""
    rows = (
        ".763 .768 .771 .798 | .599 .591 .590 .569 | .954 .971 .968 .967 | .628 .661 .654 .657 | .882 .888 .886 .898 |"
        ".936 .931 .916 .931 | .661 .668 .609 .685 | .583 .583 .563 .625 | .775 .838 .866 .875 | 1 1 1 1 |"
        ".940 .962 .965 .962 | .619 .666 .614 .669 | .972 .981 .975 .975 | .957 .978 .946 .970"
    )
    return np.array([[float(value) for value in row.split()] for row in rows.split("|")])
