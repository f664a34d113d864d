"""Splits over clients: disjoint covers, each rule written out plainly, and requests that cannot be met."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbench import (
    IID,
    Dirichlet,
    DirichletSizes,
    LogNormalSizes,
    Natural,
    PartitionError,
    PlainDirichlet,
    Shards,
    SpecError,
)
from fedbench.seeds import Streams

BLOOD = [852, 2181, 1085, 2026, 849, 993, 2330, 1643]


def labels_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


def mixed_counts(total, classes):
    """Class sizes that differ by a factor of four."""
    counts = [int(total * weight / sum(range(10, 10 + 3 * classes, 3))) for weight in range(10, 10 + 3 * classes, 3)]
    counts[-1] += total - sum(counts)
    return counts


def assert_disjoint_cover(parts, n):
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))


def split(partitioner, targets, seed=0, sites=None):
    n_classes = int(targets.max()) + 1
    return partitioner.split(targets, sites, n_classes, np.random.default_rng(seed))


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(20, 90), min_size=1, max_size=5),
    clients=st.integers(1, 5),
    min_size=st.integers(1, 4),
    alpha=st.sampled_from([0.3, 1.0, 10.0, 1000.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_sample_goes_to_one_client_and_every_client_has_enough(counts, clients, min_size, alpha, seed):
    targets = np.random.default_rng(seed).permutation(labels_of(counts))
    partitioner = Dirichlet(alpha=alpha, clients=clients, min_size=min_size, max_tries=20_000)
    parts = partitioner.split(targets, None, len(counts), np.random.default_rng(seed))
    assert len(parts) == clients
    assert min(len(part) for part in parts) >= min_size
    assert_disjoint_cover(parts, len(targets))


def plain_split(targets, n_classes, clients, alpha, min_size, rng):
    """The recipe as it stands in words, client by client, on the same draws."""
    n = len(targets)
    while True:
        held = {client: [] for client in range(clients)}
        for label in range(n_classes):
            members = rng.permutation([i for i in range(n) if targets[i] == label]).tolist()
            shares = rng.dirichlet([alpha] * clients).tolist()
            for client in held:
                if len(held[client]) >= n / clients:
                    shares[client] = 0.0
            whole = float(np.array(shares).sum())
            running, start = 0.0, 0
            for client in held:
                running += shares[client] / whole
                end = math.floor(running * len(members)) if client < clients - 1 else len(members)
                held[client] += members[start:end]
                start = end
        if min(len(ids) for ids in held.values()) >= min_size:
            return [rng.permutation(ids).tolist() for ids in held.values()]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("alpha", "clients"), [(0.1, 5), (0.5, 8), (100.0, 3)])
def test_the_balancing_rule_is_the_one_written_down(alpha, clients, seed):
    targets = np.random.default_rng(100).permutation(labels_of([60, 150, 90, 30]))
    ours = split(Dirichlet(alpha=alpha, clients=clients, min_size=5), targets, seed)
    plain = plain_split(targets.tolist(), 4, clients, alpha, 5, np.random.default_rng(seed))
    assert [part.tolist() for part in ours] == plain


class Scripted:
    """A generator that shuffles nothing and gives the shares it was told."""

    def __init__(self, *shares):
        self.shares = iter(shares)

    def permutation(self, values):
        return values

    def dirichlet(self, alpha):
        return np.array(next(self.shares))


def test_a_client_with_exactly_its_share_is_full_and_exactly_the_minimum_is_enough():
    # 12 samples, 3 clients: 4 are a full share. The first class fills two clients, so the second goes to the third.
    partitioner = Dirichlet(alpha=1, clients=3, min_size=4, max_tries=1)
    parts = partitioner.split(labels_of([8, 4]), None, 2, Scripted([0.5, 0.5, 0.0], [0.4, 0.4, 0.2]))
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_shares_are_cut_at_the_floor_of_their_running_sum():
    # 10 samples at 0.25, 0.35, 0.4: cuts at floor(2.5) and floor(6.0)
    partitioner = Dirichlet(alpha=1, clients=3, min_size=1, max_tries=1)
    parts = partitioner.split(labels_of([10]), None, 1, Scripted([0.25, 0.35, 0.4]))
    assert [len(part) for part in parts] == [2, 4, 4]


def test_where_all_shares_fall_on_full_clients_the_rest_share_alike():
    partitioner = Dirichlet(alpha=1, clients=3, min_size=1, max_tries=1)
    parts = partitioner.split(labels_of([6, 6]), None, 2, Scripted([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]))
    assert [len(part) for part in parts] == [6, 3, 3]


@pytest.mark.parametrize("seed", range(10))
def test_a_full_client_takes_no_more_than_the_class_that_filled_it(seed):
    targets = labels_of(BLOOD)
    parts = split(Dirichlet(alpha=0.1, clients=20), targets, seed)
    *others, last = (np.bincount(targets[part], minlength=8) for part in parts)
    for held in others:
        assert held[: np.flatnonzero(held)[-1]].sum() < len(targets) / 20
    # Where the shares add up to a hair less than one, a floor leaves a class's last sample to the last client.
    filled = np.flatnonzero(np.cumsum(last) >= len(targets) / 20)
    assert (last[filled[0] + 1 :] <= 1).all() if len(filled) else last.sum() < len(targets) / 20


def test_a_large_alpha_deals_every_class_evenly():
    targets = labels_of([1000, 3000])
    for part in split(Dirichlet(alpha=1e6, clients=10), targets):
        assert abs(np.bincount(targets[part]) - [100, 300]).max() <= 3


def test_a_small_alpha_gives_few_classes_a_client():
    targets = labels_of(BLOOD)
    held = [np.unique(targets[part]).size for part in split(Dirichlet(alpha=0.1, clients=20), targets)]
    spread = [np.unique(targets[part]).size for part in split(Dirichlet(alpha=10, clients=20), targets)]
    assert np.mean(held) < 6 < np.mean(spread)


@pytest.mark.parametrize("alpha", [1e-3, 1e-6, 1e-12, 1e-300])
def test_a_vanishing_alpha_still_covers(alpha):
    """Each class then goes to one client whole; where that one is full, to the rest."""
    targets = labels_of([30, 30, 30, 30])
    parts = split(Dirichlet(alpha=alpha, clients=3, min_size=1, max_tries=2000), targets)
    assert_disjoint_cover(parts, 120)


def test_one_client_holds_everything():
    assert_disjoint_cover(split(Dirichlet(alpha=0.1, clients=1), labels_of([20, 30])), 50)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_class_without_samples_is_passed_over(empty):
    counts = [20, 20]
    counts.insert(empty, 0)
    for clients in (1, 2, 4):
        partitioner = Dirichlet(alpha=1.0, clients=clients, min_size=1)
        parts = partitioner.split(labels_of(counts), None, 3, np.random.default_rng(0))
        assert_disjoint_cover(parts, 40)


def test_each_client_s_samples_are_shuffled():
    targets = labels_of([200, 200])
    (part,) = split(Dirichlet(alpha=1, clients=1), targets)
    assert part.tolist() != sorted(part.tolist())
    assert 60 < targets[part][:200].sum() < 140


def test_a_split_depends_on_its_stream_alone():
    targets, partitioner = labels_of(BLOOD), Dirichlet(alpha=0.1, clients=20)
    streams = Streams(1)
    first = partitioner.split(targets, None, 8, streams.rng("partition"))
    streams.rng("init").random(10)  # other streams drawn in between change nothing
    split(partitioner, targets, seed=9)
    again = partitioner.split(targets, None, 8, streams.rng("partition"))
    other = partitioner.split(targets, None, 8, Streams(2).rng("partition"))
    assert [part.tolist() for part in first] == [part.tolist() for part in again]
    assert [part.tolist() for part in first] != [part.tolist() for part in other]


@pytest.mark.parametrize(
    ("clients", "counts"),
    [(20, BLOOD), (30, mixed_counts(12_975, 11)), (50, mixed_counts(13_932, 11))],
    ids=["blood", "organc", "organs"],
)
def test_the_paper_s_settings_need_few_tries(clients, counts, monkeypatch):
    draws, draw = [], Dirichlet._draw

    def counting(self, *args):
        draws[-1] += 1
        return draw(self, *args)

    monkeypatch.setattr(Dirichlet, "_draw", counting)
    partitioner, targets = Dirichlet(alpha=0.1, clients=clients, min_size=10), labels_of(counts)
    for seed in range(20):
        draws.append(0)
        parts = partitioner.split(targets, None, len(counts), Streams(seed).rng("partition"))
        assert min(len(part) for part in parts) >= 10
    assert max(draws) < partitioner.max_tries / 20, f"tries: {sorted(draws)}"


# --- requests that cannot be met --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clients", "min_size", "numbers"), [(101, 1, ("101", "100")), (11, 10, ("11", "110", "100")), (1, 101, ("101",))]
)
def test_more_samples_asked_for_than_there_are(clients, min_size, numbers):
    with pytest.raises(PartitionError, match="at most, or a smaller min_size") as caught:
        split(Dirichlet(alpha=1, clients=clients, min_size=min_size), labels_of([50, 50]))
    assert all(number in str(caught.value) for number in numbers)


def test_no_samples_at_all():
    with pytest.raises(PartitionError, match="the training data has 0"):
        Dirichlet(alpha=1, clients=1).split(np.zeros(0, np.int64), None, 2, np.random.default_rng(0))


def test_a_minimum_that_no_draw_reaches_fails_fast_with_numbers_and_a_mend():
    start = time.perf_counter()
    with pytest.raises(
        PartitionError, match=r"12000 samples over 20 clients at alpha 0.1.*590 samples in 200 draws"
    ) as caught:
        split(Dirichlet(alpha=0.1, clients=20, min_size=590, max_tries=200), labels_of([1500] * 8))
    assert "(best: " in str(caught.value)
    assert "larger alpha, fewer clients or a smaller min_size" in str(caught.value)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0),
        ("alpha", -0.1),
        ("alpha", math.nan),
        ("alpha", math.inf),
        ("clients", 0),
        ("clients", -3),
        ("clients", 2.5),
        ("min_size", 0),
        ("max_tries", 0),
    ],
)
def test_a_split_out_of_range_names_the_field_and_the_value(field, value):
    with pytest.raises(SpecError, match=rf"Dirichlet: {field}: .*got {value}"):
        Dirichlet(**{"alpha": 0.1, "clients": 3, field: value})


# --- natural ----------------------------------------------------------------------------------------------------


def test_a_natural_split_is_one_client_a_site_in_the_order_of_sites():
    parts = split(Natural(), np.array([0, 1, 0, 1, 0]), sites=np.array([7, 2, 2, 7, 5]))
    assert [part.tolist() for part in parts] == [[1, 2], [4], [0, 3]]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=50))
def test_a_natural_split_is_a_disjoint_cover(sites):
    parts = split(Natural(), np.zeros(len(sites), np.int64), sites=np.array(sites))
    assert_disjoint_cover(parts, len(sites))
    assert len(parts) == len(set(sites))


def test_a_natural_split_draws_nothing_and_needs_sites():
    rng = np.random.default_rng(0)
    Natural().split(np.zeros(2, np.int64), np.array([0, 1]), 1, rng)
    assert rng.random() == np.random.default_rng(0).random()
    with pytest.raises(PartitionError, match="names none; use Dirichlet"):
        split(Natural(), np.zeros(3, np.int64))


# --- all artificial splits --------------------------------------------------------------------------------------

ARTIFICIAL = {
    "dirichlet": lambda **sizes: Dirichlet(alpha=0.5, **sizes),
    "plain": lambda **sizes: PlainDirichlet(alpha=0.5, **sizes),
    "shards": lambda **sizes: Shards(classes=2, **sizes),
    "iid": lambda **sizes: IID(**sizes),
    "log-normal": lambda **sizes: LogNormalSizes(sigma=1.0, **sizes),
    "dirichlet-sizes": lambda **sizes: DirichletSizes(alpha=1.0, **sizes),
}


@pytest.mark.parametrize("name", ARTIFICIAL)
@given(
    counts=st.lists(st.integers(30, 90), min_size=2, max_size=5),
    clients=st.integers(3, 6),
    min_size=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_split_is_a_disjoint_cover_with_the_minimum_and_depends_on_its_stream_alone(
    name, counts, clients, min_size, seed
):
    targets = np.random.default_rng(seed).permutation(labels_of(counts))
    partitioner = ARTIFICIAL[name](clients=clients, min_size=min_size)
    parts = partitioner.split(targets, None, len(counts), np.random.default_rng(seed))
    assert len(parts) == clients
    assert min(map(len, parts)) >= min_size
    assert_disjoint_cover(parts, len(targets))
    assert {part.dtype for part in parts} == {np.dtype(np.int64)}
    again = partitioner.split(targets, None, len(counts), np.random.default_rng(seed))
    assert [part.tolist() for part in parts] == [part.tolist() for part in again]


@pytest.mark.parametrize("name", ARTIFICIAL)
def test_another_stream_gives_another_split(name):
    targets, partitioner = labels_of([100, 100, 100]), ARTIFICIAL[name](clients=4, min_size=1)
    assert len({str([sorted(part.tolist()) for part in split(partitioner, targets, seed)]) for seed in range(4)}) == 4


@pytest.mark.parametrize("name", ARTIFICIAL)
def test_every_split_says_how_many_clients_there_is_room_for(name):
    with pytest.raises(PartitionError, match=r"11 clients of at least 10 samples need 110, .* has 100; use 10 client"):
        split(ARTIFICIAL[name](clients=11, min_size=10), labels_of([50, 50]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlainDirichlet(alpha=0, clients=2), "PlainDirichlet: alpha: .*got 0"),
        (lambda: DirichletSizes(alpha=math.inf, clients=2), "DirichletSizes: alpha: .*got inf"),
        (lambda: LogNormalSizes(sigma=-1, clients=2), "LogNormalSizes: sigma: .*got -1"),
        (lambda: LogNormalSizes(sigma=math.nan, clients=2), "LogNormalSizes: sigma: .*got nan"),
        (lambda: Shards(classes=0, clients=2), "Shards: classes: .*got 0"),
        (lambda: IID(clients=0), "IID: clients: .*got 0"),
        (lambda: IID(clients=2, alpha=1), "IID: alpha: extra"),
    ],
)
def test_a_parameter_out_of_range_is_named(make, message):
    with pytest.raises(SpecError, match=message):
        make()


# --- plain Dirichlet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_without_balancing_a_share_is_kept_whole(seed):
    targets = np.random.default_rng(100).permutation(labels_of([60, 150, 90, 30]))
    ours = split(PlainDirichlet(alpha=0.5, clients=5, min_size=1), targets, seed)
    rng = np.random.default_rng(seed)
    while True:
        held = [[] for _ in range(5)]
        for label in range(4):
            members = rng.permutation([i for i in range(330) if targets[i] == label]).tolist()
            cuts = [math.floor(cut * len(members)) for cut in np.cumsum(rng.dirichlet([0.5] * 5))[:-1]]
            for ids, start, end in zip(held, [0, *cuts], [*cuts, len(members)], strict=True):
                ids += members[start:end]
        if min(map(len, held)) >= 1:
            break
    assert [part.tolist() for part in ours] == [rng.permutation(ids).tolist() for ids in held]


@pytest.mark.parametrize(
    ("partitioner", "variance"),
    [
        # one draw: (K - 1) / (K^2 (K alpha + 1)) = 3 / (16 * 3)
        (DirichletSizes(alpha=0.5, clients=4, min_size=1), 1 / 16),
        # mean of C = 5 independent ones, as the classes are of equal size
        (PlainDirichlet(alpha=0.5, clients=4, min_size=1), 1 / 80),
    ],
    ids=["sizes", "plain"],
)
def test_shares_vary_as_a_dirichlet_does(partitioner, variance):
    targets = labels_of([4000] * 5)
    rng = np.random.default_rng(0)
    shares = np.array([[len(part) for part in partitioner._draw(targets, 5, rng)] for _ in range(600)]) / len(targets)
    assert shares.mean(axis=0) == pytest.approx([1 / 4] * 4, abs=4 * math.sqrt(variance / 600))
    # The estimate of a variance from 2400 dependent shares: within a fifth.
    assert shares.var() == pytest.approx(variance, rel=0.2)


def test_at_the_same_alpha_balancing_keeps_clients_from_growing():
    targets, sizes = labels_of(BLOOD), {}
    for kind in (Dirichlet, PlainDirichlet):
        parts = [split(kind(alpha=0.1, clients=20, min_size=1, max_tries=50_000), targets, seed) for seed in range(3)]
        sizes[kind] = np.mean([max(map(len, part)) for part in parts])
    assert sizes[PlainDirichlet] > 1.2 * sizes[Dirichlet]


def test_a_split_that_no_plain_draw_reaches_is_an_error_with_a_mend():
    with pytest.raises(PartitionError, match=r"20 clients at alpha 0.01 .*larger alpha, fewer clients"):
        split(PlainDirichlet(alpha=0.01, clients=20, max_tries=20), labels_of([500] * 4))


# --- shards -----------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=8).filter(lambda counts: np.count_nonzero(counts) > 1),
    clients=st.integers(1, 8),
    classes=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_every_client_has_so_many_classes_and_one_shard_of_each(counts, clients, classes, seed):
    partitioner = Shards(classes=classes, clients=clients, min_size=1)
    targets = labels_of(counts)
    try:
        parts = partitioner.split(targets, None, len(counts), np.random.default_rng(seed))
    except PartitionError:
        present = np.count_nonzero(counts)
        # Otherwise it can be had: with at least 8 samples a class no shard is empty.
        assert (
            classes > present or clients * classes < present or min(c for c in counts if c) < 8 or clients > sum(counts)
        )
        return
    held = np.stack([np.bincount(targets[part], minlength=len(counts)) for part in parts])
    assert_disjoint_cover(parts, sum(counts))
    assert ((held > 0).sum(axis=1) == classes).all()
    for shards in held.T:
        assert shards[shards > 0].size == 0 or np.ptp(shards[shards > 0]) <= 1


def test_shards_by_hand():
    # 10 shards of 100 samples: 60, 20, 20 are halved, the largest first: 60 -> 30 -> 20 -> 15 (4 shards), 20 -> 10
    # twice, 15 -> 12 (5 shards: every client holds class 0), and of the equal 10, 10 the first -> 7, 7, 6.
    targets = labels_of([60, 20, 20])
    parts = split(Shards(classes=2, clients=5, min_size=1), targets)
    held = np.stack([np.bincount(targets[part], minlength=3) for part in parts])
    assert sorted(map(tuple, held.tolist())) == [(12, 0, 10), (12, 0, 10), (12, 6, 0), (12, 7, 0), (12, 7, 0)]


def test_equal_classes_give_equal_clients():
    targets = labels_of([120] * 10)
    parts = split(Shards(classes=2, clients=20), targets)
    assert {len(part) for part in parts} == {60}  # 40 shards of 30
    owners = np.stack([np.bincount(targets[part], minlength=10) > 0 for part in parts]).sum(axis=0)
    assert owners.tolist() == [4] * 10


def test_as_many_classes_as_there_are_is_a_cut_of_each_class():
    targets = labels_of([50, 30])
    held = [np.bincount(targets[part]).tolist() for part in split(Shards(classes=2, clients=5), targets)]
    assert held == [[10, 6]] * 5


def test_which_classes_meet_is_drawn():
    targets, pairs = labels_of([100] * 4), set()
    for seed in range(40):
        parts = split(Shards(classes=2, clients=4), targets, seed)
        pairs |= {tuple(np.unique(targets[part]).tolist()) for part in parts}
    assert len(pairs) == 6  # all of them


@pytest.mark.parametrize(
    ("partitioner", "message"),
    [
        (Shards(classes=3, clients=4), r"3 classes a client, but the training data has 2; use 2 at most"),
        (Shards(classes=1, clients=1), r"1 clients of 1 class.* hold all 2 classes; use 2 clients or 2 classes"),
        (
            Shards(classes=1, clients=5, min_size=15),
            r"leave one with 1\d sample\(s\), fewer than 15; use fewer clients",
        ),
        (
            Shards(classes=2, clients=8, min_size=1),
            r"class 1 has 6 sample\(s\), too few for 8 clients.*fewer clients or",
        ),
    ],
)
def test_shards_that_cannot_be_had(partitioner, message):
    with pytest.raises(PartitionError, match=message):
        split(partitioner, labels_of([70, 6] if partitioner.clients == 8 else [56, 20]))


# --- sizes ------------------------------------------------------------------------------------------------------


@given(n=st.integers(20, 400), clients=st.integers(1, 20), seed=st.integers(0, 1000))
def test_iid_sizes_differ_by_one_at_most(n, clients, seed):
    sizes = [len(part) for part in split(IID(clients=clients, min_size=1), np.zeros(n, np.int64), seed)]
    assert sum(sizes) == n
    assert set(sizes) <= {n // clients, -(-n // clients)}


def test_iid_clients_have_the_label_mix_of_all():
    targets = labels_of([4000, 12000])
    for part in split(IID(clients=10), targets):
        # Hypergeometric: 1600 drawn, a quarter of class 0, so 400 +- sqrt(1600 * 1/4 * 3/4 * 0.9) = 16.4
        assert abs(np.bincount(targets[part])[0] - 400) < 5 * 16.4


@pytest.mark.parametrize("seed", range(3))
def test_log_normal_sizes_are_those_of_their_draw(seed):
    parts = split(LogNormalSizes(sigma=1.5, clients=6, min_size=1), labels_of([500, 500]), seed)
    exact = np.exp(1.5 * np.random.default_rng(seed).standard_normal(6))
    exact *= 1000 / exact.sum()
    assert abs(np.array([len(part) for part in parts]) - exact).max() < 1


def test_the_spread_of_log_normal_sizes_is_sigma():
    partitioner, targets = LogNormalSizes(sigma=0.7, clients=40, min_size=1), np.zeros(100_000, np.int64)
    logs = [[math.log(len(part)) for part in split(partitioner, targets, seed)] for seed in range(10)]
    assert np.mean([np.std(row, ddof=1) for row in logs]) == pytest.approx(0.7, rel=0.1)


def test_at_sigma_zero_all_sizes_are_equal():
    assert {len(part) for part in split(LogNormalSizes(sigma=0, clients=8), labels_of([50, 30]))} == {10}


def test_unequal_clients_have_the_same_mix():
    targets = labels_of([5000, 5000])
    for partitioner in (
        LogNormalSizes(sigma=1.0, clients=5, min_size=200),
        DirichletSizes(alpha=1, clients=5, min_size=200),
    ):
        for part in split(partitioner, targets):
            assert abs(targets[part].mean() - 0.5) < 5 * 0.5 / math.sqrt(len(part))


def test_sizes_too_unequal_are_an_error_with_a_mend():
    with pytest.raises(PartitionError, match=r"at sigma 9 gave every client 10 .*use a smaller sigma, fewer clients"):
        split(LogNormalSizes(sigma=9.0, clients=20, max_tries=50), np.zeros(1000, np.int64))
    with pytest.raises(PartitionError, match=r"at alpha 0.01 gave every client 10 .*use a larger alpha"):
        split(DirichletSizes(alpha=0.01, clients=20, max_tries=50), np.zeros(1000, np.int64))
