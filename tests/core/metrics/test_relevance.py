"""What counts as a match, against the definitions read aloud in plain Python."""

from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from retrieval_core.errors import DimensionMismatch
from retrieval_core.metrics.relevance import (
    Judgements,
    encode,
    find_truth,
    label_iou,
    neighbour_gain,
    neighbour_iou,
    same_code,
)

SCHEMA = {
    "product_id": pl.String,
    "category": pl.String,
    "labels": pl.List(pl.String),
    "attributes": pl.List(pl.Struct({"name": pl.String, "value": pl.String})),
}


def items(*rows: dict) -> pl.DataFrame:
    blank = dict.fromkeys(SCHEMA)
    table = [blank | row for row in rows]
    for row in table:
        if row["attributes"] is not None:
            row["attributes"] = [{"name": name, "value": value} for name, value in row["attributes"]]
    return pl.DataFrame(table, schema=SCHEMA)


def split(judged: Judgements, n_queries: int) -> tuple[Judgements, Judgements]:
    rows = np.arange(judged.n_items)
    return judged.take(rows[:n_queries]), judged.take(rows[n_queries:])


def test_equal_names_get_equal_codes_and_null_is_unknown():
    judged = encode(items({"product_id": "b"}, {}, {"product_id": "a"}, {"product_id": "b"}))
    assert judged.product.tolist() == [1, -1, 0, 1]


def test_labels_become_a_matrix_over_the_sorted_vocabulary():
    judged = encode(items({"labels": ["shoe", "bag"]}, {"labels": []}, {}, {"labels": ["bag", None]}))
    assert judged.label_names == ("bag", "shoe")
    assert judged.labels.toarray().tolist() == [[True, True], [False, False], [False, False], [True, False]]


def test_attributes_become_codes_by_name_and_the_first_of_two_values_stays():
    judged = encode(
        items(
            {"attributes": [("sleeve", "long"), ("colour", "red"), ("colour", "blue")]},
            {},
            {"attributes": [("colour", "red")]},
        )
    )
    assert judged.attribute_names == ("colour", "sleeve")
    assert (judged.attributes >= 0).tolist() == [[True, True], [False, False], [True, False]]
    assert judged.attributes[0, 0] != judged.attributes[2, 0]


def test_what_no_item_says_is_none():
    judged = encode(items({}, {"labels": []}, {"attributes": []}, {"attributes": [("colour", None)]}))
    assert (judged.product, judged.category, judged.labels, judged.attributes) == (None, None, None, None)
    assert judged.n_items == 4


def test_an_empty_catalogue_encodes_to_nothing():
    assert encode(items()).n_items == 0


def test_taking_rows_by_position_or_by_mask_is_the_same():
    judged = encode(items({"category": "a", "labels": ["x"]}, {"category": "b"}, {"category": "c"}))
    by_position, by_mask = judged.take(np.array([0, 2])), judged.take(np.array([True, False, True]))
    assert by_position.n_items == by_mask.n_items == 2
    assert by_position.category.tolist() == by_mask.category.tolist() == [0, 2]
    assert by_position.labels.toarray().tolist() == by_mask.labels.toarray().tolist()


def test_items_encoded_apart_are_refused():
    one, other = encode(items({"labels": ["x"]})), encode(items({"labels": ["y"]}))
    with pytest.raises(DimensionMismatch, match="encode them together"):
        find_truth(one, other)


label_sets = st.lists(st.frozensets(st.sampled_from("abcdef")), min_size=2, max_size=12)


@given(label_sets)
def test_label_iou_is_shared_over_either(sets):
    judged = encode(items(*({"labels": sorted(labels)} for labels in [*sets, frozenset("a")])))
    for q, query in enumerate(sets):
        iou = label_iou(judged.labels[np.full(judged.n_items, q)], judged.labels)
        for g, other in enumerate(sets):
            assert iou[g] == (len(query & other) / len(query | other) if query | other else 0)


def test_nothing_found_has_no_label_in_common():
    queries, gallery = split(encode(items({"labels": ["x"]}, {"labels": ["x"]})), 1)
    assert neighbour_iou(queries, gallery, np.array([[0, -1]])).tolist() == [[1.0, 0.0]]


def test_unknown_codes_match_nothing_and_neither_does_padding():
    hits = same_code(np.array([-1, 3]), np.array([-1, 3]), np.array([[0, 1, -1], [0, 1, -1]]))
    assert hits.tolist() == [[False, False, False], [False, True, False]]


def gain(query: dict, other: dict) -> float:
    judged = encode(items(query, other, {"category": "z", "labels": ["z"], "attributes": [("z", "z")]}))
    truth = find_truth(*split(judged, 1))
    return float(neighbour_gain(truth, np.array([[0]]))[0, 0])


def test_gain_is_the_label_iou_of_items_with_equal_properties():
    query = {"category": "dress", "labels": ["red", "long"], "attributes": [("season", "summer")]}
    assert gain(query, query) == 1
    assert gain(query, {"category": "dress", "labels": ["red"], "attributes": [("season", "summer")]}) == 0.5
    assert gain(query, {"category": "dress", "labels": ["red"], "attributes": [("season", "winter")]}) == 0
    assert gain(query, {"category": "shirt", "labels": ["red"], "attributes": [("season", "summer")]}) == 0


def test_an_attribute_that_both_lack_is_equal_and_one_that_only_one_lacks_is_not():
    shoe = {"category": "shoe", "labels": ["red"]}
    assert gain(shoe, shoe) == 1
    assert gain(shoe, shoe | {"attributes": [("sleeve", "long")]}) == 0


def test_a_query_without_any_property_gains_nothing():
    assert gain({"labels": ["red"]}, {"labels": ["red"]}) == 0


@st.composite
def catalogues(draw):
    some = {
        "category": st.sampled_from([None, "a", "b"]),
        "labels": st.lists(st.sampled_from("xyz"), unique=True),
        "attributes": st.lists(st.tuples(st.just("colour"), st.sampled_from("rg")), max_size=1),
    }
    kinds = draw(st.sets(st.sampled_from(sorted(some))))
    return draw(st.lists(st.fixed_dictionaries({kind: some[kind] for kind in sorted(kinds)}), min_size=2, max_size=30))


@given(catalogues(), st.integers(1, 5), st.integers(1, 20))
def test_the_best_gains_are_the_largest_of_all_pairs(rows, n_queries, group_rows):
    with mock.patch("retrieval_core.metrics.relevance.GROUP_ROWS", group_rows):
        check_best_gains(rows, n_queries)


def check_best_gains(rows, n_queries):
    truth = find_truth(*split(encode(items(*rows)), n_queries))
    if truth.best_gains is None:
        assert truth.queries.labels is None
        assert truth.queries.attributes is None
        return
    n_gallery = truth.gallery.n_items
    everything = np.tile(np.arange(n_gallery), (truth.queries.n_items, 1))
    for shares, best_gains in ((False, truth.best_gains), (True, truth.best_shares)):
        gains = neighbour_gain(truth, everything, shares)
        for found, best, n_more_tied in zip(gains, *best_gains, strict=True):
            assert best.tolist() == (sorted(found.tolist(), reverse=True) + [0.0] * 10)[:10]
            assert best[9] == 0 or n_more_tied == (found == best[9]).sum() - (best == best[9]).sum()


@given(catalogues())
def test_a_query_in_the_gallery_is_judged_as_in_the_gallery_without_it(rows):
    judged = encode(items(*rows))
    everyone = np.arange(judged.n_items)
    truth = find_truth(judged, judged, everyone)
    assert truth.n_items.tolist() == [judged.n_items - 1] * judged.n_items
    for query in everyone:
        alone = find_truth(judged.take(everyone == query), judged.take(everyone != query))
        for name in ("n_same_product", "n_same_category", "n_relevant"):
            inside, outside = getattr(truth, name), getattr(alone, name)
            assert (inside is None) == (outside is None)
            assert inside is None or inside[query] == outside[0]
        for name in ("best_gains", "best_shares"):
            inside, outside = getattr(truth, name), getattr(alone, name)
            assert (inside is None) == (outside is None)
            assert inside is None or np.array_equal(inside.best[query], outside.best[0])


@given(catalogues(), st.data())
def test_the_judgements_of_some_rows_alone_are_those_of_a_catalogue_of_them(rows, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, unique=True))
    table = items(*rows)
    mine, alone = encode(table).only(np.array(chosen)), encode(table[chosen])
    for name in ("product", "category", "labels", "attributes"):
        assert (getattr(mine, name) is None) == (getattr(alone, name) is None)
    truths = [find_truth(*split(judged, 1)) for judged in (mine, alone)]
    everything = np.arange(len(chosen) - 1)[None]
    for shares in (False, True):
        gains = [neighbour_gain(truth, everything, shares).tolist() for truth in truths]
        assert gains[0] == gains[1]
    assert [truth.n_same_category is None for truth in truths] in ([True, True], [False, False])


@given(catalogues(), st.integers(1, 4))
def test_batches_of_rows_give_the_same_judgements(rows, n_rows):
    table = items(*rows)
    whole = encode(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval_core.artifacts.mapped_rows.BATCH_ROWS", n_rows)
        batched = encode(table)
    assert (batched.label_names, batched.attribute_names) == (whole.label_names, whole.attribute_names)
    for name in ("labels", "attributes"):
        ours, theirs = getattr(batched, name), getattr(whole, name)
        assert ours is theirs is None or not (ours != theirs).sum()


def test_blocks_do_not_change_the_truth(monkeypatch):
    rng = np.random.default_rng(0)
    labels = csr_array(rng.random((90, 7)) < 0.3)
    judged = Judgements(90, labels=labels, label_names=tuple("abcdefg"), category=rng.integers(-1, 2, 90))
    whole = find_truth(*split(judged, 30))
    positions = rng.integers(-1, 60, (30, 10))
    iou, best = neighbour_iou(whole.queries, whole.gallery, positions), whole.best_gains
    monkeypatch.setattr("retrieval_core.metrics.relevance.BLOCK_PAIRS", 100)
    monkeypatch.setattr("retrieval_core.metrics.relevance.GROUP_ROWS", 10)
    for blocked, at_once in zip(find_truth(*split(judged, 30)).best_gains, best, strict=True):
        assert np.array_equal(blocked, at_once)
    assert np.array_equal(neighbour_iou(whole.queries, whole.gallery, positions), iou)
