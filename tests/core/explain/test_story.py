"""One item's story, in a shop whose releases differ and in a night whose pictures are gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.catalog_rows import LEDGER, QUARANTINE_SCHEMA
from retrieval_core.artifacts.growing_sets import part_key
from retrieval_core.artifacts.manifests import Catalog, Hit, IndexSet, Part, Reject, Release, Report
from retrieval_core.artifacts.parts import masks_bytes, put_part, table_bytes
from retrieval_core.artifacts.releases import get_release
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.hygiene import FIX_SCHEMA
from retrieval_core.explain.history import find_history
from retrieval_core.explain.page import pictures_of, render_story
from retrieval_core.explain.story import Itself, Story, explain
from retrieval_core.explain.words import story_lines
from retrieval_core.index.shard_files import shard_row_ids
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tests.core.conftest import Shop
from tests.core.sealed_runs import CONFIG, SEGMENTER, SealedRuns, fake_fingerprint

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e"
ITEM = "item-2-0"
REJECT = {"item_id": ITEM, "image_uri": "x.jpg", "content_id": "c", "reason": "not a picture", "attempts": 3}
DUPLICATES = ["item_id", "other_item_id", "product_id", "other_product_id", "similarity"]


@pytest.fixture
def shop(new_shop: Callable[[Path], Shop], tmp_path: Path) -> Shop:
    return new_shop(tmp_path)


def told(shop: Shop, item_id: str, release: str = "r1") -> Story:
    return explain(shop.store, get_release(shop.store, release), item_id, shop.settings)


def publish_changed(shop: Shop, name: str, created: str, **values: Any) -> Release:
    """A release of the first release's index whose catalogue says these values of the item, or without it."""
    items = shop.items
    if values:
        schema = items.schema
        changes = [pl.when(pl.col("item_id") == ITEM).then(pl.lit(value, schema[key])).otherwise(pl.col(key)).alias(key)
                   for key, value in values.items()]  # fmt: skip
        items = items.with_columns(changes)
    else:
        items = items.filter(pl.col("item_id") != ITEM)
    is_bad = items.filter(pl.col("status") != "ok").height
    ledger = pl.DataFrame([REJECT | {"last_seen": created}] * is_bad, schema=QUARANTINE_SCHEMA)
    parts = tuple(
        put_part(shop.store, f"catalogs/{name}/{table}.parquet", table_bytes(frame), len(frame))
        for table, frame in {"items": items, "quarantine": ledger}.items()
    )
    catalog = Catalog(fingerprint=name, parts=parts).seal(shop.store)
    old = get_release(shop.store, "r1")
    made = old.model_copy(update={"fingerprint": name, "catalog": catalog.ref, "created": created})
    return made.seal(shop.store)


def test_an_item_tells_what_it_is_where_it_lies_and_what_is_near(shop: Shop) -> None:
    shop.publish()
    story = told(shop, ITEM)
    row = shop.items.row(by_predicate=pl.col("item_id") == ITEM, named=True)
    assert (story.state, story.release, story.picture) == ("indexed", "r1", "")
    assert story.row is not None
    assert (story.row.content_id, story.row.category, story.row.labels) == (row["content_id"], "coat", ("green", "new"))
    shard = next(shop.store.local_path(part.key).parent.name for part in _shards_with(shop, row["row_id"]))
    assert (story.shard, story.n_shards) == (shard, 2)
    assert story.itself is not None
    assert (story.itself.place, story.itself.first) == (1, ITEM)
    assert story.itself.score == pytest.approx(1, abs=1e-5)
    oracle = sorted(
        ((float(vector @ shop.vectors[ITEM]), item_id) for item_id, vector in shop.vectors.items() if item_id != ITEM),
        reverse=True,
    )[:10]
    assert [hit.score for hit in story.neighbours] == pytest.approx([score for score, _ in oracle], abs=1e-5)
    assert story.neighbours[0].item_id == oracle[0][1] == "item-2-1"
    assert [(step.role, step.fingerprint) for step in story.lineage] == [
        ("background", ""), ("backbone", "pixels"), ("vectors", "none"), ("index", "r1"),
    ]  # fmt: skip
    assert "pca_pixels, weights fit:0, 16 px to" in story.lineage[1].what
    lines = story_lines(story)
    assert len(lines) <= 30
    assert sum("item-" in line for line in lines) == 1 + 1 + 10, "the item, its picture's address and ten neighbours"


def _shards_with(shop: Shop, row_id: int) -> list[Part]:
    parts = IndexSet.open(shop.store, get_release(shop.store, "r1").index).parts
    return [part for part in parts if row_id in shard_row_ids(shop.store.local_path(part.key).parent)]


def test_history_says_when_an_item_came_what_changed_and_that_it_left(shop: Shop) -> None:
    shop.publish()
    publish_changed(shop, "r2", "3000-01-01T00:00:00+00:00", category="scarf", labels=["warm"], content_id="f" * 32)
    publish_changed(shop, "r3", "3000-01-02T00:00:00+00:00", category="scarf", labels=["warm"], content_id="f" * 32)
    publish_changed(shop, "r4", "3000-01-03T00:00:00+00:00")
    story = told(shop, ITEM, "r4")
    assert [(event.release, event.what) for event in story.history.events] == [
        ("r1", "came"), ("r2", "changed"), ("r4", "left"),
    ]  # fmt: skip
    detail = story.history.events[1].detail
    assert "category coat → scarf" in detail
    assert "labels green, new → warm" in detail
    picture = shop.items.row(by_predicate=pl.col("item_id") == ITEM, named=True)["content_id"]
    assert f"picture {picture[:12]} → {'f' * 12}" in detail
    assert story.state == "absent"
    assert story.row is not None
    assert story.row.category == "scarf", "as the last release that had it knew it"
    assert not story.neighbours
    assert "not in this release" in story_lines(story)[0]
    gone = get_release(shop.store, "r1").catalog
    shop.store.delete(f"{gone.key}/manifest.json")
    history = find_history(shop.store, ITEM).history
    assert (history.n_releases, history.n_gone, history.events[0].release) == (4, 1, "r2")


def test_an_item_in_quarantine_tells_its_reason_and_how_often_it_was_tried(shop: Shop) -> None:
    shop.publish()
    publish_changed(shop, "r2", "3000-01-01T00:00:00+00:00", status="quarantined", content_id=None)
    story = told(shop, ITEM, "r2")
    assert (story.state, story.neighbours, story.shard) == ("quarantined", (), "")
    assert [(reject.reason, reject.attempts) for reject in story.quarantine] == [("not a picture", 3)]
    assert any("not a picture (3 tries" in line for line in story_lines(story))
    assert "status ok → quarantined" in story.history.events[-1].detail


def test_an_item_that_only_todays_ledger_knows_is_no_stranger(shop: Shop) -> None:
    shop.publish()
    ledger = pl.DataFrame([REJECT | {"item_id": "fresh", "last_seen": "3000"}], schema=QUARANTINE_SCHEMA)
    shop.store.put(LEDGER, table_bytes(ledger))
    story = told(shop, "fresh")
    assert (story.state, story.row, story.history.events) == ("quarantined", None, ())
    assert story.quarantine == (Reject.model_validate(ledger.row(0, named=True)),)
    assert "fresh: in quarantine" in story_lines(story)[0]


@pytest.mark.parametrize(
    ("item_id", "meant"),
    [("item-2-00", "item-2-0"), ("Item-2-0", "item-2-0"), ("tem-11-2", "item-11-2"), ("zebra", None), ("", None)],
)
def test_a_stranger_is_answered_with_ids_spelt_alike(shop: Shop, item_id: str, meant: str | None) -> None:
    shop.publish()
    with pytest.raises(NotFound, match="no item") as raised:
        told(shop, item_id)
    assert (repr(meant) in str(raised.value)) == (meant is not None)
    assert ("did you mean" in str(raised.value)) == (meant is not None)


def test_a_picture_that_is_gone_or_another_by_now_is_not_searched_for(shop: Shop) -> None:
    shop.publish()
    path = shop.picture(ITEM)
    path.write_bytes(shop.picture("item-3-0").read_bytes())
    changed = told(shop, ITEM)
    assert "another file now" in changed.picture
    assert changed.itself is not None
    assert (changed.itself.place, changed.neighbours[0].item_id) == (None, "item-2-1")
    path.unlink()
    gone = told(shop, ITEM)
    assert "cannot be read now" in gone.picture
    page = render_story(gone, pictures_of(shop.store, get_release(shop.store, "r1"), gone))
    assert page.count("<img") == len(gone.neighbours)


def test_what_the_report_wants_put_right_is_told_of_both_of_a_pair(shop: Shop) -> None:
    shop.publish()
    fixes = [(ITEM, "category", "9 of 10 are dress", "category dress", 0.9), ("item-3-0", "orphan", "far", "look", 0.6)]
    fixes.append((ITEM, "near_duplicate", "as item-5-0", "one product", 1.0))
    tables = {
        "fixes": pl.DataFrame(fixes, schema=FIX_SCHEMA, orient="row"),
        "near_duplicates": pl.DataFrame([(ITEM, "item-5-0", "p2", None, 0.995)], schema=DUPLICATES, orient="row"),
    }
    parts = tuple(
        put_part(shop.store, f"reports/second/{name}.parquet", table_bytes(table), len(table))
        for name, table in tables.items()
    )
    report = Report(fingerprint="second", parts=parts, gate="published", gate_reason="").seal(shop.store)
    old = get_release(shop.store, "r1")
    old.model_copy(update={"fingerprint": "r2", "report": report.ref}).seal(shop.store)
    mine, other, neither = (told(shop, name, "r2").problems for name in (ITEM, "item-5-0", "item-7-0"))
    assert [problem.problem for problem in mine] == ["category", "near_duplicate"]
    assert "as item-5-0 (cosine 0.995)" in mine[1].evidence
    assert [problem.problem for problem in other] == ["near_duplicate"]
    assert f"as {ITEM} (cosine 0.995)" in other[0].evidence
    assert neither == ()


def test_a_page_escapes_what_a_catalogue_says_and_needs_nothing_from_outside(shop: Shop) -> None:
    shop.publish()
    publish_changed(shop, "r2", "3000-01-01T00:00:00+00:00", category=HOSTILE, labels=[HOSTILE], product_id=HOSTILE)
    story = told(shop, ITEM, "r2")
    hostile = Hit(item_id=HOSTILE, score=0.5, image_uri="nowhere.jpg", category=HOSTILE, labels=[HOSTILE])
    story = story.model_copy(update={"item_id": HOSTILE, "neighbours": (hostile, *story.neighbours[:9])})
    story = story.model_copy(update={"itself": Itself(first="Item-X")})
    page = render_story(story, pictures_of(shop.store, get_release(shop.store, "r2"), story))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "Not among the first ten by its own picture; the first is Item-X" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert page.count('src="data:image/jpeg;base64,') == page.count("<img") == 10, "the picture, and nine of ten hits"
    assert "http://" not in page
    assert "https://" not in page


def test_a_night_tells_masks_trusted_and_not_and_every_link_of_the_chain(local_store: Store) -> None:
    family = fingerprints.mask_family(CONFIG.mask, SEGMENTER)
    distrusted = hashlib.sha256(b"b").hexdigest()[:32]  # as `SealedRuns` names the picture of item b
    masks = masks_bytes([distrusted], [np.zeros((4, 4), bool)], ["the mask is empty"])
    put_part(local_store, part_key("masks", family, "early"), masks, 1)
    release = SealedRuns(local_store).seal("abcdef")
    settings = Settings.load(store=local_store.url, threads=1)
    trusted, fallback = (explain(local_store, release, name, settings) for name in "ab")
    assert trusted.mask is not None
    assert fallback.mask is not None
    assert (trusted.mask.is_trusted, trusted.mask.area, trusted.mask.made_by) == (True, 1.0, SEGMENTER)
    assert (fallback.mask.is_trusted, fallback.mask.reason) == (False, "the mask is empty")
    assert any("fallback to the whole picture: the mask is empty" in line for line in story_lines(fallback))
    assert [step.role for step in trusted.lineage] == ["mask", "backbone", "head", "vectors", "reducer", "index"]
    assert release.head is not None
    assert release.reducer is not None
    names = {step.role: step.fingerprint for step in trusted.lineage}
    assert (names["backbone"], names["head"], names["reducer"]) == (
        fake_fingerprint("b"), release.head.name, release.reducer.name,
    )  # fmt: skip
    assert trusted.itself is not None
    assert "cannot be read" in trusted.itself.problem
    assert {hit.item_id for hit in trusted.neighbours} == set("bcdef")
