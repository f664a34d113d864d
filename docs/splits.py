"""Draws the pictures of splits.md from data that is installed with FedBench: python docs/splits.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import torch
from PIL import Image

from fedbench import (
    IID,
    Dirichlet,
    DirichletSizes,
    LogNormalSizes,
    Partitioner,
    PlainDirichlet,
    Shards,
    SiteStyles,
    Task,
    registry,
)
from fedbench.federation import federate
from fedbench.resident import load_data
from fedbench.splitcard import class_counts, label_divergence

FOLDER = Path(__file__).parent / "splits"
TRAINS, HELD_OUT = "#3b6ea5", "#d08a3c"


def variant(**changes: Partitioner | float) -> Task:
    """Return blood-mini with another split."""
    return registry.tasks.get("blood-mini").but(**changes)


PICTURES: dict[str, list[tuple[str, Task]]] = {
    "dirichlet": [
        (f"alpha = {alpha}", variant(partitioner=Dirichlet(alpha=alpha, clients=8))) for alpha in (0.05, 0.1, 0.3, 1.0)
    ],
    "plain-dirichlet": [
        (f"alpha = {alpha}", variant(partitioner=PlainDirichlet(alpha=alpha, clients=8)))
        for alpha in (0.05, 0.1, 0.3, 1.0)
    ],
    "shards": [
        (f"classes = {classes}", variant(partitioner=Shards(classes=classes, clients=8))) for classes in (1, 2, 4)
    ],
    "iid": [("", variant(partitioner=IID(clients=8)))],
    "log-normal-sizes": [
        (f"sigma = {sigma}", variant(partitioner=LogNormalSizes(sigma=sigma, clients=8))) for sigma in (0.5, 1.0, 2.0)
    ],
    "dirichlet-sizes": [
        (f"alpha = {alpha}", variant(partitioner=DirichletSizes(alpha=alpha, clients=8))) for alpha in (0.5, 1.0, 5.0)
    ],
    "natural": [("heart: Cleveland, Budapest, Switzerland, Long Beach", registry.tasks.get("heart"))],
    "held-out": [("held_out = 0.25", variant(held_out=0.25))],
}


def bubbles(title: str, task: Task) -> alt.Chart:
    """Return the picture of one split: a bubble for each class and client, whose area is the number of samples."""
    data = task.data.load()
    federation = federate(task, data, "faithful", 0)
    counts = class_counts(federation, data.targets, task.n_classes)
    sizes = counts.sum(axis=1)
    classes = [name.partition("(")[0] for name in task.data.classes]
    rows = [
        {"client": k, "class": classes[c], "samples": int(n), "held out": k >= federation.trainers}
        for k, row in enumerate(counts)
        for c, n in enumerate(row)
        if n
    ]
    facts = [f"{sizes.min()} to {sizes.max()} samples", f"divergence {label_divergence(counts):.2f} bit"]
    axis = {"grid": True, "gridColor": "#eeeeee", "domain": False, "ticks": False, "labelColor": "#444444"}
    return (
        alt.Chart(
            alt.Data(values=rows),
            title=alt.TitleParams(title, subtitle=facts, anchor="start", fontSize=12, subtitleColor="#666666"),
        )
        .mark_circle(opacity=1)
        .encode(
            x=alt.X("client:O", axis=alt.Axis(title="client", labelAngle=0, **axis)),
            y=alt.Y("class:N", scale=alt.Scale(domain=classes), axis=alt.Axis(title=None, **axis)),
            size=alt.Size("samples:Q", scale=alt.Scale(domain=[0, int(counts.max())], range=[0, 320]), legend=None),
            color=alt.condition("datum['held out']", alt.value(HELD_OUT), alt.value(TRAINS)),
        )
        .properties(width=21 * len(counts), height=21 * len(classes))
    )


def picture(splits: Sequence[tuple[str, Task]]) -> alt.HConcatChart:
    """Return the pictures of some splits side by side."""
    charts = [bubbles(title, task) for title, task in splits]
    for chart in charts[1:]:
        chart.encoding.y.axis.labels = False
    return alt.hconcat(*charts, spacing=24, background="white").configure_view(stroke=None)


def styles(clients: int = 8, zoom: int = 2, gap: int = 4) -> Image.Image:
    """Return one cell of each class as it is, and below it in the styles of some clients."""
    task = variant(partitioner=IID(clients=clients)).but(styles=SiteStyles())
    data = load_data(task.data)
    federation = federate(task, data, "faithful", 0)
    cells = data.train[[int((data.targets[data.train] == c).argmax()) for c in range(task.n_classes)]]
    plain = torch.from_numpy(data.inputs[cells])
    rows = [plain, *(federation.styled(plain, client, "train") for client in range(clients))]
    side = zoom * plain.shape[1] + gap
    sheet = Image.new("RGB", (side * len(cells) - gap, side * len(rows) - gap + 2 * gap), "white")
    for i, row in enumerate(rows):
        for j, cell in enumerate(row.numpy()):
            tile = Image.fromarray(np.rint((cell + 1) * 127.5).astype(np.uint8))
            tile = tile.resize((zoom * tile.width, zoom * tile.height), Image.Resampling.NEAREST)
            sheet.paste(tile, (j * side, i * side + (2 * gap if i else 0)))
    return sheet


def main() -> None:
    """Write all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, splits in PICTURES.items():
        picture(splits).save(FOLDER / f"{name}.svg")
    styles().save(FOLDER / "styles.png", optimize=True)


if __name__ == "__main__":
    main()
