"""A small shop: a catalogue of drawn pictures in a store, and variants that a test adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors, seal_view
from retrieval_core.artifacts.manifests import Backbone, Catalog, ClassSet, Fitted, MaskSet, Ref, VectorSet, content_id
from retrieval_core.artifacts.parts import (
    N_TOP_CLASSES,
    classes_bytes,
    masks_bytes,
    put_part,
    table_bytes,
    unit_length,
    vectors_bytes,
)
from retrieval_core.config.stages import ClassifyConfig, EvaluateConfig
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.build import gather_facts
from retrieval_core.evaluate.compare.compose import load_comparison
from retrieval_core.evaluate.compare.config import ComparisonConfig, TableConfig, VariantConfig
from retrieval_core.evaluate.compare.measure import BuiltVariant, ComparisonInputs, ComparisonResults, compare_variants
from retrieval_core.evaluate.compare.protocol import ProtocolConfig
from retrieval_core.evaluate.compare.schema import ComparisonFacts
from retrieval_core.evaluate.compare.tables import build_tables
from retrieval_core.images import thumbnail
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from retrieval_core.train.config import MultilabelTraining, TripletTraining

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
    """`n` pictures of four categories, two of each product, every third held out; `kinds` are (n,) category numbers."""

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
        """(n, 16) float32 of unit length: one direction for each category, with this much noise."""
        rng = np.random.default_rng(seed)
        return unit_length((np.eye(16)[self.kinds] + noise * rng.normal(size=(len(self.kinds), 16))).astype(np.float32))

    def variant(self, name: str, vectors: np.ndarray, ids: list[str] | None = None, **fields: Any) -> BuiltVariant:
        """A variant of this name with (n, dim) vectors; `fields` are of the variant or of its spec."""
        ids = ids or self.content_ids
        family = name.replace(" ", "-")
        put_growing_part(self.store, VectorSet.folder, family, "part", vectors_bytes(ids, vectors), len(ids))
        sealed = seal_vectors(self.store, family, "raw", vectors.shape[1], "shop", ids)
        built = {key: fields.pop(key) for key in list(fields) if key in BuiltVariant.model_fields}
        costs = {"ms_per_picture": 10.0, "n_bytes_per_item": 4 * vectors.shape[1]}
        return BuiltVariant(spec=VariantConfig(name=name, **fields), vectors=sealed.ref, **(costs | built))

    def classes(self, classes: np.ndarray) -> Ref:
        """Every picture's likeliest class, (n,), as a class set."""
        all_classes = np.full((len(classes), N_TOP_CLASSES), -1, np.int32)
        all_classes[:, 0] = classes
        data = classes_bytes(self.content_ids, all_classes, np.zeros(all_classes.shape, np.float32))
        put_growing_part(self.store, ClassSet.folder, "classes", "part", data, len(classes))
        return seal_view(self.store, ClassSet, "classes", "shop", self.content_ids).ref

    def masks(self, masks: list[np.ndarray], reasons: list[str]) -> Ref:
        data = masks_bytes(self.content_ids, masks, reasons)
        put_growing_part(self.store, MaskSet.folder, "masks", "part", data, len(masks))
        return seal_view(self.store, MaskSet, "masks", "shop", self.content_ids).ref

    def backbone(self, name: str, **fields: Any) -> Ref:
        """A trained backbone."""
        return Backbone(fingerprint=name, card="resnet18", dim=16, size_px=64, **fields).seal(self.store).ref

    def compare(
        self,
        *variants: BuiltVariant,
        queries: int = 500,
        top_classes: int = 1,
        metrics: tuple[str, ...] = ("precision@5",),
        **protocol: Any,
    ) -> ComparisonResults:
        config = ComparisonConfig(
            title="Shop",
            variants=(VariantConfig(name="placeholder"),),
            tables=(TableConfig(title="Table", metrics=metrics),),
            evaluate=EvaluateConfig(queries=queries),
            classify=ClassifyConfig(top_classes=top_classes),
            protocol=ProtocolConfig(**protocol),
        )
        return compare_variants(self.store, self.catalog, variants, config)

    def inputs(self, *variants: BuiltVariant, **more: Any) -> ComparisonInputs:
        return ComparisonInputs(source="table:items.csv", catalog=self.catalog, variants=variants, **more)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def open_shop(tmp_path: Path):
    """`open_shop(...)`: a shop of another size, or with other values of some columns."""
    return lambda **told: Shop(tmp_path, **told)


@pytest.fixture
def configured():
    """`configured(variants, *tables)`: the config of these variants, with tables given as mappings."""

    def make(variants, *tables, **more) -> ComparisonConfig:
        return ComparisonConfig(
            title="Shop windows",
            variants=tuple(variant.spec for variant in variants),
            tables=tuple(TableConfig(title=f"Table {i}", **table) for i, table in enumerate(tables)),
            **more,
        )

    return make


TABLES = (
    {
        "metrics": ("map@5", "label_iou@5", "f1_example"),
        "variants": ("raw", "boosted", "sorted", "cropped", "chance"),
        "baseline": "raw",
        "note": "How the variants compare.",
    },
    {"kind": "pairs", "contrast": "boosted", "metrics": ("map@5", "f1_example")},
    {"metrics": ("attribute_map@10", "recall@1")},
)


def history(collapsed: tuple[int, ...]) -> tuple[dict[str, float], ...]:
    return tuple(
        {
            "epoch": float(e),
            "seconds": 1.0,
            "train_loss": 1 / e,
            "val_relevance@5": 0.1 * e,
            "spread": 0.5,
            "margin": 1.0,
        }
        | {"collapsed": float(flag)}
        for e, flag in enumerate(collapsed, start=1)
    )


def make_facts(shop, configured, name: str = "shop") -> ComparisonFacts:
    """The facts of a comparison in which no section is empty."""
    boxes = [np.pad(np.ones((i % 8 + 2, i % 8 + 2), np.bool_), (0, 8 - i % 8)) for i in range(120)]
    cropped = {"background": "crop", "masks": shop.masks(boxes, [""] * 120)}
    labeller = shop.backbone("labeller", metrics={"f1_example": 0.7}, history=history((0, 0)), created="2026-11-17")
    triplets = shop.backbone("triplets", metrics={"val_loss": 0.2}, history=history((0, 1, 1)))
    told = {"mode": "classified", "classifier": "resnet18"}
    variants = [
        shop.variant("raw", shop.vectors(1.0), ms_per_picture=12.5, weights="model:labeller", backbone=labeller),
        shop.variant("boosted", shop.vectors(0.4), weights="model:labeller", boosted=True, backbone=labeller),
        shop.variant("sorted", shop.vectors(1.0), classes=shop.classes(shop.kinds), **told, dim=8),
        shop.variant("cropped", shop.vectors(0.6, 1), weights="model:labeller", **cropped),
        shop.variant("chance", shop.vectors(1e6), weights="model:triplets", ms_per_picture=3.0),
    ]
    config = configured(
        variants,
        *TABLES,
        models={"labeller": MultilabelTraining(), "triplets": TripletTraining()},
        about="What the shop windows taught.",
    )
    fitted = {"labeller": Fitted(ref=labeller, trained=False), "triplets": Fitted(ref=triplets, trained=True)}
    inputs = shop.inputs(*variants, models=fitted, seconds={"embed": 61.0, "total": 70.0})
    facts = gather_facts(shop.store, inputs, shop.compare(*variants), config, name)
    return facts.model_copy(update={"created": "2026-11-21T07:04:49+00:00"})


@pytest.fixture
def full(shop, configured) -> ComparisonFacts:
    return make_facts(shop, configured)


TOML = """
title = "t"
[defaults]
weights = "random:0"
size_px = 96
[training]
max_epochs = 3
[models.tagger]
objective = "multilabel"
background = "masked"
[models.tripled]
objective = "triplet"
weights = "model:tagger"
max_epochs = 2
[models.student]
objective = "distill"
backbone = "mobilenetv3"
teacher_variant = "vit 24"
[[variants]]
name = "plain"
[[variants]]
name = "masked"
background = "masked"
[[variants]]
name = "boosted"
like = "plain"
boosted = true
[[variants]]
name = "vit"
backbone = "vit_b16"
[[variants]]
name = "vit 24"
like = "vit"
dim = 24
[[variants]]
name = "tripled"
weights = "model:tripled"
[[variants]]
name = "student"
weights = "model:student"
[[variants]]
name = "classified"
like = "vit"
mode = "classified"
classifier = "efficientnet_b0"
[[tables]]
title = "all"
metrics = ["label_iou@5", "map@10"]
[[tables]]
title = "boosting"
kind = "pairs"
contrast = "boosted"
metrics = ["map@10"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "compare.toml"
    file.write_text(TOML)
    return file


@pytest.fixture
def assert_refused():
    """Asserts that the TOML file with `old` replaced by `new` is refused, in one line that matches `says`."""

    def check(path: Path, old: str, new: str, says: str) -> None:
        assert old in TOML
        path.write_text(TOML.replace(old, new, 1))
        with pytest.raises(BadConfig, match=says) as raised:
            load_comparison(path, [])
        assert "\n" not in str(raised.value)

    return check


@pytest.fixture
def build(configured):
    """`build(results, *tables)`: the filled-in tables, given as mappings."""
    return lambda results, *tables: build_tables(configured(results.variants, *tables), results)
