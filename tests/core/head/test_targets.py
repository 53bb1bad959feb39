"""What the head is asked to learn, from catalogues that are sparse, contradictory or not labelled at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.head.targets import UNKNOWN, Targets, build_targets

SCHEMA = {
    "category": pl.String(),
    "labels": pl.List(pl.String()),
    "attributes": pl.List(pl.Struct({"name": pl.String(), "value": pl.String()})),
}


def catalog(*rows: dict[str, Any]) -> pl.DataFrame:
    """Rows of category, labels and attributes ({name: value} or a list of pairs), each optional."""

    def pairs(row: dict[str, Any]) -> list[dict[str, str]]:
        attributes = row.get("attributes", {})
        named = attributes.items() if isinstance(attributes, dict) else attributes
        return [{"name": name, "value": value} for name, value in named]

    full = [
        {"category": row.get("category"), "labels": row.get("labels", []), "attributes": pairs(row)} for row in rows
    ]
    return pl.DataFrame(full, schema=SCHEMA)


def classes_by_row(targets: Targets, task: str) -> list[str | None]:
    return [targets.tasks[task][code] if code != UNKNOWN else None for code in targets.single[task]]


def test_category_and_attributes_become_tasks_of_sorted_classes() -> None:
    items = catalog(
        {"category": "shoe", "attributes": {"colour": "red"}},
        {"category": "dress", "attributes": {"colour": "blue"}},
        {"category": "dress"},
    )
    targets = build_targets(items, min_count=1)
    assert targets.tasks == {"category": ["dress", "shoe"], "colour": ["blue", "red"]}
    assert classes_by_row(targets, "category") == ["shoe", "dress", "dress"]
    assert classes_by_row(targets, "colour") == ["red", "blue", None]
    assert targets.single["colour"].dtype == np.int64
    assert targets.multi is None


def test_a_rare_class_is_unknown_and_a_task_of_one_class_is_no_task() -> None:
    items = catalog(*[{"category": c} for c in "aabbc"], *[{"attributes": {"sex": "f"}}] * 3)
    targets = build_targets(items, min_count=2)
    assert targets.tasks == {"category": ["a", "b"]}
    assert classes_by_row(targets, "category")[:5] == ["a", "a", "b", "b", None]
    assert "category" not in build_targets(items, min_count=3).tasks


def test_a_picture_that_names_two_values_of_an_attribute_is_unknown_to_it() -> None:
    items = catalog(
        {"attributes": [("colour", "red"), ("colour", "blue")]},
        {"attributes": [("colour", "red"), ("colour", "red")]},
        {"attributes": {"colour": "blue"}},
    )
    assert classes_by_row(build_targets(items, min_count=1), "colour") == [None, "red", "blue"]


def test_empty_values_are_unknown() -> None:
    items = catalog({"category": ""}, {"category": "a", "attributes": {"colour": ""}}, {"category": "b"})
    targets = build_targets(items, min_count=1)
    assert targets.tasks == {"category": ["a", "b"]}
    assert classes_by_row(targets, "category") == [None, "a", "b"]


def test_labels_become_a_matrix_of_sorted_columns() -> None:
    items = catalog({"labels": ["hat", "bag"]}, {"labels": ["bag", "bag"]}, {"labels": ["tie"]})
    targets = build_targets(items, min_count=1)
    assert targets.tasks == {"labels": ["bag", "hat", "tie"]}
    assert targets.multi is not None
    assert targets.multi.dtype == np.float32
    np.testing.assert_array_equal(targets.multi, [[1, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_labels_that_are_rare_or_on_every_labelled_picture_are_dropped() -> None:
    items = catalog(*[{"labels": ["skin", "hat"]}] * 2, *[{"labels": ["skin"]}] * 2, {"labels": ["skin", "tie"]}, {})
    targets = build_targets(items, min_count=2)
    assert targets.tasks == {"labels": ["hat"]}


def test_a_picture_without_labels_is_unknown_but_one_with_only_rare_labels_has_none() -> None:
    items = catalog({"labels": ["hat"]}, {"labels": ["hat"]}, {"labels": ["tie"]}, {"labels": []})
    targets = build_targets(items, min_count=2)
    assert targets.multi is not None
    np.testing.assert_array_equal(targets.multi, [[1], [1], [0], [np.nan]])
    assert targets.known().tolist() == [True, True, True, False]


def test_an_attribute_called_labels_does_not_hide_the_labels() -> None:
    items = catalog(
        {"labels": ["hat"], "attributes": {"labels": "x"}}, {"labels": ["b"], "attributes": {"labels": "y"}}
    )
    targets = build_targets(items, min_count=1)
    assert targets.tasks == {"labels": ["b", "hat"]}
    assert targets.single == {}


def test_an_attribute_called_category_must_agree_with_the_category() -> None:
    items = catalog(
        {"category": "a", "attributes": {"category": "b"}}, {"category": "a"}, {"attributes": {"category": "b"}}
    )
    assert classes_by_row(build_targets(items, min_count=1), "category") == [None, "a", "b"]


def test_a_catalogue_without_usable_labels_has_no_tasks() -> None:
    for items in (catalog(), catalog({}, {}), catalog({"category": "a", "labels": ["hat"]})):
        assert build_targets(items, min_count=1).tasks == {}


def test_known_rows_are_those_with_any_target_and_take_keeps_them_aligned() -> None:
    items = catalog({"category": "a"}, {}, {"labels": ["hat"]}, {"category": "b", "labels": ["tie"]})
    targets = build_targets(items, min_count=1)
    assert targets.known().tolist() == [True, False, True, True]
    taken = targets.take(np.array([3, 0]))
    assert classes_by_row(taken, "category") == ["b", "a"]
    assert taken.known().tolist() == [True, True]
    assert taken.tasks == targets.tasks


rows = st.fixed_dictionaries(
    {
        "category": st.sampled_from([None, "a", "b", "c"]),
        "labels": st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
        "attributes": st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from(["1", "2", "3"])),
    }
)


@settings(max_examples=60)
@given(drawn=st.lists(rows, max_size=12), min_count=st.integers(1, 3), data=st.data())
def test_targets_follow_their_rows_whatever_the_order(
    drawn: list[dict[str, Any]], min_count: int, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(len(drawn)))), np.int64)
    targets = build_targets(catalog(*drawn), min_count)
    shuffled = build_targets(catalog(*[drawn[i] for i in order]), min_count)
    assert shuffled.tasks == targets.tasks
    assert list(shuffled.tasks) == list(targets.tasks)
    for name, codes in targets.take(order).single.items():
        np.testing.assert_array_equal(shuffled.single[name], codes)
        assert min(np.bincount(codes[codes != UNKNOWN])) >= min_count
        assert all(drawn[i].get(name) or drawn[i]["attributes"].get(name) for i in order[codes != UNKNOWN])
    if targets.multi is not None and shuffled.multi is not None:
        np.testing.assert_array_equal(shuffled.multi, targets.multi[order])
        assert (np.nansum(targets.multi, axis=0) >= min_count).all()
