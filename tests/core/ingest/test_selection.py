"""Items are selected by filter, list and dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, NAMED_VALUES
from retrieval_core.artifacts.manifests import Catalog
from retrieval_core.artifacts.parts import put_part, table_bytes
from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.ingest.selection import (
    WHOLE_CATALOG,
    ItemSelection,
    Period,
    items_changed,
    items_changed_in,
    sealed_snapshots,
    select_items,
    snapshots_within,
)
from retrieval_core.store.uris import open_store

START = datetime(2026, 3, 1, tzinfo=UTC)
CATALOGS = st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["c1", "c2", "c3"]))
DAYS = st.integers(0, 12)


def items(catalog: dict[str, str]) -> pl.DataFrame:
    """Items that show the pictures named, of a category of their own."""
    rows = [
        {"item_id": item_id, "content_id": picture, "category": f"kind-{item_id}", "status": "ok"}
        for item_id, picture in sorted(catalog.items())
    ]
    return pl.DataFrame([row | {"labels": [], "attributes": []} for row in rows], schema=CATALOG_SCHEMA)


@given(history=st.lists(CATALOGS, min_size=1, max_size=6), n_before=st.integers(0, 3))
def test_changed_items_agree_with_a_dictionary(history: list[dict[str, str]], n_before: int) -> None:
    before = history[n_before - 1] if 0 < n_before < len(history) else {}
    within = history[n_before:] if 0 < n_before < len(history) else history
    expected = {key for later in within for key, picture in later.items() if before.get(key) != picture}
    assert items_changed(items(before) if before else None, map(items, within)) == expected


@given(days=st.lists(DAYS, max_size=8), since=st.none() | DAYS, until=st.none() | DAYS)
def test_snapshots_of_a_period_and_the_last_one_before(days: list[int], since: int | None, until: int | None) -> None:
    sealed = {f"fp{number}": START + timedelta(days=day) for number, day in enumerate(days)}
    moments = [None if day is None else START + timedelta(days=day) for day in (since, until)]
    first, last = (0 if since is None else since), (99 if until is None else until)
    expected = sorted((day, f"fp{number}") for number, day in enumerate(days) if first <= day <= last)
    early = sorted((day, f"fp{number}") for number, day in enumerate(days) if day < first)
    if not expected:
        with pytest.raises(NotFound, match="no snapshot"):
            snapshots_within(sealed, Period(*moments))
        return
    found = snapshots_within(sealed, Period(*moments))
    assert found.within == tuple(name for _, name in expected)
    assert found.before == (early[-1][1] if early else None)


@pytest.mark.parametrize(
    ("since", "until", "period"),
    [
        ("", "", (None, None)),
        ("2026-03-01", "", (START, None)),
        ("", "2026-03-01", (None, START + timedelta(days=1, microseconds=-1))),
        ("2026-03-01T06:00", "2026-03-01T06:00", (START + timedelta(hours=6), START + timedelta(hours=6))),
        ("2026-03-01T02:00+02:00", "2026-03-02", (START, START + timedelta(days=2, microseconds=-1))),
    ],
)
def test_a_date_is_its_whole_day_in_utc(since: str, until: str, period: tuple[datetime | None, ...]) -> None:
    assert ItemSelection(since=since, until=until).period() == period


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ({"since": "yesterday"}, "since is 'yesterday'; expected an ISO date"),
        ({"until": "2026-02-30"}, "until is '2026-02-30'"),
        ({"since": "0001-01-01T00:00+14:00"}, "expected an ISO date"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "before since"),
    ],
)
def test_texts_that_are_not_dates_are_refused(dates: dict[str, str], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        ItemSelection(**dates).period()


@given(
    catalog=CATALOGS.filter(bool),
    listed=st.sets(st.sampled_from("abcdef")),
    filtered=st.sets(st.sampled_from("abcdef")),
    moved=st.none() | st.sets(st.sampled_from("abcdefg")),
)
def test_the_selected_items_meet_every_condition(
    catalog: dict[str, str], listed: set[str], filtered: set[str], moved: set[str] | None
) -> None:
    where = f"category in ({', '.join(f'kind-{key}' for key in sorted(filtered))})" if filtered else ""
    selection = ItemSelection(where=where, item_ids=tuple(sorted(listed)))
    expected = {
        key
        for key in catalog
        if (not listed or key in listed) and (not filtered or key in filtered) and (moved is None or key in moved)
    }
    if not expected or not listed <= catalog.keys():
        with pytest.raises(NotFound):
            select_items(items(catalog), selection, moved)
        return
    assert set(select_items(items(catalog), selection, moved)["item_id"]) == expected


def test_a_listed_item_that_the_catalogue_lacks_is_named() -> None:
    catalog = items({"é-1": "c1", "b": "c2"})
    assert select_items(catalog, ItemSelection(item_ids=("e\u0301\u200b-1",)))["item_id"].to_list() == ["é-1"]
    with pytest.raises(NotFound, match=r"1 of the items listed are not in the catalogue: 'É 1'; did you mean 'é-1'\?$"):
        select_items(catalog, ItemSelection(item_ids=("b", "E\u0301 1")))


def seal(folder: Path, name: str, catalog: dict[str, str], day: int, parents: dict[str, str] | None = None) -> None:
    store = open_store(str(folder))
    part = put_part(store, f"catalogs/{name}/items.parquet", table_bytes(items(catalog)), len(catalog))
    created = (START + timedelta(days=day)).isoformat(timespec="seconds")
    Catalog(fingerprint=name, parts=(part,), parents=parents or {}, created=created).seal(store)


def test_the_items_changed_in_a_store_ignore_catalogues_of_selected_items(tmp_path: Path) -> None:
    seal(tmp_path, "f1", {"a": "c1", "b": "c1"}, 0)
    seal(tmp_path, "f2", {"a": "c1", "b": "c2", "c": "c1"}, 2)
    seal(tmp_path, "part", {"c": "c1"}, 3, {WHOLE_CATALOG: "f2"})
    seal(tmp_path, "f3", {"a": "c3", "b": "c2"}, 5)
    seal(tmp_path, "f1", {"a": "c1", "b": "c1"}, 9)  # the same again keeps its first date
    store = open_store(str(tmp_path))
    assert sealed_snapshots(store) == {
        name: START + timedelta(days=day) for name, day in {"f1": 0, "f2": 2, "f3": 5}.items()
    }
    for since, until, moved in (
        ("", "", {"a", "b", "c"}),
        ("2026-03-02", "", {"a", "b", "c"}),
        ("2026-03-03", "2026-03-05", {"b", "c"}),
        ("2026-03-04", "", {"a"}),
        ("", "2026-03-01", {"a", "b"}),
    ):
        assert items_changed_in(store, ItemSelection(since=since, until=until).period()) == moved
    with pytest.raises(NotFound, match="no snapshot of the catalogue was sealed since 2026-03-07"):
        items_changed_in(store, ItemSelection(since="2026-03-07").period())


def test_items_are_chosen_by_their_fields() -> None:
    prices = {"a": "10 EUR", "b": "40 EUR", "c": "on request"}
    catalog = items(dict.fromkeys("abcd", "c1")).with_columns(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("row_id"),
        pl.Series(
            "fields", [[{"name": "price", "value": prices[i]}] if i in prices else [] for i in "abcd"], NAMED_VALUES
        ),
    )
    chosen = select_items(catalog, ItemSelection(where="price < 30 or price is null"))
    assert chosen["item_id"].to_list() == ["a", "d"]
    assert dict(chosen.schema) == CATALOG_SCHEMA
