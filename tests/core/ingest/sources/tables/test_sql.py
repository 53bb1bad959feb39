"""A query's rows are a table; the database is only read, and its password is nowhere."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing, StoreUnavailable, VitrineError
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.ingest.sources.tables import sql
from retrieval_core.ingest.sources.tables.sql import SqlSource
from tests.faults.servers import Postgres, has_postgres

PASSWORD = "geheim+4711"
N_POSTGRES = 12_000  # more than are fetched at a time
SCHEMA = f"""
CREATE TYPE kind AS ENUM ('coat', 'hat');
CREATE TABLE products (
    sku integer, photo text, kind kind, price numeric(8, 2), tags text[], facts jsonb, changed timestamptz);
INSERT INTO products
    SELECT i, 's3://shop/' || i || '.jpg', 'hat', i * 1.10, ARRAY['wool', 'red'], '{{"cut": "wide"}}', now()
    FROM generate_series(1, {N_POSTGRES}) i;
CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}';
GRANT SELECT ON products TO reader;
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    database = sqlite3.connect("shop.db")
    with database:
        database.execute("CREATE TABLE products (sku, photo, kind, price)")
        rows = [(1, "a.jpg", "coat", 3.5), (2, "b.jpg", "hat", 4), (3, "c.jpg", None, None)]
        database.executemany("INSERT INTO products VALUES (?, ?, ?, ?)", rows)
    database.close()
    return tmp_path


def of_sqlite(query: str, options: str = "") -> SqlSource:
    Path("items.sql").write_text(query)
    return SqlSource(f"items.sql?database=sqlite:///shop.db{options}")


def test_the_rows_of_a_query_are_the_rows_of_a_table(shop: Path) -> None:
    source = of_sqlite("SELECT sku, photo, kind, price FROM products WHERE photo LIKE '%.jpg' -- not :a parameter\n",
                       "&item_id=sku&image_uri=photo&category=kind")  # fmt: skip
    rows = source.rows()
    assert rows.select("item_id", "image_uri", "category").rows() == [
        ("1", f"{shop}/a.jpg", "coat"),
        ("2", f"{shop}/b.jpg", "hat"),
        ("3", f"{shop}/c.jpg", None),
    ]
    assert source.notes[0] == "3 rows of sqlite, database shop.db"
    assert source.notes[-1] == "fields: price: 2 as numbers"


@pytest.mark.parametrize(
    ("query", "error", "says"),
    [
        ("UPDATE products SET price = 1", CatalogInvalid, "attempt to write a readonly database"),
        ("SELECT nowhere FROM products", CatalogInvalid, "no such column: nowhere"),
        ("SELECT 1; DROP TABLE products", CatalogInvalid, "one statement at a time"),
        ("PRAGMA user_version = 7", CatalogInvalid, "readonly database|no table"),
        ("SELECT sku AS item_id, photo AS item_id FROM products", CatalogInvalid, "column item_id more than once"),
        ("SELECT sku AS item_id FROM products", CatalogInvalid, "lacks column image_uri"),
        ("SELECT * FROM products WHERE FALSE", SourceMissing, "has no rows"),
    ],
)
def test_a_query_that_is_no_table_is_refused_and_changes_nothing(
    query: str, error: type[VitrineError], says: str, shop: Path
) -> None:
    before = Path("shop.db").read_bytes()
    with pytest.raises(error, match=says):
        of_sqlite(query).rows()
    assert Path("shop.db").read_bytes() == before
    assert sorted(path.name for path in shop.iterdir()) == ["items.sql", "shop.db"]


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [
        ("sql:items.sql", BadConfig, "set VITRINE_SQL_URL to the database's URL"),
        ("sql:items.sql?database=env:SHOP_URL", BadConfig, "set SHOP_URL"),
        ("sql:items.sql?database=sqlite:///absent.db", SourceMissing, "no database absent.db"),
        ("sql:items.sql?database=sqlite://", SourceMissing, "no database in memory"),
        ("sql:absent.sql?database=sqlite:///shop.db", SourceMissing, "no file .*absent.sql"),
        ("sql:items.sql?database=shop.db", BadConfig, "is no SQLAlchemy URL"),
        ("sql:items.sql?database=mysql://db.example/shop", BadConfig, "the driver of mysql is not installed"),
        ("sql:items.sql?database=postgresql://reader@127.0.0.1:1/shop", StoreUnavailable, "cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(
    source: str, error: type[VitrineError], says: str, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VITRINE_SQL_URL", raising=False)
    Path("items.sql").write_text("SELECT sku AS item_id, photo AS image_uri FROM products")
    with pytest.raises(error, match=says):
        open_source(source).rows()
    assert not Path("absent.db").exists()


@pytest.mark.parametrize(
    "source",
    [
        f"sql:items.sql?database=postgresql://reader:{PASSWORD}@db/shop",
        f"sql:postgresql://reader:{PASSWORD}@db/shop?query=x",
        f"sql:items.sql?database=postgresql://reader:1/{PASSWORD}@db/shop",
        f"sql:items.sql?database=postgresql://db/shop?password={PASSWORD}",
        f"table:https://reader:{PASSWORD}@shop.example/items.csv",
    ],
)
def test_a_password_in_a_source_is_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(BadConfig, match="holds a password") as refused:
        open_source(source)
    assert PASSWORD not in str(refused.value)


def test_a_locked_database_may_be_tried_again(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "SQLITE_PATIENCE_S", 0.1)
    database = sqlite3.connect("shop.db")
    database.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        of_sqlite("SELECT sku AS item_id, photo AS image_uri FROM products")
    database.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Yield the URL of a server with a user `reader`, who needs `PASSWORD`."""
    if not has_postgres():
        pytest.skip("PostgreSQL is not installed")
    server = Postgres()
    access = server.folder / "data" / "pg_hba.conf"
    access.write_text(f"host all reader 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
    server.start()
    asyncio.run(_create(server.url))
    try:
        yield server.url.replace("+asyncpg", "").replace("prefect@", f"reader:{PASSWORD}@")
    finally:
        server.remove()


async def _create(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute(SCHEMA)
    await connection.close()


def test_postgresql_is_read_with_its_own_types(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VITRINE_SQL_URL", postgres)
    query = tmp_path / "items.sql"
    query.write_text(
        "SELECT sku AS item_id, photo AS image_uri, kind::text AS category, tags AS labels, facts AS attributes,\n"
        "  price AS attr_price, changed::date AS attr_day, 'a:b %s' AS note FROM products"
    )
    with caplog.at_level(logging.DEBUG):
        source = SqlSource(str(query))
    rows = source.rows()
    assert len(rows) == N_POSTGRES
    first = rows.row(0, named=True)
    assert (first["item_id"], first["image_uri"], first["category"]) == ("1", "s3://shop/1.jpg", "hat")
    assert first["labels"] == ["red", "wool"]
    attributes = {pair["name"]: pair["value"] for pair in first["attributes"]}
    assert (attributes["cut"], attributes["price"], len(attributes["day"])) == ("wide", "1.10", 10)
    assert PASSWORD not in f"{source.spec} {source.notes} {caplog.text} {vars(source)}"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("UPDATE products SET price = 1", "read-only transaction"),
        ("SELECT nowhere FROM products", 'column "nowhere" does not exist'),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT setval('x', 1)", "does not exist"),
        ("SELECT sku / (sku - 11000) AS item_id, photo AS image_uri FROM products ORDER BY products.sku", "division"),
    ],
)
def test_postgresql_is_only_read(postgres: str, query: str, says: str, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("SHOP_URL", postgres)
    (tmp_path / "items.sql").write_text(query)
    with pytest.raises(CatalogInvalid, match=says) as refused:
        SqlSource(f"{tmp_path}/items.sql?database=env:SHOP_URL").rows()
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(("found", "given"), [(PASSWORD, "falsch"), ("/postgres", "/nowhere")])
def test_a_wrong_login_is_wrong_usage_and_shows_no_password(
    postgres: str, found: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_SQL_URL", postgres.replace(found, given))
    (tmp_path / "items.sql").write_text("SELECT 1")
    with pytest.raises(BadConfig, match="refuses the login") as refused:
        SqlSource(f"{tmp_path}/items.sql")
    assert PASSWORD not in str(refused.value)
    assert "falsch" not in str(refused.value)


def test_rows_are_fetched_by_and_by(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_SQL_URL", postgres)
    (tmp_path / "items.sql").write_text(
        "SELECT i AS item_id, 's3://shop/a.jpg' AS image_uri, repeat('x', 10000) AS text\n"
        "FROM generate_series(1, 6000) i"
    )
    tracemalloc.start()
    try:
        SqlSource(f"{tmp_path}/items.sql")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 30e6  # the texts alone have 60 MB
