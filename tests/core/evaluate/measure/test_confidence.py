"""The confidence tells searches with a relevant hit from those without better than a cosine does, and is calibrated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.parts import unit_length
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.measure import confidence
from retrieval_core.evaluate.measure.confidence import MeasuredConfidence, area_under_curve, measure_confidence
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems
from retrieval_core.evaluate.measure.setup import SearchSetup, Validation, choose_protocol

N, DIM, N_PRODUCTS = 2400, 32, 600
Measure = Callable[[pl.DataFrame, Float32], MeasuredConfidence]


def draw_shop() -> tuple[np.ndarray, Float32]:
    """Return the product of each item, and vectors in which some regions are far denser than others.

    In a dense region the pictures of other products are as near as the pictures of one product are in a sparse one, so
    that no cosine tells them apart.
    """
    rng = np.random.default_rng(0)
    product = np.arange(N) % N_PRODUCTS
    region = np.arange(N_PRODUCTS) % 12
    centres = rng.normal(size=(12, DIM))
    spread = np.geomspace(0.05, 0.8, 12)[region][:, None]
    products = centres[region] + spread * rng.normal(size=(N_PRODUCTS, DIM))
    pictures = products[product] + 0.35 * spread[product] * rng.normal(size=(N, DIM))
    return product, unit_length(pictures.astype(np.float32))


@pytest.fixture
def measured(index_items: Callable[..., IndexedItems]) -> Measure:
    """`measured(items, vectors)` is the confidence that is learned on a catalogue of items with these vectors."""

    def make(items: pl.DataFrame, vectors: Float32) -> MeasuredConfidence:
        protocol, index = choose_protocol(items, EvaluateConfig()), index_items(items, vectors).index
        return measure_confidence(SearchSetup(items, protocol, vectors, vectors, index, 1), 0)

    return make


@pytest.fixture
def shop_items(catalog_items: Callable[..., pl.DataFrame]) -> Callable[..., pl.DataFrame]:
    """`shop_items(product)` are items of these products, of which whole ones are held out."""

    def make(product: np.ndarray, **columns: list[str | None]) -> pl.DataFrame:
        split = ["query" if number % 5 == 0 else "train" for number in product.tolist()]
        return catalog_items(len(product), product_id=[f"p{n}" for n in product.tolist()], split=split, **columns)

    return make


def test_confidence_beats_a_flat_cosine_and_is_calibrated(
    measured: Measure, shop_items: Callable[..., pl.DataFrame]
) -> None:
    product, vectors = draw_shop()
    model, facts = measured(shop_items(product), vectors)
    assert model is not None
    assert (model.kind, facts.n_checked) == ("product", 480)
    assert facts.auc > facts.cosine_auc + 0.1
    assert facts.auc > 0.8
    assert facts.ece < 0.08
    assert facts.brier < 0.18
    assert sum(each.n for each in facts.bins) == facts.n_checked


def test_what_is_relevant_is_missing_in_half_of_the_searches(
    index_items: Callable[..., IndexedItems], shop_items: Callable[..., pl.DataFrame]
) -> None:
    product, vectors = draw_shop()
    items = shop_items(product)
    protocol = choose_protocol(items, EvaluateConfig(queries=40))
    setup = SearchSetup(items, protocol, vectors, vectors, index_items(items, vectors).index, 1)
    examples = confidence._examples(setup, Validation(items, protocol), "gallery", "product")
    cosines = vectors[protocol.queries] @ vectors[protocol.gallery].T
    same = product[protocol.queries][:, None] == product[protocol.gallery]
    without = np.where(same, -np.inf, cosines)
    np.testing.assert_allclose(
        examples.features[:, 0], np.concatenate([cosines.max(axis=1), without.max(axis=1)]), atol=1e-5
    )
    nearest = np.argsort(-cosines, axis=1)[:, :5]
    found = np.take_along_axis(same, nearest, axis=1).any(axis=1)
    np.testing.assert_array_equal(examples.is_relevant, [*found, *np.zeros(40)])
    first = protocol.gallery[cosines.argmax(axis=1)]
    around = np.sort(
        np.where(first[:, None] == protocol.gallery, -np.inf, vectors[first] @ vectors[protocol.gallery].T)
    )
    np.testing.assert_allclose(examples.features[:40, 2], around[:, -10:].mean(axis=1), atol=1e-5)


def test_categories_are_learned_from_where_there_are_no_products(
    measured: Measure, catalog_items: Callable[..., pl.DataFrame]
) -> None:
    _, vectors = draw_shop()
    items = catalog_items(N, category=[f"c{n % 12}" for n in range(N)])
    model, facts = measured(items, vectors)
    assert model is not None
    assert model.kind == facts.kind == "category"


def test_a_catalogue_without_products_and_categories_has_no_confidence(
    measured: Measure, catalog_items: Callable[..., pl.DataFrame]
) -> None:
    _, vectors = draw_shop()
    model, facts = measured(catalog_items(N), vectors)
    assert model is None
    assert facts.missing.startswith("Fewer than 30 validation queries")


def test_the_area_under_the_curve_and_the_brier_score_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, scores = (rng.random(200) < 0.4).astype(float), rng.random(200).round(1)
    assert area_under_curve(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert brier_score_loss(truth, scores) == pytest.approx(((scores - truth) ** 2).mean())
    assert area_under_curve(scores, np.zeros(200)) == 0.5
