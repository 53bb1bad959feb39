"""What a search returns."""

from __future__ import annotations

from retrieval_core.artifacts.manifests import Value


class Item(Value):
    """What a search shows of an item of the catalogue."""

    item_id: str
    image_uri: str
    product_id: str | None = None
    category: str | None = None
    labels: list[str] = []
    fields: dict[str, str | int | float | dict[str, str | int | float]] = {}


class Hit(Item):
    """A search result: its cosine `score`, -1 to 1, and how likely its search found something relevant, 0 to 1."""

    score: float
    confidence: float | None = None
