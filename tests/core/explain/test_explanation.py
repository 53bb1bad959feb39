"""An explanation gathers what the store holds of one item in a release."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts import fingerprints
from retrieval_core.artifacts.catalog_rows import LEDGER, QUARANTINE_SCHEMA
from retrieval_core.artifacts.growing_sets import put_growing_part
from retrieval_core.artifacts.manifests import IndexSet, Part, Reject, Release, Report
from retrieval_core.artifacts.parts import masks_bytes, put_part, table_bytes
from retrieval_core.artifacts.releases import get_release
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.hygiene import FIX_SCHEMA
from retrieval_core.explain.explanation import Explanation, explain
from retrieval_core.index.shard_files import shard_row_ids
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from tests.core.conftest import Shop
from tests.core.explain.conftest import ITEM, REJECT
from tests.core.sealed_runs import CONFIG, SEGMENTER, SealedRuns, fake_fingerprint

DUPLICATES = ["item_id", "other_item_id", "product_id", "other_product_id", "similarity"]


def test_an_explanation_holds_the_item_its_shard_and_what_is_near(
    shop: Shop, explained: Callable[..., Explanation]
) -> None:
    item = explained(ITEM)
    row = shop.items.row(by_predicate=pl.col("item_id") == ITEM, named=True)
    assert (item.state, item.release, item.picture) == ("indexed", "r1", "")
    assert item.row is not None
    assert (item.row.content_id, item.row.category, item.row.labels) == (row["content_id"], "coat", ("green", "new"))
    shard = next(shop.store.local_path(part.key).parent.name for part in _shards_with(shop, row["row_id"]))
    assert (item.shard, item.n_shards) == (shard, 2)
    assert item.itself is not None
    assert (item.itself.place, item.itself.first) == (1, ITEM)
    assert item.itself.score == pytest.approx(1, abs=1e-5)
    oracle = sorted(
        ((float(vector @ shop.vectors[ITEM]), item_id) for item_id, vector in shop.vectors.items() if item_id != ITEM),
        reverse=True,
    )[:10]
    assert [hit.score for hit in item.neighbours] == pytest.approx([score for score, _ in oracle], abs=1e-5)
    assert item.neighbours[0].item_id == oracle[0][1] == "item-2-1"
    assert [(step.role, step.fingerprint) for step in item.lineage] == [
        ("background", ""), ("backbone", "pixels"), ("vectors", "none"), ("index", "r1"),
    ]  # fmt: skip
    assert "pca_pixels, weights fit:0, 16 px to" in item.lineage[1].what


def _shards_with(shop: Shop, row_id: int) -> list[Part]:
    parts = IndexSet.open(shop.store, get_release(shop.store, "r1").index).parts
    return [part for part in parts if row_id in shard_row_ids(shop.store.local_path(part.key).parent)]


def test_a_quarantined_item_has_its_reason_and_number_of_tries(
    explained: Callable[..., Explanation], publish_changed: Callable[..., Release]
) -> None:
    publish_changed("r2", "3000-01-01T00:00:00+00:00", status="quarantined", content_id=None)
    item = explained(ITEM, "r2")
    assert (item.state, item.neighbours, item.shard) == ("quarantined", (), "")
    assert [(reject.reason, reject.attempts) for reject in item.quarantine] == [("not a picture", 3)]
    assert "state can be read → cannot be read" in item.history.events[-1].detail


def test_an_item_that_only_the_ledger_of_the_store_knows_is_quarantined(
    shop: Shop, explained: Callable[..., Explanation]
) -> None:
    ledger = pl.DataFrame([REJECT | {"item_id": "fresh", "last_seen": "3000"}], schema=QUARANTINE_SCHEMA)
    shop.store.put(LEDGER, table_bytes(ledger))
    item = explained("fresh")
    assert (item.state, item.row, item.history.events) == ("quarantined", None, ())
    assert item.quarantine == (Reject.model_validate(ledger.row(0, named=True)),)


@pytest.mark.parametrize(
    ("item_id", "meant"),
    [("item-2-00", "item-2-0"), ("Item-2-0", "item-2-0"), ("tem-11-2", "item-11-2"), ("zebra", None), ("", None)],
)
def test_an_unknown_id_is_answered_with_similar_ids(
    explained: Callable[..., Explanation], item_id: str, meant: str | None
) -> None:
    with pytest.raises(NotFound, match="no item") as raised:
        explained(item_id)
    assert (repr(meant) in str(raised.value)) == (meant is not None)
    assert ("did you mean" in str(raised.value)) == (meant is not None)


def test_a_changed_or_removed_picture_is_not_searched_for(shop: Shop, explained: Callable[..., Explanation]) -> None:
    path = shop.picture(ITEM)
    path.write_bytes(shop.picture("item-3-0").read_bytes())
    changed = explained(ITEM)
    assert "another file now" in changed.picture
    assert changed.itself is not None
    assert (changed.itself.place, changed.neighbours[0].item_id) == (None, "item-2-1")
    path.unlink()
    removed = explained(ITEM)
    assert "cannot be read now" in removed.picture


def test_a_near_duplicate_in_the_report_is_a_problem_of_both_items(
    shop: Shop, explained: Callable[..., Explanation]
) -> None:
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
    mine, other, neither = (explained(name, "r2").problems for name in (ITEM, "item-5-0", "item-7-0"))
    assert [problem.problem for problem in mine] == ["category", "near_duplicate"]
    assert "as item-5-0 (cosine 0.995)" in mine[1].evidence
    assert [problem.problem for problem in other] == ["near_duplicate"]
    assert f"as {ITEM} (cosine 0.995)" in other[0].evidence
    assert neither == ()


def test_masks_are_trusted_or_not_and_the_lineage_has_every_step(local_store: Store) -> None:
    family = fingerprints.mask_family(CONFIG.mask, SEGMENTER)
    distrusted = hashlib.sha256(b"b").hexdigest()[:32]  # as `SealedRuns` names the picture of item b
    masks = masks_bytes([distrusted], [np.zeros((4, 4), bool)], ["the mask is empty"])
    put_growing_part(local_store, "masks", family, "early", masks, 1)
    release = SealedRuns(local_store).seal("abcdef")
    settings = Settings.load(store=local_store.url, threads=1)
    trusted, fallback = (explain(local_store, release, name, settings) for name in "ab")
    assert trusted.mask is not None
    assert fallback.mask is not None
    assert (trusted.mask.reason, trusted.mask.area, trusted.mask.made_by) == ("", 1.0, SEGMENTER)
    assert fallback.mask.reason == "the mask is empty"
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
