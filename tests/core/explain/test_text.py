"""An explanation is written line by line for a terminal."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import LEDGER, QUARANTINE_SCHEMA
from retrieval_core.artifacts.manifests import Release
from retrieval_core.artifacts.parts import table_bytes
from retrieval_core.explain.explanation import Explanation, MaskUse, SelfSearch
from retrieval_core.explain.history import ItemEvent
from retrieval_core.explain.text import describe_event, describe_self_search, text_lines
from tests.core.conftest import Shop
from tests.core.explain.conftest import ITEM, REJECT


def test_an_indexed_item_is_described_in_thirty_lines_with_its_ten_neighbours(
    explained: Callable[..., Explanation],
) -> None:
    lines = text_lines(explained(ITEM))
    assert len(lines) <= 30
    assert sum("item-" in line for line in lines) == 1 + 1 + 10, "the item, its picture's address and ten neighbours"


def test_the_first_line_says_where_the_item_is(
    shop: Shop, explained: Callable[..., Explanation], publish_changed: Callable[..., Release]
) -> None:
    publish_changed("r2", "3000-01-01T00:00:00+00:00")
    assert "not in this release" in text_lines(explained(ITEM, "r2"))[0]
    ledger = pl.DataFrame([REJECT | {"item_id": "fresh", "last_seen": "3000"}], schema=QUARANTINE_SCHEMA)
    shop.store.put(LEDGER, table_bytes(ledger))
    assert "fresh: in quarantine" in text_lines(explained("fresh"))[0]


def test_quarantine_is_described_with_its_reason_and_number_of_tries(
    explained: Callable[..., Explanation], publish_changed: Callable[..., Release]
) -> None:
    publish_changed("r2", "3000-01-01T00:00:00+00:00", status="quarantined", content_id=None)
    assert any("not a picture (3 tries" in line for line in text_lines(explained(ITEM, "r2")))


def test_a_distrusted_mask_is_described_with_its_reason(explained: Callable[..., Explanation]) -> None:
    mask = MaskUse(made_by="m", area=0.5, reason="the mask is empty", shown=True)
    lines = text_lines(explained(ITEM).model_copy(update={"mask": mask}))
    assert any("fallback to the whole picture: the mask is empty" in line for line in lines)
    trusted = mask.model_copy(update={"reason": "", "shown": False})
    lines = text_lines(explained(ITEM).model_copy(update={"mask": trusted}))
    assert any("trusted, keeps 50.0%; the release embeds whole pictures" in line for line in lines)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (SelfSearch(place=1, score=0.99, first="a"), "found at place 1 by its own picture, score 0.990"),
        (SelfSearch(place=3, score=0.5, first="b"), "found at place 3 by its own picture, score 0.500; the first is b"),
        (SelfSearch(first="b"), "not among the first ten by its own picture; the first is b"),
        (SelfSearch(), "not among the first ten by its own picture; the first is none"),
        (SelfSearch(problem="its picture is missing"), "not searched with its picture: its picture is missing"),
    ],
)
def test_a_search_with_the_items_own_picture_is_described(search: SelfSearch, expected: str) -> None:
    assert describe_self_search(search) == expected


def test_an_event_says_what_differs_and_whether_its_release_was_held() -> None:
    event = ItemEvent(release="r", created="now", gate="published", what="came")
    assert describe_event(event) == "came"
    held = event.model_copy(update={"gate": "held", "what": "changed", "detail": "category a → b"})
    assert describe_event(held) == "changed: category a → b, in a release that was held"
