"""Content-addressed sets that grow, are sealed as views, and from which other sets are derived."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.growing_sets import indexable_items, put_growing_part, sample_vectors, seal_vectors
from retrieval_core.artifacts.manifests import VectorSet
from retrieval_core.artifacts.parts import vectors_bytes
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store

FAMILY = "fam"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def vector_of(content_id: str) -> np.ndarray:
    return np.full(3, ord(content_id[0]), np.float32)


def embed(store: Store, *content_ids: str) -> None:
    """Store the vectors of these pictures as one part."""
    data = vectors_bytes(list(content_ids), np.stack([vector_of(key) for key in content_ids]))
    put_growing_part(store, "vectors", FAMILY, "".join(content_ids), data, len(content_ids))


def test_a_view_leaves_out_parts_nobody_wants(store: Store) -> None:
    for key in "ab":
        embed(store, key)
    view = seal_vectors(store, FAMILY, "raw", 3, "cat", ["b", "never embedded"])
    assert len(view.parts) == 1
    assert view.counts == {"rows": 1}


def test_a_sample_is_random_rows_of_every_part_without_repetition(store: Store) -> None:
    names = [f"{i:03d}" for i in range(100)]
    for start in range(0, 100, 25):
        chunk = names[start : start + 25]
        rows = np.array([[int(key)] for key in chunk], np.float32)
        put_growing_part(store, "vectors", "s", f"p{start}", vectors_bytes(chunk, rows), 25)
    view = seal_vectors(store, "s", "raw", 1, "cat", names)
    drawn = np.concatenate(list(sample_vectors(store, view, 40, seed=1)))[:, 0]
    assert len(set(drawn.tolist())) == 40
    assert all(((drawn >= low) & (drawn < low + 25)).any() for low in (0, 25, 50, 75))
    again = np.concatenate(list(sample_vectors(store, view, 40, seed=1)))[:, 0]
    assert np.array_equal(drawn, again)


def test_only_good_rows_with_a_vector_are_indexed(store: Store) -> None:
    embed(store, "a")
    view: VectorSet = seal_vectors(store, FAMILY, "raw", 3, "cat", ["a"])
    items = pl.DataFrame(
        {
            "item_id": ["2", "1", "3", "4"],
            "content_id": ["a", "a", "b", None],
            "status": ["ok", "ok", "ok", "quarantined"],
        }
    )
    assert indexable_items(store, items, view)["item_id"].to_list() == ["1", "2"]
