"""Statistics: pure functions of a few numbers, each with its conditions.

Where to find what, by question:

* Q1, two trained models on one test set: `two_models` (McNemar, crossed bootstrap).
* Q2, methods on these tasks for a new seed: `intervals`, `grid` (what may be compared at all), `comparisons`
  (sign-flip, Holm, equivalence, effects), `standings` (top group, rank intervals, agreement), `aggregates`, `duels`.
* Q3, methods on a new task, from eight independent sources on: `sources` (the condition), `rank_tests` (Friedman,
  Wilcoxon, the critical-difference diagram), `bayes`.
* Before anything is run: `planning` (power, detectable effect, required seeds).

Every result says its question and its n; where its conditions do not hold there is a `NotComputed` with one sentence.
Values are in the unit of the metric: accuracies and their differences are fractions, not percent or points.
"""

from __future__ import annotations

from fedbench.statistics.aggregates import aggregate, imputed_mean, performance_profiles
from fedbench.statistics.bayes import bayesian_signed_rank
from fedbench.statistics.comparisons import against_reference, benjamini_hochberg, compare, holm
from fedbench.statistics.duels import bradley_terry, wins
from fedbench.statistics.grid import Grid, Paired, PairingError, Value, whole_methods
from fedbench.statistics.intervals import Interval, t_interval
from fedbench.statistics.planning import minimum_detectable_effect, power, required_cells, required_seeds
from fedbench.statistics.rank_tests import diagram, friedman, pairwise_wilcoxon
from fedbench.statistics.result import NotComputed, Question, Result
from fedbench.statistics.sources import Sources, by_source
from fedbench.statistics.standings import kendall_tau, rank_intervals, split_half, top_group
from fedbench.statistics.two_models import Answers, crossed_bootstrap, mcnemar

__all__ = [
    "Answers",
    "Grid",
    "Interval",
    "NotComputed",
    "Paired",
    "PairingError",
    "Question",
    "Result",
    "Sources",
    "Value",
    "against_reference",
    "aggregate",
    "bayesian_signed_rank",
    "benjamini_hochberg",
    "bradley_terry",
    "by_source",
    "compare",
    "crossed_bootstrap",
    "diagram",
    "friedman",
    "holm",
    "imputed_mean",
    "kendall_tau",
    "mcnemar",
    "minimum_detectable_effect",
    "pairwise_wilcoxon",
    "performance_profiles",
    "power",
    "rank_intervals",
    "required_cells",
    "required_seeds",
    "split_half",
    "t_interval",
    "top_group",
    "whole_methods",
    "wins",
]
