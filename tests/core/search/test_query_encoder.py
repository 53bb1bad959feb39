"""Queries are encoded as the release encoded its items; a release without a model that its queries need is refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_core.artifacts.manifests import Backbone, Release
from retrieval_core.artifacts.variants import parse_variant
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt
from retrieval_core.head.apply import WEIGHTS_FILE, boost, load_head
from retrieval_core.images import RGB, decode
from retrieval_core.search import query_encoder
from retrieval_core.search.query_encoder import QueryEncoder
from tests.core.sealed_models import MASK_PX, seal_head, seal_segmenter

PRODUCT = slice(16, 48)  # rows and columns of the bright square in `bright_square`
MARGIN_PX = 8

NewEncoder = Callable[..., QueryEncoder]


@pytest.fixture(scope="module")
def shop(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return new_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def release(shop: Any) -> Release:
    """A release of raw pictures that lists a segmenter and a head; it knows classes, but has no classifier."""
    raw = shop.publish(classes=True)
    defaults = NightlyConfig()
    config = {
        **raw.config,
        "mask": defaults.mask.model_copy(update={"size_px": MASK_PX}).model_dump(mode="json"),
        "crop": defaults.crop.model_copy(update={"margin": MARGIN_PX / 32}).model_dump(mode="json"),
    }
    models = {"segmenter": seal_segmenter(shop).ref, "head": seal_head(shop).ref}
    return raw.model_copy(update={"config": config, **models})


@pytest.fixture
def new_encoder(shop: Any, release: Release) -> NewEncoder:
    """`new_encoder(variant, **fields)` returns the encoder of the release with this variant and these fields."""

    def new(variant: str = "raw", **fields: object) -> QueryEncoder:
        changed = release.model_copy(update={"variant": parse_variant(variant), **fields})
        return QueryEncoder(shop.store, changed, shop.settings)

    return new


def bright_square() -> RGB:
    """Return a dark picture, 64 by 64, with a bright square in its middle, which is the product."""
    image = np.random.default_rng(0).integers(1, 60, (64, 64, 3), dtype=np.uint8)
    image[PRODUCT, PRODUCT] += 190
    return image


def test_the_vector_of_a_picture_equals_the_stored_vector_of_that_picture(shop: Any, new_encoder: NewEncoder) -> None:
    encoder = new_encoder()
    for item_id in ("item-0-0", "item-5-1", "item-11-2"):
        vector = encoder.embed_picture(decode(shop.picture(item_id).read_bytes()))
        assert vector.dtype == np.float32
        assert vector == pytest.approx(shop.vectors[item_id], abs=1e-6)


@pytest.mark.parametrize("variant", ["raw", "boosted"])
def test_a_release_of_raw_pictures_shows_them_raw_even_if_it_lists_a_segmenter(
    new_encoder: NewEncoder, variant: str
) -> None:
    image = bright_square()
    assert np.array_equal(new_encoder(variant).apply_view(image), image)


def test_a_release_of_masked_pictures_blackens_the_background(new_encoder: NewEncoder) -> None:
    image = bright_square()
    view = new_encoder("masked").apply_view(image)
    assert np.array_equal(view[PRODUCT, PRODUCT], image[PRODUCT, PRODUCT])
    assert view.any(axis=-1).sum() == 32 * 32


def test_a_release_of_crops_keeps_the_product_and_the_margin_of_its_config(new_encoder: NewEncoder) -> None:
    image = bright_square()
    around = slice(PRODUCT.start - MARGIN_PX, PRODUCT.stop + MARGIN_PX)
    assert np.array_equal(new_encoder("crop").apply_view(image), image[around, around])


@pytest.mark.parametrize("variant", ["raw", "masked", "crop"])
def test_the_box_around_the_product_is_that_of_a_crop_in_every_release_with_a_segmenter(
    new_encoder: NewEncoder, variant: str
) -> None:
    low, high = (PRODUCT.start - MARGIN_PX) / 64, (PRODUCT.stop + MARGIN_PX) / 64
    encoder = new_encoder(variant)
    assert encoder.product_box(bright_square()) == pytest.approx((low, low, high, high), abs=1 / MASK_PX)
    assert encoder.product_box(np.full((64, 64, 3), 40, np.uint8)) is None, "no mask is trusted"
    assert new_encoder(variant, segmenter=None).product_box(bright_square()) is None


@pytest.mark.parametrize("variant", ["masked", "crop"])
@pytest.mark.parametrize("product", [slice(30, 34), slice(1, 64)], ids=["too small", "too large"])
def test_a_picture_whose_mask_is_not_trusted_is_shown_raw(
    new_encoder: NewEncoder, variant: str, product: slice
) -> None:
    image = np.full((64, 64, 3), 40, np.uint8)
    image[product, product] = 250
    assert np.array_equal(new_encoder(variant).apply_view(image), image)


@pytest.mark.parametrize("variant", ["masked", "crop"])
def test_a_picture_is_embedded_in_the_view_of_the_release_unless_it_is_wanted_whole(
    new_encoder: NewEncoder, variant: str
) -> None:
    raw, encoder, image = new_encoder(), new_encoder(variant), bright_square()
    expected = raw.embed_picture(encoder.apply_view(image))
    assert np.array_equal(encoder.embed_picture(image), expected)
    assert not np.allclose(raw.embed_picture(image), expected, atol=1e-2)
    assert np.array_equal(encoder.embed_picture(image, whole=True), raw.embed_picture(image))


def test_a_boosted_release_sends_the_vector_through_its_head(shop: Any, new_encoder: NewEncoder) -> None:
    weights, image = load_head(shop.folder / WEIGHTS_FILE), bright_square()
    expected = boost(weights, new_encoder().embed_picture(image)[None])[0]
    assert new_encoder("boosted").embed_picture(image) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("variant", "role"),
    [("boosted", "head"), ("masked_boosted", "head"), ("masked", "segmenter"), ("crop", "segmenter")],
)
def test_a_release_without_a_model_that_its_variant_needs_is_refused_by_name(
    new_encoder: NewEncoder, variant: str, role: str
) -> None:
    with pytest.raises(ShardCorrupt, match=rf"^the release names no {role}, but its variant needs one; run `vitrine"):
        new_encoder(variant, **{role: None}).embed_picture(bright_square())


def test_a_release_that_knows_classes_but_names_no_classifier_is_refused(new_encoder: NewEncoder) -> None:
    for encode in (QueryEncoder.prepare, lambda encoder: encoder.classify(bright_square())):
        with pytest.raises(ShardCorrupt, match="the release names no classifier"):
            encode(new_encoder())


def test_classes_are_refused_with_advice_where_the_release_knows_none(new_encoder: NewEncoder) -> None:
    with pytest.raises(BadConfig, match=r"^release r1 knows no classes .*publish with --set classify\.enabled=true$"):
        new_encoder(classes=None).classify(bright_square())


def test_text_is_refused_with_advice_by_a_backbone_that_reads_none(new_encoder: NewEncoder) -> None:
    with pytest.raises(BadConfig, match=r"^release r1 was embedded with pca_pixels, which reads no text; search by pi"):
        new_encoder().embed_text("a red dress")


def test_text_is_boosted_like_a_picture_by_a_backbone_that_reads_it(
    shop: Any, release: Release, new_encoder: NewEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_text = Backbone.open(shop.store, release.backbone).model_copy(update={"fingerprint": "text", "has_text": True})
    vector = shop.vectors["item-1-0"]
    monkeypatch.setattr(query_encoder, "embed_texts", lambda folder, texts: vector[None])
    backbone = with_text.seal(shop.store).ref
    assert np.array_equal(new_encoder(backbone=backbone).embed_text("a red dress"), vector)
    boosted = boost(load_head(shop.folder / WEIGHTS_FILE), vector[None])[0]
    assert np.array_equal(new_encoder("boosted", backbone=backbone).embed_text("a red dress"), boosted)


def test_preparing_returns_the_vector_of_a_white_picture(new_encoder: NewEncoder) -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    vector = new_encoder(classes=None).prepare()
    assert np.array_equal(vector, new_encoder().embed_picture(white))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_preparing_finds_an_altered_and_an_absent_model(new_shop: Callable[[Path], Any], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    release = shop.publish()
    part = Backbone.open(shop.store, release.backbone).part("model.onnx")
    path = shop.store.local_path(part.key)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ShardCorrupt, match=r"model\.onnx"):
        QueryEncoder(shop.store, release, shop.settings).prepare()
    path.unlink()
    with pytest.raises(NotFound, match=r"model\.onnx"):
        QueryEncoder(shop.store, release, shop.settings).prepare()


def test_each_model_is_loaded_at_its_first_use_and_once_by_eight_threads(
    new_encoder: NewEncoder, in_threads: Callable[[int, Callable[[int], Any]], list[Any]], monkeypatch: Any
) -> None:
    loads: list[str] = []
    for name in ("open_engine", "SegmenterEngine", "load_head"):
        monkeypatch.setattr(query_encoder, name, slowly(getattr(query_encoder, name), name, loads))
    encoder = new_encoder("masked_boosted")
    assert loads == []
    vectors = in_threads(8, lambda number: encoder.embed_picture(bright_square()))
    assert sorted(loads) == ["SegmenterEngine", "load_head", "open_engine"]
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)


def slowly(load: Callable[..., Any], name: str, loads: list[str]) -> Callable[..., Any]:
    """Return `load` that notes its name in `loads`, and takes so long that other threads come meanwhile."""

    def load_slowly(*arguments: Any) -> Any:
        loads.append(name)
        time.sleep(0.05)
        return load(*arguments)

    return load_slowly
