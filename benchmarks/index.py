"""The sharded index against one plain faiss index of the same key, and against exact search.

    python -m benchmarks.index [--rows 50000] [--dim 128] [--shards 4] [--rounds 5] [--json FILE]

Each round measures every contender once, in turn, so that a busy machine slows all of them; medians over rounds are
printed. The sharded build also writes the full vectors that its searches rerank with, and plain faiss does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from retrieval_core.config import IndexConfig
from retrieval_core.evaluate.neighbours import exact_topk
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import Recipe, choose_recipe, shard_of

K = 10
N_SINGLE = 100  # queries asked one by one
VIEWS = 5  # pictures of one product

Float32 = npt.NDArray[np.float32]
Search = Callable[[Float32], npt.NDArray[np.int64]]


class Bench(NamedTuple):
    vectors: Float32
    queries: Float32
    row_ids: npt.NDArray[np.int64]
    sample: Float32
    recipe: Recipe
    config: IndexConfig


def main() -> None:
    arguments = _parse_arguments()
    bench = _make_bench(arguments)
    with TemporaryDirectory() as folder:
        result = _measure(bench, Path(folder), arguments.rounds)
    result = {
        "rows": arguments.rows,
        "dim": arguments.dim,
        "shards": arguments.shards,
        "cores": os.cpu_count(),
        **result,
    }
    _print(result, bench.recipe)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def product_like(n_rows: int, dim: int, rng: np.random.Generator) -> Float32:
    """(n_rows, dim) float32, unit length: products on a manifold of 24 factors, a few views of each, and noise."""
    n_products = -(-n_rows // VIEWS)
    products = np.repeat(rng.standard_normal((n_products, 24)), VIEWS, axis=0)[:n_rows]
    views = products + 0.35 * rng.standard_normal(products.shape)
    drawn = views @ rng.standard_normal((24, dim)) + 0.5 * rng.standard_normal((n_rows, dim))
    unit: Float32 = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _make_bench(arguments: argparse.Namespace) -> Bench:
    rng = np.random.default_rng(0)
    drawn: Float32 = rng.permutation(product_like(arguments.rows + arguments.queries, arguments.dim, rng))
    vectors, queries = drawn[: arguments.rows], drawn[arguments.rows :]
    config = IndexConfig(shards=arguments.shards, recipe=arguments.recipe)
    recipe = choose_recipe(len(vectors), arguments.dim, config)
    sample = vectors[rng.choice(len(vectors), recipe.train_rows, replace=False)]
    row_ids = rng.choice(2**62, len(vectors), replace=False).astype(np.int64)
    return Bench(vectors, queries, row_ids, sample, recipe, config)


def _measure(bench: Bench, folder: Path, rounds: int) -> dict[str, Any]:
    builds = {"sharded": lambda: _build_sharded(bench, folder), "plain": lambda: _build_plain(bench, folder)}
    build_s = _interleaved(builds, rounds)
    searches = _open_searches(bench, folder)
    batch_s = _interleaved({name: _batch(search, bench.queries) for name, search in searches.items()}, rounds)
    single_s = _interleaved({name: _one_by_one(search, bench.queries) for name, search in searches.items()}, rounds)
    truth = bench.row_ids[exact_topk(bench.queries, bench.vectors, K)[1]]
    n_single = min(N_SINGLE, len(bench.queries))
    return {
        "key": bench.recipe.key,
        "nprobe": bench.recipe.nprobe,
        "build_s": build_s,
        "batch_ms_per_query": {name: 1e3 * s / len(bench.queries) for name, s in batch_s.items()},
        "single_ms_per_query": {name: 1e3 * s / n_single for name, s in single_s.items()},
        "recall@10": {name: _recall(search(bench.queries), truth) for name, search in searches.items()},
    }


def _build_sharded(bench: Bench, folder: Path) -> None:
    template = train_template(bench.sample, bench.recipe, bench.config.seed)
    shard = shard_of(bench.row_ids, bench.config.shards)
    for number, path in enumerate(_shard_folders(bench, folder)):
        rows = shard == number
        build_shard(template, bench.row_ids[rows], bench.vectors[rows], bench.vectors[rows], path)


def _build_plain(bench: Bench, folder: Path) -> None:
    key = bench.recipe.key if bench.recipe.nprobe else f"IDMap2,{bench.recipe.key}"
    index = faiss.index_factory(bench.vectors.shape[1], key, faiss.METRIC_INNER_PRODUCT)
    if bench.recipe.nprobe:
        faiss.extract_index_ivf(index).cp.seed = bench.config.seed  # the same centroids, so recalls can be compared
    if not index.is_trained:
        index.train(bench.sample)
    index.add_with_ids(bench.vectors, bench.row_ids)
    faiss.write_index(index, str(folder / "plain.faiss"))


def _shard_folders(bench: Bench, folder: Path) -> list[Path]:
    return [folder / f"shard-{number}" for number in range(bench.config.shards)]


def _open_searches(bench: Bench, folder: Path) -> dict[str, Search]:
    """Each contender as queries -> (q, 10) row ids; all but exact read what the builds wrote."""
    dim = bench.vectors.shape[1]
    sharded = ShardedIndex.open(_shard_folders(bench, folder), dim, dim, bench.recipe.nprobe)
    plain = faiss.read_index(str(folder / "plain.faiss"))
    if bench.recipe.nprobe:
        faiss.extract_index_ivf(plain).nprobe = bench.recipe.nprobe
    exact = faiss.IndexFlatIP(dim)  # not exact_topk: a single query should not pay for checking the whole gallery
    exact.add(bench.vectors)
    return {
        "sharded": lambda queries: sharded.search(queries, queries, K, bench.config.rerank_depth)[1],
        "plain": lambda queries: plain.search(queries, K)[1],
        "exact": lambda queries: bench.row_ids[exact.search(queries, K)[1]],
    }


def _batch(search: Search, queries: Float32) -> Callable[[], None]:
    def run() -> None:
        search(queries)

    return run


def _one_by_one(search: Search, queries: Float32) -> Callable[[], None]:
    def run() -> None:
        for row in range(min(N_SINGLE, len(queries))):
            search(queries[row : row + 1])

    return run


def _interleaved(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender; every round runs all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def _recall(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(axis=1).mean())


def _print(result: dict[str, Any], recipe: Recipe) -> None:
    print(f"{result['rows']:,} x {result['dim']} in {result['shards']} shards, {result['cores']} cores: {recipe.key}")
    print(f"  {recipe.why}")
    print(f"{'':22}{'sharded':>10}{'plain':>10}{'exact':>10}{'sharded/plain':>15}{'exact/sharded':>15}")
    for name in ("build_s", "batch_ms_per_query", "single_ms_per_query", "recall@10"):
        row = result[name]
        cells = "".join(f"{row[c]:>10.3f}" if c in row else f"{'':>10}" for c in ("sharded", "plain", "exact"))
        faster = f"{row['exact'] / row['sharded']:>15.2f}" if name.endswith("per_query") else ""
        print(f"{name:22}{cells}{row['sharded'] / row['plain']:>15.2f}{faster}")


if __name__ == "__main__":
    main()
