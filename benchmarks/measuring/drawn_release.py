"""A published release of drawn vectors, without pictures, as large as is wanted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks.synthetic_vectors import draw, draw_tune_queries, train_positions
from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id
from retrieval_core.artifacts.manifests import Catalog, IndexSet, Part, Reducer, Ref, Release
from retrieval_core.artifacts.parts import put_part, put_parts, table_bytes
from retrieval_core.config.stages import IndexConfig, NightlyConfig, ReduceConfig
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import choose_recipe, choose_shards, shard_of
from retrieval_core.index.tune import choose_candidate_dim, tune_search
from retrieval_core.reduce.pca import PCA_FILE, Pca, apply_pca, fit_pca, save_pca
from retrieval_core.store.base import Store

N_QUERIES = 1_000
BATCH_ROWS = 100_000  # items written at a time
SAMPLE_ROWS = 20_000  # to fit the reducer and to choose its dimension
REDUCED_DIMS = ReduceConfig().dims
CATEGORIES = ("dress", "coat", "shirt", "shoe", "bag", "hat", "skirt", "scarf")


class DrawnRelease(NamedTuple):
    """What was published, and what to ask it."""

    release: Release
    index_set: IndexSet
    n_item_bytes: int
    queries: Float32  # (N_QUERIES, dim), of products that are not in it
    item_ids: list[str]  # of N_QUERIES items


def publish_drawn(store: Store, folder: Path, n_rows: int, dim: int, backbone: Ref) -> DrawnRelease:
    """Publish a release of `n_rows` drawn items; the shards are built in `folder`."""
    drawn = draw(n_rows + N_QUERIES, dim)
    items = _items(n_rows)
    part = put_part(store, f"{Catalog.folder}/bench/items.parquet", table_bytes(items), n_rows)
    pca = fit_pca([drawn[: min(n_rows, SAMPLE_ROWS)]], max(REDUCED_DIMS))
    index = _seal_index(store, folder, items, drawn[:n_rows], pca)
    save_pca(pca, folder / PCA_FILE)
    reducer_parts = put_parts(store, f"{Reducer.folder}/bench", {PCA_FILE: folder / PCA_FILE})
    nowhere = Ref(kind="Report", key="reports/none")
    release = Release(
        fingerprint="bench",
        config=NightlyConfig().model_dump(mode="json"),
        catalog=Catalog(fingerprint="bench", parts=(part,)).seal(store).ref,
        backbone=backbone,
        vectors=nowhere,
        reducer=Reducer(fingerprint="bench", parts=reducer_parts, input_dim=dim, dims=REDUCED_DIMS).seal(store).ref,
        index=index.ref,
        report=nowhere,
        variant="raw",
        gate="published",
        counts={"rows": n_rows},
    ).seal(store)
    releases.point_alias(store, releases.PRODUCTION, release.fingerprint)
    item_ids = items["item_id"].sample(N_QUERIES, seed=0, with_replacement=n_rows < N_QUERIES).to_list()
    return DrawnRelease(release, index, part.n_bytes, drawn[n_rows:], item_ids)


def _items(n_rows: int) -> pl.DataFrame:
    """Return the rows of a catalogue: five views of each product, with a category, two labels and two attributes."""

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


def _seal_index(store: Store, folder: Path, items: pl.DataFrame, vectors: Float32, pca: Pca) -> IndexSet:
    """Build, tune and seal the index of these rows as a nightly run does."""
    config, (n_rows, dim) = IndexConfig(), vectors.shape
    sample = vectors[:SAMPLE_ROWS]
    by_dim = {dim: sample} | {narrow: apply_pca(pca, sample, narrow) for narrow in REDUCED_DIMS if narrow < dim}
    candidate_dim = choose_candidate_dim(by_dim, np.arange(min(config.tune_queries, len(sample))), n_rows, config)
    reduced = partial(apply_pca, pca, dim=candidate_dim) if candidate_dim < dim else lambda full: full
    recipe = choose_recipe(n_rows, candidate_dim, dim, config)
    template = train_template(reduced(vectors[train_positions(n_rows, recipe, config.seed)]), recipe, config.seed)
    row_ids = items["row_id"].to_numpy()
    n_shards = choose_shards(n_rows, config)
    shard = shard_of(row_ids, n_shards)
    folders = [folder / "built" / f"{number}" for number in range(n_shards)]
    for number, path in enumerate(folders):
        rows = shard == number
        build_shard(template, row_ids[rows], reduced(vectors[rows]), vectors[rows], path)
    index = ShardedIndex.open(folders, dim, candidate_dim, recipe.nprobe)
    tuned = tune_search(index, draw_tune_queries(index, row_ids, config, reduced), config)
    return IndexSet(
        fingerprint="bench",
        config=recipe.model_dump(),
        parts=tuple(part for path in folders for part in _move_to_store(store, path)),
        counts={"rows": n_rows, "shards": n_shards},
        recipe=recipe.key,
        dim=dim,
        candidate_dim=candidate_dim,
        nprobe=tuned.nprobe,
        rerank_depth=tuned.rerank_depth,
        family="bench",
        template="bench",
    ).seal(store)


def _move_to_store(store: Store, folder: Path) -> tuple[Part, ...]:
    """Move both files of a shard into the store and return their parts."""
    files = {name: folder / name for name in ("index.faiss", "vectors.arrow")}
    parts = put_parts(store, f"{IndexSet.folder}/shards/{folder.name}", files)
    for path in files.values():
        path.unlink()
    return parts
