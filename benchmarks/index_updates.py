"""Repeated updates of an index: how long one takes compared with a full build, and how recall holds up.

    python -m benchmarks.index_updates [--rows 200000] [--dim 128] [--updates 10] [--changed 0.01] [--json FILE]

Each update removes some items and adds as many new ones, spread over all shards. Shards are planned and named as by a
nightly run, and those whose name is new are updated from their predecessors. A full build with training is measured
before the first update and, with the rows of then, after the last one. One more update changes a single shard.
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

from benchmarks.synthetic_vectors import draw, draw_row_ids, draw_tune_queries, recall, train_positions
from retrieval_core.arrays import Float32, Int64
from retrieval_core.config.stages import IndexConfig
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
    """An index on disk: its rows by shard (row_id, content_id, position in all vectors) and the folder of each."""

    template: bytes
    split: list[pl.DataFrame]
    folders: list[Path]

    @property
    def rows(self) -> pl.DataFrame:
        return pl.concat(self.split)


class Indexer:
    """Builds and updates indexes in `folder` of some of `vectors`, which are all that the catalogue ever has."""

    def __init__(self, vectors: Float32, n_rows: int, folder: Path) -> None:
        self.vectors, self.folder = vectors, folder
        self.config = IndexConfig()
        self.recipe = choose_recipe(n_rows, vectors.shape[1], vectors.shape[1], self.config)
        self.n_shards = choose_shards(n_rows, self.config)

    def build(self, rows: pl.DataFrame, name: str) -> Version:
        """Train a template on some of the rows, and build every shard."""
        positions = rows["position"].to_numpy()[train_positions(len(rows), self.recipe, self.config.seed)]
        template = train_template(self.vectors[positions], self.recipe, self.config.seed)
        version = self._plan(template, rows, name)
        for split, folder in zip(version.split, version.folders, strict=True):
            vectors = self.vectors[split["position"].to_numpy()]
            build_shard(template, split["row_id"].to_numpy(), vectors, vectors, folder)
        return version

    def update(self, before: Version, rows: pl.DataFrame, name: str) -> Version:
        """Write the shards that do not exist yet, each from its predecessor."""
        after = self._plan(before.template, rows, name)
        shards = zip(before.split, after.split, before.folders, after.folders, strict=True)
        for old_rows, new_rows, predecessor, folder in shards:
            if not folder.exists():
                removed, added = rows_to_change(old_rows, new_rows)
                vectors = self.vectors[added["position"].to_numpy()]
                update_shard(after.template, predecessor, removed, added["row_id"].to_numpy(), vectors, vectors, folder)
        return after

    def open(self, version: Version) -> ShardedIndex:
        dim = self.vectors.shape[1]
        return ShardedIndex.open(version.folders, dim, dim, 0)

    def tune(self, version: Version) -> TuneResult:
        index = self.open(version)
        return tune_search(index, draw_tune_queries(index, index.row_ids(), self.config), self.config)

    def recall(self, version: Version, tuned: TuneResult, queries: Float32, truth: Int64) -> float:
        index = self.open(version)
        hits = index.search(queries, queries, K, tuned.rerank_depth, nprobe=tuned.nprobe)[1]
        return recall(hits, truth)

    def truth(self, version: Version, queries: Float32) -> Int64:
        """Return the (q, 10) row ids that exact search finds."""
        rows = version.rows
        nearest = exact_topk(queries, self.vectors[rows["position"].to_numpy()], K)[1]
        return rows["row_id"].to_numpy()[nearest]

    def _plan(self, template: bytes, rows: pl.DataFrame, name: str) -> Version:
        split = split_rows(rows, self.n_shards)
        return Version(template, split, [self.folder / name / name_shard(shard, [name]) for shard in split])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index_updates", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument(
        "--changed", type=float, default=0.01, help="share of the items that an update removes, and adds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        result = _measure(arguments, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    n_changed = round(arguments.changed * arguments.rows)
    all_vectors = draw(arguments.rows + (arguments.updates + 1) * n_changed + N_QUERIES, arguments.dim)
    vectors, queries = all_vectors[:-N_QUERIES], all_vectors[-N_QUERIES:]
    indexer = Indexer(vectors, arguments.rows, folder)
    all_rows = pl.DataFrame({"row_id": draw_row_ids(len(vectors)), "position": np.arange(len(vectors))})
    all_rows = all_rows.with_columns(content_id=pl.format("{}", pl.col("position")))
    print(
        f"{arguments.rows:,} x {arguments.dim} in {indexer.n_shards} shards, "
        f"{os.cpu_count()} cores: {indexer.recipe.key}"
    )
    start = time.perf_counter()
    version = indexer.build(all_rows[: arguments.rows], "kept")
    full_s = [time.perf_counter() - start]
    tuned = indexer.tune(version)
    print(
        f"tuned: nprobe {tuned.nprobe}, rerank depth {tuned.rerank_depth}; imbalance {imbalance(version.folders):.3f}"
    )
    recalls = [indexer.recall(version, tuned, queries, indexer.truth(version, queries))]
    update_s = []
    for number in range(arguments.updates):
        added = all_rows[arguments.rows + number * n_changed : arguments.rows + (number + 1) * n_changed]
        kept = version.rows.sample(arguments.rows - n_changed, seed=number)
        rows = pl.concat([kept, added.select(kept.columns)])
        start = time.perf_counter()
        after = indexer.update(version, rows, "kept")
        update_s.append(time.perf_counter() - start)
        _remove(set(version.folders) - set(after.folders))
        version = after
        recalls.append(indexer.recall(version, tuned, queries, indexer.truth(version, queries)))
    start = time.perf_counter()
    fresh = indexer.build(version.rows, "fresh")
    full_s.append(time.perf_counter() - start)
    fresh_recall = indexer.recall(fresh, tuned, queries, indexer.truth(fresh, queries))
    written = _change_one_shard(indexer, version, all_rows[-n_changed:])
    result = {
        "rows": arguments.rows,
        "dim": arguments.dim,
        "key": indexer.recipe.key,
        "shards": indexer.n_shards,
        "full_s": full_s,
        "update_s": update_s,
        "update_of_full": statistics.median(update_s) / statistics.median(full_s),
        "recall": recalls,
        "fresh_recall": fresh_recall,
        "imbalance": imbalance(version.folders),
        "fresh_imbalance": imbalance(fresh.folders),
        **written,
    }
    _print(result)
    return result


def _change_one_shard(indexer: Indexer, version: Version, added: pl.DataFrame) -> dict[str, Any]:
    """Remove one item and add one, both of one shard, and return which files that writes."""
    before = {path: path.stat().st_mtime_ns for path in indexer.folder.rglob("*") if path.is_file()}
    number = next(n for n, shard in enumerate(split_rows(added, indexer.n_shards)) if len(shard))
    new_row = split_rows(added, indexer.n_shards)[number][:1]
    removed_id = version.split[number]["row_id"][0]
    rows = version.rows.filter(pl.col("row_id") != removed_id)
    rows = pl.concat([rows, new_row.select(rows.columns)])
    start = time.perf_counter()
    indexer.update(version, rows, "kept")
    seconds = time.perf_counter() - start
    after = {path: path.stat().st_mtime_ns for path in indexer.folder.rglob("*") if path.is_file()}
    written = sorted(path for path, modified in after.items() if before.get(path) != modified)
    return {
        "one_shard_s": seconds,
        "one_shard_written": [f"{path.parent.name}/{path.name}" for path in written],
        "files": len(version.folders) * 2,
    }


def _remove(folders: set[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _print(result: dict[str, Any]) -> None:
    full, update = statistics.median(result["full_s"]), statistics.median(result["update_s"])
    print(f"full build {full:.2f} s ({', '.join(f'{s:.2f}' for s in result['full_s'])}), ", end="")
    print(f"an update {update:.2f} s (slowest {max(result['update_s']):.2f}): ", end="")
    print(f"{result['update_of_full']:.1%} of it (aim: below 10%)")
    print(f"recall@10 when new {result['recall'][0]:.4f}, update by update ", end="")
    print(" ".join(f"{value:.4f}" for value in result["recall"][1:]))
    print(f"after the last {result['recall'][-1]:.4f}, rebuilt {result['fresh_recall']:.4f}: ", end="")
    print(f"{result['recall'][-1] - result['fresh_recall']:+.4f} (aim: within 0.005); ", end="")
    print(f"imbalance {result['imbalance']:.3f}, rebuilt {result['fresh_imbalance']:.3f}")
    print(
        f"a change in one shard: {result['one_shard_s']:.2f} s, wrote {len(result['one_shard_written'])} files ", end=""
    )
    print(f"of {result['files']}: {', '.join(result['one_shard_written'])}")


if __name__ == "__main__":
    main()
