"""A large release opened by a fresh process: seconds to its first answer, and the memory it takes.

    python -m benchmarks.release_opening [--rows 1000000] [--dim 128] [--opens 3] [--queries 200] [--json FILE]

The release is made of drawn vectors, without pictures; its queries are vectors and item ids. Every opening is a process
of its own. The files were read before, as on a machine that served the previous release.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring.process_usage import resident_mb

K = 10
OPEN = "--open"  # hidden: run by the fresh process


def main() -> None:
    if OPEN in sys.argv:
        print(json.dumps(_open(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.release_opening", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--opens", type=int, default=3, help="processes that open it, one after the other")
    parser.add_argument("--queries", type=int, default=200, help="later queries of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        sizes = _make_release(Path(name), arguments.rows, arguments.dim)
        command = [sys.executable, "-m", "benchmarks.release_opening", OPEN, name, str(arguments.queries)]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.opens)]
    figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    result = {"rows": arguments.rows, "dim": arguments.dim, **sizes, **figures}
    _print(result, len(runs))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _open(folder: Path, n_queries: int) -> dict[str, float]:
    """Open the release in this process and return the figures."""
    start = time.perf_counter()
    import faiss
    import numpy as np

    from retrieval_core.search.query import Query
    from retrieval_core.search.release import open_release

    imported = time.perf_counter()
    before = resident_mb()
    queries = np.load(folder / "queries.npy")
    items = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    started = time.perf_counter()
    release = open_release(str(folder / "store"))
    opened = time.perf_counter()
    hits = release.search_vector(queries[0], k=K)
    answered = time.perf_counter()
    if len(hits) != K:
        raise RuntimeError(f"the first answer has {len(hits)} hits, expected {K}")
    first = resident_mb()
    vector_ms = [_ms(lambda row=row: release.search_vector(row, k=K)) for row in queries[1 : n_queries + 1]]
    item_ms = [_ms(lambda item=item: release.search(Query(item_ids=(item,)), k=K)) for item in items[:n_queries]]
    later = resident_mb()
    return {
        "import_s": imported - start,
        "open_s": opened - started,
        "first_answer_s": answered - started,
        "vector_ms": statistics.median(vector_ms),
        "item_ms": statistics.median(item_ms),
        "imports_mb": before["all"],
        "first_own_mb": first["own"] - before["own"],
        "first_all_mb": first["all"] - before["all"],
        "later_own_mb": later["own"] - before["own"],
        "later_all_mb": later["all"] - before["all"],
        "later_index_mb": later.get("index.faiss", 0.0),
        "later_vectors_mb": later.get("vectors.arrow", 0.0),
        "threads": faiss.omp_get_max_threads(),
    }


def _ms(run: Any) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def _make_release(folder: Path, n_rows: int, dim: int) -> dict[str, float]:
    """Publish a release of `n_rows` items in `folder`/store and write its queries beside it; return its sizes."""
    import numpy as np

    from benchmarks.measuring.drawn_release import publish_drawn
    from retrieval_core.artifacts.manifests import Backbone
    from retrieval_core.store.uris import open_store

    store = open_store(str(folder / "store"))
    backbone = Backbone(fingerprint="none", card="resnet18", dim=dim, size_px=224).seal(store).ref
    drawn = publish_drawn(store, folder, n_rows, dim, backbone)
    np.save(folder / "queries.npy", drawn.queries)
    (folder / "queries.json").write_text(json.dumps(drawn.item_ids), encoding="utf-8")
    index = drawn.index_set
    by_file = {"index.faiss": 0.0, "vectors.arrow": 0.0}
    for shard_part in index.parts:
        by_file[shard_part.key.rsplit("/", 1)[-1]] += shard_part.n_bytes / 1e6
    return {
        "index_mb": by_file["index.faiss"],
        "vectors_mb": by_file["vectors.arrow"],
        "items_mb": drawn.n_item_bytes / 1e6,
        "promised_mb": index.config["memory_bytes"] / 1e6,
        "shards": len(index.parts) // 2,
        "nprobe": index.nprobe,
        "rerank_depth": index.rerank_depth,
    }


def _print(result: dict[str, Any], n_opens: int) -> None:
    print(
        f"{result['rows']:,} x {result['dim']} in {result['shards']} shards, {result['threads']} threads, "
        f"median of {n_opens} fresh processes"
    )
    print(
        f"on disk: index {result['index_mb']:,.0f} MB, full vectors {result['vectors_mb']:,.0f} MB, "
        f"items {result['items_mb']:,.0f} MB; nprobe {result['nprobe']}, rerank depth {result['rerank_depth']}"
    )
    print(f"imports {result['import_s']:.2f} s, {result['imports_mb']:,.0f} MB")
    print(f"open {result['open_s']:.2f} s, first answer {result['first_answer_s']:.2f} s after the imports (aim: 1)")
    print(f"a later query: {result['vector_ms']:.1f} ms by vector, {result['item_ms']:.1f} ms by item id")
    print(f"{'beyond the imports, MB':24}{'own memory':>12}{'with mapped':>12}")
    for name in ("first", "later"):
        print(f"  {name:22}{result[f'{name}_own_mb']:>12,.0f}{result[f'{name}_all_mb']:>12,.0f}")
    print(
        f"of the mapped, at the end: index {result['later_index_mb']:,.0f} MB, "
        f"full vectors {result['later_vectors_mb']:,.0f} MB; the recipe promised {result['promised_mb']:,.0f} MB"
    )


if __name__ == "__main__":
    main()
