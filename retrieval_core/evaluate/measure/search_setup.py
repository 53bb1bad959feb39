"""What the published search is measured on, and how a single query is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64, UInt64
from retrieval_core.evaluate.measure.protocol import Protocol
from retrieval_core.index.lookup import Selection, ShardedIndex

K = 10
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: the increment of SplitMix64


@dataclass(frozen=True, eq=False)
class Bench:
    """The published index and what it was built of: (n, dim) and (n, candidate_dim) vectors of all `items`."""

    items: pl.DataFrame
    protocol: Protocol
    vectors: Float32
    candidates: Float32
    index: ShardedIndex
    rerank_depth: int

    def find(
        self, rows: Int64, k: int = K, *, nprobe: int = 0, rerank_depth: int = 0, only: Selection | None = None
    ) -> tuple[Float32, Int64]:
        """Scores and row ids, (q, k) each, of these rows of `items` as queries; 0 searches as published."""
        depth = rerank_depth or self.rerank_depth
        return self.index.search(self.vectors[rows], self.candidates[rows], k, depth, nprobe=nprobe, only=only)


def single_query_ms(find: Callable[[Int64], object], rows: Int64) -> Float64:
    """(len(rows),) float64 milliseconds that `find` takes for one row after the other."""
    taken = np.empty(len(rows))
    for i in range(len(rows)):
        started = time.perf_counter()
        find(rows[i : i + 1])
        taken[i] = 1e3 * (time.perf_counter() - started)
    return taken


def hash_rows(row_ids: Int64, seed: int) -> UInt64:
    """(n,) uint64, evenly spread: SplitMix64 of row id and seed, so that a row keeps its value night after night.

    Not the hash that names a row's shard: the rows of a shard are spread as all others are.
    """
    bits = row_ids.astype(np.uint64) + np.uint64(GOLDEN * (seed + 1) % 2**64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
