"""The ways to search that were tried, as charts: recall against what a query reads, and against the time it takes."""

from __future__ import annotations

from markupsafe import Markup

from retrieval_core.artifacts import TunePoint
from retrieval_core.evaluate import charts
from retrieval_core.evaluate.facts import IndexFacts

RECALL = "recall@10"


def tuning_charts(index: IndexFacts) -> list[tuple[str, Markup]]:
    """Each with its title; none where there was no choice."""
    if len(index.curve) < 2:
        return []
    chosen = way_to_search(index.chosen) if index.chosen else ""
    read = {way_to_search(point): (_rounded(point.query_bytes / 1e3), point.recall) for point in index.curve}
    taken = {way_to_search(point): (_rounded(point.latency_ms or 0.0), point.recall) for point in index.curve}
    drawn = [
        ("Recall against what a query reads", charts.tuning(RECALL, read, "kB a query", index.recall_target, chosen)),
        ("Recall against time", charts.tuning(RECALL, taken, "ms a query", index.recall_target, chosen)),
    ]
    return [(title, chart) for title, chart in drawn if chart]


def way_to_search(point: TunePoint) -> str:
    """`nprobe 16, rerank 4`; without the lists where there are none."""
    lists = f"nprobe {point.nprobe:,}, " if point.nprobe else ""
    return f"{lists}rerank {point.rerank_depth:,}"


def _rounded(cost: float) -> float:
    """To the three digits that an axis can show."""
    return float(f"{cost:.3g}")
