"""The exact searches of a report, each of which starts from what the report before has kept of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Report
from retrieval_core.artifacts.parts import read_kept, table_bytes
from retrieval_core.evaluate.measure.exact_search import Gallery
from retrieval_core.index.shard_files import positions_of
from retrieval_core.metrics.kept_knn import NOTHING_KEPT, KeptSearch, Search, nearest_since
from retrieval_core.store.base import Store

ROWS_FILE = "searched_rows.parquet"  # every name that was searched, and a column for each search that says where
LISTS_FILE = "neighbours.parquet"  # the lists of each search, as positions in the rows
NAME = "name"
LIST_SCHEMA = {
    "search": pl.String(),
    "query": pl.Int64(),
    "floor": pl.Float32(),
    "found": pl.List(pl.Int32()),
    "scores": pl.List(pl.Float32()),
}


class KeptSearches:
    """Exact searches by name, of which a search that was kept `earlier` compares only what is new since then.

    `search(gallery, k)` returns what `gallery.nearest(k)` does.
    """

    def __init__(
        self,
        earlier: Mapping[str, KeptSearch] | None = None,
        search: Callable[[Gallery, int], tuple[Float32, Int64]] = Gallery.nearest,
    ) -> None:
        self.earlier, self._search = earlier or {}, search
        self.now: dict[str, KeptSearch] = {}

    def nearest(self, name: str, gallery: Gallery, k: int, own: Int64 | None = None) -> tuple[Float32, Int64]:
        """Return what `gallery.nearest(k)` does; `name` says what the gallery is, and always comes with one k.

        `own` (q,) are the positions of the queries themselves in the gallery, which are left out.
        """
        if own is not None:
            scores, rows = self.nearest(name, gallery, k + 1)
            others = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, others, axis=1), np.take_along_axis(rows, others, axis=1)

        def search(queries: Int64, rows: Int64, depth: int) -> tuple[Float32, Int64]:
            scores, positions = self._search(gallery.only(queries, rows), depth)
            return scores, np.where(positions >= 0, np.append(rows, -1)[positions], -1)

        return self.find(f"{name} {gallery.family}", gallery.query_names, gallery.gallery_names, k, search)

    def find(self, name: str, queries: Int64, gallery: Int64, k: int, search: Search) -> tuple[Float32, Int64]:
        """Return what `search` does for all queries and the whole gallery; both are names of what it compares.

        Within a run all searches of a name have the same gallery, and what one has found no other seeks again.
        """
        since = self.earlier.get(name, NOTHING_KEPT)
        if name not in self.now:
            scores, rows, self.now[name] = nearest_since(since, queries, gallery, k, search)
            return scores, rows
        new = np.flatnonzero(~positions_of(self.now[name].queries, queries)[1])
        if len(new):
            kept = nearest_since(since, queries[new], gallery, k, lambda some, *rest: search(new[some], *rest))[2]
            self.now[name] = _joined(self.now[name], kept)
        return nearest_since(self.now[name], queries, gallery, k, search)[:2]

    def tables(self) -> dict[str, bytes]:
        """Return the parts of a report that keep the searches of this run."""
        galleries = sorted((kept.gallery for kept in self.now.values()), key=len, reverse=True)
        names = reduce(_union, galleries, np.empty(0, np.int64))
        held = {search: positions_of(kept.gallery, names)[1] for search, kept in self.now.items()}
        lists = [_lists(search, kept, names) for search, kept in self.now.items()]
        return {
            ROWS_FILE: table_bytes(pl.DataFrame({NAME: names} | held)),
            LISTS_FILE: table_bytes(pl.concat([pl.DataFrame(schema=LIST_SCHEMA), *lists])),
        }


def read_searches(store: Store, report: Report | None) -> dict[str, KeptSearch]:
    """Return the searches that a report kept, by name; none where it kept nothing or that is lost."""
    rows = read_kept(store, report, ROWS_FILE, {NAME: pl.Int64()})
    lists = read_kept(store, report, LISTS_FILE, LIST_SCHEMA)
    parts = lists.partition_by("search", as_dict=True)
    return {name: _kept(rows, name, part) for (name,), part in parts.items() if name in rows.columns}


def _union(names: Int64, more: Int64) -> Int64:
    """Return the values of two ascending arrays of unique ones, ascending; `np.union1d` takes ten times as long."""
    new = more[~positions_of(names, more)[1]]
    return np.sort(np.concatenate([names, new]), kind="stable") if len(new) else names


def _joined(one: KeptSearch, other: KeptSearch) -> KeptSearch:
    """Return the lists of two sets of queries in one gallery together."""
    queries: Int64 = np.concatenate([one.queries, other.queries])
    order = np.argsort(queries)
    return KeptSearch(
        gallery=one.gallery,
        queries=queries[order],
        found=np.concatenate([one.found, other.found])[order],
        scores=np.concatenate([one.scores, other.scores])[order],
        floors=np.concatenate([one.floors, other.floors])[order],
    )


def _lists(search: str, kept: KeptSearch, names: Int64) -> pl.DataFrame:
    query, column = np.nonzero(kept.found >= 0)
    flat = pl.DataFrame(
        {
            "row": query,
            "found": positions_of(names, kept.found[query, column])[0].astype(np.int32),
            "scores": kept.scores[query, column],
        }
    )
    lists = flat.group_by("row", maintain_order=True).agg("found", "scores")
    queries = pl.DataFrame({"search": search, "query": kept.queries, "floor": kept.floors}).with_row_index("row")
    joined = queries.with_columns(pl.col("row").cast(pl.Int64)).join(lists, on="row", how="left", maintain_order="left")
    return joined.with_columns(pl.col("found", "scores").fill_null([])).select(*LIST_SCHEMA)


def _kept(rows: pl.DataFrame, search: str, lists: pl.DataFrame) -> KeptSearch:
    names, sizes = rows[NAME].to_numpy(), lists["found"].list.len().to_numpy()
    is_found = np.arange(sizes.max(initial=0)) < sizes[:, None]
    found, scores = np.full(is_found.shape, -1, np.int64), np.full(is_found.shape, -np.inf, np.float32)
    found[is_found] = names[lists["found"].explode().drop_nulls().to_numpy()]
    scores[is_found] = lists["scores"].explode().drop_nulls().to_numpy()
    gallery = rows.filter(pl.col(search))[NAME].to_numpy()
    return KeptSearch(gallery, lists["query"].to_numpy(), found, scores, lists["floor"].to_numpy())
