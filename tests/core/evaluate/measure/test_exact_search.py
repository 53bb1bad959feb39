"""Exact search in a chain, an index, a stored set, and in classes first: against brute force, with ties and blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import vectors_bytes
from retrieval_core.artifacts.variants import Variant, parse_representation, parse_variant
from retrieval_core.errors import BadConfig, DimensionMismatch
from retrieval_core.evaluate.measure import exact_search
from retrieval_core.evaluate.measure.exact_search import chain_names, classified_topk, indexed_gallery, stored_gallery
from retrieval_core.metrics import exact_knn
from retrieval_core.metrics.exact_knn import exact_topk

UNIT = np.eye(4, dtype=np.float32)


@pytest.fixture(autouse=True)
def blocks_are_not_joined(monkeypatch) -> None:
    """Makes every block of a gallery one that is compared by itself."""
    monkeypatch.setattr(exact_knn, "MIN_BLOCK_ROWS", 1)


@pytest.mark.parametrize(
    ("variant", "candidates", "available", "chain"),
    [
        ("masked_boosted", "pca64", {"raw", "masked", "boosted", "masked_boosted", "pca64", "pca128"},
         [("raw", ""), ("masked", "mask"), ("masked_boosted", "head"), ("pca64", "PCA")]),
        ("boosted", "boosted", {"raw", "masked", "boosted", "masked_boosted"}, [("raw", ""), ("boosted", "head")]),
        ("crop", "pca8", {"crop", "pca8"}, [("crop", ""), ("pca8", "PCA")]),
        ("crop_boosted", "pca8", {"raw", "crop", "crop_boosted", "pca8"},
         [("raw", ""), ("crop", "crop"), ("crop_boosted", "head"), ("pca8", "PCA")]),
        ("raw", "raw", {"raw"}, [("raw", "")]),
    ],
)  # fmt: skip
def test_the_chain_names_the_steps_to_what_is_published(variant, candidates, available, chain):
    assert chain_names(parse_variant(variant), parse_representation(candidates), available) == chain


def test_a_gallery_in_an_index_gives_the_neighbours_of_its_vectors(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(400), draw_vectors(400)
    vectors[200:300] = vectors[:100]  # pictures that several items share, whose order goes by their rows
    queries, gallery = np.arange(0, 100, 3), np.arange(50, 400, 2)
    found = indexed_gallery(index_items(items, vectors).index, "f", items, queries, gallery).nearest(10)
    np.testing.assert_array_equal(found, exact_topk(vectors[queries], vectors[gallery], 10))


@pytest.mark.parametrize("whole_bytes", [0, 2**20])
def test_a_stored_set_gives_the_neighbours_of_its_vectors_whole_or_in_parts(
    monkeypatch, local_store, catalog_items, draw_vectors, whole_bytes
):
    monkeypatch.setattr(exact_search, "WHOLE_BYTES", whole_bytes)
    items, vectors = catalog_items(300), draw_vectors(300)
    names = items["content_id"].to_list()
    for number, rows in enumerate(np.array_split(np.random.default_rng(0).permutation(300), 3)):
        part = vectors_bytes([names[row] for row in rows], vectors[rows])
        put_growing_part(local_store, VectorSet.folder, "drawn", f"part{number}", part, len(rows))
    stored = seal_vectors(local_store, "drawn", Variant(), vectors.shape[1], "catalog", names)
    queries, gallery = np.arange(0, 300, 5), np.arange(1, 300, 2)
    found = stored_gallery(local_store, stored, items, queries, gallery).nearest(10)
    np.testing.assert_array_equal(found, exact_topk(vectors[queries], vectors[gallery], 10))


def search(queries, gallery, query_classes, gallery_class, k, block_rows=3):
    """Search a gallery that comes in blocks."""

    def blocks():
        starts = range(0, len(gallery), block_rows)
        return ((np.arange(s, min(s + block_rows, len(gallery))), gallery[s : s + block_rows]) for s in starts)

    return classified_topk(queries, blocks, query_classes, gallery_class, k)


def brute_force(queries, gallery, query_classes, gallery_class, k):
    """Sort all items by class first, then by exact whole-number score, then by position."""
    rows = []
    for query, classes in zip(queries, query_classes, strict=True):
        wanted = {int(name) for name in classes if name >= 0}
        order = sorted(range(len(gallery)), key=lambda i: (gallery_class[i] not in wanted, -(gallery[i] @ query), i))
        rows.append((order + [-1] * k)[:k])
    return np.array(rows, np.int64).reshape(len(queries), k)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 6),
    st.integers(0, 14),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 15),
    st.integers(0, 2**32 - 1),
)
def test_equals_brute_force(n_queries: int, n_gallery: int, m: int, k: int, block_rows: int, seed: int) -> None:
    """Small whole numbers, so that scores are exact and ties are many."""
    rng = np.random.default_rng(seed)
    queries, gallery = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (n_queries, n_gallery))
    query_classes = rng.integers(-1, 5, (n_queries, m)).astype(np.int32)
    gallery_class = rng.integers(-1, 4, n_gallery).astype(np.int32)
    scores, positions = search(queries, gallery, query_classes, gallery_class, k, block_rows)
    expected = brute_force(queries, gallery, query_classes, gallery_class, k)
    assert np.array_equal(positions, expected)
    products = np.einsum("qd,qkd->qk", queries, np.vstack([gallery, np.zeros((1, 3), np.float32)])[expected])
    assert np.array_equal(scores, np.where(expected >= 0, products, -np.inf))


def test_a_nearer_item_of_another_class_comes_after_all_of_the_querys_own() -> None:
    gallery_class = np.array([7, 3, 3, 9], np.int32)
    _, positions = search(UNIT[:1], UNIT, np.array([[3, 9]], np.int32), gallery_class, 4)
    assert positions.tolist() == [[1, 2, 3, 0]]


def test_an_item_without_a_class_is_in_none() -> None:
    _, positions = search(UNIT[:1], UNIT, np.array([[-1, 3]], np.int32), np.array([-1, -1, 3, 3]), 4)
    assert positions.tolist() == [[2, 3, 0, 1]]


def test_all_classes_together_are_the_plain_search() -> None:
    rng = np.random.default_rng(0)
    queries, gallery = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 300))
    classes = np.tile(np.arange(3, dtype=np.int32), (40, 1))
    found = search(queries, gallery, classes, rng.integers(0, 3, 300).astype(np.int32), 10)
    plain = exact_topk(queries, gallery, 10)
    assert np.array_equal(found[1], plain[1])
    assert np.array_equal(found[0], plain[0])


def test_a_class_named_twice_counts_once() -> None:
    _, positions = search(UNIT[:1], UNIT, np.array([[3, 3]], np.int32), np.array([3, 3, 0, 0]), 3)
    assert positions.tolist() == [[0, 1, 2]]


def test_what_does_not_fit_is_refused() -> None:
    classes = np.zeros((4, 1), np.int32)
    with pytest.raises(DimensionMismatch, match=r"expected \(4, any\) and \(any,\)"):
        search(UNIT, UNIT, classes[:3], classes[:, 0], 2)
    with pytest.raises(DimensionMismatch, match=r"\(4, 1\) for the gallery"):
        search(UNIT, UNIT, classes, classes, 2)
    with pytest.raises(DimensionMismatch, match="dimensions"):
        search(UNIT[:, :3], UNIT, classes, classes[:, 0], 2)
    with pytest.raises(BadConfig, match="expected k >= 1"):
        search(UNIT, UNIT, classes, classes[:, 0], 0)
