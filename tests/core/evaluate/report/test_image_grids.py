"""A hit is marked by what the catalogue says of both sides, and not where it says nothing of one."""

import numpy as np
import polars as pl

from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.measure.setup import Protocol, choose_protocol
from retrieval_core.evaluate.report.image_grids import hit_marks


def asked(items) -> Protocol:
    """Every held-out item queries, in the order of `items`."""
    return choose_protocol(items, EvaluateConfig(queries=100))


def marks_of(items, positions) -> tuple[list[list[bool | None]], str]:
    marks = hit_marks(asked(items), np.array(positions))
    return [[marks.of(q, slot) for slot in range(len(row))] for q, row in enumerate(positions)], marks.judged_by


def test_an_unknown_category_on_either_side_is_no_mark(catalog_items):
    categories = ["dress", "shoe", None, "dress", "dress", "shoe", "hat", None, "dress", None]
    items = catalog_items(10, category=categories)
    marks, judged_by = marks_of(items, [[0, 1, 2], [0, 1, 2]])
    assert judged_by == "same category"
    assert marks == [[True, False, None], [None, None, None]]


def test_a_known_product_decides_before_the_category(catalog_items):
    items = catalog_items(10, category=["dress"] * 10, product_id=["a", "b", None, *"cdefg", "a", "b"])
    marks, judged_by = marks_of(items, [[0, 1, 2], [0, 1, 2]])
    assert judged_by == "same product"
    assert marks == [[True, False, None], [False, True, None]]


def test_labels_decide_where_both_sides_have_some(catalog_items):
    items = catalog_items(10)
    labels = [["red", "long"], ["red"], [], ["blue"], [], [], [], [], ["red"], []]
    marks, judged_by = marks_of(items.with_columns(pl.Series("labels", labels)), [[0, 1, 2, 3], [0, 1, 2, 3]])
    assert judged_by == "half of the labels or more"
    assert marks == [[True, True, None, False], [None] * 4]


def test_nothing_is_marked_where_nothing_is_known(catalog_items):
    assert marks_of(catalog_items(10), [[0, 1], [2, 3]]) == ([[None, None], [None, None]], "")
