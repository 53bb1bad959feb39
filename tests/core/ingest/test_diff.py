"""The difference of two snapshots adds up, and agrees with a dictionary's."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, NAMED_VALUES
from retrieval_core.ingest.diff import diff_catalogs, differing_items
from retrieval_core.ingest.snapshot import catalog_fingerprint

Statement = tuple[str | None, str | None, list[str], list[dict[str, str]], str]

STATEMENTS = st.tuples(
    st.sampled_from([None, "c1", "c2"]),
    st.sampled_from([None, "coat", "hat"]),
    st.sampled_from([[], ["a"], ["a", "b"]]),
    st.sampled_from([[], [{"name": "colour", "value": "red"}], [{"name": "colour", "value": "blue"}]]),
    st.sampled_from(["ok", "quarantined"]),
)
CATALOGS = st.dictionaries(st.sampled_from("abcdefgh"), STATEMENTS)


def items(catalog: dict[str, Statement], version: str = "1") -> pl.DataFrame:
    rows = [
        {
            "item_id": item_id,
            "image_uri": f"/{item_id}.jpg",
            "content_id": content_id,
            "category": category,
            "labels": labels,
            "attributes": attributes,
            "status": status,
            "version": version,
        }
        for item_id, (content_id, category, labels, attributes, status) in catalog.items()
    ]
    return pl.DataFrame(rows, schema=CATALOG_SCHEMA)


def with_price(catalog: pl.DataFrame, price: str) -> pl.DataFrame:
    fields = pl.lit([{"name": "price", "value": price}], NAMED_VALUES)
    return catalog.with_columns(pl.when(pl.col("category") == "coat").then(fields).otherwise("fields").alias("fields"))


GOOD: Statement = ("c1", "coat", ["a"], [], "ok")


@given(before=CATALOGS, after=CATALOGS)
def test_agrees_with_a_dictionary(before: dict[str, Statement], after: dict[str, Statement]) -> None:
    old, new = items(before), items(after, version="2")
    fates = {
        "added": after.keys() - before.keys(),
        "changed": {key for key in after.keys() & before.keys() if after[key] != before[key]},
        "removed": before.keys() - after.keys(),
    }
    assert differing_items(old, new).rows() == sorted((key, fate) for fate, keys in fates.items() for key in keys)
    diff = diff_catalogs(old, new)
    assert {fate: getattr(diff, fate) for fate in fates} == {fate: len(keys) for fate, keys in fates.items()}
    assert diff.unchanged == len(after.keys() & before.keys()) - diff.changed


@given(before=CATALOGS, after=CATALOGS)
def test_nothing_differs_exactly_when_the_fingerprints_agree(
    before: dict[str, Statement], after: dict[str, Statement]
) -> None:
    diff = diff_catalogs(items(before), items(after, version="2"))
    is_same = catalog_fingerprint(items(before)) == catalog_fingerprint(items(after, version="2"))
    assert (diff.added + diff.changed + diff.removed == 0) == is_same


def test_without_a_previous_snapshot_everything_is_added() -> None:
    diff = diff_catalogs(None, items({"a": GOOD, "b": GOOD}))
    assert (diff.added, diff.changed, diff.removed, diff.unchanged) == (2, 0, 0, 0)


def test_the_order_of_rows_does_not_count() -> None:
    both = items({"a": GOOD, "b": GOOD})
    assert diff_catalogs(both, both.reverse()).unchanged == 2


@pytest.mark.parametrize(
    ("column", "value"),
    [("split", "val"), ("product_id", "p"), ("mask_id", "m")],
)
def test_metadata_counts_as_a_change(column: str, value: str) -> None:
    before = items({"a": GOOD})
    assert diff_catalogs(before, before.with_columns(pl.lit(value).alias(column))).changed == 1


@pytest.mark.parametrize("column", ["image_uri", "mask_uri"])
def test_a_picture_at_another_address_moved_and_is_unchanged(column: str) -> None:
    before = items({"a": GOOD, "b": GOOD})
    diff = diff_catalogs(before, before.with_columns(("s3://shop" + pl.col("image_uri")).alias(column)))
    assert (diff.changed, diff.unchanged, diff.moved) == (0, 2, 2)


def test_a_picture_at_another_address_that_cannot_be_read_changed() -> None:
    before = items({"a": (None, *GOOD[1:4], "quarantined")})
    diff = diff_catalogs(before, before.with_columns(image_uri=pl.lit("/b.jpg")))
    assert (diff.changed, diff.moved) == (1, 0)


def test_a_picture_that_turned_bad_changed() -> None:
    bad = (None, *GOOD[1:4], "quarantined")
    assert diff_catalogs(items({"a": GOOD}), items({"a": bad})).changed == 1


@given(before=CATALOGS, after=CATALOGS)
def test_other_fields_refresh_an_item_and_change_nothing_else(
    before: dict[str, Statement], after: dict[str, Statement]
) -> None:
    old, new = items(before), items(after)
    plain, priced = diff_catalogs(old, new), diff_catalogs(with_price(old, "9 EUR"), with_price(new, "8 EUR"))
    assert priced.model_copy(update={"refreshed": 0}) == plain
    assert catalog_fingerprint(with_price(new, "8 EUR")) == catalog_fingerprint(new)
    is_coat = {
        name for name in before.keys() & after.keys() if before[name] == after[name] and after[name][1] == "coat"
    }
    assert priced.refreshed == len(is_coat)
