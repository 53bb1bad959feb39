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
from typing import TYPE_CHECKING, Any

from benchmarks.measuring.process_usage import resident_mb

if TYPE_CHECKING:
    import polars as pl

    from retrieval_core.artifacts.manifests import IndexSet, Part
    from retrieval_core.store.base import Store

K = 10
BATCH_ROWS = 100_000  # items written at a time
CATEGORIES = ("dress", "coat", "shirt", "shoe", "bag", "hat", "skirt", "scarf")
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

    from benchmarks.synthetic_vectors import draw
    from retrieval_core.artifacts import releases
    from retrieval_core.artifacts.manifests import Backbone, Catalog, Ref, Release
    from retrieval_core.artifacts.parts import put_part, table_bytes
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.store.uris import open_store

    all_vectors = draw(n_rows + 1_000, dim)
    vectors, queries = all_vectors[:n_rows], all_vectors[n_rows:]
    store = open_store(str(folder / "store"))
    items = _items(n_rows)
    part = put_part(store, f"{Catalog.folder}/bench/items.parquet", table_bytes(items), n_rows)
    catalog = Catalog(fingerprint="bench", parts=(part,)).seal(store)
    index = _seal_index(store, folder, items, vectors)
    nowhere = Ref(kind="Report", key="reports/none")
    Release(
        fingerprint="bench",
        config=NightlyConfig().model_dump(mode="json"),
        catalog=catalog.ref,
        backbone=Backbone(fingerprint="none", card="resnet18", dim=dim, size_px=224).seal(store).ref,
        vectors=nowhere,
        index=index.ref,
        report=nowhere,
        variant="raw",
        gate="published",
        counts={"rows": n_rows},
    ).seal(store)
    releases.point_alias(store, releases.PRODUCTION, "bench")
    np.save(folder / "queries.npy", queries)
    item_ids = items["item_id"].sample(len(queries), seed=0).to_list()
    (folder / "queries.json").write_text(json.dumps(item_ids), encoding="utf-8")
    by_file = {"index.faiss": 0.0, "vectors.arrow": 0.0}
    for shard_part in index.parts:
        by_file[shard_part.key.rsplit("/", 1)[-1]] += shard_part.n_bytes / 1e6
    return {
        "index_mb": by_file["index.faiss"],
        "vectors_mb": by_file["vectors.arrow"],
        "items_mb": part.n_bytes / 1e6,
        "promised_mb": index.config["memory_bytes"] / 1e6,
        "shards": len(index.parts) // 2,
        "nprobe": index.nprobe,
        "rerank_depth": index.rerank_depth,
    }


def _items(n_rows: int) -> pl.DataFrame:
    """Return the rows of a catalogue: five views of each product, with a category, two labels and two attributes."""
    import polars as pl

    from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id

    def row(number: int) -> dict[str, Any]:
        item_id, product = f"sku-{number:07}", number // 5
        return {
            "item_id": item_id,
            "image_uri": f"s3://shop/pictures/{item_id}.jpg",
            "product_id": f"product-{product}",
            "category": CATEGORIES[product % len(CATEGORIES)],
            "split": "train",
            "labels": ["new" if product % 3 else "old", f"season-{product % 4}"],
            "attributes": [{"name": "colour", "value": "red"}, {"name": "year", "value": str(2000 + product % 20)}],
            "row_id": row_id(item_id),
            "content_id": f"{number:032x}",
            "status": "ok",
        }

    batches = (range(start, min(start + BATCH_ROWS, n_rows)) for start in range(0, n_rows, BATCH_ROWS))
    return pl.concat([pl.DataFrame([row(number) for number in batch], schema=CATALOG_SCHEMA) for batch in batches])


def _seal_index(store: Store, folder: Path, items: pl.DataFrame, vectors: Any) -> IndexSet:
    """Build, tune and seal the index of these rows as a nightly run does."""
    from benchmarks.synthetic_vectors import draw_tune_queries, train_positions
    from retrieval_core.artifacts.manifests import IndexSet
    from retrieval_core.config.stages import IndexConfig
    from retrieval_core.index.build import build_shard, train_template
    from retrieval_core.index.lookup import ShardedIndex
    from retrieval_core.index.recipes import choose_recipe, choose_shards, shard_of
    from retrieval_core.index.tune import tune_search

    config, (n_rows, dim) = IndexConfig(), vectors.shape
    recipe = choose_recipe(n_rows, dim, dim, config)
    template = train_template(vectors[train_positions(n_rows, recipe, config.seed)], recipe, config.seed)
    row_ids = items["row_id"].to_numpy()
    n_shards = choose_shards(n_rows, config)
    shard = shard_of(row_ids, n_shards)
    folders = [folder / "built" / f"{number}" for number in range(n_shards)]
    for number, path in enumerate(folders):
        rows = shard == number
        build_shard(template, row_ids[rows], vectors[rows], vectors[rows], path)
    index = ShardedIndex.open(folders, dim, dim, recipe.nprobe)
    tuned = tune_search(index, draw_tune_queries(index, row_ids, config), config)
    return IndexSet(
        fingerprint="bench",
        config=recipe.model_dump(),
        parts=tuple(part for path in folders for part in _move_to_store(store, path)),
        counts={"rows": n_rows, "shards": n_shards},
        recipe=recipe.key,
        dim=dim,
        candidate_dim=dim,
        nprobe=tuned.nprobe,
        rerank_depth=tuned.rerank_depth,
        family="bench",
        template="bench",
    ).seal(store)


def _move_to_store(store: Store, folder: Path) -> tuple[Part, ...]:
    """Move both files of a shard into the store and return their parts."""
    from retrieval_core.artifacts.manifests import IndexSet
    from retrieval_core.artifacts.parts import put_parts

    files = {name: folder / name for name in ("index.faiss", "vectors.arrow")}
    parts = put_parts(store, f"{IndexSet.folder}/shards/{folder.name}", files)
    for path in files.values():
        path.unlink()
    return parts


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
