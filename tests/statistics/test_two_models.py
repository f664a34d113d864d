"""Two concrete models: McNemar and the crossed bootstrap."""

import numpy as np
import pytest
from scipy.special import chdtrc

from fedbench.statistics import Answers, PairingError, crossed_bootstrap, mcnemar


def answers(right, ids=None):
    right = np.asarray(right, dtype=bool)
    return Answers(np.arange(len(right)) if ids is None else np.asarray(ids), right)


def discordant(b, c, both=50, neither=10):
    first = [1] * b + [0] * c + [1] * both + [0] * neither
    second = [0] * b + [1] * c + [1] * both + [0] * neither
    return answers(first), answers(second)


class TestMcNemar:
    @pytest.mark.parametrize(
        ("b", "c", "chi2", "p_chi2", "corrected", "p_corrected", "p"),
        [
            (25, 15, 2.5, 0.113846, 2.025, 0.154729, 0.153860),
            (121, 59, 21.355556, 3.8151e-06, 20.672222, 5.4501e-06, 4.4344e-06),
        ],
    )
    def test_reference_cases(self, b, c, chi2, p_chi2, corrected, p_corrected, p):
        found = mcnemar(*discordant(b, c))
        assert (found.only_first, found.only_second) == (b, c)
        assert (found.chi2, found.chi2_corrected) == pytest.approx((chi2, corrected), abs=1e-6)
        assert chdtrc(1, found.chi2) == pytest.approx(p_chi2, rel=1e-4)
        assert chdtrc(1, found.chi2_corrected) == pytest.approx(p_corrected, rel=1e-4)
        assert found.p == pytest.approx(p, rel=1e-4)
        assert (found.question, found.n, found.unit) == ("Q1", b + c + 60, "test samples")

    def test_no_discordant_samples(self):
        found = mcnemar(*discordant(0, 0))
        assert (found.p, found.chi2, found.chi2_corrected) == (1, 0, 0)

    def test_equal_counts(self):
        assert mcnemar(*discordant(3, 3)).p == 1
        assert mcnemar(*discordant(3, 3)).chi2_corrected == 0

    def test_other_samples_are_refused(self):
        with pytest.raises(PairingError, match="not tested on the same samples"):
            mcnemar(answers([1, 0], [4, 5]), answers([1, 0], [5, 4]))
        with pytest.raises(PairingError, match="not tested on the same samples"):
            mcnemar(answers([1, 0]), answers([1, 0, 1]))
        with pytest.raises(PairingError, match="2 test samples have 3 answers"):
            mcnemar(answers([1, 0]), answers([1, 0, 1], [0, 1]))
        with pytest.raises(PairingError, match="no test sample"):
            mcnemar(answers([]), answers([]))


class TestCrossedBootstrap:
    def test_one_seed_is_the_paired_bootstrap(self):
        """Differences are +1, -1, 0 with shares 0.2, 0.1, 0.7: error √((0.3 − 0.01) / 2000), and 1.96 of them."""
        first, second = discordant(400, 200, both=1400, neither=0)
        found = crossed_bootstrap([first], [second])
        half = 1.96 * np.sqrt((0.3 - 0.1**2) / 2000)
        assert found.difference == pytest.approx(0.1)
        assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=1.5e-3)
        assert (found.question, found.n, found.unit) == ("Q1", 2000, "test samples")
        assert (found.seeds, found.descriptive) == (1, False)

    def test_like_a_plain_loop(self):
        rng = np.random.default_rng(0)
        first, second = rng.random((4, 60)) < 0.7, rng.random((4, 60)) < np.linspace(0.4, 0.8, 60)
        gains, drawn = first.astype(int) - second, []
        for _ in range(4000):
            drawn.append(gains[rng.integers(4, size=4)][:, rng.integers(60, size=60)].mean())
        found = crossed_bootstrap([answers(row) for row in first], [answers(row) for row in second])
        assert found.difference == pytest.approx(gains.mean())
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)

    def test_seeds_that_disagree_widen_the_interval(self):
        better, equal = discordant(400, 0), discordant(0, 0, both=450, neither=10)
        alone = crossed_bootstrap([better[0]], [better[1]])
        crossed = crossed_bootstrap([better[0], equal[0]], [better[1], equal[1]])
        assert crossed.high - crossed.low > 5 * (alone.high - alone.low)

    def test_few_seeds_are_descriptive(self):
        first, second = discordant(5, 3)
        assert crossed_bootstrap([first] * 9, [second] * 9).descriptive
        assert not crossed_bootstrap([first] * 10, [second] * 10).descriptive

    def test_equal_models(self):
        first, _ = discordant(5, 3)
        found = crossed_bootstrap([first] * 3, [first] * 3)
        assert (found.difference, found.low, found.high) == (0, 0, 0)

    def test_refusals(self):
        one, other = answers([1, 0]), answers([1, 0], [1, 0])
        with pytest.raises(PairingError, match="got 2 and 1"):
            crossed_bootstrap([one, one], [one])
        with pytest.raises(PairingError, match="got 0 and 0"):
            crossed_bootstrap([], [])
        with pytest.raises(PairingError, match="not tested on the same samples"):
            crossed_bootstrap([one, one], [one, other])
