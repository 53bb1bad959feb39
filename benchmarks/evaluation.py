"""Exact evaluation in a fresh process: wall seconds, CPU seconds and peak memory, step by step.

    python -m benchmarks.evaluation [--queries 14218] [--gallery 12612] [--dim 512] [--kind products …] [--json FILE]

The sizes are those of DeepFashion In-Shop. Vectors and rows are drawn. A kind is what the rows have: products,
categories, labels (six an item, of `--labels` names), attributes, or all of them; each runs in a process of its own. On
a machine with other load, compare the CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

KINDS = ("products", "categories", "labels", "attributes", "all")
K = 10
BLOCK_QUERIES = 1_024
N_CATEGORIES, LABELS_AN_ITEM, PICTURES_A_PRODUCT = 23, 6, 6
EVALUATE = "--evaluate"  # hidden: run by the fresh process

T = TypeVar("T")


def main() -> None:
    if EVALUATE in sys.argv:
        kind, *sizes = sys.argv[2:]
        print(json.dumps(_evaluate(kind, *map(int, sizes))))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--queries", type=int, default=14_218)
    parser.add_argument("--gallery", type=int, default=12_612)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--labels", type=int, default=200, help="number of different labels in the catalogue")
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=KINDS, help="what the rows of the catalogue have")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    sizes = [str(n) for n in (arguments.queries, arguments.gallery, arguments.dim, arguments.labels)]
    command = [sys.executable, "-m", "benchmarks.evaluation", EVALUATE]
    results = [json.loads(subprocess.check_output([*command, kind, *sizes])) for kind in arguments.kind]
    for result in results:
        _print(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


class _Clock:
    """Wall and CPU seconds of named steps."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, float]] = {}

    def time(self, name: str, run: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        self.steps[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        return result


def _evaluate(kind: str, n_queries: int, n_gallery: int, dim: int, n_labels: int) -> dict[str, Any]:
    """Evaluate in this process and return the figures."""
    import numpy as np

    from retrieval_core.config.stages import GateConfig
    from retrieval_core.evaluate.gate.paired_comparison import compare
    from retrieval_core.metrics.exact_knn import exact_topk
    from retrieval_core.metrics.relevance import encode, find_truth
    from retrieval_core.metrics.retrieval import random_baseline, score
    from retrieval_core.metrics.significance import difference_intervals, sum_clusters

    items, vectors = _draw(kind, n_queries + n_gallery, dim, n_labels)
    queries, gallery = vectors[:n_queries], vectors[n_queries:]
    drawn_mb, clock = _peak_mb(), _Clock()
    relevance = clock.time("encode", lambda: encode(items))
    query_rows, gallery_rows = np.arange(n_queries), np.arange(n_queries, len(items))
    truth = clock.time("truth", lambda: find_truth(relevance.take(query_rows), relevance.take(gallery_rows)))
    _, positions = clock.time("search", lambda: exact_topk(queries, gallery, K))
    scores = clock.time("score", lambda: score(positions, truth))
    clock.time("random", lambda: random_baseline(truth))
    values = scores.per_query.fill_null(0.0).to_numpy()
    clusters = np.arange(n_queries) // PICTURES_A_PRODUCT
    clock.time("intervals", lambda: difference_intervals(sum_clusters(values, clusters)))
    evaluated_mb = _peak_mb()
    noisy = queries + np.random.default_rng(1).normal(scale=0.02, size=queries.shape).astype(np.float32)
    names = items["item_id"][:n_queries]
    before = score(exact_topk(noisy, gallery, K)[1], truth).per_query.with_columns(item_id=names)
    candidate = scores.per_query.with_columns(item_id=names)
    changes = clock.time("gate", lambda: compare(candidate, before, GateConfig()))
    if len(changes.overall) != len(scores.per_query.columns):
        raise RuntimeError(f"{len(changes.overall)} metrics compared, expected {len(scores.per_query.columns)}")
    clock.time("bare product", lambda: _multiply(queries, gallery))
    return {
        "kind": kind,
        "queries": n_queries,
        "gallery": n_gallery,
        "dim": dim,
        "n_metrics": len(scores.per_query.columns),
        "wall_s": {name: wall for name, (wall, _) in clock.steps.items()},
        "cpu_s": {name: cpu for name, (_, cpu) in clock.steps.items()},
        "drawn_mb": drawn_mb,
        "peak_mb": evaluated_mb,
    }


def _draw(kind: str, n: int, dim: int, n_labels: int) -> tuple[pl.DataFrame, np.ndarray[Any, Any]]:
    """Return n items with the columns of `kind`, and (n, dim) unit vectors, similar within a product."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    n_products = n // PICTURES_A_PRODUCT + 1
    product = rng.integers(0, n_products, n)
    vectors = rng.standard_normal((n_products, dim), np.float32)[product]
    vectors += rng.standard_normal((n, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    product_labels = [np.unique(labels) for labels in rng.integers(0, n_labels, (n_products, LABELS_AN_ITEM))]
    empty: list[list[Any]] = [[]] * n
    has = {name: kind in (name, "all") for name in KINDS}
    labels = [[f"label {label}" for label in product_labels[p]] for p in product] if has["labels"] else empty
    attributes = [
        [{"name": "colour", "value": str(p % 12)}, {"name": "cut", "value": str(p % 7)}] for p in product
    ] if has["attributes"] else empty  # fmt: skip
    pairs = pl.List(pl.Struct({"name": pl.String, "value": pl.String}))
    columns = [
        pl.Series("item_id", [f"item {number}" for number in range(n)], pl.String),
        pl.Series("product_id", [f"p{p}" if has["products"] else None for p in product], pl.String),
        pl.Series("category", [f"c{p % N_CATEGORIES}" if has["categories"] else None for p in product], pl.String),
        pl.Series("labels", labels, pl.List(pl.String)),
        pl.Series("attributes", attributes, pairs),
    ]
    return pl.DataFrame(columns), vectors


def _multiply(queries: np.ndarray[Any, Any], gallery: np.ndarray[Any, Any]) -> None:
    """Compute all inner products, which every exact search needs."""
    for start in range(0, len(queries), BLOCK_QUERIES):
        queries[start : start + BLOCK_QUERIES] @ gallery.T


def _peak_mb() -> float:
    """Return the peak memory of this process so far, in 10^6 bytes."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * 1024 / 1e6


def _print(result: dict[str, Any]) -> None:
    steps = [name for name in result["cpu_s"] if name not in ("gate", "bare product")]
    wall, cpu = (sum(result[unit][name] for name in steps) for unit in ("wall_s", "cpu_s"))
    size = f"{result['queries']:,} x {result['gallery']:,} x {result['dim']}"
    print(f"{result['kind']}: {size}, {result['n_metrics']} metrics")
    for name in result["cpu_s"]:
        print(f"  {name:13} {result['wall_s'][name]:7.2f} s {result['cpu_s'][name]:7.2f} s of CPU")
    print(f"  evaluation    {wall:7.2f} s {cpu:7.2f} s of CPU, without gate and bare product")
    print(f"  peak memory   {result['peak_mb']:7.0f} MB, of which {result['drawn_mb']:.0f} MB before it began")


if __name__ == "__main__":
    main()
