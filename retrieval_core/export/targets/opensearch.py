"""OpenSearch: an index a vector space, and an alias of the export's name that searches use.

It is spoken to by its documented HTTP interface: documents go in by `_bulk`, and are read by `_search` with a scroll.
https://docs.opensearch.org/latest/api-reference/document-apis/bulk/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, TargetRefused, TargetUnavailable
from retrieval_core.export.rows import Rows
from retrieval_core.export.target import Address, is_collection, name_taken, other_width, patiently
from retrieval_core.store.uris import is_http, label_of

if TYPE_CHECKING:
    from httpx import Response

FETCHED_ROWS = 5000  # hashes at a time
SENT_BYTES = 4_000_000  # of a request; some services take 10 MB
SCROLL = "5m"  # for which the server keeps a scroll between two requests
TIMEOUT_S = 60.0
OVERLOADED = (429, 502, 503, 504)
KEYWORD = {"type": "keyword", "ignore_above": 8191}  # Lucene takes no longer ones, of characters of up to 4 bytes
PROPERTIES = {
    "item_id": KEYWORD,
    "product_id": KEYWORD,
    "category": KEYWORD,
    "labels": KEYWORD,
    "image_uri": {"type": "keyword", "index": False, "doc_values": False},
    "attributes": {"type": "flat_object"},
    "content_hash": {"type": "long"},
}
# Every field is an object of these, so that a price that is a number in one item and text in another fits, too.
FIELD_TEMPLATES = [
    {"number": {"path_match": "fields.*.number", "mapping": {"type": "double"}}},
    {"currency": {"path_match": "fields.*.currency", "mapping": {"type": "keyword"}}},
    {"text": {"path_match": "fields.*.text", "mapping": {"type": "text", "fields": {"keyword": KEYWORD}}}},
]


def open_target(address: Address) -> OpenSearchTarget:
    """Connect by http(s), with the user and password of the URL or the token as a bearer token.

    Raises `BadConfig` for another address.
    """
    if not is_http(address.url):
        raise BadConfig("the address of OpenSearch is no http(s) one; expected one like https://search.example:9200")
    return OpenSearchTarget(address)


class OpenSearchTarget:
    """The indexes of one export; searches see a change in place as it is written."""

    def __init__(self, address: Address) -> None:
        import httpx

        self.label = label_of(address.url)
        self._name, self._index = address.name, ""
        headers = {"Authorization": f"Bearer {address.token}"} if address.token else {}
        try:
            self._http = httpx.Client(base_url=address.url, headers=headers, timeout=TIMEOUT_S)
        except httpx.InvalidURL:  # its text may show a password
            raise BadConfig("the address of OpenSearch cannot be read; expected https://search.example:9200") from None

    def current(self) -> str | None:
        answer = self._ask("GET", f"/_alias/{self._name}", accepted=(200, 404))
        if answer.status_code == 404:
            if self._ask("HEAD", f"/{self._name}", accepted=(200, 404)).status_code == 200:
                raise name_taken(self._name, "an index")
            return None
        indexes = list(answer.json())
        if len(indexes) != 1 or not is_collection(indexes[0], self._name):
            raise name_taken(self._name, f"an alias of {', '.join(indexes)}")
        return str(indexes[0])

    def collections(self) -> Sequence[str]:
        found = self._ask("GET", f"/_cat/indices/{self._name}_*", {"format": "json", "h": "index"}).json()
        return sorted(row["index"] for row in found if is_collection(row["index"], self._name))

    def open(self, collection: str, dim: int) -> bool:
        self._index = collection
        found = self._ask("GET", f"/{collection}/_mapping", accepted=(200, 404))
        if found.status_code == 200:
            width = found.json()[collection]["mappings"].get("properties", {}).get("vector", {}).get("dimension")
            if width != dim:
                raise other_width(collection, width, dim)
            return False
        method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
        vector = {"type": "knn_vector", "dimension": dim, "method": method}
        settings = {"index": {"knn": True, "mapping": {"total_fields": {"limit": 10_000}}}}
        mappings = {"dynamic_templates": FIELD_TEMPLATES, "properties": PROPERTIES | {"vector": vector}}
        self._ask("PUT", f"/{collection}", body=json.dumps({"settings": settings, "mappings": mappings}))
        return True

    def hashes(self) -> Iterator[tuple[Int64, Int64]]:
        self._ask("POST", f"/{self._index}/_refresh")
        query = {"size": FETCHED_ROWS, "_source": False, "docvalue_fields": ["content_hash"], "sort": ["_doc"]}
        page = self._ask("POST", f"/{self._index}/_search", {"scroll": SCROLL}, json.dumps(query)).json()
        while hits := page["hits"]["hits"]:
            row_ids = [_row_id(hit["_id"], f"{self.label}/{self._index}") for hit in hits]
            hashes = [int(hit.get("fields", {}).get("content_hash", [-1])[0]) for hit in hits]
            yield np.array(row_ids, np.int64), np.array(hashes, np.int64)
            following = {"scroll": SCROLL, "scroll_id": page["_scroll_id"]}
            page = self._ask("POST", "/_search/scroll", body=json.dumps(following)).json()
        self._ask("DELETE", "/_search/scroll", body=json.dumps({"scroll_id": [page["_scroll_id"]]}))

    def upsert(self, rows: Rows) -> None:
        self._write(
            f"{_line({'index': {'_index': self._index, '_id': str(row_id)}})}{_line(_document(document, vector))}"
            for row_id, vector, document in zip(rows.row_ids.tolist(), rows.vectors, rows.documents(), strict=True)
        )

    def delete(self, row_ids: Int64) -> None:
        self._write(_line({"delete": {"_index": self._index, "_id": str(row_id)}}) for row_id in row_ids.tolist())

    def finish(self) -> None:
        self._ask("POST", f"/{self._index}/_refresh")

    def nearest(self, vectors: Float32, k: int) -> list[list[int]]:
        head = _line({"index": self._index})
        body = "".join(
            head + _line({"size": k, "_source": False, "query": {"knn": {"vector": {"vector": row, "k": k}}}})
            for row in vectors.tolist()
        )
        answers = self._ask("POST", "/_msearch", body=body).json()["responses"]
        for answer in answers:
            if "error" in answer:
                raise TargetRefused(f"{self.label} refuses a search: {_reason(answer)}")
        return [[_row_id(hit["_id"], self._index) for hit in answer["hits"]["hits"]] for answer in answers]

    def publish(self) -> None:
        """Move the alias, which OpenSearch does in one step."""
        before = self.current()
        remove = [{"remove": {"index": before, "alias": self._name}}] if before else []
        actions = [*remove, {"add": {"index": self._index, "alias": self._name}}]
        if before != self._index:
            self._ask("POST", "/_aliases", body=json.dumps({"actions": actions}))

    def drop(self, collection: str) -> None:
        self._ask("DELETE", f"/{collection}")

    def close(self) -> None:
        self._http.close()

    def _write(self, operations: Iterable[str]) -> None:
        """Send lines of `_bulk`, each operation one string, in requests of about `SENT_BYTES`."""
        waiting: list[str] = []
        n_bytes = 0
        for operation in operations:
            waiting.append(operation)
            n_bytes += len(operation.encode())
            if n_bytes >= SENT_BYTES:
                self._send(waiting)
                waiting, n_bytes = [], 0
        if waiting:
            self._send(waiting)

    def _send(self, operations: list[str]) -> None:
        """Send operations, and those once more for which the server had no time."""
        waiting = operations

        def send() -> None:
            nonlocal waiting
            answer = self._ask_once("POST", "/_bulk", {}, "".join(waiting), (200,)).json()
            outcomes = [(action, outcome) for item in answer["items"] for action, outcome in item.items()]
            refused = [
                outcome
                for action, outcome in outcomes
                if outcome["status"] >= 400 and (action, outcome["status"]) != ("delete", 404)
            ]
            final = [outcome for outcome in refused if outcome["status"] not in OVERLOADED]
            if final:
                examples = "; ".join(f"{outcome['_id']}: {_reason(outcome)}" for outcome in final[:3])
                raise TargetRefused(f"{self.label} refuses {len(final)} of {len(outcomes)} rows: {examples}")
            if len(outcomes) != len(waiting):
                raise TargetRefused(f"{self.label} answered {len(outcomes)} of {len(waiting)} rows")
            again = [outcome["status"] in OVERLOADED for _, outcome in outcomes]
            waiting = [operation for operation, is_open in zip(waiting, again, strict=True) if is_open]
            if waiting:
                raise TargetUnavailable(f"{self.label} is overloaded: {_reason(refused[0])}")

        patiently(send)

    def _ask(
        self,
        method: str,
        path: str,
        parameters: dict[str, str] | None = None,
        body: str = "",
        accepted: Sequence[int] = (200,),
    ) -> Response:
        """Return the answer to a request, sent again while the server is overloaded or away."""
        return patiently(lambda: self._ask_once(method, path, parameters or {}, body, accepted))

    def _ask_once(
        self, method: str, path: str, parameters: dict[str, str], body: str, accepted: Sequence[int]
    ) -> Response:
        import httpx

        kind = "application/x-ndjson" if path in ("/_bulk", "/_msearch") else "application/json"
        headers = {"Content-Type": kind} if body else {}
        try:
            answer = self._http.request(method, path, params=parameters, content=body.encode(), headers=headers)
        except httpx.TransportError as error:
            raise TargetUnavailable(f"{self.label} does not answer: {error or type(error).__name__}") from None
        status = answer.status_code
        if status in accepted:
            return answer
        if status in (401, 403):
            raise BadConfig(
                f"{self.label} refuses the login (status {status}); put user and password into VITRINE_EXPORT_URL, "
                "or a token into VITRINE_EXPORT_TOKEN"
            )
        if status in OVERLOADED:
            raise TargetUnavailable(f"{self.label} is overloaded or away (status {status})")
        raise TargetRefused(f"{self.label} refuses {method} {path} (status {status}): {_reason_of(answer)}")


def _line(value: dict[str, Any]) -> str:
    return f"{json.dumps(value, ensure_ascii=False)}\n"


def _document(document: dict[str, Any], vector: Float32) -> dict[str, Any]:
    """Return a row as an index holds it: each field is an object of text, number and currency, where it has them."""
    fields = {name: _field(value) for name, value in document["fields"].items()}
    return document | {"fields": fields, "vector": vector.tolist()}


def _field(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"number": value["amount"], "currency": value["currency"], "text": value["text"]}
    return {"text": value} if isinstance(value, str) else {"number": value}


def _row_id(name: str, where: str) -> int:
    if not name.isdecimal():
        raise TargetRefused(f"{where} holds a document {name[:100]!r} of something else; remove it")
    return int(name)


def _reason_of(answer: Response) -> str:
    try:
        return _reason(answer.json())
    except ValueError:
        return answer.text[:300]


def _reason(outcome: Any) -> str:
    """Return the reason that an error of OpenSearch gives, with what caused it."""
    error = outcome.get("error") if isinstance(outcome, dict) else None
    if not isinstance(error, dict):
        return str(error or outcome)[:300]
    cause = error.get("caused_by") or {}
    return ": ".join(str(text) for text in (error.get("type"), error.get("reason"), cause.get("reason")) if text)[:300]
