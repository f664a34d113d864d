"""How long the first view of a site takes from disk, in Chromium: a board of 40 methods, 10 tasks and 5 seeds.

Its rows are those of ``reports/quick-robust``, over and over: real values, names and lengths of text.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fedbench.leaderboard import figures, load_board
from fedbench.leaderboard.board import Board, Row, TaskBoard
from fedbench.leaderboard.page import site

from fedbench import release

PUBLISHED = Path(__file__).parents[1] / "reports" / "quick-robust" / release.NAME
METHODS, TASKS, SEEDS = 40, 10, 5
VIEWS = 7
CAPTION = (
    "From disk, in a fresh page each time. *Ready* is when the browser says that page, styles and scripts are loaded "
    "and have run; *processor* is the time of the page's thread until then. The target is under 1 s and under 3 MB."
)


def larger(board: Board) -> Board:
    """Return a board of as many methods, tasks and seeds, from the rows that there are."""
    tasks = [board.tasks[n % len(board.tasks)] for n in range(TASKS)]
    return replace(board, tasks=tuple(_task(task, f"{task.name}-{n}") for n, task in enumerate(tasks)))


def _task(task: TaskBoard, name: str) -> TaskBoard:
    rows = [task.rows[n % len(task.rows)] for n in range(METHODS)]
    return replace(
        task,
        name=name,
        rows=tuple(_row(row, name, f"{row.label}-{n}") for n, row in enumerate(rows)),
        references=tuple(_row(row, name, row.label) for row in task.references),
    )


def _row(row: Row, task: str, label: str) -> Row:
    cells = (
        replace(cell, planned=cell.planned.model_copy(update={"task": task, "label": label, "method": label}))
        for cell in row.cells[:SEEDS]
    )
    return replace(row, label=label, cells=tuple(cells))


def views(folder: Path) -> list[dict[str, float]]:
    """Open the first page again and again; return for each time seconds, and bytes that were asked for."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--headless"]
        )
        for _ in range(VIEWS):
            page = browser.new_page()
            asked: set[Path] = set()
            page.on("request", lambda request, asked=asked: asked.add(_path(request.url, folder)))
            meter = page.context.new_cdp_session(page)
            meter.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto((folder / "index.html").as_uri())  # which waits for the load event
            spent = {item["name"]: item["value"] for item in meter.send("Performance.getMetrics")["metrics"]}
            ready = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
            size = sum(path.stat().st_size for path in asked)
            found.append({"ready": ready, "processor": spent["TaskDuration"], "bytes": size})
            page.close()
        browser.close()
    return found


def _path(url: str, folder: Path) -> Path:
    return folder / url.removeprefix(f"{folder.as_uri()}/")


def _row_of(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    def spread(name: str) -> str:
        values = [each[name] for each in found]
        return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"

    return {
        "board": f"{METHODS} methods, {TASKS} tasks, {SEEDS} seeds",
        "ready, s": spread("ready"),
        "processor, s": spread("processor"),
        "MB": round(median(each["bytes"] for each in found) / 1e6, 2),
    }


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium on the PATH")
def test_first_view(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the pages but the charts, which no first view shows, and open the first."""
    monkeypatch.setattr(figures, "figure_pages", lambda _: [])
    with release.opened(PUBLISHED) as results:
        board = larger(load_board(results, "quick-robust"))
    for name, text in site(board).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = benchmark.pedantic(views, args=(tmp_path,), rounds=1)
    benchmark.extra_info.update(table="The first view of a board", row=_row_of(found), caption=CAPTION)
