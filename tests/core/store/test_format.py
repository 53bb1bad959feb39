"""The format of a store: marked with the first sealed document; older ones are read, only the current is written."""

from __future__ import annotations

import json

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Reducer
from retrieval_core.errors import NeedsMigration, ShardCorrupt, TooNew
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.format import FIRST_FORMAT, FORMAT, MARKER, mark_current, read_format, require_current
from retrieval_core.store.uris import open_store

REDUCER = Reducer(fingerprint="e" * 32, input_dim=8, dims=(4,))


def test_an_empty_store_gets_its_format_with_the_first_sealed_document(local_store: Store) -> None:
    local_store.put("ingest/items.parquet", b"tables that no manifest lists do not count")
    require_current(local_store, mark=False)
    assert read_format(local_store) is None
    REDUCER.seal(local_store)
    assert read_format(local_store) == FORMAT
    assert json.loads(local_store.get(MARKER)) == {"format": FORMAT}
    require_current(local_store)


def test_an_unmarked_store_with_releases_is_of_the_first_format_and_can_only_be_read(local_store: Store) -> None:
    local_store.put("releases/r/manifest.json", b"{}")
    assert read_format(local_store) == FIRST_FORMAT
    Settings.load(store=local_store.url).open_store()
    with pytest.raises(NeedsMigration, match="vitrine migrate"):
        REDUCER.seal(local_store)
    with pytest.raises(NeedsMigration):
        releases.point_alias(local_store, "production", "r")
    assert [*local_store.list("")] == ["releases/r/manifest.json"]
    mark_current(local_store)
    REDUCER.seal(local_store)


def test_a_newer_store_is_not_opened_and_nothing_is_written_to_it(local_store: Store) -> None:
    local_store.put(MARKER, json.dumps({"format": FORMAT + 1, "more": "than this version knows"}).encode())
    with pytest.raises(TooNew, match="update Vitrine"):
        Settings.load(store=local_store.url).open_store()
    for write in (REDUCER.seal, lambda store: releases.point_alias(store, "production", "r"), require_current):
        with pytest.raises(TooNew):
            write(local_store)
    assert [*local_store.list("")] == [MARKER]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"format": "2"}', b'{"format": 1}', b'{"format": true}', b"\xff"]
)
def test_a_damaged_marker_is_an_error_that_says_what_belongs_there(local_store: Store, data: bytes) -> None:
    local_store.put(MARKER, data)
    with pytest.raises(ShardCorrupt, match=rf'expected {{"format": {FORMAT}}}'):
        open_and_check(local_store)


def open_and_check(store: Store) -> None:
    require_current(open_store(store.url))
