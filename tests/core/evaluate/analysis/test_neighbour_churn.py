"""Churn is 0 if nothing changed and 1 for a shuffled model, and is divided between model and catalogue."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval_core.evaluate.analysis.neighbour_churn import MAX_ASKED, N_SHOWN, ChurnFacts, find_churn
from retrieval_core.evaluate.measure.indexed_rows import ReleasePair

N = 400


def oracle(then, now, asked: list[str]) -> float:
    """Mean churn by plain sets of item ids."""

    def top(side, item_id):
        ids, rows = side.items["item_id"].to_list(), side.items["row_id"].to_numpy()
        vectors = side.index.vectors_of(rows).astype(np.float64)
        scores = vectors @ vectors[ids.index(item_id)]
        order = [i for i in np.lexsort((rows, -scores)) if ids[i] != item_id][:10]
        return {ids[i] for i in order}

    both = [(top(then, item), top(now, item)) for item in asked]
    return float(np.mean([1 - len(a & b) / max(len(a), len(b)) for a, b in both]))


def test_a_first_run_has_no_churn(catalog_items, draw_vectors, index_items):
    assert find_churn(ReleasePair(None, index_items(catalog_items(20), draw_vectors(20))), seed=0) is None


def test_equal_releases_have_no_churn(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(N), draw_vectors(N)
    facts = find_churn(ReleasePair(index_items(items, vectors), index_items(items, vectors)), seed=0)
    assert (facts.churn, facts.by_model, facts.by_catalogue, facts.moved) == (0, 0, 0, ())
    assert facts.histogram == (N, *[0] * 10)
    assert (facts.low, facts.high) == (None, None)
    assert (facts.n_shared, facts.n_unchanged, facts.n_asked) == (N, N, N)


def test_a_permuted_model_changes_nearly_everything_and_counts_for_the_model(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(N), draw_vectors(N)
    shuffled = vectors[np.random.default_rng(1).permutation(N)]
    facts = find_churn(ReleasePair(index_items(items, vectors), index_items(items, shuffled, "g")), seed=0)
    assert facts.churn > 0.95
    assert facts.by_model == facts.churn
    assert facts.by_catalogue == 0
    assert not facts.same_space
    assert facts.left["removed"] == facts.entered["new"] == 0
    assert facts.left["crowded_out"] == facts.entered["moved_in"] > 0


def test_a_model_of_another_width_that_ranks_alike_moves_nothing(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(N), draw_vectors(N)
    wider = np.concatenate([vectors, np.zeros((N, 5), np.float32)], axis=1)
    facts = find_churn(ReleasePair(index_items(items, vectors), index_items(items, wider, "g")), seed=0)
    assert (facts.churn, facts.by_model) == (0, 0)


def test_a_new_item_enters_where_it_is_near_and_counts_for_the_catalogue(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(N), draw_vectors(N)
    then, now = index_items(items[:-1], vectors[:-1]), index_items(items, vectors)
    facts = find_churn(ReleasePair(then, now), seed=0)
    n_entered = facts.entered["new"]
    assert n_entered > 0
    assert facts.churn == pytest.approx(n_entered / (10 * (N - 1)))
    assert (facts.by_catalogue, facts.by_model) == (facts.churn, 0)
    assert facts.left == {"removed": 0, "changed": 0, "crowded_out": n_entered}
    assert facts.histogram == (N - 1 - n_entered, n_entered, *[0] * 9)
    assert all("item-00399" in set(moved.after) - set(moved.before) for moved in facts.moved)


def test_a_removed_and_a_changed_item_are_told_apart(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(N), draw_vectors(N)
    other = vectors.copy()
    other[1] = -vectors[1]
    pictures = ["f" * 32 if i == 1 else name for i, name in enumerate(items["content_id"])]
    changed = items.with_columns(pl.Series("content_id", pictures))
    facts = find_churn(ReleasePair(index_items(items, vectors), index_items(changed[1:], other[1:])), seed=0)
    assert (facts.n_shared, facts.n_unchanged) == (N - 1, N - 2)
    assert facts.left["removed"] > 0
    assert facts.left["changed"] > 0
    assert facts.entered["new"] == 0
    assert facts.by_model == 0
    assert facts.moved[0].item_id == "item-00001"


def test_churn_is_divided_between_model_and_catalogue(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(N), draw_vectors(N)
    noise = np.random.default_rng(3).standard_normal(vectors.shape)
    moved = vectors + 0.1 * noise
    moved = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    facts = find_churn(ReleasePair(index_items(items[:300], vectors[:300]), index_items(items, moved, "g")), seed=0)
    same_items = ReleasePair(index_items(items[:300], vectors[:300]), index_items(items[:300], moved[:300], "g"))
    model_alone = find_churn(same_items, seed=0)
    assert 0.05 < facts.by_model <= facts.churn
    assert facts.by_model == pytest.approx(model_alone.churn, abs=0.03)
    assert facts.by_catalogue > 0.05
    assert facts.churn == pytest.approx(facts.by_model + facts.by_catalogue)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1_000), n_then=st.integers(2, 40), n_now=st.integers(2, 40), same=st.booleans())
def test_churn_agrees_with_plain_sets(catalog_items, index_items, seed, n_then, n_now, same):
    rng = np.random.default_rng(seed)
    items = catalog_items(40)
    vectors = rng.standard_normal((40, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    other = vectors if same else vectors[::-1].copy()
    then_rows, now_rows = (np.sort(rng.permutation(40)[:n]) for n in (n_then, n_now))
    then = index_items(items[then_rows], vectors[then_rows])
    now = index_items(items[now_rows], other[now_rows], "f" if same else "g")
    facts = find_churn(ReleasePair(then, now), seed=0)
    shared = sorted(set(then.items["item_id"]) & set(now.items["item_id"]))
    assert facts.n_shared == len(shared)
    if shared:
        assert facts.churn == pytest.approx(oracle(then, now, shared))
        assert 0 <= facts.by_model <= facts.churn <= 1
        assert facts.by_catalogue >= 0
        assert sum(facts.histogram) == len(shared)
        assert sum(facts.left.values()) + sum(facts.entered.values()) > 0 or facts.churn == 0


def test_releases_without_a_common_item_say_so(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(40), draw_vectors(40)
    facts = find_churn(
        ReleasePair(index_items(items[:20], vectors[:20]), index_items(items[20:], vectors[20:])), seed=0
    )
    assert facts.n_asked == 0
    assert "no item in common" in facts.missing


def test_a_lone_item_and_an_empty_release_say_so(catalog_items, draw_vectors, index_items):
    items, vectors = catalog_items(3), draw_vectors(3)
    one, none = index_items(items[:1], vectors[:1]), index_items(items[:0], vectors[:0])
    assert "No item has a neighbour" in find_churn(ReleasePair(one, one), seed=0).missing
    assert "no item in common" in find_churn(ReleasePair(none, one), seed=0).missing
    assert "no item in common" in find_churn(ReleasePair(one, none), seed=0).missing


def test_a_large_catalogue_is_sampled_and_gives_an_interval(catalog_items, index_items):
    n = MAX_ASKED + 500
    items = catalog_items(n)
    drawn = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    then, now = index_items(items[:-300], vectors[:-300]), index_items(items, vectors)
    facts = find_churn(ReleasePair(then, now), seed=0)
    assert (facts.n_shared, facts.n_asked, len(facts.moved)) == (n - 300, MAX_ASKED, N_SHOWN)
    assert facts.low < facts.churn < facts.high
    assert facts == find_churn(ReleasePair(then, now), seed=0)
    assert facts.moved != find_churn(ReleasePair(then, now), seed=1).moved
    assert [moved.churn for moved in facts.moved] == sorted((moved.churn for moved in facts.moved), reverse=True)
    assert ChurnFacts.model_validate_json(facts.model_dump_json()) == facts
