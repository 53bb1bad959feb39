"""A catalogue of two categories and vectors that tell them apart, without pictures."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.artifacts.catalog_rows import CATALOG_SCHEMA, row_id
from retrieval_core.artifacts.growing_sets import Transform, put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import Catalog, Ref, VectorSet
from retrieval_core.artifacts.parts import put_part, table_bytes, unit_length, vectors_bytes
from retrieval_core.artifacts.shards import DerivedSet, derive_shard, plan_derivation, seal_derived
from retrieval_core.artifacts.variants import Variant
from retrieval_core.store.base import Store

FAMILY = "embedded"


def items(numbers: range) -> pl.DataFrame:
    """Return items `i0`, `i1` … with pictures `c0`, `c1` …, every fifth held out, the odd ones dresses."""
    rows = [
        {
            "item_id": f"i{n}",
            "image_uri": f"/pictures/{n}.jpg",
            "category": "dress" if n % 2 else "coat",
            "split": "query" if n % 5 == 0 else "train",
            "labels": [],
            "attributes": [],
            "row_id": row_id(f"i{n}"),
            "content_id": f"c{n}",
            "status": "ok",
        }
        for n in numbers
    ]
    return pl.DataFrame(rows, schema=CATALOG_SCHEMA)


def seal_catalog(store: Store, numbers: range) -> Ref:
    """Seal the catalogue of these items."""
    name = f"{numbers.start}-{numbers.stop}"
    part = put_part(store, f"{Catalog.folder}/{name}/items.parquet", table_bytes(items(numbers)), len(numbers))
    return Catalog(fingerprint=name, parts=(part,), counts={"rows": len(numbers)}).seal(store).ref


def seal_set(store: Store, catalog: Ref, numbers: range, dim: int = 8) -> VectorSet:
    """Seal the vectors of these items: random, but for a first component that tells the category."""
    for n in numbers:
        name = f"p{n:04d}"
        if not any(store.list(f"{VectorSet.folder}/{FAMILY}/parts/{name}-")):
            vector = np.random.default_rng(n).normal(size=(1, dim)).astype(np.float32)
            vector[0, 0] = 4 if n % 2 else -4
            data = vectors_bytes([f"c{n}"], unit_length(vector))
            put_growing_part(store, VectorSet.folder, FAMILY, name, data, 1)
    return seal_vectors(store, FAMILY, Variant(), dim, catalog.name, [f"c{n}" for n in numbers])


def derive(store: Store, source: VectorSet, wanted: DerivedSet, transform: Transform) -> VectorSet:
    """Derive one set from another, in shards as a run does."""
    plan = plan_derivation(store, source, [wanted])
    for shard in plan.shards:
        derive_shard(store, shard, lambda _: transform)
    return seal_derived(store, plan)[0]
