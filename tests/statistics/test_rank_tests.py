"""Rank tests against Demšar 2006, R's RoundingTimes, tables of critical values, and enumeration."""

import math
from collections import Counter
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from fedbench.statistics import Sources, diagram, friedman, holm, pairwise_wilcoxon
from fedbench.statistics.rank_tests import (
    bars,
    bonferroni_dunn_difference,
    diagram_of_ranks,
    friedman_of_ranks,
    friedman_permutation_p,
    nemenyi_difference,
    nemenyi_p,
    rank_error,
    rank_rows,
    wilcoxon,
)

VARIANTS = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")


@pytest.fixture(scope="module")
def printed(demsar):
    """The ranks as the paper prints them: voting is 4, 1, 2, 3, since its unrounded values differ."""
    ranks = rank_rows(demsar)
    ranks[12] = [4, 1, 2, 3]
    return ranks


@pytest.fixture(scope="module")
def as_sources(demsar):
    return make_sources(demsar, VARIANTS)


def sum_over(sums, steps):
    """Return how often each sum is reached after one more step."""
    after = Counter()
    for at, n in sums.items():
        for step in steps:
            after[tuple(a + b for a, b in zip(at, step, strict=True))] += n
    return after


def make_sources(scores, methods="abcdefgh", direction="higher"):
    n, k = np.shape(scores)
    return Sources(
        question="Q3",
        n=n,
        unit="independent sources",
        names=tuple(f"source{i}" for i in range(n)),
        methods=tuple(methods[:k]),
        scores=np.asarray(scores, dtype=float),
        direction=direction,
    )


class TestDemsar:
    def test_ranks(self, printed):
        assert printed.sum(axis=0).tolist() == [44, 28, 40.5, 27.5]

    def test_friedman(self, printed):
        found = friedman_of_ranks(printed)
        assert found.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
        assert found.chi2_uncorrected == pytest.approx(9.278571, abs=1e-6)
        assert special.chdtrc(3, found.chi2_uncorrected) == pytest.approx(0.025807, abs=1e-6)
        assert (found.f, found.p_f) == pytest.approx((3.686313, 0.019823), abs=1e-6)
        assert found.f > special.fdtri(3, 39, 0.95) == pytest.approx(2.845068, abs=1e-6)
        assert (found.chi2, found.p) == pytest.approx((10.228346, 0.016722), abs=1e-6)
        assert (found.question, found.n, found.unit) == ("Q3", 14, "independent sources")
        assert found.p_permutation is None

    def test_the_trap_printed_values_tie_voting(self, demsar, as_sources):
        """From printed AUCs two variants tie on voting, and tie-corrected chi-square is far from the paper's 9.28."""
        found = friedman(as_sources)
        assert found.mean_ranks == pytest.approx([3.143, 2.000, 2.929, 1.929], abs=5e-4)
        assert found.chi2_uncorrected == pytest.approx(9.857143, abs=1e-6)
        assert (found.chi2, found.p) == pytest.approx((10.952381, 0.011986), abs=1e-6)
        assert found.chi2 == pytest.approx(stats.friedmanchisquare(*demsar.T).statistic)

    def test_critical_differences(self):
        assert rank_error(4, 14) == pytest.approx(0.487950, abs=1e-6)
        assert nemenyi_difference(4, 14) == pytest.approx(1.253559, abs=1e-6)
        assert nemenyi_difference(4, 14, 0.10) == pytest.approx(1.118060, abs=1e-6)
        assert bonferroni_dunn_difference(4, 14) == pytest.approx(1.168143, abs=1e-6)
        assert bonferroni_dunn_difference(4, 14, 0.10) == pytest.approx(1.038380, abs=1e-6)

    def test_against_the_control(self, printed):
        means = printed.mean(axis=0)
        z = (means[0] - means[[3, 1, 2]]) / rank_error(4, 14)
        p = 2 * special.ndtr(-z)
        assert z == pytest.approx([2.415353, 2.342160, 0.512348], abs=1e-6)
        assert p == pytest.approx([0.015720, 0.019172, 0.608408], abs=1e-6)
        assert holm(p) == pytest.approx([0.047160, 0.047160, 0.608408], abs=1e-6)

    def test_nemenyi_p(self, printed):
        p = nemenyi_p(printed.mean(axis=0), 14)
        pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
        assert [p[pair] for pair in pairs] == pytest.approx([0.0887, 0.9562, 0.0742, 0.2592, 0.9999, 0.2267], abs=5e-5)
        assert np.array_equal(p, p.T)
        assert p.diagonal() == pytest.approx(1)

    def test_nemenyi_p_and_difference_are_one_test(self):
        width = nemenyi_difference(5, 11)
        assert nemenyi_p([1, 1 + width], 11)[0, 1] != pytest.approx(0.05, abs=1e-3)  # of 2, not of 5 methods
        assert nemenyi_p([1, 1 + width, 2, 2, 2], 11)[0, 1] == pytest.approx(0.05, abs=1e-6)

    def test_diagram(self, printed):
        """Figure 1 of the paper: at 0.10 C4.5 differs from both with m, cf from none; at 0.05 nobody does."""
        means = dict(zip(VARIANTS, printed.mean(axis=0).tolist(), strict=True))
        loose = diagram_of_ranks(means, 14, 0.10)
        assert loose.bars == (("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5"))
        assert [name for name, _ in loose.mean_ranks] == ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
        assert loose.critical_difference == pytest.approx(1.118060, abs=1e-6)
        assert diagram_of_ranks(means, 14).bars == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)

    def test_wilcoxon(self, demsar):
        d = np.round(demsar[:, 1] - demsar[:, 0], 12)
        found = wilcoxon(d)
        assert (found.r_plus, found.r_minus) == (93, 12)
        assert found.z == pytest.approx(-2.543701, abs=1e-6)
        assert 2 * special.ndtr(found.z) == pytest.approx(0.010968, abs=1e-6)
        # By all sign vectors of the ranks at hand; 0.008545 is the distribution of 14 ranks without ties or zeros.
        ranks = np.sign(d) * stats.rankdata(np.abs(d))
        exact = stats.permutation_test((ranks,), np.sum, permutation_type="samples", n_resamples=math.inf).pvalue
        assert found.p == pytest.approx(exact, abs=1e-12)
        assert found.p == pytest.approx(0.008545, abs=2e-3)


class TestFriedman:
    def test_rounding_times(self):
        rows = """5.40 5.50 5.55; 5.85 5.70 5.75; 5.20 5.60 5.50; 5.55 5.50 5.40; 5.90 5.85 5.70; 5.45 5.55 5.60;
            5.40 5.40 5.35; 5.45 5.50 5.35; 5.25 5.15 5.00; 5.85 5.80 5.70; 5.25 5.20 5.10; 5.65 5.55 5.45;
            5.60 5.35 5.45; 5.05 5.00 4.95; 5.50 5.50 5.40; 5.45 5.55 5.50; 5.55 5.55 5.35; 5.45 5.50 5.55;
            5.50 5.45 5.25; 5.65 5.60 5.40; 5.70 5.65 5.55; 6.30 6.30 6.25"""
        table = [[float(value) for value in row.split()] for row in rows.split(";")]
        found = friedman(make_sources(table))
        assert (found.n, len(found.mean_ranks)) == (22, 3)
        assert (found.chi2, found.p) == pytest.approx((11.142857, 0.003805), abs=1e-6)

    def test_full_agreement_of_three(self):
        ranks = np.array([[1, 2, 3]] * 3)
        assert friedman_permutation_p(ranks) == pytest.approx(1 / 36)
        assert friedman_of_ranks(ranks).p == pytest.approx(0.0498, abs=5e-5)
        assert friedman_of_ranks(ranks).p_f == 0  # F is infinite
        assert friedman_of_ranks(ranks).p_permutation == pytest.approx(1 / 36)

    @given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=3))
    def test_permutation_by_enumeration(self, scores):
        ranks = rank_rows(scores)
        spread = [np.var(np.sum(rows, axis=0)) for rows in product(*(list(permutations(row)) for row in ranks))]
        share = np.mean([value >= np.var(ranks.sum(axis=0)) - 1e-9 for value in spread])
        assert friedman_permutation_p(ranks) == pytest.approx(share)

    def test_two_methods_are_a_sign_test(self):
        ranks = rank_rows([[1, 0]] * 7 + [[0, 1]] * 2)
        assert friedman_permutation_p(ranks) == pytest.approx(stats.binomtest(2, 9).pvalue)

    def test_drawn_permutations(self):
        """Nine sources and three methods have 6⁸ arrangements: drawn. The exact share, by convolution of rank sums."""
        ranks = rank_rows(np.random.default_rng(1).normal(size=(9, 3)) + np.array([0, 0, 0.3]))
        sums = Counter({(0.0, 0.0, 0.0): 1})
        for row in ranks:
            sums = sum_over(sums, list(permutations(row.tolist())))
        observed = np.square(ranks.sum(axis=0)).sum()
        exact = sum(n for at, n in sums.items() if np.square(at).sum() >= observed) / sums.total()
        drawn = friedman_permutation_p(ranks)
        assert 0.01 < exact < 0.5
        assert abs(drawn - exact) < 4 * math.sqrt(exact * (1 - exact) / 99_999)
        assert friedman_of_ranks(ranks).p_permutation == drawn

    def test_uniform_under_the_null(self):
        scores = np.random.default_rng(2).normal(size=(500, 20, 5))
        p = [friedman_of_ranks(rank_rows(table)).p for table in scores]
        assert stats.kstest(p, "uniform").pvalue > 0.01
        assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.025)

    def test_only_the_order_counts(self, demsar):
        tables = (demsar, np.exp(5 * demsar), 1000 * demsar**3 - 7)
        assert len({friedman(make_sources(table)) for table in tables}) == 1

    def test_order_of_sources_and_methods(self, demsar):
        rng, plain = np.random.default_rng(3), friedman(make_sources(demsar))
        rows, columns = rng.permutation(14), rng.permutation(4)
        moved = friedman(make_sources(demsar[rows][:, columns]))
        assert (moved.chi2, moved.f) == pytest.approx((plain.chi2, plain.f))
        assert list(moved.mean_ranks) == pytest.approx([plain.mean_ranks[i] for i in columns])

    def test_lower_is_better(self, demsar):
        found = friedman(make_sources(1 - demsar, direction="lower"))
        assert found == friedman(make_sources(demsar))

    def test_all_tied(self):
        found = friedman_of_ranks(np.full((9, 3), 2.0))
        assert (found.chi2, found.p, found.f, found.p_f, found.p_permutation) == (0, 1, 0, 1, 1)

    def test_refuses_scores(self):
        with pytest.raises(ValueError, match="use rank_rows"):
            friedman_of_ranks([[0.9, 0.8], [0.7, 0.6]])
        with pytest.raises(ValueError, match="two rows"):
            friedman_of_ranks([[1, 2]])

    def test_fractions_tie(self):
        assert rank_rows([[0.3 - 0.2, 0.1, 0.5]]).tolist() == [[2.5, 2.5, 1]]


class TestWilcoxon:
    def test_depression(self):
        x = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
        y = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
        found = wilcoxon(x - y)
        assert (found.r_plus, found.r_minus) == (40, 5)
        assert found.p == 0.0390625

    @given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
    def test_by_enumeration(self, counts):
        found = wilcoxon(np.array(counts) / 3421)
        n, ranks = len(counts), stats.rankdata(np.abs(counts))
        signed = np.sign(counts) * ranks
        shares = [abs(np.dot(signs, signed)) >= abs(signed.sum()) for signs in product([-1, 1], repeat=n)]
        assert found.p == pytest.approx(np.mean(shares))
        assert found.r_plus + found.r_minus == n * (n + 1) / 2

    def test_large_samples_are_drawn(self):
        row = np.random.default_rng(4).normal(size=40) + 0.25
        exact = stats.wilcoxon(row, method="exact").pvalue
        assert abs(wilcoxon(row).p - exact) < 4 * math.sqrt(exact * (1 - exact) / 99_999)

    def test_pairs_share_holm(self, demsar, as_sources):
        found = pairwise_wilcoxon(as_sources)
        assert [result.pair for result in found][:2] == [("C4.5", "C4.5+m"), ("C4.5", "C4.5+cf")]
        assert [result.p_holm for result in found] == list(holm([result.p for result in found]))
        assert found[0].r_minus == 93  # C4.5 minus C4.5+m
        assert {(result.question, result.n) for result in found} == {("Q3", 14)}

    def test_two_methods_do_not_depend_on_the_others(self, demsar):
        alone = pairwise_wilcoxon(make_sources(demsar[:, :2]))[0]
        among = pairwise_wilcoxon(make_sources(demsar))[0]
        assert (alone.p, alone.r_plus) == (among.p, among.r_plus)


class TestNemenyi:
    @pytest.mark.parametrize(
        ("alpha", "table"),
        [
            (0.05, (1.960, 2.344, 2.569, 2.728, 2.850, 2.948, 3.031, 3.102, 3.164)),
            (0.10, (1.645, 2.052, 2.291, 2.460, 2.589, 2.693, 2.780, 2.855, 2.920)),
        ],
    )
    def test_printed_table(self, alpha, table):
        q = [nemenyi_difference(k, 14, alpha) / rank_error(k, 14) for k in range(2, 11)]
        assert q == pytest.approx(table, abs=1e-3)

    @pytest.mark.parametrize(
        ("n", "widths"), [(3, {5: 3.52, 8: 6.06, 10: 7.82, 12: 9.62}), (12, {5: 1.76, 8: 3.03, 10: 3.91, 12: 4.81})]
    )
    def test_few_tasks_separate_nothing(self, n, widths):
        for k, width in widths.items():
            assert nemenyi_difference(k, n) == pytest.approx(width, abs=5e-3)

    def test_two_methods_are_a_normal_test(self):
        assert nemenyi_p([1.2, 1.8], 10)[0, 1] == pytest.approx(2 * special.ndtr(-0.6 / math.sqrt(6 / 60)), abs=1e-9)


class TestBars:
    def test_by_hand(self):
        """Ranks 1, 1.5, 2.4, 3.6, 5.2; two differ from a gap of 1.5 on: two bars, and none at the last."""
        at = dict(zip("abcde", (1, 1.5, 2.4, 3.6, 5.2), strict=True))
        assert bars("abcde", lambda x, y: abs(at[x] - at[y]) >= 1.5) == (("a", "b", "c"), ("c", "d"))

    def test_nobody_differs(self):
        assert bars("abc", lambda x, y: False) == (("a", "b", "c"),)

    def test_everybody_differs(self):
        assert bars("abc", lambda x, y: True) == ()

    def test_one_method(self):
        assert bars("a", lambda x, y: False) == bars("", lambda x, y: False) == ()

    def test_a_pair_that_differs_inside_cuts_a_run(self):
        """Ends a and d are alike, b and c differ: no bar may cover b and c."""
        assert bars("abcd", lambda x, y: {x, y} == {"b", "c"}) == (("a", "b"), ("c", "d"))

    @given(st.integers(2, 7).flatmap(lambda k: st.tuples(st.just(k), st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6))))))  # fmt: skip # noqa: E501
    def test_against_the_definition(self, drawn):
        k, pairs = drawn

        def differ(x, y):
            return (min(x, y), max(x, y)) in pairs

        alike = [
            tuple(range(i, j))
            for i in range(k)
            for j in range(i + 2, k + 1)
            if not any(differ(x, y) for x in range(i, j) for y in range(x + 1, j))
        ]
        maximal = [run for run in alike if not any(set(run) < set(other) for other in alike)]
        assert bars(range(k), differ) == tuple(maximal)

    def test_exactly_the_critical_difference_differs(self):
        width = nemenyi_difference(2, 20)
        assert diagram_of_ranks({"a": 0.0, "b": width}, 20).bars == ()
        assert diagram_of_ranks({"a": 0.0, "b": 0.999 * width}, 20).bars == (("a", "b"),)

    def test_ties_stand_by_name(self):
        forwards, backwards = (dict.fromkeys(names, 2.0) for names in ("abc", "cba"))
        found = diagram_of_ranks(forwards, 10)
        assert found == diagram_of_ranks(backwards, 10)
        assert [name for name, _ in found.mean_ranks] == ["a", "b", "c"]
        assert found.bars == (("a", "b", "c"),)

    def test_of_sources(self):
        table = np.array([[0.9, 0.8, 0.3]] * 8) + 0.001 * np.arange(8)[:, None]
        found = diagram(make_sources(table))
        assert found.critical_difference == pytest.approx(2.344 * math.sqrt(12 / 48), abs=1e-3)
        assert found.mean_ranks == (("a", 1.0), ("b", 2.0), ("c", 3.0))
        assert found.bars == (("a", "b"), ("b", "c"))
        assert all(a[1] <= b[1] for a, b in pairwise(found.mean_ranks))
