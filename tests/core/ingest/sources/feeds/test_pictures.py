"""Products become rows, one a picture, and what is passed over is counted."""

from __future__ import annotations

import pytest

from retrieval_core.ingest.sources.feeds.pictures import PictureRows, Product, last_of_path, split_addresses, split_list


def test_rows_are_complete_over_several_slices() -> None:
    rows = PictureRows()
    for number in range(25_001):
        rows.add(
            Product(f"i{number}", ["a.jpg"], f"p{number}", "hat", ["x", " x", ""], {"b": "2", "a": " 1 ", "c": ""})
        )
    frame = rows.frame()
    assert frame["item_id"].to_list() == [f"i{number}" for number in range(25_001)]
    assert set(map(tuple, frame["labels"].to_list())) == {("x",)}
    assert frame["attributes"][25_000].to_list() == [{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]


def test_a_note_counts_and_names_the_first_that_are_passed_over() -> None:
    rows = PictureRows()
    for number in range(5):
        rows.add(Product(f"i{number}", ["", " "], "p", "", (), {}))
    assert rows.passed_over_notes() == ("5 products passed over, without a picture: i0, i1, i2 and 2 more",)


def test_two_spellings_of_one_id_are_refused() -> None:
    rows = PictureRows()
    rows.claim("e\u0301", "row 1")
    with pytest.raises(ValueError, match="stands in row 1 and in row 2"):
        rows.claim("\u00e9 ", "row 2")
    with pytest.raises(ValueError, match="row 3: a product without an id"):
        rows.claim("\u200b", "row 3")


def test_lists_and_paths_are_split() -> None:
    assert split_list(r"a\, b, c,,") == ["a, b", "c"]
    assert split_addresses("a.jpg, b.jpg") == ["a.jpg", "b.jpg"]
    assert split_addresses("s3://a/1,2.jpg,s3://b") == ["s3://a/1,2.jpg", "s3://b"]
    assert split_addresses(None) == split_list(None) == []
    assert last_of_path("Fruit > Apple ") == "Apple"
    assert last_of_path("Apple") == "Apple"
