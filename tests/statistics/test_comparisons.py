"""Paired comparisons on fixed tasks, against published cases, scipy and simulation."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedbench.statistics import Grid, NotComputed, against_reference, benjamini_hochberg, compare, holm, t_interval
from fedbench.statistics.comparisons import (
    Equivalence,
    SignFlip,
    equivalence,
    hedges_g,
    probability_of_improvement,
    sign_flip,
    sign_flip_p,
)

# R's depression data (Hollander and Wolfe): nine patients before and after.
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


class TestSignFlip:
    def test_depression(self):
        assert sign_flip_p(BEFORE - AFTER)[0] == 0.02734375

    @pytest.mark.parametrize(("values", "p"), [([0.01, 0.02, 0.03], 0.25), (np.arange(1, 10) / 100, 0.00390625)])
    def test_smallest_p(self, values, p):
        assert sign_flip_p(values)[0] == p
        assert p == 2 / 2 ** len(values)

    @given(st.lists(st.integers(-20, 20), min_size=1, max_size=8))
    def test_counts_every_sign_vector(self, counts):
        reached = [abs(sum(s * c for s, c in zip(signs, counts, strict=True))) >= abs(sum(counts))
                   for signs in product([-1, 1], repeat=len(counts))]  # fmt: skip
        assert sign_flip_p(np.array(counts) / 3421)[0] == np.mean(reached)

    def test_like_scipy(self):
        row = noise(1, 11) + 0.4
        found = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=math.inf)
        assert sign_flip_p(row)[0] == pytest.approx(found.pvalue, abs=1e-12)

    def test_drawn_signs_agree_with_all_signs(self):
        """19 cells are drawn; a 19th difference of zero changes no sum, so the 18 others have the same p."""
        rows = noise(2, 5, 18) + 0.3
        exact = sign_flip_p(rows)
        drawn = sign_flip_p(np.hstack([rows, np.zeros((5, 1))]))
        assert np.all(np.abs(drawn - exact) < 4 * np.sqrt(exact * (1 - exact) / 99_999))
        assert not np.array_equal(drawn, exact)

    def test_drawn_p_is_never_zero(self):
        assert sign_flip_p(np.ones(40))[0] == 1 / 100_000

    def test_the_same_on_every_rendering(self):
        row = noise(3, 30)
        assert sign_flip_p(row)[0] == sign_flip_p(np.stack([noise(4, 30), row]))[1]

    def test_of_signs_alone_it_is_the_sign_test(self):
        """Demšar's example: better on 11 of 14."""
        assert sign_flip_p([1] * 11 + [-1] * 3)[0] == pytest.approx(0.0574, abs=5e-5)

    def test_no_difference_is_p_one(self):
        assert sign_flip_p(np.zeros(9))[0] == 1

    @pytest.mark.parametrize("shape", [(3, 4), (3, 10)])  # all signs; drawn signs
    def test_uniform_under_the_null(self, shape):
        """Tasks of very different spread; 500 boards without a difference."""
        spread = np.array([0.1, 1, 10])[:, None]
        p = sign_flip_p((noise(5, 500, *shape) * spread).reshape(500, -1))
        assert stats.kstest(p, "uniform").pvalue > 0.05
        assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.025)

    @pytest.mark.parametrize(
        ("cells", "effect", "share"), [(9, 0.5, 0.25), (9, 1.0, 0.73), (9, 1.2, 0.87), (15, 0.5, 0.44), (15, 1.0, 0.95)]
    )
    def test_power(self, cells, effect, share):
        p = sign_flip_p(noise(6, 2000, cells) + effect)
        assert np.mean(p <= 0.05) == pytest.approx(share, abs=0.035)

    def test_power_of_thirty_cells(self):
        assert np.mean(sign_flip_p(noise(7, 500, 30) + 0.5) <= 0.05) == pytest.approx(0.73, abs=0.06)

    def test_too_few_say_so(self):
        found = sign_flip([0.01, 0.02, 0.03], "seeds")
        assert isinstance(found, NotComputed)
        assert str(found) == "not computed: 3 seeds, the smallest possible p is 0.25; 6 are needed"
        assert (found.question, found.n, found.unit) == ("Q2", 3, "seeds")

    def test_enough(self):
        found = sign_flip(np.arange(1, 10) / 100)
        assert found == SignFlip(question="Q2", n=9, unit="cells", p=0.00390625, smallest=0.00390625, exact=True)
        assert sign_flip(np.ones(19)).smallest == 1e-5

    @pytest.mark.parametrize("bad", [[], [math.nan, 1.0], np.ones((2, 2, 2))])
    def test_refuses(self, bad):
        with pytest.raises(ValueError, match="finite differences"):
            sign_flip_p(bad)


class TestMultiplicity:
    def test_holm(self):
        assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])

    def test_benjamini_hochberg(self):
        assert benjamini_hochberg([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05] * 5)

    def test_demsar(self):
        p = [0.015720, 0.019172, 0.608408]
        assert holm(p) == pytest.approx([0.047160, 0.047160, 0.608408])
        assert benjamini_hochberg(p) == pytest.approx([0.028759, 0.028759, 0.608408], abs=1e-6)

    @given(st.lists(st.floats(0, 1), max_size=12))
    def test_holm_is_monotone_and_never_below_raw(self, p):
        adjusted = holm(p)
        assert all(1 >= a >= r for a, r in zip(adjusted, p, strict=True))
        in_order = [a for _, a in sorted(zip(p, adjusted, strict=True))]
        assert in_order == sorted(in_order)

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=8).flatmap(lambda p: st.tuples(st.just(p), st.permutations(range(len(p))))))  # fmt: skip # noqa: E501
    def test_order_of_comparisons_does_not_matter(self, drawn):
        p, order = drawn
        assert [holm(p)[i] for i in order] == list(holm([p[i] for i in order]))

    def test_nothing_to_adjust(self):
        assert holm([]) == benjamini_hochberg([]) == ()

    def test_refuses_what_is_no_probability(self):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm([0.5, 1.5])
        with pytest.raises(ValueError, match="between 0 and 1"):
            benjamini_hochberg([math.nan])


class TestEquivalence:
    def test_reference_case(self):
        x, y = np.array([0.912, 0.915, 0.910, 0.913, 0.911]), np.array([0.911, 0.914, 0.911, 0.912, 0.910])
        found = equivalence(x - y, 0.005)
        assert (found.t_low, found.t_high) == pytest.approx((14.0, -11.0))
        assert found.p == pytest.approx(0.000194, abs=1e-6)
        assert (found.question, found.n, found.unit, found.margin) == ("Q2", 5, "seeds", 0.005)

    @given(st.lists(st.floats(-1, 1), min_size=3, max_size=8), st.floats(0.01, 1))
    def test_like_two_one_sided_tests(self, row, margin):
        found = equivalence(row, margin)
        if np.std(row, ddof=1) > 1e-6:
            low = stats.ttest_1samp(row, -margin, alternative="greater").pvalue
            high = stats.ttest_1samp(row, margin, alternative="less").pvalue
            assert found.p == pytest.approx(max(low, high), rel=1e-6, abs=1e-12)

    def test_agrees_with_the_interval(self):
        """p <= 0.05 exactly where the 90 % interval lies inside the margin."""
        for row in noise(8, 300, 5) * 0.004:
            inside = max(map(abs, (t_interval(row, 0.9).low, t_interval(row, 0.9).high))) <= 0.005
            assert (equivalence(row, 0.005).p <= 0.05) == inside

    @pytest.mark.parametrize(("row", "reason"), [
        ([0.1], "not computed: 1 seed; 2 are needed"),
        ([0.0] * 5, "not computed: the difference is 0 at all 5 seeds, which show no spread to test against"),
    ])  # fmt: skip
    def test_conditions(self, row, reason):
        assert str(equivalence(row, 0.005)) == reason

    @pytest.mark.parametrize("margin", [0, -0.1, math.nan])
    def test_refuses_a_margin(self, margin):
        with pytest.raises(ValueError, match="margin"):
            equivalence([0.1, 0.2], margin)


class TestEffects:
    def test_hedges_factor_by_hand(self):
        # n = 5, 4 degrees of freedom: Γ(2) / (√2 · Γ(3/2)) = 1 / (√2 · √π / 2) = 0.797885; mean 3, s = √2.5
        assert hedges_g([1, 2, 3, 4, 5]) == pytest.approx(math.sqrt(2 / math.pi) * 3 / math.sqrt(2.5))

    def test_hedges_factor_removes_the_bias(self):
        """s of four normals is small too often: mean / s overstates the effect by 1 / 0.7236."""
        rows = noise(9, 4000, 4) + 1
        raw = rows.mean(axis=1) / rows.std(axis=1, ddof=1)
        assert np.mean([hedges_g(row) for row in rows[:2000]]) == pytest.approx(1, abs=0.08)
        assert raw.mean() > 1.2

    def test_hedges_conditions(self):
        assert str(hedges_g([0.1, 0.2])) == "not computed: 2 seeds; 3 are needed"
        assert isinstance(hedges_g([0.1] * 4), NotComputed)

    def test_probability_of_improvement(self):
        assert probability_of_improvement([0.8, 0.9, 0.7], [0.6, 0.85, 0.5]) == pytest.approx(7 / 9)
        assert probability_of_improvement([0.8, 0.9, 0.7], [0.8, 0.9, 0.7]) == 0.5

    @given(*[st.lists(st.integers(0, 9), min_size=1, max_size=6)] * 2)
    def test_like_mann_whitney(self, x, y):
        share = stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
        assert probability_of_improvement(np.array(x) / 10, np.array(y) / 10) == pytest.approx(share)


class TestCompare:
    # Two tasks, three seeds; differences in points: 1 2 3 and 3 2 4, by seed 2 2 3.5, by task 2 and 3.
    OURS = ([0.71, 0.72, 0.73], [0.83, 0.82, 0.84])
    THEIRS = ([0.70, 0.70, 0.70], [0.80, 0.80, 0.80])

    def test_by_hand(self, make_grid):
        found = compare(make_grid({"ours": self.OURS, "theirs": self.THEIRS}).paired("ours", "theirs"), margin=0.005)
        assert (found.question, found.n, found.unit) == ("Q2", 6, "cells")
        assert (found.method, found.reference, found.comparisons) == ("ours", "theirs", 1)
        assert found.difference.mean == pytest.approx(0.025)
        assert found.difference.n == 3
        s = math.sqrt((0.005**2 * 2 + 0.01**2) / 2)  # of 0.02, 0.02, 0.035
        assert found.difference.high - 0.025 == pytest.approx(4.302653 * s / math.sqrt(3), rel=1e-6)
        assert found.sign_flip == SignFlip(question="Q2", n=6, unit="cells", p=2 / 64, smallest=2 / 64, exact=True)
        assert found.p_holm == 2 / 64
        assert found.detectable == pytest.approx(3.264044 * s, rel=1e-6)
        first, second = found.tasks
        assert (first.task, first.question, first.n, first.unit) == ("task0", "Q2", 3, "seeds")
        assert [task.difference.mean for task in found.tasks] == pytest.approx([0.02, 0.03])
        assert str(second.sign_flip) == "not computed: 3 seeds, the smallest possible p is 0.25; 6 are needed"
        assert first.p_improvement == 1
        assert first.hedges_g == pytest.approx(0.02 / 0.01 / math.sqrt(math.pi))  # Γ(1) / Γ(1/2) at n = 3
        assert first.detectable == pytest.approx(3.264044 * 0.01, rel=1e-6)

    def test_lower_is_better(self, make_grid):
        found = compare(make_grid({"a": self.OURS, "b": self.THEIRS}, "lower").paired("a", "b"), 0.005)
        assert found.difference.mean == pytest.approx(0.025)
        assert [task.p_improvement for task in found.tasks] == [0, 0]

    def test_against_itself(self, make_grid):
        found = compare(make_grid({"a": self.OURS, "b": self.OURS}).paired("a", "b"), 0.005)
        assert found.sign_flip.p == 1
        assert isinstance(found.equivalence, NotComputed)
        assert isinstance(found.detectable, NotComputed)
        assert (found.difference.low, found.difference.high) == (0, 0)

    def test_a_constant_on_a_task_changes_nothing(self, make_grid):
        shift = np.array([[0.25], [-0.5]])
        ours, theirs = np.array(self.OURS), np.array(self.THEIRS)
        plain = make_grid({"a": ours, "b": theirs})
        moved = make_grid({"a": ours + shift, "b": theirs + shift})
        before, after = (compare(grid.paired("a", "b"), 0.005) for grid in (plain, moved))
        assert before == after

    def test_order_of_tasks_and_methods_changes_no_digit(self, make_results):
        tables = {name: 0.5 + 0.1 * noise(i, 3, 5) for i, name in enumerate("abcd")}
        results = make_results(tables)
        backwards = {name: dict(reversed(cells.items())) for name, cells in reversed(results.items())}
        assert against_reference(Grid.of(results), "a", 0.005) == against_reference(Grid.of(backwards), "a", 0.005)

    def test_other_cells_do_not_matter(self, make_results):
        """Without one task, what is said about the others stays as it is."""
        results = make_results({name: 0.5 + 0.1 * noise(i, 3, 5) for i, name in enumerate("ab")})
        fewer = {name: {key: v for key, v in cells.items() if key[0] != "task1"} for name, cells in results.items()}
        whole, part = (compare(Grid.of(table).paired("a", "b"), 0.005) for table in (results, fewer))
        assert part.tasks == (whole.tasks[0], whole.tasks[2])

    def test_coverage_where_tasks_share_a_seed(self, make_grid):
        """The cells of one seed move together, and tasks differ: Student's interval over seeds covers 95 %."""
        covered = []
        for shared, own in zip(noise(10, 1000, 1, 4), noise(11, 1000, 3, 4), strict=True):
            row = (shared + own * np.array([[0.2], [1], [3]]) + np.array([[1], [2], [3]])) / 100
            covered.append(compare(make_grid({"a": row, "b": 0 * row}).paired("a", "b"), 0.005).difference)
        assert np.mean([i.low <= 0.02 <= i.high for i in covered]) == pytest.approx(0.95, abs=0.02)


class TestAgainstReference:
    @pytest.fixture
    def found(self, make_grid):
        base = 0.8 + 0.01 * noise(12, 3, 5)
        shifts = {"fedavg": 0.0, "better": 0.03, "same": 0.0002, "worse": -0.02}
        tables = {name: base + shift + 0.001 * noise(len(name), 3, 5) for name, shift in shifts.items()}
        tables["fedavg"] = base
        return against_reference(make_grid(tables), "fedavg", 0.005)

    def test_holm_over_all_others(self, found):
        assert [c.method for c in found] == ["better", "same", "worse"]
        assert {c.comparisons for c in found} == {3}
        assert [c.p_holm for c in found] == list(holm([c.sign_flip.p for c in found]))
        assert [c.p_equivalence_holm for c in found] == list(holm([c.equivalence.p for c in found]))

    def test_verdicts(self, found):
        better, same, worse = found
        assert better.p_holm <= 0.05 < same.p_holm
        assert worse.p_holm <= 0.05
        assert same.p_equivalence_holm <= 0.05 < better.p_equivalence_holm
        assert better.difference.mean > 0 > worse.difference.mean

    def test_detectable_difference_is_corrected(self, make_grid):
        grid = make_grid({"a": [[0.1, 0.2, 0.4]] * 2, "b": [[0.2, 0.2, 0.2]] * 2})
        alone, of_seven = (compare(grid.paired("a", "b"), 0.005, m).detectable for m in (1, 7))
        assert of_seven / alone == pytest.approx(8.6626 / 3.2640, abs=1e-4)  # statistics of three pairs

    def test_too_few_cells_leave_a_sentence_in_place_of_p(self, make_grid):
        (found,) = against_reference(make_grid({"a": [[0.5, 0.6, 0.7]], "b": [[0.4, 0.6, 0.8]]}), "a", 0.005)
        assert isinstance(found.p_holm, NotComputed)
        assert isinstance(found.equivalence, Equivalence)

    def test_a_chosen_family(self, make_grid):
        grid = make_grid({name: 0.5 + 0.1 * noise(i, 2, 4) for i, name in enumerate("abcd")})
        (one,) = against_reference(grid, "a", 0.005, methods=["c"])
        assert (one.method, one.comparisons, one.p_holm) == ("c", 1, one.sign_flip.p)
        assert replace(one, comparisons=1) == compare(grid.paired("c", "a"), 0.005)
