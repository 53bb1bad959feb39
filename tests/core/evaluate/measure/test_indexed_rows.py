"""Exact neighbours across shards and blocks are those of one float64 product."""

import numpy as np
import pytest

from retrieval_core.errors import NotFound
from retrieval_core.evaluate.measure.indexed_rows import open_indexed, sample_rows
from retrieval_core.index import lookup
from retrieval_core.metrics import exact_knn
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns


@pytest.mark.parametrize("block_rows", [7, 100_000])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_neighbours_are_those_of_a_plain_product(
    monkeypatch, catalog_items, draw_vectors, index_items, block_rows, share
):
    monkeypatch.setattr(lookup, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(exact_knn, "MIN_BLOCK_ROWS", 1)
    items, vectors = catalog_items(150), draw_vectors(150)
    side, row_ids = index_items(items, vectors), items["row_id"].to_numpy()
    allowed = np.random.default_rng(0).random(150) < share
    asked = np.arange(0, 150, 4)
    scores, found = side.nearest(row_ids[asked], 10, row_ids[allowed])
    for place, row in enumerate(asked):
        exact = vectors.astype(np.float64) @ vectors[row]
        order = [i for i in np.argsort(-exact, kind="stable") if allowed[i] and i != row][:10]
        assert found[place, : len(order)].tolist() == row_ids[order].tolist()
        assert scores[place, : len(order)] == pytest.approx(exact[order], abs=1e-6)
        assert (found[place, len(order) :] == -1).all()


def test_a_sample_is_stable_when_others_come_and_go():
    row_ids = np.random.default_rng(0).choice(2**62, 5_000, replace=False)
    drawn = sample_rows(row_ids, 100, seed=3)
    assert (np.diff(drawn) > 0).all()
    assert set(sample_rows(row_ids[:4_000], 100, seed=3)) >= set(drawn) & set(row_ids[:4_000])
    assert set(sample_rows(row_ids, 100, seed=4)) != set(drawn)
    assert sample_rows(row_ids[:3], 100, seed=3).tolist() == sorted(row_ids[:3])


def test_a_release_is_opened_with_the_items_that_stand_in_its_index(tmp_path):
    runs = SealedRuns(open_store(str(tmp_path / "store")))
    first = runs.seal(["a", "b", "c"])
    second = runs.seal(["a", "b@2", "d", "e"], backbone="other")
    then, now = open_indexed(runs.store, first), open_indexed(runs.store, second)
    assert sorted(then.items["item_id"]) == ["a", "b", "c"]
    assert sorted(now.items["row_id"]) == now.index.row_ids().tolist()
    assert then.family != now.family
    with pytest.raises(NotFound):
        then.nearest(np.array([12345]), 3)
