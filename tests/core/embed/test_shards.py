"""Masks, vectors and classes are made of missing pictures only, each read once; an unreadable one is refused once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.arrays import Float32, Int32, UInt8
from retrieval_core.artifacts.manifests import Backbone, Catalog, ClassSet, Ref
from retrieval_core.artifacts.parts import (
    N_TOP_CLASSES,
    load_classes,
    load_vectors,
    put_part,
    put_part_files,
    table_bytes,
)
from retrieval_core.artifacts.pictures import Picture, read_picture
from retrieval_core.artifacts.shards import seal_pictures
from retrieval_core.config.stages import ClassifyConfig, CropConfig, EmbedConfig, IngestConfig, MaskConfig
from retrieval_core.embed import extract
from retrieval_core.embed import shards as module
from retrieval_core.embed.extract import FoundMask, Masker
from retrieval_core.embed.shards import (
    PictureWork,
    ShardOutcome,
    classify_shard,
    mask_and_embed_shard,
    plan_classes,
    plan_work_on_pictures,
    rejected_items,
    seal_view_vectors,
)
from retrieval_core.images import RGB, Preprocess
from retrieval_core.store.base import Store
from tests.core.conftest import Shop

CONFIG, INGEST = EmbedConfig(backbone="pca_pixels", weights="fit:0", size_px=16, shard_rows=20), IngestConfig()
MASKER = Ref(kind="Segmenter", key="segmenters/s")
WORK = PictureWork(
    masker=None, backbone=None, mask=MaskConfig(shard_rows=20), crop=CropConfig(), embed=CONFIG, ingest=INGEST
)


@pytest.fixture
def shop(new_shop, tmp_path: Path) -> Shop:
    return new_shop(tmp_path)


@pytest.fixture
def backbone(shop: Shop, pixels_backbone: Path) -> Ref:
    return put_backbone(shop, pixels_backbone)


def put_backbone(shop: Shop, pixels_backbone: Path) -> Ref:
    def copy(folder: Path) -> None:
        for path in pixels_backbone.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

    dim = len(shop.vectors["item-0-0"])
    parts = put_part_files(shop.store, "backbones/b", copy)
    return Backbone(fingerprint="b", parts=parts, card="pca_pixels", dim=dim, size_px=16).seal(shop.store).ref


def seal_catalog(shop: Shop, items: pl.DataFrame) -> Ref:
    part = put_part(shop.store, "catalogs/c/items.parquet", table_bytes(items), len(items))
    return Catalog(fingerprint="c", parts=(part,)).seal(shop.store).ref


def work_of(shop: Shop, catalog: Ref, work: PictureWork, find: Masker | None = None) -> list[ShardOutcome]:
    """Make everything that the pictures lack; `find` masks them, and may not be opened without."""

    def open_masker(*_: object) -> Masker:
        assert find, "no mask is missing"
        return find

    plan = plan_work_on_pictures(shop.store, catalog, work)
    return [mask_and_embed_shard(shop.settings, shard, work, open_masker) for shard in plan.split()]


def left_half(image: RGB) -> FoundMask:
    """Find the product in the left half; distrust that for pictures that are darker on the right."""
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    return mask, "too bright" if image[:, image.shape[1] // 2 :].mean() < image.mean() else ""


def parts(store: Store) -> list[str]:
    return sorted(key for key in store.list("") if "/parts/" in key and key.split("/")[0] in ("masks", "vectors"))


def test_pictures_are_embedded_shard_by_shard_and_once(shop: Shop, backbone: Ref) -> None:
    catalog = seal_catalog(shop, shop.items)
    work = WORK.model_copy(update={"backbone": backbone})
    outcomes = work_of(shop, catalog, work)
    assert [outcome.n_embedded for outcome in outcomes] == [{"raw": 20}, {"raw": 16}]
    vectors = seal_view_vectors(shop.store, catalog, backbone, "raw", work.vectors["raw"].family)
    assert (vectors.counts, str(vectors.variant)) == ({"rows": 36}, "raw")
    rows = load_vectors(shop.store, vectors, shop.items["content_id"].to_list())
    expected = np.stack([shop.vectors[item_id] for item_id in shop.items["item_id"]])
    assert np.allclose(rows, expected, atol=1e-4)
    assert work_of(shop, catalog, work) == []


def test_precision_of_the_config_reaches_the_engine_and_names_the_vectors(
    shop: Shop, backbone: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    really = module.open_engine
    monkeypatch.setattr(module, "open_engine", lambda *args: opened.append(args[3]) or really(*args[:3]))
    catalog = seal_catalog(shop, shop.items)
    families = []
    for precision in ("float32", "bfloat16"):
        embed = CONFIG.model_copy(update={"precision": precision})
        work = WORK.model_copy(update={"backbone": backbone, "embed": embed})
        work_of(shop, catalog, work)
        families.append(work.vectors["raw"].family)
    assert opened == ["float32", "bfloat16"]
    assert len(set(families)) == 2, "vectors of another precision are other vectors"


def test_a_picture_is_read_once_for_its_mask_and_all_views(
    shop: Shop, backbone: Ref, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()

    def read(picture: Picture, max_pixels: int) -> RGB:
        reads[picture.content_id] += 1
        return read_picture(picture, max_pixels)

    monkeypatch.setattr(extract, "read_picture", read)
    catalog = seal_catalog(shop, shop.items)
    outcomes = work_of(shop, catalog, WORK.model_copy(update={"masker": MASKER, "backbone": backbone}), left_half)
    assert sum(outcome.n_masked for outcome in outcomes) == 36
    assert [sum(outcome.n_embedded[view] for outcome in outcomes) for view in ("raw", "masked")] == [36, 36]
    assert reads == dict.fromkeys(shop.items["content_id"], 1)


@pytest.mark.parametrize(
    ("background", "first"),
    [("both", {"backbone": None}), ("both", {"masker": None}), ("crop", {"backbone": None})],
    ids=["both after masks", "both after raw", "crop after masks"],
)
def test_what_is_stored_already_changes_no_byte_of_the_rest(
    new_shop, pixels_backbone: Path, background: str, first: dict[str, None], tmp_path: Path
) -> None:
    stored = []
    for name, steps in (("at once", [{}]), ("in steps", [first, {}])):
        (tmp_path / name).mkdir()
        shop = new_shop(tmp_path / name)
        catalog, embed = seal_catalog(shop, shop.items), CONFIG.model_copy(update={"background": background})
        whole = {"masker": MASKER, "backbone": put_backbone(shop, pixels_backbone), "embed": embed}
        for step in steps:
            work_of(shop, catalog, WORK.model_copy(update=whole | step), left_half)
        stored.append(parts(shop.store))
    assert stored[0] == stored[1]
    assert len(stored[0]) == (6 if background == "both" else 4)


def test_stored_masks_are_not_found_again(shop: Shop, backbone: Ref) -> None:
    catalog, work = seal_catalog(shop, shop.items), WORK.model_copy(update={"masker": MASKER, "backbone": backbone})
    masked = work_of(shop, catalog, work.model_copy(update={"backbone": None}), left_half)
    embedded = work_of(shop, catalog, work)
    assert [outcome.n_masked for outcome in (*masked, *embedded)] == [20, 16, 0, 0]
    assert [outcome.n_embedded for outcome in embedded] == [{"raw": n, "masked": n} for n in (20, 16)]


def test_an_unreadable_picture_is_refused_once_for_every_item_that_shows_it(shop: Shop, backbone: Ref) -> None:
    twin = shop.items.filter(pl.col("item_id") == "item-3-2").with_columns(item_id=pl.lit("item-twin"))
    catalog = seal_catalog(shop, pl.concat([shop.items, twin]))
    shop.picture("item-3-2").unlink()
    outcomes = work_of(shop, catalog, WORK.model_copy(update={"masker": MASKER, "backbone": backbone}), left_half)
    assert sum(outcome.n_masked for outcome in outcomes) == 35
    assert [sum(outcome.n_embedded[view] for outcome in outcomes) for view in ("raw", "masked")] == [35, 35]
    refused = [reject for outcome in outcomes for reject in outcome.rejects]
    assert len(refused) == 1
    rejects = rejected_items(shop.store, catalog, refused)
    assert [reject.item_id for reject in rejects] == ["item-3-2", "item-twin"]
    assert all(reject.reason and reject.last_seen for reject in rejects)


def test_an_embedded_picture_whose_mask_was_lost_is_not_refused(shop: Shop, backbone: Ref) -> None:
    catalog, work = seal_catalog(shop, shop.items), WORK.model_copy(update={"masker": MASKER, "backbone": backbone})
    work_of(shop, catalog, work, left_half)
    for key in list(shop.store.list("masks/")):
        shop.store.delete(key)
    shop.picture("item-3-2").unlink()
    outcomes = work_of(shop, catalog, work, left_half)
    assert sum(outcome.n_masked for outcome in outcomes) == 35
    assert not any(outcome.rejects for outcome in outcomes)


class FakeClassifier:
    """Says that every picture shows class 7."""

    preprocess, max_rows = Preprocess(size_px=8, crop="squash", interpolation="bilinear"), 4
    is_device = False

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
