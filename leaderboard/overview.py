"""All boards of a reports folder on one page, and in Markdown: which suites there are, and what each of them says.

It is made of the entries that stand beside the sites, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from fedbench.leaderboard.entry import ENTRY, Entry, read
from fedbench.leaderboard.markdown import escape, table
from fedbench.leaderboard.page import ASSETS, asset, environment

from fedbench.durable import write_atomic

TRACKS = {
    "robust": "Each seed draws its own partition, initial weights, client schedule and batch order, so these boards "
    "carry tests.",
    "faithful": "All seeds share one partition and one client schedule, as in the FedKPer paper: these boards describe "
    "their runs, and test nothing.",
}
"""What the boards of each track can say; boards of different tracks are never compared."""


def index(reports: Path) -> list[Path]:
    """Write ``index.html`` and ``index.md`` over all sites of a folder, and return the paths of all files written.

    Raises
    ------
    RecordError
        An entry cannot be read.
    OSError
        The folder is not writable.
    """
    found = [(path.parent.name, read(path)) for path in sorted(reports.glob(f"*/{ENTRY}"))]
    tracks = {track: [(folder, one) for folder, one in found if one.track == track] for track in TRACKS}
    files = {
        "index.html": environment().get_template("suites.html").render(tracks=tracks, TRACKS=TRACKS, root=""),
        "index.md": _markdown(tracks),
    }
    files |= {f"assets/{name}": asset(name) for name in ASSETS}
    for name, content in files.items():
        write_atomic(reports / name, content)
    return [reports / name for name in files]


def _markdown(tracks: Mapping[str, Sequence[tuple[str, Entry]]]) -> str:
    lines = ["# Boards", ""]
    for track, found in tracks.items():
        if found:
            lines += [f"## The {track} track", "", TRACKS[track], ""]
            lines += table(
                ("Suite", "What it is", "Tasks", "Methods", "Seeds", "Cells done", "What it says"),
                [
                    (
                        f"[{escape(one.suite)}]({quote(folder)}/leaderboard.md)",
                        *map(escape, (one.title, ", ".join(one.tasks), f"{one.methods} + {one.references}")),
                        *map(escape, (str(one.seeds), f"{one.done} of {one.cells}", one.finding)),
                    )
                    for folder, one in found
                ],
                escaped=True,
            )
    lines += ["Methods are counted with their reference points behind the plus. Tracks are never compared.", ""]
    return "\n".join(lines)
