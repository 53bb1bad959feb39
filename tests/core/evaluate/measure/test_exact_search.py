"""The chain leads from plain vectors to the published ones; an index gives the exact neighbours that its vectors do."""

from types import SimpleNamespace

import numpy as np
import pytest

from retrieval_core.artifacts.growing_sets import put_growing_part, seal_vectors
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import vectors_bytes
from retrieval_core.artifacts.variants import Variant, parse_representation, parse_variant
from retrieval_core.evaluate.measure import exact_search
from retrieval_core.evaluate.measure.exact_search import chain_names, indexed_gallery, stored_nearest
from retrieval_core.metrics.exact_knn import exact_topk


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
    protocol = SimpleNamespace(queries=queries, gallery=gallery)
    found = indexed_gallery(index_items(items, vectors).index, items, protocol).nearest(10)
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
    found = stored_nearest(local_store, stored, items, SimpleNamespace(queries=queries, gallery=gallery), 10)
    np.testing.assert_array_equal(found, exact_topk(vectors[queries], vectors[gallery], 10))
