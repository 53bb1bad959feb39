"""PostgreSQL with pgvector: a table a vector space, and a view of the export's name that searches use.

The whole export is one transaction: searches see it when it is verified, and nothing of one that failed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, StoreBusy, TargetRefused, TargetUnavailable
from retrieval_core.export.rows import Rows, table_schema
from retrieval_core.export.target import Address, is_collection, name_taken, other_width

if TYPE_CHECKING:
    from psycopg import Connection, Error
    from psycopg.sql import Composed, Identifier

FETCHED_ROWS = 10_000  # hashes at a time
MAX_INDEXED_DIM = 2000  # of pgvector's HNSW
# Classes of SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
OUTAGES = ("08", "53", "57P", "58")
LOGIN_REFUSED = ("28", "3D")
COLUMNS = tuple(table_schema(0).names)
TABLE = """
CREATE TABLE {table} (
  row_id bigint PRIMARY KEY, item_id text NOT NULL, image_uri text NOT NULL, product_id text, category text,
  labels text[] NOT NULL, attributes jsonb NOT NULL, fields jsonb NOT NULL, content_hash bigint NOT NULL,
  vector vector({dim}) NOT NULL
)"""
# Without a width, so that the view can be replaced, with all rights to it, when that changes.
VIEW = "CREATE OR REPLACE VIEW {view} AS SELECT {columns}, vector::vector AS vector FROM {table}"
VIEWED = """
SELECT DISTINCT relation.relname
FROM pg_rewrite AS rule
JOIN pg_depend AS needs ON needs.classid = 'pg_rewrite'::regclass AND needs.objid = rule.oid
JOIN pg_class AS relation ON needs.refclassid = 'pg_class'::regclass AND needs.refobjid = relation.oid
WHERE rule.ev_class = to_regclass(%s) AND relation.oid <> rule.ev_class"""


def open_target(address: Address) -> PgvectorTarget:
    """Connect to the database of a `postgresql://` URL; what it leaves out comes from libpq's variables and ~/.pgpass.

    Raises `BadConfig` for another URL, a refused login or a database without pgvector, `TargetUnavailable`, and
    `StoreBusy` where another export to the same name is at work.
    """
    return PgvectorTarget(address)


class PgvectorTarget:
    """A database with the tables of one export; nothing is written before `publish`."""

    def __init__(self, address: Address) -> None:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.sql import Identifier

        if not address.url.startswith(("postgresql://", "postgres://")):
            raise BadConfig("the address is no PostgreSQL URL; expected one like postgresql://user@db.example/shop")
        try:
            parts = conninfo_to_dict(address.url)
        except psycopg.Error:  # its text may show a password
            raise BadConfig("the address is no PostgreSQL URL such as postgresql://user@db.example/shop") from None
        self.label = f"postgresql://{parts.get('host', '')}/{parts.get('dbname', '')}"
        self._name, self._table, self._dim = address.name, Identifier(""), 0
        with self._translated():
            self._connection: Connection = psycopg.connect(address.url)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def current(self) -> str | None:
        with self._translated():
            row = self._connection.execute(
                "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [self._name]
            ).fetchone()
            if row is None:
                return None
            tables = [name for (name,) in self._connection.execute(VIEWED, [self._name])]
        if row[0] not in ("v", b"v") or len(tables) != 1 or not is_collection(tables[0], self._name):
            raise name_taken(self._name, "a table or a view of something else in that database")
        return str(tables[0])

    def collections(self) -> Sequence[str]:
        with self._translated():
            rows = self._connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
            return sorted(name for (name,) in rows if is_collection(name, self._name))

    def open(self, collection: str, dim: int) -> bool:
        from psycopg.sql import SQL, Identifier, Literal

        self._table, self._dim = Identifier(collection), dim
        with self._translated():
            query = "SELECT atttypmod FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'vector'"
            found = self._connection.execute(query, [collection]).fetchone()
            if found is None:
                self._connection.execute(SQL(TABLE).format(table=self._table, dim=Literal(dim)))
                for column, kind in (("item_id", "hash"), ("product_id", "hash")):  # ids may be longer than a B-tree's
                    self._create_index(f"{collection}_{column}", kind, column)
            self._connection.execute(
                SQL("CREATE TEMPORARY TABLE incoming (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP").format(self._table)
            )
        if found is not None and found[0] != dim:
            raise other_width(collection, found[0], dim)
        return found is None

    def hashes(self) -> Iterator[tuple[Int64, Int64]]:
        from psycopg.sql import SQL

        with self._translated(), self._connection.cursor("hashes") as cursor:
            cursor.execute(SQL("SELECT row_id, content_hash FROM {}").format(self._table))
            while rows := cursor.fetchmany(FETCHED_ROWS):
                pairs = np.array(rows, np.int64)
                yield pairs[:, 0], pairs[:, 1]

    def upsert(self, rows: Rows) -> None:
        from psycopg.sql import SQL, Identifier

        names = [Identifier(name) for name in COLUMNS]
        replaced = [SQL("{0} = excluded.{0}").format(name) for name in names[1:]]
        upsert = SQL(
            "INSERT INTO {table} ({names}) SELECT {names} FROM incoming ON CONFLICT (row_id) DO UPDATE SET {replaced}"
        )
        copy = SQL("COPY incoming ({}) FROM STDIN").format(SQL(", ").join(names))
        with self._translated(), self._connection.cursor() as cursor:
            with cursor.copy(copy) as sink:
                for row_id, vector, row in zip(rows.row_ids.tolist(), rows.vectors, rows.documents(), strict=True):
                    row |= {"row_id": row_id, "vector": _vector_text(vector)}
                    row |= {name: json.dumps(row[name]) for name in ("attributes", "fields")}
                    sink.write_row([row[name] for name in COLUMNS])
            cursor.execute(
                upsert.format(table=self._table, names=SQL(", ").join(names), replaced=SQL(", ").join(replaced))
            )
            cursor.execute("TRUNCATE incoming")

    def delete(self, row_ids: Int64) -> None:
        from psycopg.sql import SQL

        with self._translated():
            query = SQL("DELETE FROM {} WHERE row_id = ANY(%s)").format(self._table)
            self._connection.execute(query, [row_ids.tolist()])

    def finish(self) -> None:
        """Build the index of a new table after its rows, which is faster than with each of them."""
        from psycopg.sql import SQL

        with self._translated():
            if self._dim <= MAX_INDEXED_DIM:
                self._create_index(f"{self._table.as_string()[1:-1]}_vector", "hnsw", "vector", "vector_cosine_ops")
            self._connection.execute(SQL("ANALYZE {}").format(self._table))

    def nearest(self, vectors: Float32, k: int) -> list[list[int]]:
        from psycopg.sql import SQL, Literal

        query = SQL("SELECT row_id FROM {} ORDER BY vector <=> %s::vector LIMIT {}").format(self._table, Literal(k))
        with self._translated():
            return [
                [row_id for (row_id,) in self._connection.execute(query, [_vector_text(vector)])] for vector in vectors
            ]

    def publish(self) -> None:
        """Replace the view, commit, and clear what updates left behind, through which an index would have to wade."""
        from psycopg.sql import SQL, Identifier

        columns = SQL(", ").join(map(Identifier, COLUMNS[:-1]))
        view = SQL(VIEW).format(view=Identifier(self._name), columns=columns, table=self._table)
        with self._translated():
            self._connection.execute(view)
            self._connection.commit()
            self._connection.autocommit = True
            self._connection.execute(SQL("VACUUM (ANALYZE) {}").format(self._table))

    def drop(self, collection: str) -> None:
        from psycopg.sql import SQL, Identifier

        with self._translated():
            self._connection.execute(SQL("DROP TABLE {}").format(Identifier(collection)))

    def close(self) -> None:
        self._connection.close()  # which rolls back what was not committed

    def _prepare(self) -> None:
        with self._translated():
            is_first = self._connection.execute(
                "SELECT pg_try_advisory_lock(hashtext('vitrine export'), hashtext(%s))", [self._name]
            ).fetchone()
            if is_first != (True,):
                raise StoreBusy(f"{self.label}: another export to {self._name} is at work; run again when it has ended")
            has_vectors = self._connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
            if not has_vectors:
                self._connection.execute("CREATE EXTENSION vector")

    def _create_index(self, name: str, kind: str, column: str, operators: str = "") -> None:
        from psycopg.sql import SQL, Identifier

        query = SQL("CREATE INDEX IF NOT EXISTS {name} ON {table} USING {kind} ({column} {operators})")
        parts = {"kind": Identifier(kind), "column": Identifier(column)}
        operator_class: Composed | Identifier | SQL = Identifier(operators) if operators else SQL("")
        self._connection.execute(
            query.format(name=Identifier(name), table=self._table, operators=operator_class, **parts)
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the driver's errors as Vitrine's, without their causes, whose text may show a password."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise _translate(error, self.label) from None


def _translate(error: Error, label: str) -> BadConfig | TargetUnavailable | TargetRefused:
    import psycopg

    code = error.sqlstate or ""
    reason = str(error.diag.message_primary or error).splitlines()[0][:300] if str(error) else type(error).__name__
    if code.startswith(LOGIN_REFUSED) or (not code and _is_refused_login(str(error))):
        return BadConfig(f"{label} refuses the login: check user, password and database of the address")
    if (not code and isinstance(error, psycopg.OperationalError)) or code.startswith(OUTAGES):
        return TargetUnavailable(f"{label} does not answer: {reason}")
    if "extension" in reason:
        return BadConfig(f"{label} has no pgvector: {reason}; an administrator installs it: CREATE EXTENSION vector")
    return TargetRefused(f"{label} refuses the export: {reason}")


def _is_refused_login(text: str) -> bool:
    """Return whether an error of connecting, which has no code, says that the server refused."""
    return any(words in text for words in ("authentication failed", "does not exist", "no password supplied", "pg_hba"))


def _vector_text(vector: Float32) -> str:
    """Return a vector as pgvector reads it, exactly."""
    return f"[{','.join(map(str, vector.tolist()))}]"
