"""Boards: from records to tables, and from tables to a page, to Markdown and to the terminal.

`load_board` reads records and gives plain data; everything else turns that data into something to read. No torch, no
clock and no network: the same records give the same bytes.
"""

from __future__ import annotations

from fedbench.leaderboard.board import Board, CellResult, Row, Score, TaskBoard, load_board
from fedbench.leaderboard.console import summary, terminal
from fedbench.leaderboard.overview import index
from fedbench.leaderboard.page import render

__all__ = [
    "Board",
    "CellResult",
    "Row",
    "Score",
    "TaskBoard",
    "index",
    "load_board",
    "render",
    "summary",
    "terminal",
]
