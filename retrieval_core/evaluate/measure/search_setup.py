"""The search that is measured: the index, the vectors it was built from, the queries and the gallery."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Float64, Int64, UInt64
from retrieval_core.evaluate.measure.protocol import Protocol
from retrieval_core.index.lookup import RowSelection, ShardedIndex

K = 10
SPLITMIX64_INCREMENT = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio


@dataclass(frozen=True, eq=False)
class SearchSetup:
    """An index with what it was built from: `vectors` (n, dim) and `candidates` (n, candidate_dim) of all n `items`."""

    items: pl.DataFrame
    protocol: Protocol
    vectors: Float32
    candidates: Float32
    index: ShardedIndex
    rerank_depth: int

    def find(
        self, rows: Int64, k: int = K, *, nprobe: int = 0, rerank_depth: int = 0, only: RowSelection | None = None
    ) -> tuple[Float32, Int64]:
        """Search for q rows of `items`; return (q, k) scores and row ids. Depths of 0 are those that are published."""
        depth = rerank_depth or self.rerank_depth
        return self.index.search(self.vectors[rows], self.candidates[rows], k, depth, nprobe=nprobe, only=only)


def single_query_ms(find: Callable[[Int64], object], rows: Int64) -> Float64:
    """Call `find` with one row at a time; return the milliseconds of each call, (len(rows),)."""
    elapsed_ms = np.empty(len(rows))
    for i in range(len(rows)):
        started = time.perf_counter()
        find(rows[i : i + 1])
        elapsed_ms[i] = 1e3 * (time.perf_counter() - started)
    return elapsed_ms


def hash_rows(row_ids: Int64, seed: int) -> UInt64:
    """Return a hash of each row id and the seed, (n,), evenly distributed: a row keeps its value in every run.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). It is independent of the hash that assigns rows to shards.
    """
    bits = row_ids.astype(np.uint64) + np.uint64(SPLITMIX64_INCREMENT * (seed + 1) % 2**64)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
