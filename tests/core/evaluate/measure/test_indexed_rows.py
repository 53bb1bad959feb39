"""Exact neighbours across shards and blocks are those of one float64 product."""

import numpy as np
import pytest

from retrieval_core.errors import NotFound
from retrieval_core.evaluate.measure.indexed_rows import ReleasePair, open_indexed, sample_rows
from retrieval_core.evaluate.measure.kept_searches import KeptSearches
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


@pytest.mark.parametrize("n_other", [0, 20, 150])
def test_a_pair_finds_in_each_release_what_is_found_there_alone(catalog_items, draw_vectors, index_items, n_other):
    items, vectors = catalog_items(150), draw_vectors(150)
    vectors[40:60] = vectors[100:120]  # ties
    changed = vectors.copy()
    changed[:n_other] = draw_vectors(300)[150 : 150 + n_other]
    previous, current = index_items(items[:140], vectors[:140]), index_items(items[5:], changed[5:])
    pair = ReleasePair(previous, current)
    for start, k in ((30, 10), (0, 1), (10, 10)):
        before, now = (side.items["row_id"].to_numpy()[start:100:3] for side in (previous, current))
        for found, expected in (
            (pair.before(before, k), previous.nearest(before, k)),
            (pair.now(now, k), current.nearest(now, k)),
        ):
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_a_release_is_compared_only_where_the_one_before_was_not(monkeypatch, catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(200), draw_vectors(200)
    asked = items["row_id"].to_numpy()[20:100]
    previous, current = index_items(items[:190], vectors[:190]), index_items(items[10:], vectors[10:])
    kept = KeptSearches()
    ReleasePair(None, previous, kept).now(asked, 10)
    pair = ReleasePair(previous, current, KeptSearches(kept.now))
    n_compared, search = [0], exact_knn.exact_search

    def counted(queries, gallery, n):
        n_compared[0] += len(queries) * len(gallery)
        return search(queries, gallery, n)

    monkeypatch.setattr(exact_knn, "exact_search", counted)
    for _ in range(2):
        pair.before(asked, 10)
        pair.now(asked, 1)
    assert n_compared == [80 * 10]


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
