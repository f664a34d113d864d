"""Checkpoints: states come back as they were, and what is not whole is never taken for a checkpoint."""

import hashlib
import itertools
import json
import logging
import math
import os
import random
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbench import MethodError
from fedbench.checkpoint import BEFORE, CPU, Checkpoint, States, index_hash, pack, unpack
from fedbench.schema import CHECKPOINT

# --- states -----------------------------------------------------------------------------------------------------


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)  # in this order: sums over a state must round the same
        for name in ours:
            assert_same(ours[name], theirs[name])
    elif isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.contiguous().numpy().tobytes() == theirs.contiguous().numpy().tobytes()
    else:
        assert ours == theirs or math.isnan(ours)


STATES = {
    "empty": {},
    "numbers": {"rounds": 3, "negative": -1, "share": 0.1, "tiny": 5e-324, "huge": 2**80},
    "bools stay bools": {"seen": True, "done": False, "one": 1, "one again": 1.0},
    "not finite": {"inf": math.inf, "nan": math.nan},
    "text": {"note": 'naïve – 日本語\n"quoted"', "blank": ""},
    "tensor": {"w": torch.arange(6.0).reshape(2, 3)},
    "0-d tensors": {"count": torch.tensor(3), "mean": torch.tensor(0.5, dtype=torch.float64)},
    "no elements": {"none": torch.zeros(0, 3)},
    "dtypes": {str(t): torch.ones(3, dtype=t) for t in (torch.uint8, torch.int64, torch.float16, torch.bool)},
    "special floats": {"w": torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-45])},
    "nested": {"model": {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(1)}, "by round": {"1": {"a": 1}}},
    "empty mappings": {"table": {}, "deep": {"deeper": {}}},
    "order": {"z": torch.ones(1), "a": torch.zeros(2), "m": 1, "b": {"y": torch.ones(1), "x": torch.ones(1)}},
    "odd names": {"a b": 1, "a.b": torch.ones(1), "": 2, "@": {"": torch.ones(1)}, "plain": 3, "order": 4},
    "a prefix of another": {"a": {"b": 1}, "ab": 2, "a.b": 3},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_comes_back_as_it_was(name):
    assert_same(unpack(pack(STATES[name])), STATES[name])


VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(lambda values: torch.tensor(values)),
)
NAMES = st.text(max_size=5).filter(lambda name: "/" not in name and name != "__metadata__")


@given(
    st.recursive(st.dictionaries(NAMES, VALUES, max_size=4), lambda inner: st.dictionaries(NAMES, inner, max_size=3))
)
def test_any_state_comes_back_as_it_was(state):
    assert_same(unpack(pack(state)), state)


def test_a_state_is_stored_by_value_however_it_lies_in_memory():
    base = torch.arange(12.0).reshape(3, 4)
    state = {"transposed": base.T, "column": base[:, 1], "spread": torch.ones(1).expand(5)}
    back = unpack(pack(state))
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(tensor.is_contiguous() for tensor in back.values())


def test_one_tensor_under_two_names_and_views_of_one_tensor_are_no_error():
    tensor = torch.arange(4.0)
    back = unpack(pack({"new": tensor, "old": tensor, "nested": {"half": tensor[:2]}}))
    assert back["new"].tolist() == back["old"].tolist() == [0, 1, 2, 3]
    assert back["nested"]["half"].tolist() == [0, 1]


def test_a_tensor_that_wants_gradients_is_stored_without():
    back = unpack(pack({"w": torch.ones(2, requires_grad=True)}))
    assert back["w"].tolist() == [1, 1]
    assert not back["w"].requires_grad


def test_what_comes_back_is_independent_of_what_was_packed():
    tensor = torch.ones(2)
    data = pack({"w": tensor})
    tensor.zero_()
    assert unpack(data)["w"].tolist() == [1, 1]


def test_packing_is_deterministic():
    assert pack(STATES["order"]) == pack(STATES["order"])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ([1, 2], "list"),
        ((torch.ones(1),), "tuple"),
        (None, "NoneType"),
        (np.ones(2), "ndarray"),
        (np.int64(3), "int64"),
        (random.Random(0), "Random"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_type_is_refused_by_name_and_place(value, name):
    with pytest.raises(MethodError, match=rf"state: inner/thing is a {name}; keep tensors"):
        pack({"inner": {"thing": value}})


@pytest.mark.parametrize("name", ["a/b", "/", 3, None, ("a",)])
def test_a_name_that_is_no_text_or_has_a_slash_is_refused(name):
    with pytest.raises(MethodError, match=r"state: inner/.* must be named by text without a slash"):
        pack({"inner": {name: 1}})


# --- versions ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "seed-1.partial"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_saved_is_nothing_loaded_and_no_warning(folder, caplog):
    assert Checkpoint(folder).load() is None
    folder.mkdir()
    assert Checkpoint(folder).load() is None
    assert caplog.records == []


def test_the_newest_save_is_loaded_with_the_parts_that_did_not_change(folder):
    checkpoint = Checkpoint(folder)
    checkpoint.save(1, {"server": b"s1", "client-0": b"a1", "client-1": b"b1"})
    checkpoint.save(2, {"server": b"s2", "client-1": b"b2"})
    checkpoint.save(3, {"server": b"s3"})
    assert Checkpoint(folder).load() == (3, {"server": b"s3", "client-0": b"a1", "client-1": b"b2"})


def test_versions_that_no_longer_belong_are_deleted(folder):
    checkpoint = Checkpoint(folder)
    checkpoint.save(1, {"server": b"s1", "client-0": b"a1"})
    assert names(folder) == [CHECKPOINT, "client-0@1", "server@1"]
    checkpoint.save(2, {"server": b"s2", "client-5": b"f2"})
    assert names(folder) == [BEFORE, CHECKPOINT, "client-0@1", "client-5@2", "server@1", "server@2"]
    checkpoint.save(3, {"server": b"s3", "client-0": b"a3"})
    assert names(folder) == [BEFORE, CHECKPOINT, "client-0@1", "client-0@3", "client-5@2", "server@2", "server@3"]
    checkpoint.save(4, {"server": b"s4"})
    assert names(folder) == [BEFORE, CHECKPOINT, "client-0@3", "client-5@2", "server@3", "server@4"]


def test_a_resumed_checkpoint_goes_on_from_what_was_loaded(folder):
    Checkpoint(folder).save(1, {"server": b"s1", "client-0": b"a1"})
    resumed = Checkpoint(folder)
    resumed.load()
    resumed.save(2, {"server": b"s2"})
    assert Checkpoint(folder).load() == (2, {"server": b"s2", "client-0": b"a1"})


def test_a_removed_checkpoint_is_gone(folder):
    checkpoint = Checkpoint(folder)
    checkpoint.remove()
    checkpoint.save(1, {"server": b"s1"})
    checkpoint.remove()
    assert not folder.exists()
    assert Checkpoint(folder).load() is None


# --- damage -----------------------------------------------------------------------------------------------------

FIRST, SECOND = (1, {"server": b"s1", "client-0": b"a1"}), (2, {"server": b"s2", "client-0": b"a2"})


def save_two(folder):
    checkpoint = Checkpoint(folder)
    for done, parts in (FIRST, SECOND):
        checkpoint.save(done, parts)


def change_a_byte(path):
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def change_index(**changes):
    def change(path):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


DAMAGES = [
    ("server@2", change_a_byte),
    ("client-0@2", change_a_byte),
    ("server@2", lambda path: path.write_bytes(b"")),
    ("server@2", lambda path: path.unlink()),
    ("client-0@2", lambda path: path.unlink()),
    (CHECKPOINT, lambda path: path.write_text("")),
    (CHECKPOINT, lambda path: path.write_text("{")),
    (CHECKPOINT, lambda path: path.write_text("[]")),
    (CHECKPOINT, lambda path: path.write_text("null")),
    (CHECKPOINT, lambda path: path.write_text("{}")),
    (CHECKPOINT, lambda path: path.write_bytes(b"\xff\xfe")),
    (CHECKPOINT, change_index(version=99)),
    (CHECKPOINT, change_index(round=1)),
    (CHECKPOINT, change_index(files=["server@2"])),
    (CHECKPOINT, change_index(files={"server": "server@2"})),
    (CHECKPOINT, change_index(files={"server": 5})),
    (CHECKPOINT, change_index(files={"server": f"server@2 {hashlib.blake2b(b's2').hexdigest()}"})),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder, name, damage, caplog):
    save_two(folder)
    damage(folder / name)
    with caplog.at_level(logging.WARNING):
        assert Checkpoint(folder).load() == FIRST
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(folder) in record.getMessage()
    assert "goes on from the one before, after 1 rounds" in record.getMessage()


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_where_both_are_damaged_there_is_a_fresh_start(folder, name, damage, caplog):
    save_two(folder)
    damage(folder / name)
    (folder / "server@1").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        assert Checkpoint(folder).load() is None
    (record,) = caplog.records
    assert str(folder) in record.getMessage()
    assert "starts again from its first round" in record.getMessage()


@pytest.mark.reliability
def test_no_torn_or_flipped_file_is_ever_taken_for_another_state(folder, tally):
    """Every file of the newest cut short at every length, and every byte of it changed in one bit."""
    save_two(folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    tried = 0
    for name in (CHECKPOINT, "server@2", "client-0@2"):
        data = whole[name]
        cuts = [data[:length] for length in range(len(data))]
        flips = [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]
        for torn in (*cuts, *flips):
            (folder / name).write_bytes(torn)
            loaded = Checkpoint(folder).load()
            # A bit of the index can be white space, and turn into other white space; of any other file none can.
            assert loaded == FIRST or (name == CHECKPOINT and loaded == SECOND and json.loads(torn) == json.loads(data))
            tried += 1
        (folder / name).write_bytes(data)
    assert Checkpoint(folder).load() == SECOND
    tally("torn or corrupt checkpoints", tried)


def test_what_is_gone_on_from_stays_until_a_newer_one_is_whole(folder):
    save_two(folder)
    change_a_byte(folder / "server@2")
    checkpoint = Checkpoint(folder)
    assert checkpoint.load() == FIRST
    checkpoint.write("server", b"s2", 2)  # over the damaged one
    assert Checkpoint(folder).load()[1] in (FIRST[1], SECOND[1])
    checkpoint.save(2, {"server": b"s2 again"})
    assert names(folder) == [BEFORE, CHECKPOINT, "client-0@1", "server@1", "server@2"]
    assert Checkpoint(folder).load() == (2, {"server": b"s2 again", "client-0": b"a1"})
    (folder / CHECKPOINT).unlink()
    assert Checkpoint(folder).load() == FIRST


def test_after_damage_of_both_a_new_checkpoint_takes_over(folder):
    save_two(folder)
    for name in ("server@1", "server@2"):
        change_a_byte(folder / name)
    checkpoint = Checkpoint(folder)
    assert checkpoint.load() is None
    checkpoint.save(1, {"server": b"anew"})
    assert Checkpoint(folder).load() == (1, {"server": b"anew"})
    assert names(folder) == [CHECKPOINT, "server@1"]


def test_an_index_reaches_no_file_outside_its_folder(folder, caplog):
    save_two(folder)
    (folder.parent / "secret").write_bytes(b"secret")
    index = json.loads((folder / CHECKPOINT).read_text())
    index["files"] = {"server": f"../secret {hashlib.blake2b(b'secret').hexdigest()}"}
    index["hash"] = index_hash(index)
    (folder / CHECKPOINT).write_text(json.dumps(index))
    assert Checkpoint(folder).load() == FIRST
    assert "../secret is not in its folder" in caplog.text


def test_a_checkpoint_of_other_versions_is_none(folder, caplog):
    save_two(folder)
    assert Checkpoint(folder, made_by="other").load() is None
    assert "not by other" in caplog.text


class KilledError(BaseException):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture
def kill_at(monkeypatch):
    """Return a context in which the process ends at the n-th call that changes what is on disk, or syncs it."""

    @contextmanager
    def killing(n):
        with monkeypatch.context() as patch:
            left = iter(range(n, -1, -1))

            def wrapped(real):
                def call(*args, **kwargs):
                    if next(left, 0) == 0:
                        raise KilledError
                    return real(*args, **kwargs)

                return call

            for name in ("fsync", "replace", "unlink", "mkdir", "rmdir"):
                patch.setattr(os, name, wrapped(getattr(os, name)))
            patch.setattr("pathlib.Path.write_bytes", wrapped(Path.write_bytes))
            yield

    return killing


@pytest.mark.reliability
def test_killed_at_any_moment_of_a_save_the_earlier_or_the_newer_checkpoint_loads(tmp_path, kill_at, tally):
    third = (3, {"server": b"s3", "client-0": b"a3"})
    seen = []
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        save_two(folder)
        checkpoint = Checkpoint(folder)
        checkpoint.load()
        try:
            with kill_at(moment):
                checkpoint.save(*third)
            break
        except KilledError:
            pass
        resumed = Checkpoint(folder)
        loaded = resumed.load()
        assert loaded in (SECOND, third)
        seen.append(loaded[0])
        resumed.save(4, {"server": b"s4"})
        assert Checkpoint(folder).load() == (4, {**loaded[1], "server": b"s4"})
        (folder / "server@4").unlink()
        assert Checkpoint(folder).load()[0] == seen[-1]  # two generations again
        resumed.save(5, {"server": b"s5"})
        files = {f"client-0@{seen[-1]}", "server@5", CHECKPOINT, BEFORE}
        assert set(names(folder)) == files
    assert seen == sorted(seen)
    assert {*seen} == {2, 3}
    assert len(seen) >= 8
    tally("kills at every step of a save", len(seen))


@pytest.mark.reliability
def test_killed_at_any_moment_of_its_removal_nothing_is_gone_on_from(tmp_path, kill_at, tally):
    for moment in itertools.count(1):
        folder = tmp_path / str(moment)
        save_two(folder)
        try:
            with kill_at(moment):
                Checkpoint(folder).remove()
            break
        except KilledError:
            assert (loaded := Checkpoint(folder).load()) is None or (moment, loaded) == (1, SECOND)
    assert not folder.exists()
    tally("kills at every step of a removal", moment - 1)


# --- states of clients ------------------------------------------------------------------------------------------


def model(value, size=1000):
    return {"w": torch.full((size,), float(value)), "visits": value}


def test_states_come_back_whether_they_fit_or_not(folder):
    """Room for two states of 4 kB among ten: whatever the order, a state is the one that was put last."""
    checkpoint = Checkpoint(folder)
    states, expected = States(checkpoint, CPU, memory=10_000), {}
    rng = np.random.default_rng(0)
    for version in range(1, 60):
        client = int(rng.integers(10))
        states.put(client, model(version), version)
        expected[client] = version
        for known, value in expected.items():
            assert_same(states[known], model(value))
    assert sorted(states) == sorted(expected)
    assert 11 not in states


def test_a_state_put_aside_belongs_to_the_next_save_and_not_to_the_last(folder):
    checkpoint = Checkpoint(folder)
    states = States(checkpoint, CPU, memory=0)
    states.put(0, model(1), 1)
    states.write()
    checkpoint.save(1, {})
    states.put(0, model(2), 2)
    states.put(1, model(2), 2)  # puts client 0 aside, to a file of its own
    assert names(folder) == [CHECKPOINT, "client-0@1", "client-0@2"]

    killed = Checkpoint(folder)
    assert set(killed.load()[1]) == {"client-0"}
    before = States(killed, CPU)
    before.restore(killed)
    assert_same(before[0], model(1))

    states.write()
    checkpoint.save(2, {})
    resumed = Checkpoint(folder)
    resumed.load()
    after = States(resumed, CPU)
    after.restore(resumed)
    assert_same(after[0], model(2))
    assert_same(after[1], model(2))
    assert names(folder) == [BEFORE, CHECKPOINT, "client-0@1", "client-0@2", "client-1@2"]


def test_files_that_no_index_will_name_are_not_piled_up(folder):
    checkpoint = Checkpoint(folder)
    states = States(checkpoint, CPU, memory=0)
    for version in range(1, 20):
        states.put(0, model(version), version)
        states.put(1, model(version), version)
    assert names(folder) == ["client-0@19", "client-1@18"]  # one each; client 1's newest is still in memory


@pytest.mark.parametrize("bad", [{"w": [1, 2]}, {"a/b": 1}])
def test_what_cannot_be_stored_is_refused_when_it_is_put(folder, bad):
    with pytest.raises(MethodError, match="state: "):
        States(Checkpoint(folder), CPU).put(0, bad, 1)
