"""How a training went, drawn: its history as a few charts of figures that share a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from markupsafe import Markup

from retrieval_core.evaluate import charts

NOT_CURVES = ("epoch", "seconds", "learning_rate", "size_px", "threshold")
# Of the metric objectives: how far apart unlike pictures are, beside the margin; and what gives a collapse away.
DISTANCES = ("margin", "unlike_distance")
COLLAPSE = ("active_share", "spread", "collapsed")
# Drawn last, where the best epoch is marked.
HEADLINES = ("val_loss", "f1_example")


def history_charts(name: str, history: Sequence[Mapping[str, float]]) -> list[tuple[str, Markup]]:
    """(title, chart) of the losses, the scores, the distances and the signs of collapse in `history`, of any it has."""
    figures = list(dict.fromkeys(figure for row in history for figure in row if figure not in NOT_CURVES))
    losses = [figure for figure in figures if figure.endswith("loss")]
    scores = [figure for figure in figures if figure not in (*losses, *DISTANCES, *COLLAPSE)]
    groups: tuple[tuple[str, list[str], Literal["", "min", "max"]], ...] = (
        ("Loss", losses, "min" if "val_loss" in losses else ""),
        ("Validation", scores, "max"),
        ("Distances", [figure for figure in DISTANCES if figure in figures], ""),
        ("Collapse", [figure for figure in COLLAPSE if figure in figures], ""),
    )
    drawn = []
    for title, group, best in groups:
        series = {
            figure: [(row.get("epoch", i + 1), row[figure]) for i, row in enumerate(history) if figure in row]
            for figure in sorted(group, key=lambda figure: figure in HEADLINES)
        }
        if chart := charts.curves(f"{title} of {name}", series, best):
            drawn.append((title, chart))
    return drawn
