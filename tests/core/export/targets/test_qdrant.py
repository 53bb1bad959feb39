"""What a shop's queries see in Qdrant, by its client's local mode; and what a server's refusals become."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from qdrant_client import QdrantClient
from qdrant_client.models import FieldCondition, Filter, MatchValue, PointStruct, VectorParams

from retrieval_core.artifacts.catalog_rows import row_id
from retrieval_core.errors import BadConfig, TargetRefused, TargetUnavailable
from retrieval_core.export import target as target_module
from retrieval_core.export.target import Address
from retrieval_core.export.targets.registry import open_target
from retrieval_core.store.uris import open_store
from tests.core.export.conftest import ITEMS, Exporter
from tests.core.sealed_runs import SealedRuns


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    return Exporter(
        SealedRuns(open_store(str(tmp_path / "store"))), "qdrant", Address("shop", str(tmp_path / "qdrant"))
    )


class Server:
    """Answers every request with one status and keeps the tokens that came."""

    def __init__(self) -> None:
        self.status, self.tokens = 200, set[str | None]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.tokens.add(self.headers.get("api-key"))
                body = json.dumps({"status": {"error": "no"}}).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=[0.02], daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(target_module, "PAUSES_S", (0.0,))
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_filtered_query_of_the_alias_finds_items(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(["o'brien", *ITEMS]))
    client = QdrantClient(path=exporter.address.url)
    wanted = Filter(must=[FieldCondition(key="item_id", match=MatchValue(value="o'brien"))])
    found = client.query_points("shop", query=row_id("o'brien"), limit=3).points
    assert len(found) == 3
    (itself,) = client.scroll("shop", scroll_filter=wanted)[0]
    assert (itself.id, itself.payload["item_id"], itself.payload["fields"]) == (row_id("o'brien"), "o'brien", {})
    client.close()


def test_a_collection_or_an_alias_of_something_else_is_left_alone(exporter: Exporter) -> None:
    client = QdrantClient(path=exporter.address.url)
    client.create_collection("shop", vectors_config=VectorParams(size=2, distance="Cosine"))
    client.close()
    with pytest.raises(BadConfig, match="shop is a collection and not made by an export"):
        exporter.run(exporter.runs.seal(ITEMS))


def test_a_point_of_something_else_is_named(exporter: Exporter) -> None:
    done = exporter.run(exporter.runs.seal(ITEMS))
    client = QdrantClient(path=exporter.address.url)
    name = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
    client.upsert(done.collection, [PointStruct(id=name, vector=[1.0] * 8, payload={})])
    client.close()
    with pytest.raises(TargetRefused, match=name):
        exporter.run(exporter.runs.seal(ITEMS))


def test_two_exports_to_one_folder_do_not_mix(exporter: Exporter) -> None:
    target = exporter.open()
    with pytest.raises(TargetUnavailable, match="is in use"):
        exporter.open()
    target.close()


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, BadConfig, "VITRINE_EXPORT_TOKEN"),
        (403, BadConfig, "refuses the token"),
        (404, TargetRefused, "status 404"),
        (429, TargetUnavailable, "does not answer"),
        (503, TargetUnavailable, "does not answer"),
    ],
)
def test_what_a_server_refuses_is_said_without_the_token(
    server: Server, status: int, error: type[Exception], says: str
) -> None:
    server.status = status
    target = open_target("qdrant", Address("shop", server.url, "hunter2"))
    with pytest.raises(error, match=says) as refused:
        target.current()
    assert "hunter2" not in str(refused.value)
    assert server.tokens == {"hunter2"}


def test_a_server_that_is_away_may_be_tried_again(server: Server) -> None:
    with pytest.raises(TargetUnavailable, match="does not answer"):
        open_target("qdrant", Address("shop", "http://127.0.0.1:1")).current()
    with pytest.raises(BadConfig, match="no address of Qdrant"):
        open_target("qdrant", Address("shop", "grpc://127.0.0.1"))
