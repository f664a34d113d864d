"""A board as CSV, JSON and LaTeX: what another program reads, and what a hostile name does not get to do."""

import csv
import io
import json
import re

import numpy as np
import pytest
from fedbench.leaderboard import load_board
from fedbench.leaderboard.tables import FIELDS, FORMATS, as_csv, as_json, as_latex, rows, tex

from fedbench.errors import SpecError
from fedbench.metrics import METRICS

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1+1", "\r\n=1+1", " =1+1", "＝1+1", "'x"]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def board(demo):
    return load_board(demo, "demo")


def test_one_row_a_cell_and_metric(board):
    found = read(as_csv(board))
    assert list(found[0]) == list(FIELDS)
    assert len(found) == len(board.cells) * len(METRICS)
    keys = {(row["task"], row["method"], row["seed"], row["metric"]) for row in found}
    assert len(keys) == len(found)


def test_values_units_and_where_they_came_from(board):
    (row,) = [
        row
        for row in read(as_csv(board))
        if (row["task"], row["method"], row["seed"], row["metric"]) == ("alpha", "fedavg", "2", "bwt")
    ]
    assert float(row["value"]) == -0.125  # by hand, see conftest; a negative number is no formula
    assert (row["unit"], row["better"], row["state"], row["track"], row["suite"]) == (
        "fraction", "higher", "done", "faithful", "demo",
    )  # fmt: skip
    (cell,) = [cell for cell in board.cells if cell.planned.path == "alpha/fedavg/0123456789ab/seed-2"]
    assert (row["hash"], row["digest"]) == ("0123456789ab", cell.digest)


def test_every_value_reads_back_to_the_same_bits(board):
    values = {(row["task"], row["method"], row["seed"], row["metric"]): row["value"] for row in rows(board)}
    for row in read(as_csv(board)):
        value = values[row["task"], row["method"].lstrip("'"), int(row["seed"]), row["metric"]]
        assert (float(row["value"]) if row["value"] else None) == value
    again = json.loads(as_json(board))
    assert again["rows"] == list(rows(board))
    assert (again["suite"], again["track"], again["margin"]) == ("demo", "faithful", 0.005)


def test_holes_are_rows_without_a_value(board):
    found = read(as_csv(board))
    for method, seed, state, reason in (
        ("fedprox", "3", "failed", "loss is NaN in round 2"),
        ("fedavg", "2", "missing", ""),
        ("fedkper", "1", "skipped", "bloodmnist.npz is not on this machine"),
    ):
        task = "alpha" if method == "fedprox" else "beta"
        hits = [row for row in found if (row["task"], row["method"], row["seed"]) == (task, method, seed)]
        assert len(hits) == len(METRICS)
        assert {(row["state"], row["reason"], row["value"], row["digest"]) for row in hits} == {(state, reason, "", "")}


@pytest.mark.parametrize("label", FORMULAS)
def test_a_spreadsheet_runs_no_name(lab, label):
    cell = lab.done("alpha", "fedavg", 1, 0.5)
    lab.cells[0] = cell.model_copy(update={"label": label})
    found = read(as_csv(load_board(lab.finish(), "demo")))
    shown = re.sub(r"\s", " ", label)
    assert {row["method"] for row in found} == {f"'{shown}"}


def test_a_spreadsheet_that_splits_at_semicolons_finds_no_formula(lab):
    cell = lab.done("alpha", "fedavg", 1, 0.5)
    lab.cells[0] = cell.model_copy(update={"label": 'x;=1+1;"'})
    found = list(csv.reader(io.StringIO(as_csv(load_board(lab.finish(), "demo"))), delimiter=";"))
    assert not [value for row in found for value in row if value.startswith("=")]


def test_hyperparameters_are_an_object_in_json_and_text_in_csv(lab):
    cell = lab.done("alpha", "fedprox", 1, 0.5)
    lab.cells[0] = cell.model_copy(update={"hyperparameters": {"mu": 0.01}})
    board = load_board(lab.finish(), "demo")
    assert json.loads(as_json(board))["rows"][0]["hyperparameters"] == {"mu": 0.01}
    assert read(as_csv(board))[0]["hyperparameters"] == '{"mu": 0.01}'


@pytest.mark.parametrize("form", FORMATS)
def test_equal_records_give_equal_bytes(demo, form):
    _, write = FORMATS[form]
    assert write(load_board(demo, "demo")) == write(load_board(demo, "demo"))


# --- LaTeX ------------------------------------------------------------------------------------------------------------


def line(latex, label):
    (found,) = [line for line in latex.splitlines() if line.startswith(f"{label} & ")]
    return [cell.strip() for cell in found.removesuffix(r"\\").split(" & ")][1:]


def test_best_is_bold_and_second_underlined(lab):
    for label, first in (("fedavg", 0.5), ("fedkper", 0.7), ("moon", 0.6)):
        for seed in (1, 2, 3):
            lab.done("alpha", label, seed, first + 0.1 * (seed - 2))
    latex = as_latex(load_board(lab.finish(), "demo"), ["global_accuracy_mean"])
    # Three seeds 10 points apart: deviation 10, half width 4.303 · 10 / √3 = 24.8.
    assert line(latex, "fedkper") == [r"$\mathbf{70.0}$ {\scriptsize$\pm$24.8}"]
    assert line(latex, "moon") == [r"\underline{$60.0$} {\scriptsize$\pm$24.8}"]
    assert line(latex, "fedavg") == [r"$50.0$ {\scriptsize$\pm$24.8}"]


def test_ties_are_marked_together(lab):
    for label, accuracy in (("fedavg", 0.5), ("fedkper", 0.7), ("moon", 0.7), ("fedprox", 0.5)):
        lab.done("alpha", label, 1, accuracy)
    latex = as_latex(load_board(lab.finish(), "demo"), ["global_accuracy_mean"])
    assert line(latex, "fedkper") == line(latex, "moon") == [r"$\mathbf{70.0}$"]
    assert line(latex, "fedavg") == line(latex, "fedprox") == [r"\underline{$50.0$}"]


def test_where_lower_is_better_the_lowest_is_bold(lab):
    models = ("global", "local", "personal")
    lab.done("alpha", "fedper", 1, 0.5, models=models)
    lab.done("alpha", "fedrep", 1, 0.5, models=models, personal_client_correct=_packed([1, 1, 1, 1, 1, 1, 1, 1]))
    latex = as_latex(load_board(lab.finish(), "demo"), ["client_gap"])
    assert line(latex, "fedrep") == [r"$\mathbf{0.0}$"]
    assert line(latex, "fedper") == [r"\underline{$50.0$}"]


def _packed(bits):
    return np.packbits(np.array([bits], dtype=bool), axis=-1)


def test_holes_and_what_is_not_defined_are_dashes_and_holes_are_named(board):
    latex = as_latex(board)
    assert line(latex, "fedprox")[:2] == ["--", "--"]  # one of three seeds failed: no mean of the rest
    assert line(latex, "fedper")[0] == "--"  # no global model
    assert line(latex, "fedper")[1] != "--"
    assert "% fedprox on alpha: 2 of 3 seeds: seed 3 failed: loss is NaN in round 2" in latex.splitlines()


def test_reference_points_stand_below_a_rule_unmarked(lab):
    lab.done("alpha", "fedavg", 1, 0.5)
    lab.done("alpha", "moon", 1, 0.6)
    lab.done("alpha", "majority", 1, 0.9, family="reference", models=("global",))
    lines = as_latex(load_board(lab.finish(), "demo"), ["global_accuracy_mean"]).splitlines()
    position = next(i for i, text in enumerate(lines) if text.startswith("majority"))
    assert lines[position - 1] == r"\midrule"
    assert lines[position] == r"majority & $90.0$ \\"


def test_costs_have_their_own_unit(board):
    assert line(as_latex(board, ["bytes_up"]), "fedavg")[0] == "2.0 MB"


def test_the_columns_fit_the_rules(board):
    latex = as_latex(board, ["global_accuracy_mean", "bwt", "consistency_peak"])
    assert r"\begin{tabular}{lrrrrrr}" in latex  # two tasks of three metrics
    assert r"\cmidrule(lr){2-4}\cmidrule(lr){5-7}" in latex
    widths = {text.count(" & ") for text in latex.splitlines() if text.endswith(r"\\") and "multicolumn" not in text}
    assert widths == {6}


def test_an_unknown_metric_is_refused(board):
    with pytest.raises(SpecError, match="unknown metric 'acuracy'"):
        as_latex(board, ["acuracy"])


HOSTILE = r"\input{/etc/passwd}%&$#_^~{}<>|\end{table}[2cm]* --- \write18{rm}" + "\n%x\\\\"


def test_a_hostile_name_is_text(lab):
    for seed in (1, 2):
        cell = lab.plan("alpha", "fedavg", seed)
        lab.cells[-1] = cell.model_copy(update={"label": HOSTILE})
    latex = as_latex(load_board(lab.finish(title=HOSTILE), "demo"))
    body = [text for text in latex.splitlines() if not text.startswith("% ")]
    commands = set(re.findall(r"\\([a-zA-Z]+)", "\n".join(body)))
    assert not commands & {"input", "write"}
    assert "\n".join(body).count(r"\end{table}") == 1
    # A comment is one line: what follows the name's line break does not leave it.
    assert len([text for text in latex.splitlines() if "input" in text]) == 3  # comment, caption, row


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("fedprox[mu=0.1]", "fedprox{[}mu=0.1{]}"),
        ("a_b & 50%", r"a\_b \& 50\%"),
        ("blood-mini", "blood-mini"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("\\", r"\textbackslash{}"),
        ('"x"', "''x''"),
    ],
)
def test_names_as_latex_prints_them(name, shown):
    assert tex(name) == shown
