"""Vectors and classes are made of missing pictures only; a picture that cannot be read is refused for all its items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.arrays import Float32, Int32, UInt8
from retrieval_core.artifacts.manifests import Backbone, Catalog, ClassSet, MaskSet, Ref
from retrieval_core.artifacts.parts import (
    N_TOP_CLASSES,
    load_classes,
    load_vectors,
    put_part,
    put_part_files,
    table_bytes,
)
from retrieval_core.artifacts.shards import seal_pictures
from retrieval_core.config import ClassifyConfig, EmbedConfig, IngestConfig
from retrieval_core.embed import shards as module
from retrieval_core.embed.shards import (
    classify_shard,
    embed_shard,
    plan_classes,
    plan_vectors,
    rejected_items,
    seal_view_vectors,
)
from retrieval_core.images import Preprocess
from tests.core.conftest import Shop

CONFIG, INGEST = EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=16, shard_rows=20), IngestConfig()


@pytest.fixture
def shop(new_shop, tmp_path: Path) -> Shop:
    return new_shop(tmp_path)


@pytest.fixture
def backbone(shop: Shop, pixels_backbone: Path) -> Ref:
    def copy(folder: Path) -> None:
        for path in pixels_backbone.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

    dim = len(shop.vectors["item-0-0"])
    parts = put_part_files(shop.store, "backbones/b", copy)
    return Backbone(fingerprint="b", parts=parts, card="pca_pixels", dim=dim, size_px=16).seal(shop.store).ref


def seal_catalog(shop: Shop, items: pl.DataFrame) -> Ref:
    part = put_part(shop.store, "catalogs/c/items.parquet", table_bytes(items), len(items))
    return Catalog(fingerprint="c", parts=(part,)).seal(shop.store).ref


def test_pictures_are_embedded_shard_by_shard_and_once(shop: Shop, backbone: Ref) -> None:
    catalog = seal_catalog(shop, shop.items)
    plan = plan_vectors(shop.store, catalog, backbone, None, "raw", CONFIG, 0.0)
    outcomes = [embed_shard(shop.settings, s, backbone, None, "raw", CONFIG, INGEST, 0.0) for s in plan.split()]
    assert [outcome.n_rows for outcome in outcomes] == [20, 16]
    vectors = seal_view_vectors(shop.store, catalog, plan, backbone, "raw")
    assert (vectors.counts, str(vectors.variant)) == ({"rows": 36}, "raw")
    rows = load_vectors(shop.store, vectors, shop.items["content_id"].to_list())
    expected = np.stack([shop.vectors[item_id] for item_id in shop.items["item_id"]])
    assert np.allclose(rows, expected, atol=1e-4)
    assert plan_vectors(shop.store, catalog, backbone, None, "raw", CONFIG, 0.0).shards == ()
    masks = MaskSet(fingerprint="m", family="f")
    assert plan_vectors(shop.store, catalog, backbone, masks, "masked", CONFIG, 0.0).n_missing == 36


def test_an_unreadable_picture_is_refused_for_every_item_that_shows_it(shop: Shop, backbone: Ref) -> None:
    twin = shop.items.filter(pl.col("item_id") == "item-3-2").with_columns(item_id=pl.lit("item-twin"))
    catalog = seal_catalog(shop, pl.concat([shop.items, twin]))
    shop.picture("item-3-2").unlink()
    plan = plan_vectors(shop.store, catalog, backbone, None, "raw", CONFIG, 0.0)
    outcomes = [embed_shard(shop.settings, s, backbone, None, "raw", CONFIG, INGEST, 0.0) for s in plan.split()]
    assert sum(outcome.n_rows for outcome in outcomes) == 35
    rejects = rejected_items(shop.store, catalog, [reject for outcome in outcomes for reject in outcome.rejects])
    assert [reject.item_id for reject in rejects] == ["item-3-2", "item-twin"]
    assert all(reject.reason and reject.last_seen for reject in rejects)


class FakeClassifier:
    """Says that every picture shows class 7."""

    preprocess, max_rows = Preprocess(size_px=8, crop="squash", interpolation="bilinear"), 4

    def for_worker(self) -> FakeClassifier:
        return self

    def classify(self, pixels: UInt8) -> tuple[Int32, Float32]:
        shape = (len(pixels), N_TOP_CLASSES)
        return np.full(shape, 7, np.int32), np.full(shape, 0.2, np.float32)


def test_pictures_are_classified_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_classifier_engine", lambda settings, classifier: FakeClassifier())
    catalog, classifier = seal_catalog(shop, shop.items), Ref(kind="Classifier", key="classifiers/k")
    config = ClassifyConfig(enabled=True, shard_rows=30)
    plan = plan_classes(shop.store, catalog, classifier, config)
    stored = [classify_shard(shop.settings, shard, classifier, config, INGEST) for shard in plan.split()]
    assert stored == [30, 6]
    sealed = seal_pictures(shop.store, ClassSet, plan.targets[0].family, catalog)
    assert (load_classes(shop.store, sealed, shop.items["content_id"].to_list()) == 7).all()
    assert plan_classes(shop.store, catalog, classifier, config).shards == ()
