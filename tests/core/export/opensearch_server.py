"""A server on loopback that takes what OpenSearch documents of its HTTP interface, strictly, and answers like it."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

USER = ("shop", "hunter2")
Answer = tuple[int, Any]
LEAVES = {"item_id": str, "image_uri": str, "content_hash": int}


class OpenSearchServer:
    """Indexes and aliases in memory. `faults` are answered instead, one a request whose path matches."""

    def __init__(self) -> None:
        self.indexes: dict[str, dict[str, Any]] = {}
        self.aliases: dict[str, str] = {}
        self.faults: list[tuple[str, Callable[[list[Any]], Answer]]] = []
        self.requests: list[str] = []
        self.scrolls: dict[str, list[Any]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_request(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, document = server.answer(self.command, self.path, body, dict(self.headers))
                data = b"" if self.command == "HEAD" else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None: ...

        for method in ("GET", "POST", "PUT", "DELETE", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.handle_request)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=[0.02], daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{USER[0]}:{USER[1]}@127.0.0.1:{self.port}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def answer(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Answer:
        address = urlsplit(target)
        path, query = address.path, parse_qs(address.query)
        self.requests.append(f"{method} {path}")
        allowed = {"Basic " + base64.b64encode(":".join(USER).encode()).decode(), "Bearer token-of-a-test"}
        if headers.get("Authorization") not in allowed:
            return 401, "Unauthorized"
        is_lines = path in ("/_bulk", "/_msearch")
        if body and headers["Content-Type"] != ("application/x-ndjson" if is_lines else "application/json"):
            return 406, error("media_type_header_exception", headers["Content-Type"])
        lines = parse_lines(body) if is_lines else []
        for place, (pattern, fault) in enumerate(self.faults):
            if re.fullmatch(pattern, path):
                del self.faults[place]
                return fault(lines)
        if path == "/_bulk":
            return self.bulk(lines)
        if path == "/_msearch":
            return 200, {"responses": [self.nearest(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)]}
        return self.ask(method, path, query, json.loads(body) if body else {})

    def ask(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Answer:
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["_alias", name]:
                if name not in self.aliases:
                    return 404, {"error": f"alias [{name}] missing", "status": 404}
                return 200, {self.aliases[name]: {"aliases": {name: {}}}}
            case "GET", ["_cat", "indices", pattern]:
                assert query == {"format": ["json"], "h": ["index"]}
                return 200, [{"index": name} for name in self.indexes if name.startswith(pattern.rstrip("*"))]
            case "POST", ["_aliases"]:
                return self.move(body["actions"])
            case "POST", ["_search", "scroll"]:
                return 200, self.page(body["scroll_id"])
            case "DELETE", ["_search", "scroll"]:
                assert all(self.scrolls.pop(name, None) is not None for name in body["scroll_id"])
                return 200, {"succeeded": True}
            case "PUT", [name]:
                return self.create(name, body)
        name = self.aliases.get(parts[0], parts[0])
        if name not in self.indexes:
            return 404, error("index_not_found_exception", f"no such index [{name}]")
        match method, parts[1:]:
            case "HEAD", []:
                return 200, {}
            case "DELETE", []:
                return 200, self.indexes.pop(name) and {"acknowledged": True}
            case "GET", ["_mapping"]:
                return 200, {name: {"mappings": self.indexes[name]["mappings"]}}
            case "POST", ["_refresh"]:
                return 200, {"_shards": {"failed": 0}}
            case "POST", ["_search"]:
                assert (query["scroll"], body["_source"], body["sort"]) == (["5m"], False, ["_doc"])
                hits = [
                    {"_id": number, "fields": {key: [row[key]] for key in body["docvalue_fields"]}}
                    for number, row in self.indexes[name]["rows"].items()
                ]
                self.scrolls["scroll-1"] = [hits[start : start + 7] for start in range(0, len(hits), 7)]
                return 200, self.page("scroll-1")
        return 405, error("method_not_allowed", path)

    def create(self, name: str, body: Any) -> Answer:
        if name in self.indexes or name in self.aliases:
            return 400, error("resource_already_exists_exception", f"index [{name}] already exists")
        assert body["settings"]["index"]["knn"] is True
        vector = body["mappings"]["properties"]["vector"]
        assert (vector["type"], vector["method"]["space_type"]) == ("knn_vector", "cosinesimil")
        self.indexes[name] = {"mappings": body["mappings"], "rows": {}}
        return 200, {"acknowledged": True, "index": name}

    def move(self, actions: list[dict[str, Any]]) -> Answer:
        moved = dict(self.aliases)
        for action in actions:
            ((verb, named),) = action.items()
            if verb == "remove" and moved.pop(named["alias"], None) != named["index"]:
                return 404, error("aliases_not_found_exception", named["alias"])
            if verb == "add":
                moved[named["alias"]] = named["index"]
        self.aliases = moved
        return 200, {"acknowledged": True}

    def page(self, name: str) -> dict[str, Any]:
        pages = self.scrolls[name]
        return {"_scroll_id": name, "hits": {"hits": pages.pop(0) if pages else []}}

    def bulk(self, lines: list[Any]) -> Answer:
        items = []
        while lines:
            ((action, named),) = lines.pop(0).items()
            assert set(named) == {"_index", "_id"}
            assert len(named["_id"].encode()) <= 512
            rows = self.indexes[named["_index"]]["rows"]
            if action == "delete":
                status = 200 if rows.pop(named["_id"], None) else 404
                items.append({"delete": {**named, "status": status}})
            else:
                assert action == "index"
                items.append({"index": self.index(named, lines.pop(0))})
        return 200, {"took": 1, "errors": any("error" in next(iter(item.values())) for item in items), "items": items}

    def index(self, named: dict[str, str], row: dict[str, Any]) -> dict[str, Any]:
        index = self.indexes[named["_index"]]
        assert all(isinstance(row[name], kind) for name, kind in LEAVES.items())
        if len(row["vector"]) != index["mappings"]["properties"]["vector"]["dimension"]:
            return {**named, "status": 400, **error("mapper_parsing_exception", "Vector dimension mismatch")}
        for name, value in row["fields"].items():
            if "" in name.split("."):
                return {**named, "status": 400, **error("mapper_parsing_exception", f"bad name [fields.{name}]")}
            assert value.keys() <= {"text", "number", "currency"}
        is_new = index["rows"].setdefault(named["_id"], row) is row
        index["rows"][named["_id"]] = row
        return {**named, "status": 201 if is_new else 200}

    def nearest(self, head: dict[str, str], search: dict[str, Any]) -> dict[str, Any]:
        rows = self.indexes[self.aliases.get(head["index"], head["index"])]["rows"]
        asked = search["query"]["knn"]["vector"]
        scores = {name: float(np.dot(row["vector"], asked["vector"])) for name, row in rows.items()}
        best = sorted(scores, key=lambda name: -scores[name])[: min(asked["k"], search["size"])]
        return {"hits": {"hits": [{"_id": name, "_score": (1 + scores[name]) / 2} for name in best]}, "status": 200}


def parse_lines(body: bytes) -> list[Any]:
    """Parse NDJSON as OpenSearch does: every line is one JSON document, and the last one ends, too."""
    text = body.decode()
    assert text.endswith("\n"), "The bulk request must be terminated by a newline [\\n]"
    return [json.loads(line) for line in text[:-1].split("\n")]


def error(kind: str, reason: str) -> dict[str, Any]:
    return {"error": {"type": kind, "reason": reason}}
