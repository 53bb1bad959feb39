"""Searches and events as the service records them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from retrieval_core.feedback.log import Choice, Event, Search

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def search(name: str, shown: Sequence[str] = ("b", "c"), **values: Any) -> Search:
    """A search for item `a` without a filter; `name` makes the query id."""
    given: dict[str, Any] = {"item_ids": ("a",), "texts": (), "n_pictures": 0, "pictures": (), "is_unlike": False}
    given |= {"where": "", "n_before": 0, "release": "r1", "at": NOW} | values
    return Search(query_id=query_id(name), shown=tuple(shown), **given)


def event(name: str, item_id: str, kind: Choice = "click", at: datetime = NOW, position: int | None = None) -> Event:
    return Event(query_id(name), at, item_id, kind, position)


def query_id(name: str) -> str:
    return name.encode().hex().rjust(32, "0")[-32:]


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)
