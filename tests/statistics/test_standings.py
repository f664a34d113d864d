"""The group at the top, rank intervals, and agreement between boards."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from fedbench.statistics import Grid, NotComputed, holm, kendall_tau, rank_intervals, split_half, top_group
from fedbench.statistics.comparisons import sign_flip_p
from fedbench.statistics.standings import places


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


class TestTopGroup:
    @pytest.fixture
    def grid(self, make_grid):
        base = 0.8 + 0.05 * noise(0, 3, 5)
        shifts = {"d": 0.0, "a": 0.001, "c": -0.05, "b": -0.1}
        return make_grid({name: base + shift + 0.003 * noise(ord(name), 3, 5) for name, shift in shifts.items()})

    def test_members(self, grid):
        found = top_group(grid)
        assert set(found.members) == {"a", "d"}
        assert found.leader == found.members[0] == grid.methods[np.argmax(grid.scores)]
        assert (found.question, found.n, found.unit, found.comparisons) == ("Q2", 15, "cells", 6)

    def test_holm_runs_over_all_pairs(self, grid):
        """Over the k − 1 pairs with the leader alone p would be too small: the data chose the leader."""
        pairs = list(combinations(grid.methods, 2))
        p = [sign_flip_p(grid.paired(*pair).differences.ravel())[0] for pair in pairs]
        by_pair = {frozenset(pair): value for pair, value in zip(pairs, holm(p), strict=True)}
        found = top_group(grid)
        for name, value in found.p_holm.items():
            assert value == by_pair[frozenset((name, found.leader))]
        assert found.p_holm["c"] > holm([sign_flip_p(grid.paired(found.leader, "c").differences.ravel())[0]])[0]

    def test_lower_is_better(self, make_grid, grid):
        upside_down = make_grid({name: -grid.values[i] for i, name in enumerate(grid.methods)}, direction="lower")
        assert top_group(upside_down) == top_group(grid)

    def test_an_exact_tie_goes_by_name_and_is_shared(self, make_grid):
        found = top_group(make_grid({name: [[0.5] * 8] for name in "cab"}))
        assert (found.leader, found.members) == ("a", ("a", "b", "c"))

    def test_too_few_cells_to_separate_anybody(self, make_grid):
        found = top_group(make_grid({f"m{i:02}": noise(i, 3, 3) for i in range(12)}))
        assert str(found) == (
            "not computed: 9 cells cannot separate any of 66 pairs of methods (smallest adjusted p 0.26); 12 are needed"
        )
        assert (found.question, found.n, found.unit) == ("Q2", 9, "cells")

    def test_twelve_cells_are_enough_for_twelve_methods(self, make_grid):
        found = top_group(make_grid({f"m{i:02}": i + 0.1 * noise(i, 3, 4) for i in range(12)}))
        assert found.members == ("m11",)

    def test_one_method(self, make_grid):
        assert str(top_group(make_grid({"a": [[1.0] * 9]}))) == "not computed: 1 method; 2 are needed"

    def test_the_null_seldom_splits_the_group(self, make_grid):
        """Five methods alike: some pair is rejected in at most 5 % of boards."""
        split = [
            len(top_group(make_grid({name: noise(10 * board + i, 2, 5) for i, name in enumerate("abcde")})).members) < 5
            for board in range(200)
        ]
        assert np.mean(split) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)

    def test_order_of_reading(self, make_results):
        results = make_results({name: noise(i, 2, 5) for i, name in enumerate("abcd")})
        backwards = {name: dict(reversed(cells.items())) for name, cells in reversed(results.items())}
        assert top_group(Grid.of(results)) == top_group(Grid.of(backwards))
        assert rank_intervals(Grid.of(results)) == rank_intervals(Grid.of(backwards))


class TestRankIntervals:
    def test_far_apart(self, make_grid):
        grid = make_grid({name: i + 0.01 * noise(i, 2, 10) for i, name in enumerate("abc")})
        found = rank_intervals(grid)
        assert [(r.method, r.rank, r.low, r.high) for r in found] == [("c", 1, 1, 1), ("b", 2, 2, 2), ("a", 3, 3, 3)]
        assert {(r.question, r.n, r.unit, r.descriptive) for r in found} == {("Q2", 10, "seeds", False)}

    def test_two_seeds_by_hand(self, make_grid):
        """One task; a has 0 and 1, b 0.4 twice. Resamples 00, 01, 10, 11 put a last once in four, so b leads there."""
        a, b = rank_intervals(make_grid({"a": [[0.0, 1.0]], "b": [[0.4, 0.4]]}), level=0.4)
        assert (a.method, a.rank, a.low, a.high) == ("a", 1, 1, 1)
        assert (b.method, b.rank, b.low, b.high) == ("b", 2, 2, 2)
        a, b = rank_intervals(make_grid({"a": [[0.0, 1.0]], "b": [[0.4, 0.4]]}), level=0.6)
        assert (a.low, a.high, b.low, b.high) == (1, 2, 1, 2)

    def test_few_seeds_are_descriptive(self, make_grid):
        grid = make_grid({name: noise(i, 3, 9) for i, name in enumerate("ab")})
        assert all(result.descriptive for result in rank_intervals(grid))

    def test_ties_share_the_better_place(self, make_grid):
        found = rank_intervals(make_grid({"a": [[0.5, 0.6]], "b": [[0.5, 0.6]], "c": [[0.1, 0.1]]}))
        assert [(r.method, r.rank, r.low, r.high) for r in found] == [("a", 1, 1, 1), ("b", 1, 1, 1), ("c", 3, 3, 3)]

    def test_lower_is_better(self, make_grid):
        found = rank_intervals(make_grid({"a": [[0.5, 0.6]], "b": [[0.1, 0.2]]}, "lower"))
        assert [r.method for r in found] == ["b", "a"]

    def test_one_seed_has_none(self, make_grid):
        assert str(rank_intervals(make_grid({"a": [[1.0]], "b": [[2.0]]}))) == "not computed: 1 seed; 2 are needed"

    def test_places(self):
        assert places(np.array([[0.3, 0.9, 0.9]]), "higher").tolist() == [[3, 1, 1]]
        assert places(np.array([[0.3, 0.9, 0.9]]), "lower").tolist() == [[1, 2, 2]]


class TestAgreement:
    def test_kendall_by_hand(self):
        """Of six pairs five agree and one does not: (5 − 1) / 6."""
        first, second = dict(zip("abcd", (4, 3, 2, 1), strict=True)), dict(zip("dcba", (1, 2, 4, 3), strict=True))
        found = kendall_tau(first, second)
        assert found.tau == pytest.approx(4 / 6)
        assert (found.n, found.unit) == (4, "methods")

    def test_kendall_with_ties(self):
        assert kendall_tau({"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}).tau == pytest.approx(2 / np.sqrt(6))

    def test_kendall_conditions(self):
        assert isinstance(kendall_tau({"a": 1, "b": 1}, {"a": 1, "b": 2}), NotComputed)
        with pytest.raises(ValueError, match="only in one of both boards: b"):
            kendall_tau({"a": 1, "b": 1}, {"a": 1})

    def test_split_half_by_hand(self, make_grid):
        """Two seeds are halved in one way; the orders are a b c and a c b: (2 − 1) / 3."""
        found = split_half(make_grid({"a": [[3, 3]], "b": [[2, 1]], "c": [[1, 2]]}))
        assert found.tau == pytest.approx(1 / 3)
        assert (found.question, found.n, found.unit) == ("Q2", 2, "seeds")

    @pytest.mark.parametrize("seeds", [4, 5])
    def test_split_half_takes_all_halves(self, make_grid, seeds):
        tables = {name: noise(i, 2, seeds) for i, name in enumerate("abcd")}
        taus = []
        for half in combinations(range(seeds), seeds // 2):
            rest = [s for s in range(seeds) if s not in half]
            scores = [[table[:, list(side)].mean() for table in tables.values()] for side in (half, rest)]
            taus.append(stats.kendalltau(*scores).statistic)
        assert split_half(make_grid(tables)).tau == pytest.approx(np.mean(taus))

    def test_split_half_of_many_seeds_is_drawn_and_repeats(self, make_grid):
        grid = make_grid({name: 0.3 * i + noise(i, 1, 20) for i, name in enumerate("abcd")})
        assert split_half(grid) == split_half(grid)
        assert 0 < split_half(grid).tau < 1

    def test_split_half_conditions(self, make_grid):
        assert str(split_half(make_grid({"a": [[1.0]], "b": [[2.0]]}))) == "not computed: 1 seed; 2 are needed"
        assert isinstance(split_half(make_grid({"a": [[1, 1]], "b": [[1, 1]]})), NotComputed)
