"""Two releases searched among the items of both, against a brute-force search and scores counted one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import row_id
from retrieval_core.artifacts.manifests import Release, VectorSet
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.gate.shared_gallery import SharedGallery, search_shared_gallery
from retrieval_core.evaluate.measure.setup import SearchSetup
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns

N = 60


class Production(NamedTuple):
    """A sealed release and its store."""

    store: Store
    release: Release

    def vectors_of(self, items: pl.DataFrame) -> np.ndarray:
        vectors = VectorSet.open(self.store, self.release.vectors)
        return load_vectors(self.store, vectors, items["content_id"].to_list())

    def search_with(self, setup: SearchSetup) -> SharedGallery:
        return search_shared_gallery(self.store, self.release, setup, EvaluateConfig(queries=100))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Production:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return Production(store, SealedRuns(store).seal(ids(range(N))))


@pytest.fixture
def challenge(catalog_items, draw_vectors, open_bench) -> Callable[..., SearchSetup]:
    """The search of a challenger whose items have these names, as `SealedRuns` reads them: `i003`, `i003@2`.

    Products have three items; there are five categories; every fourth item is held out. Items N apart look the same.
    """

    def search(names: Sequence[str]) -> SearchSetup:
        item_ids = [name.split("@")[0] for name in names]
        numbers = [int(item_id[1:]) for item_id in item_ids]
        items = catalog_items(
            len(names),
            item_id=item_ids,
            content_id=[hashlib.sha256(name.encode()).hexdigest()[:32] for name in names],
            product_id=[f"p{number // 3}" for number in numbers],
            category=[f"c{number % 5}" for number in numbers],
            split=["query" if number % 4 == 0 else None for number in numbers],
        ).with_columns(pl.Series("row_id", [row_id(item_id) for item_id in item_ids], pl.Int64))
        vectors = draw_vectors(N)[np.array(numbers) % N]
        return open_bench(items, vectors)

    return search


def ids(numbers: Sequence[int] | range) -> list[str]:
    return [f"i{number:03}" for number in numbers]


def scores_by_hand(items: pl.DataFrame, vectors: np.ndarray, is_query: Sequence[bool]) -> list[dict]:
    """Product recall@1 and category precision@5 of each query among all other items; None without a relevant item."""
    rows = items.to_dicts()
    gallery = [place for place in range(len(rows)) if not is_query[place]]
    scores = []
    for place in (place for place in range(len(rows)) if is_query[place]):
        ranked = sorted(gallery, key=lambda other: -float(vectors[place] @ vectors[other]))
        same = {key: [rows[other][key] == rows[place][key] for other in ranked] for key in ("product_id", "category")}
        scores.append(
            {
                "item_id": rows[place]["item_id"],
                "recall@1": float(same["product_id"][0]) if any(same["product_id"]) else None,
                "precision@5": sum(same["category"][:5]) / 5 if any(same["category"]) else None,
            }
        )
    return scores


def assert_scores(table: pl.DataFrame, expected: list[dict]) -> None:
    assert table["item_id"].to_list() == [row["item_id"] for row in expected]
    for name in ("recall@1", "precision@5"):
        assert table[name].to_list() == pytest.approx([row[name] for row in expected]), name


@pytest.mark.parametrize("seed", range(3))
def test_both_sides_are_scored_among_the_common_items_by_their_own_vectors(production, challenge, seed):
    """A sixth of the items is removed and a sixth has a new picture; as many new items look just like the others."""
    rng = np.random.default_rng(seed)
    names = [
        f"{name}@2" if fate == 0 else name
        for name, fate in zip(ids(range(N)), rng.integers(0, 6, N), strict=True)
        if fate != 1
    ]
    setup = challenge([*names, *ids(range(N, 2 * N))])
    shared = production.search_with(setup)
    is_common = [name in ids(range(N)) for name in names] + [False] * N
    items = setup.items.filter(pl.Series(is_common))
    drawn = set(shared.challenger["item_id"])
    is_query = [item_id in drawn for item_id in items["item_id"]]
    assert shared.n_gallery == len(items) - sum(is_query)
    assert_scores(shared.challenger, scores_by_hand(items, setup.vectors[np.array(is_common)], is_query))
    assert_scores(shared.baseline, scores_by_hand(items, production.vectors_of(items), is_query))
    products = dict(setup.items.select("item_id", "product_id").iter_rows())
    assert shared.challenger["cluster"].to_list() == [
        f"product:{products[name]}" for name in shared.challenger["item_id"]
    ]
    assert not shared.challenger.equals(shared.baseline), "they were searched by their own vectors"


def test_two_releases_of_the_same_items_share_the_whole_gallery(production, challenge):
    setup = challenge(ids(range(N)))
    shared = production.search_with(setup)
    assert shared.n_gallery == len(setup.protocol.gallery)
    assert len(shared.challenger) == len(shared.baseline) == len(setup.protocol.queries)


def test_an_item_whose_picture_changed_is_not_shared(production, challenge):
    same = production.search_with(challenge(ids(range(N))))
    names = ids(range(N))
    queries = same.challenger["item_id"].to_list()
    in_gallery = next(name for name in names if name not in queries)
    changed = [f"{name}@2" if name in (queries[3], in_gallery) else name for name in names]
    shared = production.search_with(challenge(changed))
    assert shared.n_gallery == same.n_gallery - 1
    for table in (shared.challenger, shared.baseline):
        assert table["item_id"].to_list() == [name for name in queries if name != queries[3]]


def test_new_items_change_no_score_of_either_side(production, challenge):
    """Each new item looks like another one, and pushes down what a query found before."""
    before = production.search_with(challenge(ids(range(N))))
    grown = [*ids(range(N)), *ids(number for number in range(N, 4 * N) if number % 4)]
    after = production.search_with(challenge(grown))
    assert after.n_gallery == before.n_gallery
    assert after.challenger.equals(before.challenger)
    assert after.baseline.equals(before.baseline)


def test_a_catalogue_that_grew_many_times_is_compared_on_as_many_queries(production, challenge):
    """Most of the pictures held out are new, so that few of those drawn from all of them would be shared."""
    before = production.search_with(challenge(ids(range(N))))
    after = production.search_with(challenge(ids(range(11 * N))))
    assert after.challenger["item_id"].to_list() == before.challenger["item_id"].to_list()


def test_releases_without_a_common_item_have_no_queries_to_compare(production, challenge):
    shared = production.search_with(challenge([f"{name}@2" for name in ids(range(N))]))
    assert shared.n_gallery == len(shared.challenger) == len(shared.baseline) == 0
    assert shared.challenger.columns == shared.baseline.columns == ["item_id", "cluster"]


def test_queries_without_a_common_gallery_have_no_score(production, challenge):
    names = [name if number % 4 == 0 else f"{name}@2" for number, name in enumerate(ids(range(N)))]
    setup = challenge(names)
    shared = production.search_with(setup)
    assert shared.n_gallery == 0
    assert len(shared.challenger) == len(shared.baseline) > 0
    assert shared.challenger.columns == shared.baseline.columns == ["item_id", "cluster"]


def test_a_release_that_names_no_reducer_cannot_be_searched(production, challenge):
    without = production._replace(release=production.release.model_copy(update={"reducer": None}))
    with pytest.raises(NotFound, match=r"names no reducer"):
        without.search_with(challenge(ids(range(N))))


def test_a_release_whose_index_was_removed_cannot_be_searched(local_store, challenge):
    removed = Production(local_store, SealedRuns(local_store).seal(ids(range(3))))
    for key in list(local_store.list("indexes/shards/")):
        local_store.delete(key)
    with pytest.raises(NotFound):
        removed.search_with(challenge(ids(range(N))))
