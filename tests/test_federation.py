"""Federations: the FedKPer protocol on the faithful track, everything redrawn on the robust one."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbench import Data, Dataset, Dirichlet, Natural, PartitionError, Protocol, SiteStyles, Styles, Task
from fedbench.federation import ROBUST_TEST, apportion, balanced, federate, matching, stratified


class Toy(Data):
    """Facts alone; the tests hand over the samples."""

    def locate(self, data_dir=None):
        return ()

    def fetch(self, data_dir=None):
        return ()

    def load(self, data_dir=None):
        raise AssertionError("a split needs no data file here")


def make_task(n_classes=4, partitioner=None, styles=None, held_out=0.0, **protocol):
    values = {"rounds": 6, "participation": 0.5, "local_epochs": 5, "batch_size": 12, "lr": 0.01, **protocol}
    return Task(
        name="toy",
        title="Toy",
        data=Toy(classes=tuple("abcdefghijk"[:n_classes]), shape=(1,), counts={}, license="CC0"),
        partitioner=partitioner or Dirichlet(alpha=1.0, clients=4),
        styles=styles,
        held_out=held_out,
        model="mlp",
        protocol=Protocol(**values),
        source="toy",
    )


def make_data(train=400, validation=40, test=800, n_classes=4, sites=None):
    """Samples whose ids are shuffled over the splits."""
    n = train + validation + test
    rng = np.random.default_rng(0)
    ids = rng.permutation(n)
    cuts = np.split(ids, [train, train + validation])
    return Dataset(
        np.zeros((n, 1), np.float32),
        rng.integers(n_classes, size=n),
        *(np.sort(part) for part in cuts),
        sites=None if sites is None else rng.integers(sites, size=n),
    )


def as_lists(arrays):
    return [array.tolist() for array in arrays]


def owned(federation):
    return [np.union1d(*pair).tolist() for pair in zip(federation.train, federation.tests, strict=True)]


# --- faithful track ---------------------------------------------------------------------------------------------


def test_faithful_seeds_share_partition_tests_and_schedule():
    task, data = make_task(), make_data()
    first, *others = (federate(task, data, "faithful", seed) for seed in (1, 2, 99))
    for other in others:
        assert other.partition_id() == first.partition_id()
        assert other.schedule_id() == first.schedule_id()
        assert as_lists(other.train) == as_lists(first.train)


@pytest.mark.parametrize(("clients", "size"), [(20, 2), (30, 3), (50, 5)])
def test_the_faithful_schedule_is_that_of_a_generator_seeded_anew_with_the_round(clients, size):
    partitioner = Dirichlet(alpha=100.0, clients=clients, min_size=10)
    task = make_task(partitioner=partitioner, rounds=100, participation=0.1)
    federation = federate(task, make_data(train=2500), "faithful", seed=3)
    assert len(federation.schedule) == 100
    state = np.random.get_state()  # noqa: NPY002
    try:
        for t, ids in enumerate(federation.schedule):
            np.random.seed(t)  # noqa: NPY002
            expected = sorted(np.random.choice(range(clients), size, replace=False).tolist())  # noqa: NPY002
            assert ids.tolist() == expected
    finally:
        np.random.set_state(state)  # noqa: NPY002


def test_the_schedule_touches_no_global_generator():
    before = np.random.get_state()  # noqa: NPY002
    federate(make_task(), make_data(), "faithful", 0)
    after = np.random.get_state()  # noqa: NPY002
    assert before[2:] == after[2:]
    assert (before[1] == after[1]).all()


def test_every_training_sample_is_trained_or_tested_on_by_one_client():
    data = make_data()
    federation = federate(make_task(), data, "faithful", 1)
    assert sorted(i for ids in owned(federation) for i in ids) == data.train.tolist()
    for train, test in zip(federation.train, federation.tests, strict=True):
        assert not set(train.tolist()) & set(test.tolist())
        assert train.tolist() == sorted(train.tolist())
        assert test.tolist() == sorted(test.tolist())


def test_what_a_client_owns_is_what_the_partitioner_dealt_to_it():
    sites = make_data(sites=3)
    federation = federate(make_task(partitioner=Natural()), sites, "faithful", 1)
    assert owned(federation) == [sites.train[sites.sites[sites.train] == site].tolist() for site in range(3)]


def test_official_splits_are_the_global_test_and_validation_sets():
    data = make_data()
    for track in ("faithful", "robust"):
        federation = federate(make_task(), data, track, 1)
        assert federation.global_test.tolist() == data.test.tolist()
        assert federation.validation.tolist() == data.validation.tolist()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # 20 samples, 2 classes: floor(floor(4) / 2) = 2 of each, whatever the skew
        ([0] * 10 + [1] * 10, {0: 2, 1: 2}),
        ([0] * 17 + [1] * 3, {0: 2, 1: 2}),
        # class 1 has 1 < 2: floor(0.2 * 1) = 0 of it
        ([0] * 19 + [1], {0: 2}),
        # 100 samples, 2 classes: quota 10; class 1 has 9: floor(1.8) = 1
        ([0] * 91 + [1] * 9, {0: 10, 1: 1}),
        # just as many as the quota: all of them
        ([0] * 90 + [1] * 10, {0: 10, 1: 10}),
        # 52 samples, 3 classes: floor(floor(10.4) / 3) = 3; class 2 has 2: floor(0.4) = 0
        ([0] * 30 + [1] * 20 + [2] * 2, {0: 3, 1: 3}),
        # one class: floor(0.2 * 13) = 2
        ([5] * 13, {5: 2}),
    ],
    ids=str,
)
def test_quota_of_a_local_test_set_by_hand(labels, expected):
    labels = np.array(labels)
    for seed in range(5):
        chosen = balanced(labels, 0.2, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == len(chosen)
        assert Counter(labels[chosen].tolist()) == expected


def test_quota_of_zero_falls_back_to_a_fifth_at_random():
    labels = np.arange(14)  # floor(floor(2.8) / 14) = 0 a class, so floor(2.8) = 2 of all
    drawn = Counter()
    for seed in range(300):
        chosen = balanced(labels, 0.2, np.random.default_rng(seed))
        assert len(set(chosen.tolist())) == 2
        drawn.update(chosen.tolist())
    assert set(drawn) == set(range(14))


def test_a_quota_that_only_small_classes_miss_falls_back_too():
    # 15 samples: quota floor(3 / 3) = 1, so never empty; 4 samples: floor(0.8) = 0, and nothing to draw
    assert len(balanced(np.array([0] * 5 + [1] * 5 + [2] * 5), 0.2, np.random.default_rng(0))) == 3
    assert len(balanced(np.array([0, 0, 1, 1]), 0.2, np.random.default_rng(0))) == 0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=120), st.integers(0, 1000))
def test_the_quota_rule_written_out(labels, seed):
    chosen = balanced(np.array(labels), 0.2, np.random.default_rng(seed))
    held = Counter(labels)
    quota = math.floor(math.floor(0.2 * len(labels)) / len(held))
    expected = {c: quota if size >= quota else math.floor(0.2 * size) for c, size in held.items()}
    assert len(set(chosen.tolist())) == len(chosen)
    if sum(expected.values()):
        assert Counter(np.array(labels)[chosen].tolist()) == {c: size for c, size in expected.items() if size}
    else:
        assert len(chosen) == math.floor(0.2 * len(labels))


def test_the_local_tests_of_a_federation_follow_the_quota_rule():
    data = make_data()
    federation = federate(make_task(), data, "faithful", 0)
    for ids, test in zip(owned(federation), federation.tests, strict=True):
        held = Counter(data.targets[ids].tolist())
        quota = len(ids) // 5 // len(held)
        expected = {c: quota if size >= quota else size // 5 for c, size in held.items()}
        assert Counter(data.targets[test].tolist()) == {c: size for c, size in expected.items() if size}


def test_too_few_samples_for_a_local_test_set_name_the_client_and_a_mend():
    task = make_task(partitioner=Dirichlet(alpha=1000.0, clients=100, min_size=1))
    with pytest.raises(PartitionError, match=r"client \d+ of toy has \d sample.*: too few.*20%.*fewer clients"):
        federate(task, make_data(train=400), "faithful", 0)


# --- passes -----------------------------------------------------------------------------------------------------


def test_passes_are_epochs_times_training_samples():
    federation = federate(make_task(local_epochs=5), make_data(), "faithful", 0)
    for ids, passes in zip(federation.schedule, federation.passes, strict=True):
        assert passes.tolist() == [5 * len(federation.train[k]) for k in ids]


def test_a_pool_is_one_trainer_with_all_training_samples_and_as_many_passes():
    federation = federate(make_task(), make_data(), "faithful", 0)
    pooled = federation.pooled()
    assert pooled.pool
    assert not federation.pool
    assert as_lists(pooled.train) == [sorted(np.concatenate(federation.train).tolist())]
    assert as_lists(pooled.schedule) == [[0]] * 6
    assert as_lists(pooled.passes) == [[sum(passes.tolist())] for passes in federation.passes]
    assert as_lists(pooled.tests) == as_lists(federation.tests)
    assert not set(pooled.train[0].tolist()) & set(np.concatenate(federation.tests).tolist())
    assert pooled.global_test.tolist() == federation.global_test.tolist()


# --- robust track -----------------------------------------------------------------------------------------------


def test_the_robust_track_redraws_everything_with_the_seed_and_repeats_at_one_seed():
    task, data = make_task(rounds=20), make_data()
    first, second, again = (federate(task, data, "robust", seed) for seed in (1, 2, 1))
    assert first.partition_id() != second.partition_id()
    assert as_lists(first.train) != as_lists(second.train)
    assert as_lists(first.tests) != as_lists(second.tests)
    assert first.schedule_id() != second.schedule_id()
    assert (first.partition_id(), first.schedule_id()) == (again.partition_id(), again.schedule_id())


def test_robust_clients_train_on_all_they_own():
    data = make_data()
    federation = federate(make_task(), data, "robust", 1)
    assert sorted(np.concatenate(federation.train).tolist()) == data.train.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_robust_tests_come_from_the_official_test_split_in_the_client_s_mix(seed):
    data = make_data(test=1600)
    federation = federate(make_task(), data, "robust", seed)
    for train, test in zip(federation.train, federation.tests, strict=True):
        assert set(test.tolist()) <= set(data.test.tolist())
        assert len(set(test.tolist())) == len(test) == max(50, round(0.2 * len(train)))
        mix = np.bincount(data.targets[train], minlength=4) / len(train)
        assert abs(np.bincount(data.targets[test], minlength=4) - mix * len(test)).max() < 1


def test_a_scarce_class_makes_a_robust_test_set_smaller_but_not_smaller_than_fifty():
    labels, pool = np.array([0] * 600 + [1] * 600), np.array([0] * 500 + [1] * 30)
    chosen = matching(labels, pool, 240, 2, np.random.default_rng(0))
    assert Counter(pool[chosen].tolist()) == {0: 30, 1: 30}
    with pytest.raises(PartitionError, match=r"class 1 is 50% .* has 24 test samples.*test set of 50.*larger alpha"):
        matching(labels, pool[:524], 240, 2, np.random.default_rng(0))
    assert len(matching(labels, pool[:525], 240, 2, np.random.default_rng(0))) == ROBUST_TEST == 50


def test_too_small_an_official_test_split_is_a_partition_error():
    with pytest.raises(PartitionError, match="too few for a test set of 50"):
        federate(make_task(), make_data(test=40), "robust", 0)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_robust_schedule_samples_distinct_clients_in_order(size):
    task = make_task(partitioner=Dirichlet(alpha=10.0, clients=5), rounds=200, participation=size / 5)
    schedule = federate(task, make_data(), "robust", 0).schedule
    visits = Counter(np.concatenate(schedule).tolist())
    for ids in schedule:
        assert len(ids) == size
        assert ids.tolist() == sorted(set(ids.tolist()))
    expected, spread = 200 * size / 5, math.sqrt(200 * size / 5 * (1 - size / 5))
    assert all(abs(visits[k] - expected) <= 5 * spread for k in range(5))


# --- no official test split -------------------------------------------------------------------------------------


@pytest.mark.parametrize("track", ["faithful", "robust"])
def test_hospitals_are_cut_in_a_stratified_way_and_the_union_is_the_global_test(track):
    data = make_data(train=600, validation=0, test=0, n_classes=2, sites=4)
    task = make_task(n_classes=2, partitioner=Natural(), local_test=1 / 3, participation=1)
    federation = federate(task, data, track, 1)
    assert len(federation.train) == 4
    for site, (train, test) in enumerate(zip(federation.train, federation.tests, strict=True)):
        everyone = np.flatnonzero(data.sites == site)
        assert sorted([*train.tolist(), *test.tolist()]) == everyone.tolist()
        assert len(test) == round(len(everyone) / 3)
        exact = np.bincount(data.targets[everyone], minlength=2) / 3
        assert abs(np.bincount(data.targets[test], minlength=2) - exact).max() <= 1
    assert federation.global_test.tolist() == sorted(np.concatenate(federation.tests).tolist())
    assert federation.validation.tolist() == []
    assert all(ids.tolist() == [0, 1, 2, 3] for ids in federation.schedule)


def test_hospitals_keep_their_patients_and_redraw_the_cut_on_the_robust_track_alone():
    data = make_data(train=300, validation=0, test=0, n_classes=2, sites=3)
    task = make_task(n_classes=2, partitioner=Natural(), local_test=1 / 3)
    robust = [federate(task, data, "robust", seed) for seed in (1, 2)]
    faithful = [federate(task, data, "faithful", seed) for seed in (1, 2)]
    assert owned(robust[0]) == owned(robust[1]) == owned(faithful[0])
    assert as_lists(robust[0].tests) != as_lists(robust[1].tests)
    assert as_lists(faithful[0].tests) == as_lists(faithful[1].tests)


def test_a_hospital_with_one_patient_is_a_partition_error():
    sites = np.array([0] * 20 + [1])
    data = Dataset(np.zeros((21, 1), np.float32), np.arange(21) % 2, np.arange(21), np.arange(0), np.arange(0), sites)
    with pytest.raises(PartitionError, match="client 1 of toy has 1 sample"):
        federate(make_task(n_classes=2, partitioner=Natural(), local_test=1 / 3), data, "faithful", 0)


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ((6, 3), 1 / 3, {0: 2, 1: 1}),
        ((164, 139), 1 / 3, {0: 55, 1: 46}),  # 101 of 303: 54.67 and 46.33
        ((10, 1), 0.2, {0: 2}),  # 2 of 11: 1.82 and 0.18
        ((4, 4, 4), 1 / 3, {0: 2, 1: 1, 2: 1}),  # 4 of 12: 1.33 each, the first of equals rounds up
    ],
)
def test_a_stratified_cut_by_hand(counts, share, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = stratified(labels, share, np.random.default_rng(0))
    assert Counter(labels[chosen].tolist()) == expected
    assert len(set(chosen.tolist())) == len(chosen)


@pytest.mark.parametrize(
    ("weights", "total", "limits", "expected"),
    [
        ([2, 1, 1], 6, [9, 9, 9], [3, 2, 1]),
        ([1, 1, 1], 3, [9, 9, 9], [1, 1, 1]),
        ([0.5, 0.3, 0.2], 10, [9, 9, 9], [5, 3, 2]),
        ([0.1] * 10, 10, [9] * 10, [1] * 10),
        ([47, 16, 15.8, 12, 6.1, 3.1], 10, [9] * 6, [5, 2, 1, 1, 1, 0]),  # the textbook case of Hamilton's method
        ([1, 0, 1], 3, [9, 9, 9], [2, 0, 1]),
    ],
)
def test_largest_remainder_by_hand(weights, total, limits, expected):
    assert apportion(np.array(weights, float), total, np.array(limits)).tolist() == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any), st.floats(0, 1))
def test_shares_of_what_there_is_add_up_and_are_within_rounding(counts, share):
    counts = np.array(counts)
    total = round(share * int(counts.sum()))
    sizes = apportion(counts.astype(float), total, counts)
    assert sizes.sum() == total
    assert (sizes >= 0).all()
    assert (sizes <= counts).all()
    assert abs(sizes - counts / counts.sum() * total).max() < 1


# --- streams ----------------------------------------------------------------------------------------------------


def test_one_client_s_local_test_does_not_depend_on_the_other_clients():
    """Streams are per client: with a site more, the first sites keep their cut."""
    three = make_data(train=300, validation=0, test=0, n_classes=2, sites=3)
    two_ids = np.flatnonzero(three.sites < 2)
    two = Dataset(three.inputs, three.targets, two_ids, two_ids[:0], two_ids[:0], three.sites)
    task = make_task(n_classes=2, partitioner=Natural(), local_test=1 / 3)
    assert as_lists(federate(task, two, "robust", 1).tests) == as_lists(federate(task, three, "robust", 1).tests)[:2]


def test_ids_see_splits_and_schedules():
    data = make_data()
    base = federate(make_task(), data, "faithful", 0)
    longer = federate(make_task(rounds=7), data, "faithful", 0)
    other = federate(make_task(local_test=0.3), data, "faithful", 0)
    assert longer.partition_id() == base.partition_id()
    assert longer.schedule_id() != base.schedule_id()
    assert other.partition_id() != base.partition_id()
    assert other.schedule_id() == base.schedule_id()


# --- held-out clients -------------------------------------------------------------------------------------------


def test_held_out_clients_come_last_and_nothing_else_of_the_split_changes():
    data, partitioner = make_data(), Dirichlet(alpha=1.0, clients=8)
    everybody = federate(make_task(partitioner=partitioner), data, "faithful", 1)
    federation = federate(make_task(partitioner=partitioner, held_out=0.25), data, "faithful", 1)
    assert (everybody.held_out, everybody.trainers) == (0, 8)
    assert (federation.held_out, federation.trainers) == (2, 6)
    order = [owned(everybody).index(ids) for ids in owned(federation)]
    assert sorted(order) == list(range(8))  # the same clients
    assert order[:6] == sorted(order[:6])
    assert order[6:] == sorted(order[6:])
    assert federation.global_test.tolist() == everybody.global_test.tolist()


@pytest.mark.parametrize("track", ["faithful", "robust"])
def test_a_held_out_client_is_never_sampled_and_everyone_else_is(track):
    task = make_task(partitioner=Dirichlet(alpha=10.0, clients=8), held_out=0.25, rounds=60, participation=0.5)
    federation = federate(task, make_data(), track, 1)
    assert {len(ids) for ids in federation.schedule} == {3}  # half of the six that may train
    assert set(np.concatenate(federation.schedule).tolist()) == set(range(6))
    for ids, passes in zip(federation.schedule, federation.passes, strict=True):
        assert passes.tolist() == [5 * len(federation.train[k]) for k in ids]


@pytest.mark.parametrize(
    ("share", "clients", "expected"),
    [(0.2, 20, 4), (0.2, 30, 6), (0.29, 100, 29), (0.01, 4, 1), (0.99, 4, 3), (0.5, 2, 1)],
)
def test_a_share_of_the_clients_is_held_out_but_one_at_least_and_not_all(share, clients, expected):
    partitioner = Dirichlet(alpha=1000.0, clients=clients, min_size=10)
    task = make_task(partitioner=partitioner, held_out=share)
    assert federate(task, make_data(train=2000), "faithful", 0).held_out == expected


def test_held_out_clients_are_redrawn_on_the_robust_track_alone():
    """Hospitals are the same on both tracks, so it shows which of them are held out."""
    data = make_data(train=1600, validation=0, test=0, n_classes=2, sites=16)
    task = make_task(n_classes=2, partitioner=Natural(), local_test=1 / 3, held_out=0.25)
    held = {
        track: {str(owned(federate(task, data, track, seed))[12:]) for seed in range(1, 5)}
        for track in ("faithful", "robust")
    }
    assert len(held["faithful"]) == 1
    assert len(held["robust"]) == 4


def test_a_pool_holds_what_trains_and_no_more():
    federation = federate(
        make_task(partitioner=Dirichlet(alpha=1.0, clients=8), held_out=0.25), make_data(), "faithful", 0
    )
    pooled = federation.pooled()
    assert pooled.train[0].tolist() == sorted(np.concatenate(federation.train[:6]).tolist())
    assert (pooled.trainers, pooled.held_out) == (1, 0)
    assert as_lists(pooled.tests) == as_lists(federation.tests)


def test_of_one_client_none_can_be_held_out():
    with pytest.raises(PartitionError, match="toy has a single client, so none can be held out; use more clients"):
        federate(make_task(partitioner=Dirichlet(alpha=1.0, clients=1), held_out=0.5), make_data(), "faithful", 0)


# --- styles -----------------------------------------------------------------------------------------------------


class Drawn(Styles):
    """Adds a number of the client and one of the image: what streams it is given, shows."""

    def applied(self, images, style, noise):
        return images + style.integers(1000) + noise.integers(1000, size=len(images)) / 1000


def with_styles(track="faithful", seed=1, **changes):
    data = make_data()
    images = Dataset(np.zeros((1240, 2, 2, 1), np.float32), data.targets, data.train, data.validation, data.test)
    return federate(make_task(styles=Drawn(), **changes), images, track, seed)


def styled(federation, client, part):
    return federation.styled(np.zeros(5), client, part).tolist()


def test_without_styles_images_are_handed_on_as_they_are():
    images = np.zeros((3, 2, 2, 1))
    assert federate(make_task(), make_data(), "faithful", 0).styled(images, 0, "train") is images


def test_a_client_has_one_style_and_noise_of_its_own_for_training_and_test():
    federation = with_styles()
    looks = {(k, part): styled(federation, k, part) for k in range(4) for part in ("train", "test")}
    assert looks == {key: styled(federation, *key) for key in looks}  # nothing is used up
    for k in range(4):
        assert {math.floor(value) for part in ("train", "test") for value in looks[k, part]} == {
            math.floor(looks[k, "train"][0])
        }
        assert looks[k, "train"] != looks[k, "test"]
    assert len({math.floor(looks[k, "train"][0]) for k in range(4)}) == 4
    assert len({value % 1 for values in looks.values() for value in values}) > 30


def test_styles_are_redrawn_with_the_partition():
    assert styled(with_styles(seed=1), 0, "train") == styled(with_styles(seed=2), 0, "train")
    assert styled(with_styles("robust", 1), 0, "train") != styled(with_styles("robust", 2), 0, "train")


def test_styles_change_no_split_and_no_schedule():
    plain, federation = federate(make_task(), make_data(), "faithful", 1), with_styles()
    assert (plain.partition_id(), plain.schedule_id()) == (federation.partition_id(), federation.schedule_id())


def test_styles_of_what_is_no_image_are_an_error():
    with pytest.raises(PartitionError, match=r"toy has samples of the shape \(1,\), but styles are for images"):
        federate(make_task(styles=SiteStyles()), make_data(), "faithful", 0)
