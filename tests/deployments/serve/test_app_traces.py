"""Traces: a search is one trace, of the caller's if it names one, with its stages and without what was asked."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.deployments.conftest import SECOND

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{CALLER}-00f067aa0ba902b7-01", "X-Request-Id": "request-1"}
SECRET = "no-such-category"  # part of a filter, which no trace holds
SEARCH: dict[str, Any] = {"item_ids": ["item-1-0"], "where": f'category != "{SECRET}"', "k": 3}


class Collector(ThreadingHTTPServer):
    """Takes traces on loopback by OpenTelemetry's protocol over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        scopes = [scope for request in requests for of in request.resource_spans for scope in of.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Collector)
        self.server.bodies.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_is_one_trace_that_is_sent_before_the_service_ends(
    serve: Callable[..., Any], collector: Collector, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv(ENDPOINT, collector.url)
    with serve(f"--workers={workers}") as served:
        answer = httpx.post(f"{served.url}/v1/search", json=SEARCH, headers=HEADERS)
        missing = httpx.get(f"{served.url}/v1/items/absent-item")
        refused = httpx.get(f"{served.url}/v1/facets", params={SECRET: ""})
        assert (answer.status_code, missing.status_code, refused.status_code) == (200, 404, 422)
    found = {span.name: span for span in collector.spans if span.trace_id.hex() == CALLER}
    assert set(found) == {"POST /v1/search", "search", "describe"}, "each stage, also where a thread runs it"
    root = found.pop("POST /v1/search")
    assert root.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {span.parent_span_id for span in found.values()} == {root.span_id}
    told = attributes(root)
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/search", 200)
    assert (told["vitrine.request_id"], told["vitrine.release"]) == ("request-1", SECOND)
    names = sorted(span.name for span in collector.spans)
    assert names == ["GET /v1/facets", "GET /v1/items/{item_id}", "POST /v1/search", "describe", "search"], "no probe"
    sent = b"".join(collector.bodies)
    assert b"vitrine" in sent
    assert not any(asked.encode() in sent for asked in (SECRET, "absent-item", "item-1-0"))
    lines = [json.loads(line) for line in served.log.read_text().splitlines() if line.startswith("{")]
    assert [line["trace_id"] for line in lines if line.get("request_id") == "request-1"] == [CALLER]


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.int_value or one.value.string_value for one in span.attributes}


def test_a_search_is_answered_where_the_collector_is_down(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    with serve() as served:
        assert httpx.post(f"{served.url}/v1/search", json=SEARCH).status_code == 200
        served.process.terminate()
        assert served.process.wait(30) == 143
