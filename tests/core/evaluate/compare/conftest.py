"""A small shop: a catalogue of drawn pictures in a store, and whatever variants a test hangs beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.growing_sets import part_key, seal_vectors, seal_view
from retrieval_core.artifacts.manifests import Backbone, Catalog, ClassSet, MaskSet, Ref, VectorSet, content_id
from retrieval_core.artifacts.parts import (
    N_TOP_CLASSES,
    classes_bytes,
    masks_bytes,
    put_part,
    table_bytes,
    unit_length,
    vectors_bytes,
)
from retrieval_core.config import EvaluateConfig
from retrieval_core.evaluate.compare.config import ComparisonConfig, TableConfig, VariantConfig
from retrieval_core.evaluate.compare.measure import BuiltVariant, ComparisonInputs, ComparisonResults, compare_variants
from retrieval_core.images import thumbnail
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

KINDS = ("dress", "shirt", "shoe", "bag")
COLUMNS = {
    "item_id": pl.String,
    "content_id": pl.String,
    "image_uri": pl.String,
    "status": pl.String,
    "split": pl.String,
    "product_id": pl.String,
    "category": pl.String,
    "labels": pl.List(pl.String),
    "attributes": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
}


class Shop:
    """`n` pictures of four categories, two of each product; every third is held out. `kinds` (n,) int numbers them."""

    def __init__(self, folder: Path, n: int = 120, **blank: Any) -> None:
        self.store: Store = open_store(str(folder / "store"))
        rng = np.random.default_rng(0)
        self.kinds = np.arange(n) // 2 % len(KINDS)
        rows = []
        for i, kind in enumerate(self.kinds):
            data = thumbnail(np.tile(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8), (8, 8, 1)), 48)
            path = folder / f"{i}.jpg"
            path.write_bytes(data)
            row = {
                "item_id": f"item-{i:03}",
                "content_id": content_id(data),
                "image_uri": str(path),
                "status": "ok",
                "split": "query" if i % 3 == 0 else "train",
                "product_id": f"product-{i // 2}",
                "category": KINDS[kind],
                "labels": [KINDS[kind], f"colour-{i % 5}"],
                "attributes": [],
            }
            rows.append(row | blank)
        self.items = pl.DataFrame(rows, schema=COLUMNS)
        part = put_part(self.store, "catalogs/shop/items.parquet", table_bytes(self.items), n)
        self.catalog: Ref = Catalog(fingerprint="shop", parts=(part,)).seal(self.store).ref

    @property
    def content_ids(self) -> list[str]:
        return self.items["content_id"].to_list()

    def vectors(self, noise: float, seed: int = 0) -> np.ndarray:
        """(n, 16) float32 of unit length: the category's own direction under this much noise."""
        rng = np.random.default_rng(seed)
        return unit_length((np.eye(16)[self.kinds] + noise * rng.normal(size=(len(self.kinds), 16))).astype(np.float32))

    def variant(self, name: str, vectors: np.ndarray, ids: list[str] | None = None, **made: Any) -> BuiltVariant:
        """A variant of that name over (n, dim) vectors; `made` holds fields of the variant or of its spec."""
        ids = ids or self.content_ids
        family = name.replace(" ", "-")
        put_part(self.store, part_key(VectorSet.folder, family, "part"), vectors_bytes(ids, vectors), len(ids))
        sealed = seal_vectors(self.store, family, "raw", vectors.shape[1], "shop", ids)
        fields = {key: made.pop(key) for key in list(made) if key in BuiltVariant.model_fields}
        costs = {"ms_per_picture": 10.0, "n_bytes_per_item": 4 * vectors.shape[1]}
        return BuiltVariant(spec=VariantConfig(name=name, **made), vectors=sealed.ref, **(costs | fields))

    def classes(self, classes: np.ndarray) -> Ref:
        """Every picture's likeliest class, (n,), as a class set."""
        all_classes = np.full((len(classes), N_TOP_CLASSES), -1, np.int32)
        all_classes[:, 0] = classes
        data = classes_bytes(self.content_ids, all_classes, np.zeros(all_classes.shape, np.float32))
        put_part(self.store, part_key(ClassSet.folder, "classes", "part"), data, len(classes))
        return seal_view(self.store, ClassSet, "classes", "shop", self.content_ids).ref

    def masks(self, masks: list[np.ndarray], reasons: list[str]) -> Ref:
        data = masks_bytes(self.content_ids, masks, reasons)
        put_part(self.store, part_key(MaskSet.folder, "masks", "part"), data, len(masks))
        return seal_view(self.store, MaskSet, "masks", "shop", self.content_ids).ref

    def backbone(self, name: str, **made: Any) -> Ref:
        """A backbone as a training leaves it."""
        return Backbone(fingerprint=name, card="resnet18", dim=16, size_px=64, **made).seal(self.store).ref

    def compare(self, *variants: BuiltVariant, queries: int = 500, top_classes: int = 1) -> ComparisonResults:
        config = EvaluateConfig(queries=queries)
        return compare_variants(self.store, self.catalog, variants, config, top_classes)

    def inputs(self, *variants: BuiltVariant, **more: Any) -> ComparisonInputs:
        return ComparisonInputs(source="table:items.csv", catalog=self.catalog, variants=variants, **more)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def open_shop(tmp_path: Path):
    """A shop of another size, or whose catalogue leaves something blank."""
    return lambda **told: Shop(tmp_path, **told)


@pytest.fixture
def configured():
    """The config of some variants and of tables given as keywords."""

    def make(variants, *tables, **more) -> ComparisonConfig:
        return ComparisonConfig(
            title="Shop windows",
            variants=tuple(variant.spec for variant in variants),
            tables=tuple(TableConfig(title=f"Table {i}", **table) for i, table in enumerate(tables)),
            **more,
        )

    return make
