"""What a shop's queries see in PostgreSQL."""

import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from retrieval_core.artifacts.catalog_rows import row_id
from retrieval_core.errors import BadConfig, StoreBusy, TargetRefused, TargetUnavailable
from retrieval_core.export.target import Address
from retrieval_core.store.uris import open_store
from tests.core.export.conftest import ITEMS, PASSWORD, Exporter, as_administrator
from tests.core.sealed_runs import SealedRuns


@pytest.fixture
def exporter(tmp_path: Path, database: str) -> Exporter:
    return Exporter(SealedRuns(open_store(str(tmp_path / "store"))), "pgvector", Address("shop", database))


def query(exporter: Exporter, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(exporter.address.url, autocommit=True) as connection:
        cursor = connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def test_a_query_of_the_view_uses_the_index_and_finds_the_item_itself(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(ITEMS))
    nearest = "SELECT item_id FROM shop ORDER BY vector <=> (SELECT vector FROM shop WHERE item_id = %s) LIMIT 3"
    assert query(exporter, nearest, "item-7")[0] == ("item-7",)
    with psycopg.connect(exporter.address.url) as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN {nearest}", ["item-7"]).fetchall()
    assert any("Index Scan using shop_" in line and "_vector on" in line for (line,) in plan)
    assert query(exporter, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")


def test_columns_have_the_types_that_queries_need(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(["o'brien", 'say "no" \\ {}', "日本\t🧥"]))
    rows = query(exporter, "SELECT row_id, item_id, labels, attributes->>'colour', fields FROM shop ORDER BY item_id")
    assert {name for _, name, *_ in rows} == {"o'brien", 'say "no" \\ {}', "日本\t🧥"}
    assert all(number == row_id(name) for number, name, *_ in rows)
    assert rows[0][2:] == ([], None, {})


def test_searches_see_an_export_as_a_whole(exporter: Exporter) -> None:
    first = exporter.run(exporter.runs.seal(ITEMS))
    target = exporter.open()
    target.open(first.collection, 8)
    (row_ids, _), *_ = target.hashes()
    target.delete(row_ids)
    assert query(exporter, "SELECT count(*) FROM shop") == [(30,)]
    target.close()
    assert query(exporter, "SELECT count(*) FROM shop") == [(30,)]


def test_who_may_read_the_view_still_may_after_a_new_model(exporter: Exporter) -> None:
    exporter.run(exporter.runs.seal(ITEMS))
    query(exporter, "GRANT SELECT ON shop TO PUBLIC")
    target = exporter.open()
    target.open("shop_0123456789ab", 5)
    target.publish()
    target.close()
    rights = "SELECT has_table_privilege('public', 'shop', 'SELECT')"
    assert query(exporter, rights) == [(True,)]
    assert exporter.current() == "shop_0123456789ab"


def test_a_second_export_at_the_same_time_is_refused(exporter: Exporter) -> None:
    target = exporter.open()
    with pytest.raises(StoreBusy, match="another export to shop is at work"):
        exporter.run(exporter.runs.seal(ITEMS))
    target.close()
    assert exporter.run(exporter.runs.seal(ITEMS)).ok


def test_a_wrong_password_or_database_is_wrong_usage_and_is_not_shown(exporter: Exporter) -> None:
    right = exporter.address.url
    for wrong in (right.replace(PASSWORD, "falsch"), right.replace("/shop", "/nowhere"), right.replace("shop:", "x:")):
        with pytest.raises(BadConfig, match="refuses the login") as refused:
            Exporter(exporter.runs, "pgvector", Address("shop", wrong)).open()
        assert PASSWORD not in str(refused.value)
        assert "falsch" not in str(refused.value)
    for wrong in ("mysql://db/shop", "postgresql://a:hunter2@[db/shop", "postgresql://db/shop?nonsense=hunter2"):
        with pytest.raises(BadConfig, match="no PostgreSQL URL") as refused:
            Exporter(exporter.runs, "pgvector", Address("shop", wrong)).open()
        assert PASSWORD not in str(refused.value)


def test_a_server_that_is_away_or_ends_may_be_tried_again(exporter: Exporter, postgres: str) -> None:
    with pytest.raises(TargetUnavailable, match="does not answer"):
        Exporter(exporter.runs, "pgvector", Address("shop", "postgresql://shop@127.0.0.1:1/shop")).open()
    first = exporter.run(exporter.runs.seal(ITEMS))
    target = exporter.open()
    target.open("shop_0123456789ab", 8)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop'")
    with pytest.raises(TargetUnavailable, match="does not answer"):
        list(target.hashes())
    target.close()
    assert exporter.current() == first.collection
    assert exporter.run(exporter.runs.seal(ITEMS)).unchanged == 30


def test_a_table_of_the_shop_is_never_replaced(exporter: Exporter) -> None:
    query(exporter, "CREATE TABLE shop (id int)")
    with pytest.raises(BadConfig, match="shop is a table or a view of something else"):
        exporter.run(exporter.runs.seal(ITEMS))
    query(exporter, "DROP TABLE shop")
    query(exporter, "CREATE VIEW shop AS SELECT 1 AS one")
    with pytest.raises(BadConfig, match="--name"):
        exporter.run(exporter.runs.seal(ITEMS))


def test_a_refusal_of_the_server_is_shown(exporter: Exporter, postgres: str) -> None:
    exporter.run(exporter.runs.seal(ITEMS))
    with psycopg.connect(as_administrator(postgres), autocommit=True) as connection:
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC, shop, pg_database_owner")
    with pytest.raises(TargetRefused, match="permission denied"):
        exporter.run(exporter.runs.seal(ITEMS, backbone="another"))


def test_a_database_without_pgvector_is_named(exporter: Exporter, postgres: str) -> None:
    with psycopg.connect(as_administrator(postgres), autocommit=True) as connection:
        connection.execute("DROP EXTENSION vector")
    with pytest.raises(BadConfig, match="an administrator installs it: CREATE EXTENSION vector"):
        exporter.open()


def test_readers_are_never_without_the_view(exporter: Exporter) -> None:
    releases = [exporter.runs.seal(ITEMS, backbone=name) for name in ("a", "b")]
    exporter.run(releases[0])
    stopped, counts = threading.Event(), set()

    def read() -> None:
        with psycopg.connect(exporter.address.url, autocommit=True) as connection:
            while not stopped.is_set():
                counts.add(connection.execute("SELECT count(*) FROM shop").fetchone())

    reader = threading.Thread(target=read)
    reader.start()
    for release in (releases[1], releases[0], releases[1]):
        exporter.run(release)
    stopped.set()
    reader.join()
    assert counts == {(30,)}
