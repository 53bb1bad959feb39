"""Quality against cost: which variants are worth their price."""

from __future__ import annotations

from collections.abc import Mapping

from retrieval_core.evaluate.charts import Point


def pareto_front(points: Mapping[str, Point]) -> tuple[str, ...]:
    """The names of those (cost, value) points that no other beats, the cheapest first.

    A point is beaten by one that costs no more and is worth no less, unless both are equal.
    """
    front: list[str] = []
    for name, (cost, value) in sorted(points.items(), key=lambda point: (point[1][0], -point[1][1])):
        if not front or value > points[front[-1]][1] or points[front[-1]] == (cost, value):
            front.append(name)
    return tuple(front)
