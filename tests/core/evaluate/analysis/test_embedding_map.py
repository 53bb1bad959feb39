"""The map keeps neighbours that lie in a plane, says how far it can be trusted, and stays small."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.evaluate.analysis.embedding_map import (
    MAP_COLUMNS,
    MAP_ROWS,
    MAX_CATEGORIES,
    MAX_POINTS,
    EarlierMap,
    MapFacts,
    MapPoint,
    map_catalog,
    map_cells,
)

finite = st.floats(-1e6, 1e6)
points = st.lists(st.tuples(finite, finite, st.integers(-1, 7)), min_size=1, max_size=20)


def facts_at(coordinates) -> MapFacts:
    return MapFacts(
        n_rows=len(coordinates),
        points=tuple(MapPoint(item_id=f"i{n}", x=x, y=y, category=c) for n, (x, y, c) in enumerate(coordinates)),
    )


@pytest.fixture
def without_sklearn(monkeypatch):
    """As where the group `map` is not installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_groups_lie_together_and_more_of_the_nearest_are_kept_than_by_components(
    catalog_items, draw_vectors, index_items, monkeypatch
):
    items = index_items(catalog_items(300), draw_vectors(300, 32))
    by_tsne = map_catalog(items, seed=0)
    assert by_tsne.explained is None
    assert by_tsne == map_catalog(items, seed=0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert by_tsne.kept > 1.5 * map_catalog(items, seed=0).kept


@pytest.mark.usefixtures("without_sklearn")
def test_vectors_of_a_plane_are_kept_to_the_last_neighbour(catalog_items, index_items):
    plane = np.random.default_rng(0).standard_normal((300, 2))
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))
    vectors = (np.concatenate([plane, np.zeros((300, 10))], axis=1) @ turn).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    facts = map_catalog(index_items(catalog_items(300), 3 * vectors / lengths), seed=0)
    assert facts.explained == pytest.approx(1)
    assert facts.kept > 0.9
    ordered = sorted(facts.points, key=lambda point: np.arctan2(point.y, point.x))
    assert len({point.item_id for point in ordered}) == 300


@pytest.mark.usefixtures("without_sklearn")
def test_vectors_of_many_dimensions_say_that_the_map_keeps_little(catalog_items, index_items):
    drawn = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    facts = map_catalog(index_items(catalog_items(500), drawn / np.linalg.norm(drawn, axis=1, keepdims=True)), seed=0)
    assert facts.kept < 0.15
    assert facts.kept_by_chance == pytest.approx(10 / 499)


def test_the_most_frequent_categories_are_told_apart(catalog_items, draw_vectors, index_items):
    kinds = [f"kind-{min(i % 12, 10):02}" if i % 13 else None for i in range(240)]
    facts = map_catalog(index_items(catalog_items(240, category=kinds), draw_vectors(240)), seed=0)
    assert len(facts.categories) == MAX_CATEGORIES
    assert facts.categories[0] == "kind-10"  # twice as many as any other
    shown = {int(point.item_id[-5:]): point.category for point in facts.points}
    assert all(
        facts.categories[place] == kinds[row] if place >= 0 else kinds[row] not in facts.categories
        for row, place in shown.items()
    )


@pytest.mark.parametrize(("n", "dim"), [(0, 16), (2, 16), (40, 1)])
def test_too_few_items_or_dimensions_give_a_reason_instead_of_a_map(catalog_items, draw_vectors, index_items, n, dim):
    facts = map_catalog(index_items(catalog_items(n), draw_vectors(n, dim)), seed=0)
    assert facts.points == ()
    assert "at least three items" in facts.missing


def test_equal_vectors_are_one_point(catalog_items, index_items):
    facts = map_catalog(index_items(catalog_items(20), np.full((20, 4), 0.5, np.float32)), seed=0)
    assert {(point.x, point.y) for point in facts.points} == {(0.0, 0.0)}
    assert facts.categories == ()


def test_a_large_catalogue_gives_a_bounded_map_and_always_the_same(catalog_items, draw_vectors, index_items):
    n = MAX_POINTS + 400
    side = index_items(catalog_items(n), draw_vectors(n))
    facts = map_catalog(side, seed=0)
    assert (facts.n_rows, len(facts.points)) == (n, MAX_POINTS)
    text = facts.model_dump_json()
    assert text == map_catalog(side, seed=0).model_dump_json()
    assert len(text) < 200_000
    assert MapFacts.model_validate_json(text) == facts


def test_a_map_stays_while_little_changes_and_new_points_come_between_the_nearest(
    catalog_items, draw_vectors, index_items
):
    items, vectors = catalog_items(200), draw_vectors(200)
    drawn = map_catalog(index_items(items[:190], vectors[:190]), seed=0)
    later, unchanged = index_items(items, vectors), items["row_id"][5:190].sort().to_numpy()
    facts = map_catalog(later, 0, EarlierMap(drawn, unchanged))
    then, now = ({point.item_id: (point.x, point.y) for point in side.points} for side in (drawn, facts))
    names = items["item_id"].to_list()
    assert [now[name] for name in names[5:190]] == [then[name] for name in names[5:190]]
    nearest = 5 + np.argsort(-(vectors[5:190] @ vectors[195]))[:3]
    assert now[names[195]] == pytest.approx(np.mean([then[names[row]] for row in nearest], axis=0), abs=1e-3)
    assert (drawn.n_placed, facts.n_placed, len(facts.points)) == (0, 15, 200)
    assert facts.explained is None
    assert facts.kept > 0.8 * drawn.kept
    again = map_catalog(later, 0, EarlierMap(facts, unchanged))
    assert again.n_placed == 30
    assert map_catalog(later, 0, EarlierMap(again, unchanged)) == map_catalog(later, seed=0)  # too many came to it


# Of 16 items, polars lends the coordinates as one array, which must not be written to.
@pytest.mark.parametrize("n_changed", [0, 3])
@pytest.mark.parametrize("n", [16, 60])
def test_a_map_of_the_same_items_moves_only_those_whose_pictures_changed(
    catalog_items, draw_vectors, index_items, n, n_changed
):
    items, vectors = catalog_items(n), draw_vectors(n)
    side = index_items(items, vectors)
    drawn = map_catalog(side, seed=0)
    facts = map_catalog(side, 0, EarlierMap(drawn, items["row_id"][n_changed:].sort().to_numpy()))
    moved = {before.item_id for before, after in zip(drawn.points, facts.points, strict=True) if before != after}
    assert moved == set(items["item_id"][:n_changed])


def test_a_map_of_components_is_drawn_again(catalog_items, draw_vectors, index_items, without_sklearn):
    items, vectors = catalog_items(60), draw_vectors(60)
    side = index_items(items, vectors)
    drawn = map_catalog(side, seed=0)
    assert map_catalog(side, 0, EarlierMap(drawn, items["row_id"].sort().to_numpy())) == drawn


@given(points)
def test_every_cell_of_the_map_shows_one_of_its_own_items(coordinates):
    cells = map_cells(facts_at(coordinates))
    positions = [(column, row) for _, column, row in cells]
    assert len(set(positions)) == len(positions)
    assert len({item_id for item_id, _, _ in cells}) == len(cells) > 0
    assert all(0 <= column < MAP_COLUMNS and 0 <= row < MAP_ROWS for column, row in positions)


def test_the_upper_left_of_the_map_is_its_first_cell():
    cells = map_cells(facts_at([(0, 10, 0), (10, 0, 0)]))
    assert cells == [("i0", 0, 0), ("i1", MAP_COLUMNS - 1, MAP_ROWS - 1)]


def test_a_map_without_points_has_no_cells():
    assert map_cells(MapFacts(n_rows=0)) == []
