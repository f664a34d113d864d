"""A task from a TOML file is checked like a built-in one."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fedbench import DataError, DataMissingError, Dirichlet, Natural, SpecError
from fedbench.models import MODELS
from fedbench.taskfile import DIMENSIONS, load_task_file

DOCS = Path(__file__).parent.parent / "docs"
PATIENTS = "hospital,age,stay_days,creatinine,readmitted\na,1.5,2,3,no\nb,2,3,4,yes\nb,3,4,5,no\n"


@pytest.fixture
def example(tmp_path):
    """Return a function that writes the example of the documentation with some text replaced."""

    def write(*changes):
        text = (DOCS / "my-task.toml").read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "patients.csv").write_text(PATIENTS, encoding="utf-8")
        (tmp_path / "my-task.toml").write_text(text, encoding="utf-8")
        return tmp_path / "my-task.toml"

    return write


def test_the_example_of_the_documentation(example):
    task = load_task_file(example())
    assert (task.name, task.source, task.model, task.n_classes) == ("my-hospitals", "my-hospitals", "mlp", 2)
    assert task.partitioner == Natural()
    assert task.protocol.rounds == 20
    assert task.data.load().targets.tolist() == [0, 1, 0]
    assert task.data.sites == ("a", "b")


def test_identity_holds_the_md5_and_no_path_of_this_machine(example, tmp_path):
    identity = load_task_file(example()).identity()
    assert identity["data"]["md5"] == load_task_file(example()).data.md5
    assert str(tmp_path) not in str(identity)
    (tmp_path / "patients.csv").write_text(PATIENTS + "a,9,9,9,no\n", encoding="utf-8")
    assert load_task_file(tmp_path / "my-task.toml").identity() != identity


def test_a_task_survives_the_way_to_a_worker(example):
    task = load_task_file(example())
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert again.data.load().inputs.shape == (3, 3)


def test_images_with_label_skew(example, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 28, 28), np.uint8), y=np.arange(40) % 2)
    start = example().read_text(encoding="utf-8")
    head, tail = start.split("[data]")[0], start.split("[protocol]")[1]
    middle = """
[data]
file = "x.npz"
[partition]
kind = "dirichlet"
alpha = 0.5
clients = 3
[model]
name = "cnn-small"
[protocol]
"""
    (tmp_path / "my-task.toml").write_text(head + middle + tail, encoding="utf-8")
    task = load_task_file(str(tmp_path / "my-task.toml"))
    assert task.partitioner == Dirichlet(alpha=0.5, clients=3)
    assert task.data.shape == (28, 28, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[protocol]", "[protocoll]", "unknown section 'protocoll'; did you mean protocol"),
        ("[model]", "[model", r"my-task\.toml: .*line"),
        ('name = "mlp"', 'name = "mpl"', r"unknown name in \[model\] 'mpl'; did you mean mlp"),
        ('name = "mlp"', 'name = "mlp"\nwidth = 3', r"unknown key in \[model\] 'width'"),
        ('name = "mlp"', 'name = "cnn4"', r"'cnn4' does not fit samples of shape \(3,\); use mlp"),
        ('kind = "natural"', "", r"\[partition\] kind is missing; known: dirichlet, natural"),
        ('kind = "natural"', 'kind = "dirichlet"', r"\[partition\] alpha: field required"),
        ('kind = "natural"', 'kind = "dirichlet"\nalpha = -1\nclients = 2', r"\[partition\] alpha: .*got -1"),
        ('kind = "natural"', 'kind = "dirichlet"\nalpha = 1\nclients = 0', r"\[partition\] clients: .*got 0"),
        ('kind = "natural"', 'kind = "natural"\nalpha = 1', r"\[partition\] alpha: extra"),
        ('site = "hospital"', "", r"'natural' needs sites"),
        ('label = "readmitted"', "", r"\[data\] label: field required"),
        ('label = "readmitted"', 'label = "readmitted"\nlabels = "x"', r"\[data\] labels: extra"),
        ('"patients.csv"', '"patients.xlsx"', r"must end in \.npz or \.csv, got 'patients\.xlsx'"),
        ("rounds = 20", "rounds = 0", r"\[protocol\] rounds: .*got 0"),
        ("rounds = 20", "", r"\[protocol\] rounds: field required"),
        ("rounds = 20", 'rounds = 20\noptimizer = "adam"', r"\[protocol\] optimizer: extra"),
        ('name = "my-hospitals"', 'name = "My hospitals"', r"\[task\] name: .*got 'My hospitals'"),
        ('name = "my-hospitals"', "", r"\[task\] name: field required"),
        ('name = "my-hospitals"', 'name = "my-hospitals"\nmodel = "mlp"', r"unknown key in \[task\] 'model'"),
    ],
)
def test_bad_task_files(example, old, new, message):
    with pytest.raises(SpecError, match=message) as caught:
        load_task_file(example((old, new)))
    assert str(caught.value).startswith("task file ")
    assert "my-task.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named(example):
    path = example()
    path.write_text(path.read_text(encoding="utf-8").split("[model]")[0], encoding="utf-8")
    with pytest.raises(SpecError, match=r"the section \[model\] is missing"):
        load_task_file(path)


def test_bad_data_is_named_with_its_own_file(example, tmp_path):
    path = example(('"age"', '"weight"'))
    with pytest.raises(DataError, match=r"patients\.csv has no column 'weight'"):
        load_task_file(path)
    path = example()
    (tmp_path / "patients.csv").unlink()
    with pytest.raises(DataMissingError, match=r"patients\.csv does not exist"):
        load_task_file(path)


def test_no_such_file(tmp_path):
    with pytest.raises(SpecError, match=r"task file .*none\.toml: No such file"):
        load_task_file(tmp_path / "none.toml")


def test_the_models_of_a_task_file_are_those_that_exist():
    assert set(DIMENSIONS) == set(MODELS)
