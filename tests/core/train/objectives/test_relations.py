"""Relations agree with a count over all pairs, and batches have the properties that training needs."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from retrieval_core.errors import BadConfig
from retrieval_core.ingest.sources.base import conform
from retrieval_core.train.config import MetricTraining
from retrieval_core.train.objectives.base import TrainingData
from retrieval_core.train.objectives.relations import MIN_BATCH, SameClass, SharedLabels, relate

NAMES = ("bag", "boots", "coat", "dress", "hat")
THRESHOLDS = {"0": 0.0, "1/5": 0.2, "1/3": 1 / 3, "1/2": 0.5, "2/3": 2 / 3, "1": 1.0}

seeds = st.integers(0, 2**32)
label_sets = st.lists(st.sets(st.sampled_from(NAMES)), min_size=2, max_size=30)
class_codes = st.lists(st.integers(-1, 6), min_size=2, max_size=80)


def catalogue(**columns):
    ids = [f"{number:03}" for number in range(len(next(iter(columns.values()))))]
    return conform(pl.DataFrame({"item_id": ids, "image_uri": ids, **columns}), "drawn")


def matrix(sets):
    return csr_array(np.array([[name in labels for name in NAMES] for labels in sets], np.bool_))


def iou(some, others):
    return Fraction(len(some & others), len(some | others))


def everything(sets):
    return np.arange(len(sets))


def drawn_batches(relation, n_rows, size, seed):
    rows = relation.partnered(np.arange(n_rows))
    return rows, relation.batches(rows, size, np.random.default_rng(seed)) if len(rows) else []


@given(label_sets, st.sampled_from(list(THRESHOLDS)), st.sampled_from(list(THRESHOLDS)))
def test_pictures_are_alike_and_unlike_by_the_labels_they_share(sets, one, other):
    low, high = sorted((one, other), key=Fraction)
    pairs = SharedLabels(matrix(sets), THRESHOLDS[high], THRESHOLDS[low]).pairs(everything(sets))
    for (i, some), (j, others) in itertools.product(enumerate(sets), repeat=2):
        known = bool(some and others) and i != j
        assert pairs.alike[i, j] == (known and iou(some, others) >= Fraction(high))
        assert pairs.unlike[i, j] == (known and iou(some, others) < Fraction(low))


@given(class_codes)
def test_pictures_of_a_class_are_alike_and_of_an_unknown_one_neither(codes):
    pairs = SameClass(np.array(codes)).pairs(np.arange(len(codes)))
    for (i, some), (j, other) in itertools.product(enumerate(codes), repeat=2):
        assert pairs.alike[i, j] == (some == other != -1 and i != j)
        assert pairs.unlike[i, j] == (some != other and -1 not in (some, other))


def test_two_views_of_a_picture_in_a_batch_are_no_pair():
    for relation in (SameClass(np.array([0, 0, 1])), SharedLabels(matrix([{"bag"}, {"bag"}, {"hat"}]), 0.5, 0.2)):
        pairs = relation.pairs(np.array([0, 0, 1, 2]))
        assert np.argwhere(np.triu(pairs.alike)).tolist() == [[0, 2], [1, 2]]
        assert np.argwhere(np.triu(pairs.unlike)).tolist() == [[0, 3], [1, 3], [2, 3]]


@given(class_codes, st.data())
def test_the_pictures_to_learn_from_are_those_with_another_of_their_class(codes, data):
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(codes))), unique=True)), np.int64)
    counts = Counter(codes[row] for row in rows)
    expected = [row for row in rows if codes[row] >= 0 and counts[codes[row]] > 1]
    several = len({codes[row] for row in expected}) > 1
    assert SameClass(np.array(codes)).partnered(rows).tolist() == (expected if several else [])


@given(label_sets, st.data())
def test_the_pictures_to_learn_from_are_those_that_share_enough_labels_with_another(sets, data):
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(sets))), unique=True)), np.int64)
    pairs = [(i, j) for i, j in itertools.permutations(rows.tolist(), 2) if sets[i] and sets[j]]
    partnered = {i for i, j in pairs if iou(sets[i], sets[j]) >= Fraction(1, 2)}
    apart = any(iou(sets[i], sets[j]) < Fraction(1, 3) for i, j in pairs)
    expected = [row for row in rows if row in partnered] if apart else []
    assert SharedLabels(matrix(sets), 0.5, 1 / 3).partnered(rows).tolist() == expected


@given(class_codes, st.integers(MIN_BATCH, 40), seeds)
def test_an_epoch_shows_every_picture_once_beside_another_of_its_class_and_one_of_another(codes, size, seed):
    relation = SameClass(np.array(codes))
    rows, batches = drawn_batches(relation, len(codes), size, seed)
    assert sorted(row for batch in batches for row in batch) == rows.tolist()
    for batch in batches:
        assert len(batch) <= size
        assert relation.pairs(batch).alike.any(axis=1).all()


@given(label_sets, st.integers(MIN_BATCH, 40), seeds)
def test_an_epoch_shows_every_picture_once_and_a_partner_that_shares_its_labels(sets, size, seed):
    relation = SharedLabels(matrix(sets), 0.5, 0.2)
    rows, batches = drawn_batches(relation, len(sets), size, seed)
    anchors = []
    for batch in batches:
        assert len(batch) <= size
        first, second = np.split(batch, 2)
        anchors += first.tolist()
        for anchor, partner in zip(first, second, strict=True):
            assert anchor != partner
            assert iou(sets[anchor], sets[partner]) >= Fraction(1, 2)
    assert sorted(anchors) == rows.tolist()


def test_any_picture_that_is_alike_can_be_drawn_as_a_partner():
    sets = [{"bag", "coat"}, {"bag", "coat"}, {"bag"}, {"bag"}, {"bag", "coat", "hat"}, {"dress"}, {"dress"}]
    relation = SharedLabels(matrix(sets), 0.5, 0.2)
    drawn = Counter()
    for seed in range(400):
        for batch in drawn_batches(relation, len(sets), MIN_BATCH, seed)[1]:
            first, second = np.split(batch, 2)
            drawn.update(partner for anchor, partner in zip(first, second, strict=True) if anchor == 0)
    assert drawn.keys() == {1, 2, 3, 4}
    assert min(drawn.values()) > 60


def test_a_common_class_is_spread_over_the_batches_so_that_each_meets_something_unlike():
    relation = SameClass(np.repeat([0, 1, 2], [400, 40, 40]))
    _, batches = drawn_batches(relation, 480, 48, seed=0)
    assert all(relation.pairs(batch).unlike.any() for batch in batches)
    assert min(map(len, batches)) > 40


def test_batches_come_from_the_generator_alone_and_differ_from_epoch_to_epoch():
    sets = [{NAMES[number % 5], NAMES[number % 3]} for number in range(60)]
    for relation in (SharedLabels(matrix(sets), 0.5, 0.2), SameClass(np.arange(60) % 7)):
        first, again, other = (drawn_batches(relation, 60, 16, seed)[1] for seed in (1, 1, 2))
        assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
        assert [batch.tolist() for batch in first] != [batch.tolist() for batch in other]


def test_many_label_sets_are_processed_in_blocks_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    sets = [set(rng.choice(NAMES, rng.integers(1, 4), replace=False)) for _ in range(80)]

    def answers():
        relation = SharedLabels(matrix(sets), 0.5, 0.2)
        rows, batches = drawn_batches(relation, 80, 16, seed=0)
        positions = np.array([(rows + step) % len(rows) for step in (1, 2)]).T
        return rows.tolist(), np.concatenate(batches).tolist(), relation.relevance(rows, positions).tolist()

    whole = answers()
    monkeypatch.setattr("retrieval_core.metrics.relevance.BLOCK_PAIRS", 50)
    assert answers() == whole


def test_relevance_by_class_is_the_share_of_what_can_be_found():
    relation = SameClass(np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]))
    positions = [[1, 3], [2, 0], [3, 4], [4, 0], [0, 1], [0, 6], [7, 0], [8, -1], [7, 6]]
    found = relation.relevance(np.arange(9), np.array(positions))
    assert found.tolist() == [0.5, 1, 0, 1, 0, 0.5, 0.5, 0.5, 1]
    # Positions are among the rows asked about, and so is what could be found.
    assert relation.relevance(np.array([0, 4, 1]), np.array([[2, 1], [0, 2], [1, 0]])).tolist() == [1, 0, 1]


def test_relevance_by_labels_is_the_mean_of_the_shares_in_common():
    sets = [{"bag", "coat"}, {"bag"}, {"hat"}, {"bag", "coat"}]
    found = SharedLabels(matrix(sets), 0.5, 0.2).relevance(
        everything(sets), np.array([[1, 3], [0, 3], [0, 1], [0, -1]])
    )
    np.testing.assert_allclose(found, [0.75, 0.5, 0, 1])


def kind(items, **changes):
    relation = relate(TrainingData(items), MetricTraining(**changes))
    return type(relation), relation.pairs(np.arange(len(items))).alike


def test_auto_takes_products_then_categories_then_labels():
    columns = {
        "product_id": ["a", "a", "b", "b"],
        "category": ["x", "y", "x", "y"],
        "labels": [["bag"], ["hat"], ["hat"], ["bag"]],
    }
    partners = {"product": [1, 0, 3, 2], "category": [2, 3, 0, 1], "labels": [3, 2, 1, 0]}
    for name, column in (("product", "product_id"), ("category", "category"), ("labels", "labels")):
        for alike in ("auto", name):
            assert kind(catalogue(**columns), alike=alike)[1].argmax(axis=1).tolist() == partners[name]
        del columns[column]


def test_auto_skips_products_with_one_picture_each():
    columns = {"product_id": ["a", "b", "c", "c"], "category": ["x", "x", "x", "x"]}
    assert kind(catalogue(**columns, labels=[["bag"], ["hat"], ["hat"], ["bag"]]))[0] is SharedLabels
    with pytest.raises(
        BadConfig, match=r"of 3 products 1 have two .*; of 1 categories 1 have two .*no picture has labels"
    ):
        kind(catalogue(**columns))


def test_held_out_pictures_do_not_count_as_comparable():
    columns = {"category": ["x", "x", "y", "y"], "labels": [["bag"], ["bag"], ["hat"], ["hat"]]}
    assert kind(catalogue(**columns, split=["train", "gallery", None, "train"]))[0] is SameClass
    for split in ("val", "query", "test"):
        items = catalogue(**columns, split=["train", "train", split, split])
        with pytest.raises(BadConfig, match=r"2 pictures may be trained on.*no two pictures share less than 0\.2"):
            kind(items)


@pytest.mark.parametrize(
    ("columns", "changes", "why"),
    [
        ({"labels": [["bag"], ["bag"], ["hat"]]}, {"alike": "product"}, "no picture has a product"),
        ({"labels": [["bag"], ["bag"], ["hat"]]}, {"alike": "category"}, "no picture has a category"),
        ({"category": ["x", "x", "y"]}, {"alike": "labels"}, "no picture has labels"),
        ({"category": ["x", "x", "y"]}, {}, "of 2 categories 1 have two pictures or more, two such are needed"),
        ({"category": ["x", "x", "x"]}, {"alike": "category"}, "of 1 categories 1 have two"),
        ({"category": ["x", "y", "z"]}, {"alike": "category"}, "of 3 categories 0 have two"),
        ({"labels": [["bag"], ["coat"], ["hat"]]}, {}, r"no two pictures share 0\.5 .*\(alike_iou\)"),
        ({"labels": [["bag"], ["bag"], ["bag"]]}, {}, r"no two pictures share less than 0\.2 .*\(unlike_iou\)"),
        ({"labels": [["bag"], ["bag"], ["hat"]]}, {"unlike_iou": 0}, "no two pictures share less than 0 of"),
        ({"labels": [[], [], []]}, {}, "no picture has a product; no picture has a category; no picture has labels"),
    ],
)
def test_a_catalogue_in_which_nothing_can_be_compared_is_refused_with_what_it_lacks(columns, changes, why):
    with pytest.raises(BadConfig, match=why) as refused:
        kind(catalogue(**columns), **changes)
    assert "3 pictures may be trained on" in str(refused.value)
    assert "set alike to" in str(refused.value)


def test_pictures_are_alike_that_shoppers_chose_for_each_other():
    items = catalogue(product_id=list("aabbcc")).with_columns(chosen=pl.Series(["x", None, "x", "y", None, "y"]))
    relation = relate(TrainingData(items), MetricTraining(alike="chosen"))
    assert relation.partnered(np.arange(6)).tolist() == [0, 2, 3, 5]
    pairs = relation.pairs(np.arange(6))
    assert np.argwhere(np.triu(pairs.alike)).tolist() == [[0, 2], [3, 5]]
    assert not pairs.unlike[1].any(), "nobody said anything of it"
    for unknown in (items.drop("chosen"), items.with_columns(chosen=pl.lit("x"))):
        with pytest.raises(BadConfig, match="vitrine feedback"):
            relate(TrainingData(unknown), MetricTraining(alike="chosen"))
