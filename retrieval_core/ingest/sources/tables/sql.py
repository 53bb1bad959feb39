"""`sql:QUERY.sql?database=URL`: the rows of a database, by a query in a file."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from retrieval_core.errors import BadConfig, CatalogInvalid, SourceMissing, StoreUnavailable, VitrineError
from retrieval_core.ingest.sources.files import absolute_uri
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.tables.delimited import DelimitedTable, decode_text
from retrieval_core.ingest.sources.tables.objects import ObjectRows
from retrieval_core.ingest.sources.tables.table import TableSource
from retrieval_core.store.uris import read_uri

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, CursorResult

DATABASE = "env:VITRINE_SQL_URL"
ASYNC_DRIVERS = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}  # that Vitrine installs
FETCHED_ROWS = 1000  # at a time; a description may have 10 kB
# PostgreSQL's classes of errors: lost connections, missing resources and a server that is starting or stopping; a wrong
# login or database (https://www.postgresql.org/docs/current/errcodes-appendix.html).
OUTAGES = ("08", "53", "57P")
LOGIN_REFUSED = ("28", "3D")
SQLITE_PATIENCE_S = 30.0  # for a writer's lock
SQLITE_OUTAGES = ("locked", "busy", "disk I/O")


class SqlSource(TableSource):
    """The rows of a query in a file, with the columns of a table, also with `&item_id=sku&image_uri=photo`.

    The database is the SQLAlchemy URL that the environment variable `VITRINE_SQL_URL` holds, or another one with
    `?database=env:NAME`; a URL without a password may itself be given: `?database=sqlite:///shop.db`. The query runs in
    one read-only transaction, and its rows are fetched by and by. A relative address of a picture starts at the folder
    of the query's file.

    Raises `BadConfig` for a URL that is missing or malformed, `StoreUnavailable` when the database cannot be reached,
    and what `TableSource` raises. No message has the URL.
    """

    kind = "sql"
    options = (*TableSource.options, "database")
    has_picture_lists = True

    def _parsed_file(self) -> DelimitedTable:
        query, _ = decode_text(read_uri(self._uri))
        url = _database_url(self._columns.options.get("database", DATABASE), self.spec)
        objects = ObjectRows(self._columns)

        keys: list[str] = []

        def collect(connection: Connection) -> None:
            result = _execute(connection, query)
            keys.extend(result.keys())
            for rows in result.partitions(FETCHED_ROWS):
                for row in rows:
                    try:
                        objects.add(dict(zip(keys, row, strict=True)))
                    except ValueError as error:
                        raise _BadQuery(f"row {objects.n_rows + 1}: {str(error)[:300]}") from error

        try:
            _with_connection(url, collect)
        except _BadQuery as error:
            raise CatalogInvalid(f"{self.spec}: {error}") from error
        except Exception as error:  # drivers fail in many ways
            # Without the cause, whose text and traceback may show the URL.
            raise _translated(error, url, self.spec) from None
        self._columns = objects.columns()
        return DelimitedTable(objects.frame(keys), f"{counted(objects.n_rows, 'row')} of {_label(url)}")


def _database_url(text: str, spec: str) -> URL:
    """Return the URL that `env:NAME` or a URL names. Raises `BadConfig`, also where its library is not installed."""
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError as error:
        raise BadConfig("sql: needs SQLAlchemy; install vitrine[run]") from error
    name = text.removeprefix("env:")
    is_variable = name != text
    if is_variable and not os.environ.get(name):
        raise BadConfig(f"{spec}: set {name} to the database's URL, such as postgresql://reader:…@db.example/shop")
    where = name if is_variable else "?database="
    try:
        url = make_url(os.environ[name] if is_variable else text)
    except (ArgumentError, ValueError):
        raise BadConfig(f"{spec}: {where} is no SQLAlchemy URL such as sqlite:///shop.db") from None
    return url.set(drivername=ASYNC_DRIVERS.get(url.drivername, url.drivername))


class _BadQuery(Exception):
    pass


def _with_connection(url: URL, use: Callable[[Connection], None]) -> None:
    """Call `use` with a connection in a read-only transaction, which is rolled back."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    dialect = url.get_dialect()
    options = {"postgresql_readonly": True} if dialect.name == "postgresql" else {}
    if dialect.is_async:
        with ThreadPoolExecutor(1) as pool:  # this thread may run a loop already
            pool.submit(lambda: asyncio.run(_with_async_connection(url, options, use))).result()
        return
    if dialect.name == "sqlite":
        engine = create_engine("sqlite://", creator=_sqlite_opener(url), poolclass=NullPool)
    else:
        engine = create_engine(url, poolclass=NullPool)
    with engine.connect().execution_options(**options) as connection:
        use(connection)


async def _with_async_connection(url: URL, options: dict[str, Any], use: Callable[[Connection], None]) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await (await connection.execution_options(**options)).run_sync(use)


def _sqlite_opener(url: URL) -> Callable[[], sqlite3.Connection]:
    """Return a function that opens a database of SQLite for reading; without this an absent one would be created."""
    if not url.database or not Path(url.database).is_file():
        raise FileNotFoundError(f"there is no database {url.database or 'in memory'}; check the path")
    address = f"file:{quote(absolute_uri(url.database))}?mode=ro"
    return lambda: sqlite3.connect(address, uri=True, timeout=SQLITE_PATIENCE_S)


def _execute(connection: Connection, query: str) -> CursorResult[Any]:
    """Start a query whose rows are fetched by and by."""
    result = connection.exec_driver_sql(query, execution_options={"stream_results": True})
    if not result.returns_rows:
        raise _BadQuery("the query returns no table; expected a SELECT")
    keys = [*result.keys()]
    if repeated := sorted({key for key in keys if keys.count(key) > 1}):
        raise _BadQuery(f"the query returns column {repeated[0]} more than once; rename one with AS")
    return result


def _label(url: URL) -> str:
    host = f" at {url.host}" * bool(url.host)
    return f"{url.get_backend_name()}{host}, database {Path(url.database or '').name}"


def _translated(error: Exception, url: URL, spec: str) -> VitrineError:
    """Return a driver's error as one of Vitrine's, whose text has no password."""
    original = getattr(error, "orig", None) or error
    text = re.sub(r"^<class '[\w.]+'>: ", "", str(original))  # of SQLAlchemy's errors of asyncpg
    reason = (text.splitlines() or [type(original).__name__])[0][:300]
    if url.password:
        reason = reason.replace(str(url.password), "…")
    code = str(getattr(original, "sqlstate", None) or "")
    if isinstance(error, FileNotFoundError):
        return SourceMissing(f"{spec}: {reason}")
    is_locked = url.get_backend_name() == "sqlite" and any(text in reason for text in SQLITE_OUTAGES)
    if isinstance(original, OSError) or is_locked or code.startswith(OUTAGES):
        return StoreUnavailable(f"{spec}: {_label(url)} cannot be reached: {reason}")
    if isinstance(error, ImportError):
        return BadConfig(f"{spec}: the driver of {url.drivername} is not installed: {reason}")
    if code.startswith(LOGIN_REFUSED):
        return BadConfig(f"{spec}: {_label(url)} refuses the login: {reason}")
    return CatalogInvalid(f"{spec}: {_label(url)} refuses the query: {reason}")
