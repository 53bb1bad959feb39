"""Nights in which a share of the items changes: what an update takes beside a full build, and what recall is left.

    python -m benchmarks.nights [--rows 200000] [--dim 128] [--nights 10] [--changed 0.01] [--json FILE]

Each night takes some items out and puts as many new ones in, spread over all shards: shards are planned and named as a
nightly run does it, and those whose name is new are updated from their predecessors. The full build, training included,
is measured before the first night and, of the rows that are left, after the last. One more night changes one shard.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks.drawn import draw, draw_row_ids, drawn_queries, recall, train_places
from retrieval_core.arrays import Float32, Int64
from retrieval_core.config import IndexConfig
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.plan import name_shard, rows_to_change, split_rows
from retrieval_core.index.recipes import choose_recipe, choose_shards
from retrieval_core.index.tune import TuneResult, tune_search
from retrieval_core.index.update import imbalance, update_shard
from retrieval_core.metrics.exact_knn import exact_topk

K = 10
N_QUERIES = 1_000


class Version(NamedTuple):
    """An index on disk: its rows by shard (row_id, content_id, place), and the folder of each shard."""

    template: bytes
    split: list[pl.DataFrame]
    folders: list[Path]

    @property
    def rows(self) -> pl.DataFrame:
        return pl.concat(self.split)


class Shop:
    """All vectors that ever are in the catalogue, and indexes of some of them in `folder`."""

    def __init__(self, vectors: Float32, n_rows: int, folder: Path) -> None:
        self.vectors, self.folder = vectors, folder
        self.config = IndexConfig()
        self.recipe = choose_recipe(n_rows, vectors.shape[1], vectors.shape[1], self.config)
        self.n_shards = choose_shards(n_rows, self.config)

    def build(self, rows: pl.DataFrame, name: str) -> Version:
        """Train a template on some of the rows, and build every shard."""
        places = rows["place"].to_numpy()[train_places(len(rows), self.recipe, self.config.seed)]
        template = train_template(self.vectors[places], self.recipe, self.config.seed)
        version = self._planned(template, rows, name)
        for split, folder in zip(version.split, version.folders, strict=True):
            vectors = self.vectors[split["place"].to_numpy()]
            build_shard(template, split["row_id"].to_numpy(), vectors, vectors, folder)
        return version

    def update(self, before: Version, rows: pl.DataFrame, name: str) -> Version:
        """Make the shards that are not there yet, each from its predecessor."""
        now = self._planned(before.template, rows, name)
        for old, new, was, folder in zip(before.split, now.split, before.folders, now.folders, strict=True):
            if not folder.exists():
                removed, added = rows_to_change(old, new)
                vectors = self.vectors[added["place"].to_numpy()]
                update_shard(now.template, was, removed, added["row_id"].to_numpy(), vectors, vectors, folder)
        return now

    def open(self, version: Version) -> ShardedIndex:
        dim = self.vectors.shape[1]
        return ShardedIndex.open(version.folders, dim, dim, 0)

    def tune(self, version: Version) -> TuneResult:
        index = self.open(version)
        return tune_search(index, drawn_queries(index, index.row_ids(), self.config), self.config)

    def recall(self, version: Version, tuned: TuneResult, queries: Float32, truth: Int64) -> float:
        index = self.open(version)
        found = index.search(queries, queries, K, tuned.rerank_depth, nprobe=tuned.nprobe)[1]
        return recall(found, truth)

    def truth(self, version: Version, queries: Float32) -> Int64:
        """(q, 10) row ids by exact search."""
        rows = version.rows
        nearest = exact_topk(queries, self.vectors[rows["place"].to_numpy()], K)[1]
        return rows["row_id"].to_numpy()[nearest]

    def _planned(self, template: bytes, rows: pl.DataFrame, name: str) -> Version:
        split = split_rows(rows, self.n_shards)
        return Version(template, split, [self.folder / name / name_shard(shard, [name]) for shard in split])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nights", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--changed", type=float, default=0.01, help="share of the items that goes, and comes, a night")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        result = _measure(arguments, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    n_changed = round(arguments.changed * arguments.rows)
    drawn = draw(arguments.rows + (arguments.nights + 1) * n_changed + N_QUERIES, arguments.dim)
    vectors, queries = drawn[:-N_QUERIES], drawn[-N_QUERIES:]
    shop = Shop(vectors, arguments.rows, folder)
    ever = pl.DataFrame({"row_id": draw_row_ids(len(vectors)), "place": np.arange(len(vectors))})
    ever = ever.with_columns(content_id=pl.format("{}", pl.col("place")))
    print(f"{arguments.rows:,} x {arguments.dim} in {shop.n_shards} shards, {os.cpu_count()} cores: {shop.recipe.key}")
    start = time.perf_counter()
    version = shop.build(ever[: arguments.rows], "kept")
    full_s = [time.perf_counter() - start]
    tuned = shop.tune(version)
    print(
        f"tuned: nprobe {tuned.nprobe}, rerank depth {tuned.rerank_depth}; imbalance {imbalance(version.folders):.3f}"
    )
    recalls = [shop.recall(version, tuned, queries, shop.truth(version, queries))]
    night_s = []
    for night in range(arguments.nights):
        coming = ever[arguments.rows + night * n_changed : arguments.rows + (night + 1) * n_changed]
        staying = version.rows.sample(arguments.rows - n_changed, seed=night)
        rows = pl.concat([staying, coming.select(staying.columns)])
        start = time.perf_counter()
        after = shop.update(version, rows, "kept")
        night_s.append(time.perf_counter() - start)
        _remove(set(version.folders) - set(after.folders))
        version = after
        recalls.append(shop.recall(version, tuned, queries, shop.truth(version, queries)))
    start = time.perf_counter()
    fresh = shop.build(version.rows, "fresh")
    full_s.append(time.perf_counter() - start)
    fresh_recall = shop.recall(fresh, tuned, queries, shop.truth(fresh, queries))
    written = _change_one_shard(shop, version, ever[-n_changed:])
    result = {
        "rows": arguments.rows,
        "dim": arguments.dim,
        "key": shop.recipe.key,
        "shards": shop.n_shards,
        "full_s": full_s,
        "night_s": night_s,
        "night_of_full": statistics.median(night_s) / statistics.median(full_s),
        "recall": recalls,
        "fresh_recall": fresh_recall,
        "imbalance": imbalance(version.folders),
        "fresh_imbalance": imbalance(fresh.folders),
        **written,
    }
    _print(result)
    return result


def _change_one_shard(shop: Shop, version: Version, coming: pl.DataFrame) -> dict[str, Any]:
    """One item goes and one comes, both of one shard; which files that writes."""
    known = {path: path.stat().st_mtime_ns for path in shop.folder.rglob("*") if path.is_file()}
    number = next(n for n, shard in enumerate(split_rows(coming, shop.n_shards)) if len(shard))
    comes = split_rows(coming, shop.n_shards)[number][:1]
    gone = version.split[number]["row_id"][0]
    rows = version.rows.filter(pl.col("row_id") != gone)
    rows = pl.concat([rows, comes.select(rows.columns)])
    start = time.perf_counter()
    shop.update(version, rows, "kept")
    seconds = time.perf_counter() - start
    now = {path: path.stat().st_mtime_ns for path in shop.folder.rglob("*") if path.is_file()}
    written = sorted(path for path, changed in now.items() if known.get(path) != changed)
    return {
        "one_shard_s": seconds,
        "one_shard_written": [f"{path.parent.name}/{path.name}" for path in written],
        "files": len(version.folders) * 2,
    }


def _remove(folders: set[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _print(result: dict[str, Any]) -> None:
    full, night = statistics.median(result["full_s"]), statistics.median(result["night_s"])
    print(f"full build {full:.2f} s ({', '.join(f'{s:.2f}' for s in result['full_s'])}), ", end="")
    print(f"a night {night:.2f} s (slowest {max(result['night_s']):.2f}): ", end="")
    print(f"{result['night_of_full']:.1%} of it (aim: below 10%)")
    print(f"recall@10 when new {result['recall'][0]:.4f}, night by night ", end="")
    print(" ".join(f"{value:.4f}" for value in result["recall"][1:]))
    print(f"after the last {result['recall'][-1]:.4f}, built anew {result['fresh_recall']:.4f}: ", end="")
    print(f"{result['recall'][-1] - result['fresh_recall']:+.4f} (aim: within 0.005); ", end="")
    print(f"imbalance {result['imbalance']:.3f}, built anew {result['fresh_imbalance']:.3f}")
    print(
        f"a change in one shard: {result['one_shard_s']:.2f} s, wrote {len(result['one_shard_written'])} files ", end=""
    )
    print(f"of {result['files']}: {', '.join(result['one_shard_written'])}")


if __name__ == "__main__":
    main()
