"""Whatever stands in a file, reading it gives a value or a `FedBenchError`; see `fuzz.py`."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedbench import verbs
from fedbench.submissions.archive import write
from fedbench.submissions.form import FORM, read

SCRIPT = Path(__file__).with_name("fuzz.py")
SECONDS = int(os.environ.get("FEDBENCH_FUZZ_SECONDS", "5"))  # of each target
EXAMPLES = 40  # of each target, without coverage

_spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
fuzz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)

pytestmark = pytest.mark.reliability


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Return the folder of a real record, beside its plan."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "small.toml").write_text(
        'name = "small"\ntitle = "Small"\ntrack = "faithful"\ntasks = ["heart"]\nmethods = ["fedavg"]\nseeds = [1]\n'
    )
    selection = verbs.Selection(suite=str(folder / "small.toml"))
    verbs.run(selection, folder / "results", reports=None, executor="serial")
    (manifest,) = (folder / "results").rglob("manifest.json")
    return manifest.parent


@pytest.fixture(scope="module")
def archive(sample, tmp_path_factory):
    """Return a submission: the record, its plan, and a form that reads."""
    results = sample.parents[3]
    place = sample.relative_to(results).as_posix()
    files = {f"records/{place}/{path.name}": path.read_bytes() for path in sample.iterdir()}
    files["plans/small.json"] = (results / "plans" / "small.json").read_bytes()
    form = {
        "schema_version": 1, "method": "steady", "distribution": "steady-fl", "version": "1.2",
        "entry_point": "steady_fl:Steady", "licence": "MIT", "url": "https://example.org/steady",
        "authors": ["Some Body"], "notes": "Nothing\nspecial.", "suite": "small", "python": "3.11.7",
        "platform": "Linux", "environment": ["numpy==2.0"], "created": "2026-01-01T00:00:00+00:00",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("archive") / "steady.zip"
    write(path, {FORM: json.dumps(form).encode(), **files})
    assert read(json.dumps(form).encode()).method == "steady"
    return [path.read_bytes()]


NEW = st.one_of(
    st.binary(max_size=8), st.sampled_from([b"\x00", b"-1", b"1e999", b"NaN", b"[" * 3000, b"{" * 3000, b"\xff" * 8])
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 8, 1000]), NEW), min_size=1, max_size=3)
"""Where a file is changed, as a share of its length, how many bytes are taken out there, and what is put in."""


def edited(data, edits):
    """Return a file with a few bytes, or a run of them, other than they were."""
    data = bytearray(data)
    for where, length, new in edits:
        at = int(where * len(data))
        data[at : at + length] = new
    return bytes(data)


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_a_changed_file_is_read_or_refused(target, sample, archive, tally):
    beginnings = archive if target == "archive" else fuzz.samples(target, sample)
    with fuzz.reading(target, sample) as read:

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(beginnings), EDITS, st.integers(0, 100))
        def attempt(data, edits, seed):
            if target in fuzz.ZIPPED:  # with a right checksum, so that what stands behind it is read
                read(fuzz.change_member(data, lambda old, largest: edited(old, edits), 0, seed))
            else:
                read(edited(data, edits))

        attempt()
    tally("changed files", EXAMPLES)


@pytest.mark.long
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_fuzzing_with_coverage(target, sample, archive, tmp_path, tally):
    given = []
    for index, data in enumerate(archive if target == "archive" else []):
        given.append(tmp_path / str(index))
        given[-1].write_bytes(data)
    command = [sys.executable, SCRIPT, target, *given, "--record", sample, "--seconds", str(SECONDS)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS * 3 + 120)
    assert run.returncode == 0, run.stderr[-3000:]
    figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", run.stderr))
    assert int(figures["number_of_executed_units"]) > 10
    tally(f"fuzzed inputs, {target}", int(figures["number_of_executed_units"]))
    tally("seconds of fuzzing", SECONDS)
    assert int(figures["peak_rss_mb"]) < fuzz.MEMORY
