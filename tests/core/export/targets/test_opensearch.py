"""What OpenSearch is sent, by a server that takes its documented requests alone, and what its errors become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_core.artifacts.catalog_rows import row_id
from retrieval_core.errors import BadConfig, TargetRefused, TargetUnavailable
from retrieval_core.export import target as target_module
from retrieval_core.export.rows import ExportedItem, Rows
from retrieval_core.export.target import Address
from retrieval_core.export.targets import opensearch
from retrieval_core.export.targets.registry import open_target
from retrieval_core.store.uris import open_store
from tests.core.export.conftest import ITEMS, Exporter
from tests.core.export.opensearch_server import OpenSearchServer, error
from tests.core.sealed_runs import SealedRuns

BULK = "/_bulk"


@pytest.fixture
def exporter(tmp_path: Path, opensearch: str, monkeypatch: pytest.MonkeyPatch) -> Exporter:
    monkeypatch.setattr(target_module, "PAUSES_S", (0.0, 0.0))
    return Exporter(SealedRuns(open_store(str(tmp_path / "store"))), "opensearch", Address("shop", opensearch))


def status(code: int) -> Callable[[list[Any]], tuple[int, Any]]:
    return lambda lines: (code, error("some_exception", "The reason."))


def rejected(*refused: int, code: int = 429) -> Callable[[list[Any]], tuple[int, Any]]:
    """Refuse the rows at these places of a bulk request; the server takes none of the others, either."""

    def answer(lines: list[Any]) -> tuple[int, Any]:
        heads = lines[::2]
        busy = error("rejected_execution_exception", "The queue is full.")
        items = [
            {
                "index": {**head["index"], "status": code, **busy}
                if place in refused
                else {**head["index"], "status": 201}
            }
            for place, head in enumerate(heads)
        ]
        return 200, {"errors": True, "items": items}

    return answer


def test_a_document_says_what_filters_and_hits_need(exporter: Exporter, opensearch_server: OpenSearchServer) -> None:
    done = exporter.run(exporter.runs.seal(["o'brien", *ITEMS]))
    index = opensearch_server.indexes[done.collection]
    row = index["rows"][str(row_id("o'brien"))]
    assert (row["item_id"], row["labels"], row["attributes"], row["fields"]) == ("o'brien", [], {}, {})
    assert opensearch_server.aliases == {"shop": done.collection}
    assert index["mappings"]["properties"]["vector"]["dimension"] == len(row["vector"]) == 8
    assert not opensearch_server.scrolls


def test_a_field_has_the_same_types_in_every_item(opensearch: str, opensearch_server: OpenSearchServer) -> None:
    fields = [
        {"price": {"amount": 19.9, "currency": "EUR", "text": "19,90 €"}}, {"price": 5}, {"price": "on request"},
    ]  # fmt: skip
    items = [ExportedItem(item_id=str(n), image_uri="a.jpg", fields=values) for n, values in enumerate(fields)]
    target = open_target("opensearch", Address("shop", opensearch))
    target.open("shop_0123456789ab", 2)
    target.upsert(Rows(np.arange(3), items, np.eye(3, 2, dtype=np.float32), np.arange(3)))
    rows = opensearch_server.indexes["shop_0123456789ab"]["rows"]
    assert [rows[str(number)]["fields"]["price"] for number in range(3)] == [
        {"number": 19.9, "currency": "EUR", "text": "19,90 €"}, {"number": 5}, {"text": "on request"},
    ]  # fmt: skip
    target.close()


def test_rows_that_the_server_had_no_time_for_are_sent_again(
    exporter: Exporter, opensearch_server: OpenSearchServer
) -> None:
    first = exporter.run(exporter.runs.seal(ITEMS))
    before = len(opensearch_server.indexes[first.collection]["rows"])
    opensearch_server.faults = [(BULK, rejected(*range(30))), (BULK, status(503))]
    opensearch_server.requests.clear()
    done = exporter.run(exporter.runs.seal(ITEMS), rewrites=True)
    assert (done.ok, before, opensearch_server.requests.count(f"POST {BULK}")) == (True, 30, 3)


def test_a_server_that_stays_overloaded_is_said_and_the_next_export_completes_it(
    exporter: Exporter, opensearch_server: OpenSearchServer
) -> None:
    opensearch_server.faults = [(BULK, rejected(2))] + [(BULK, rejected(0))] * 2
    with pytest.raises(TargetUnavailable, match="is overloaded: rejected_execution_exception: The queue is full"):
        exporter.run(exporter.runs.seal(ITEMS))
    assert not opensearch_server.aliases
    assert exporter.run(exporter.runs.seal(ITEMS)).ok


def test_rows_that_the_server_says_it_took_and_lost_are_found_missing(
    exporter: Exporter, opensearch_server: OpenSearchServer
) -> None:
    opensearch_server.faults = [(BULK, rejected())]
    done = exporter.run(exporter.runs.seal(ITEMS))
    assert (done.ok, done.verification.missing) == (False, 30)
    assert not opensearch_server.aliases


def test_a_refused_row_is_named_with_its_reason(exporter: Exporter, opensearch_server: OpenSearchServer) -> None:
    opensearch_server.faults = [(BULK, rejected(4, 5, code=400))]
    with pytest.raises(TargetRefused, match=r"refuses 2 of 30 rows: \d+: rejected_execution_exception: The queue"):
        exporter.run(exporter.runs.seal(ITEMS))


def test_rows_that_are_gone_already_are_removed_without_a_word(
    exporter: Exporter, opensearch_server: OpenSearchServer
) -> None:
    done = exporter.run(exporter.runs.seal(ITEMS))
    target = exporter.open()
    target.open(done.collection, 8)
    target.delete(np.array([1, 2]))
    target.close()
    assert len(opensearch_server.indexes[done.collection]["rows"]) == 30


def test_requests_are_bounded(
    exporter: Exporter, opensearch_server: OpenSearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opensearch, "SENT_BYTES", 2000)
    assert exporter.run(exporter.runs.seal(ITEMS)).ok
    assert opensearch_server.requests.count(f"POST {BULK}") >= 5


def test_a_wrong_login_is_wrong_usage_and_is_not_shown(exporter: Exporter, opensearch_server: OpenSearchServer) -> None:
    for url, token in (
        (exporter.address.url.replace("hunter2", "falsch"), ""),
        (exporter.address.url.replace("shop:hunter2@", ""), "falsch"),
    ):
        target = open_target("opensearch", Address("shop", url, token))
        with pytest.raises(BadConfig, match="refuses the login") as refused:
            target.current()
        assert "falsch" not in f"{refused.value}{target.label}"
    bare = exporter.address.url.replace("shop:hunter2@", "")
    assert open_target("opensearch", Address("shop", bare, "token-of-a-test")).current() is None


def test_other_things_of_that_name_are_left_alone(exporter: Exporter, opensearch_server: OpenSearchServer) -> None:
    opensearch_server.indexes["shop"] = {"mappings": {}, "rows": {}}
    with pytest.raises(BadConfig, match="shop is an index and not made by an export"):
        exporter.run(exporter.runs.seal(ITEMS))
    del opensearch_server.indexes["shop"]
    opensearch_server.aliases["shop"] = "customers"
    with pytest.raises(BadConfig, match="shop is an alias of customers"):
        exporter.run(exporter.runs.seal(ITEMS))
    del opensearch_server.aliases["shop"]
    done = exporter.run(exporter.runs.seal(ITEMS))
    opensearch_server.indexes[done.collection]["rows"]["by-hand"] = {"content_hash": 1}
    with pytest.raises(TargetRefused, match="'by-hand' of something else"):
        exporter.run(exporter.runs.seal(ITEMS))


def test_a_server_that_is_away_or_refuses_is_told(exporter: Exporter, opensearch_server: OpenSearchServer) -> None:
    with pytest.raises(TargetUnavailable, match="does not answer"):
        open_target("opensearch", Address("shop", "http://shop:hunter2@127.0.0.1:1")).current()
    with pytest.raises(BadConfig, match="expected one like https") as refused:
        open_target("opensearch", Address("shop", "opensearch://shop:hunter2@db"))
    assert "hunter2" not in str(refused.value)
    opensearch_server.faults = [("/shop_.*", status(400))]
    with pytest.raises(TargetRefused, match=r"\(status 400\): some_exception: The reason"):
        exporter.run(exporter.runs.seal(ITEMS))
    opensearch_server.faults = [("/_msearch", lambda lines: (200, {"responses": [error("x", "No such engine.")]}))]
    with pytest.raises(TargetRefused, match="refuses a search: x: No such engine"):
        exporter.run(exporter.runs.seal(ITEMS))
