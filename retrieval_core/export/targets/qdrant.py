"""Qdrant: a collection a vector space, and an alias of the export's name that searches use.

An address that is a folder is Qdrant's local mode, in which its client does the work; it is meant for trying it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, TargetRefused, TargetUnavailable, VitrineError
from retrieval_core.export.rows import Rows
from retrieval_core.export.target import Address, is_collection, name_taken, other_width, patiently
from retrieval_core.store.uris import is_http, label_of

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

FETCHED_ROWS = 10_000  # hashes at a time
SENT_ROWS = 250  # at a time: about 8 MB of JSON at 1,280 dimensions, of which Qdrant takes 32 MB
FILTERED = ("item_id", "product_id", "category", "labels")  # payload that filters find by an index
TIMEOUT_S = 60

Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")


def open_target(address: Address) -> QdrantTarget:
    """Connect to a server by http(s), with the token as its API key, or open a folder.

    Raises `BadConfig` for another address.
    """
    from qdrant_client import QdrantClient

    if is_http(address.url):
        client = QdrantClient(
            url=address.url, api_key=address.token or None, timeout=TIMEOUT_S, check_compatibility=False
        )
    elif "://" in address.url:
        raise BadConfig(f"{label_of(address.url)} is no address of Qdrant; expected https://qdrant.example:6333")
    else:
        try:
            client = QdrantClient(path=address.url)
        except RuntimeError as error:  # its lock
            raise TargetUnavailable(f"{address.url} is in use: {error}") from error
    return QdrantTarget(client, address.name, label_of(address.url))


class QdrantTarget:
    """The collections of one export; searches see a change in place as it is written."""

    def __init__(self, client: QdrantClient, name: str, label: str) -> None:
        self.label = label
        self._client, self._name, self._collection = client, name, ""

    def current(self) -> str | None:
        aliases = self._ask(self._client.get_aliases).aliases
        for alias in aliases:
            if alias.alias_name == self._name:
                if not is_collection(alias.collection_name, self._name):
                    raise name_taken(self._name, f"an alias of {alias.collection_name}")
                return str(alias.collection_name)
        if self._name in self._names():
            raise name_taken(self._name, "a collection")
        return None

    def collections(self) -> Sequence[str]:
        return sorted(name for name in self._names() if is_collection(name, self._name))

    def open(self, collection: str, dim: int) -> bool:
        from qdrant_client.models import Distance, PayloadSchemaType, VectorParams

        self._collection = collection
        if collection in self._names():
            found = self._ask(self._client.get_collection, collection).config.params.vectors
            width = found.size if isinstance(found, VectorParams) else found
            if width != dim:
                raise other_width(collection, width, dim)
            is_new = False
        else:
            how = VectorParams(size=dim, distance=Distance.COSINE)
            self._ask(self._client.create_collection, collection, vectors_config=how)
            is_new = True
        # Also of a collection that an interrupted export left without them. The local mode has none.
        for name in FILTERED if is_http(self.label) else ():
            self._ask(self._client.create_payload_index, collection, name, PayloadSchemaType.KEYWORD)
        return is_new

    def hashes(self) -> Iterator[tuple[Int64, Int64]]:
        offset: Any = None
        while True:
            points, offset = self._ask(
                self._client.scroll,
                self._collection,
                limit=FETCHED_ROWS,
                offset=offset,
                with_payload=["content_hash"],
            )
            row_ids, hashes = [], []
            for point in points:
                if not isinstance(point.id, int):
                    raise TargetRefused(
                        f"{self.label}: {self._collection} holds a point {point.id} of something else; remove it"
                    )
                row_ids.append(point.id)
                hashes.append(int((point.payload or {}).get("content_hash", -1)))
            yield np.array(row_ids, np.int64), np.array(hashes, np.int64)
            if offset is None:
                return

    def upsert(self, rows: Rows) -> None:
        from qdrant_client.models import Batch

        for part in rows.slices(SENT_ROWS):
            points = Batch(ids=part.row_ids.tolist(), vectors=part.vectors.tolist(), payloads=part.documents())
            self._ask(self._client.upsert, self._collection, points, wait=True)

    def delete(self, row_ids: Int64) -> None:
        from qdrant_client.models import PointIdsList

        points = PointIdsList(points=row_ids.tolist())
        self._ask(self._client.delete, self._collection, points, wait=True)

    def finish(self) -> None:
        """Do nothing: points are searchable once they are written, while the server goes on to index them."""

    def nearest(self, vectors: Float32, k: int) -> list[list[int]]:
        from qdrant_client.models import QueryRequest

        queries = [QueryRequest(query=vector.tolist(), limit=k) for vector in vectors]
        answers = self._ask(self._client.query_batch_points, self._collection, queries)
        return [[int(point.id) for point in answer.points] for answer in answers]

    def publish(self) -> None:
        from qdrant_client.models import (
            AliasOperations,
            CreateAlias,
            CreateAliasOperation,
            DeleteAlias,
            DeleteAliasOperation,
        )

        before = self.current()
        if before == self._collection:
            return
        remove = [DeleteAliasOperation(delete_alias=DeleteAlias(alias_name=self._name))] if before else []
        target = CreateAlias(collection_name=self._collection, alias_name=self._name)
        # Both in one request, which the server carries out as one.
        operations: list[AliasOperations] = [*remove, CreateAliasOperation(create_alias=target)]
        self._ask(self._client.update_collection_aliases, change_aliases_operations=operations)

    def drop(self, collection: str) -> None:
        self._ask(self._client.delete_collection, collection)

    def close(self) -> None:
        self._client.close()

    def _names(self) -> list[str]:
        return [found.name for found in self._ask(self._client.get_collections).collections]

    def _ask(self, call: Callable[Arguments, Answer], *arguments: Arguments.args, **named: Arguments.kwargs) -> Answer:
        """Return what a method of the client answers, called again while the server is overloaded or away."""
        from qdrant_client.http.exceptions import ApiException

        def translated() -> Answer:
            try:
                return call(*arguments, **named)
            except ApiException as error:
                raise _translate(error, self.label) from None
            except ValueError as error:  # the local mode's refusals
                raise TargetRefused(f"{self.label} refuses the export: {error}") from error

        return patiently(translated)


def _translate(error: Exception, label: str) -> VitrineError:
    status = getattr(error, "status_code", None)
    content = getattr(error, "content", b"")
    reason = content.decode(errors="replace") if isinstance(content, bytes) and content else str(error)
    if status in (401, 403):
        return BadConfig(f"{label} refuses the token (status {status}); set VITRINE_EXPORT_TOKEN to its API key")
    if status is None or status == 429 or status >= 500:
        return TargetUnavailable(f"{label} does not answer: {reason[:300] or type(error).__name__}")
    return TargetRefused(f"{label} refuses the export (status {status}): {reason[:300]}")
