"""Golden queries: faults of the file are told and never stop a night; a broken chain lowers what they measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.measure.golden_queries import Golden, check_golden, read_golden, search_golden
from retrieval_core.search.query import Query

MAX_PIXELS = 1_000_000


@pytest.fixture
def ask(shop, tmp_path: Path) -> Callable[..., Golden]:
    """Writes a file of golden queries beside the shop's pictures, and asks them of its production."""

    def asked(text: str, release: str = "production") -> Golden:
        path = tmp_path / "golden.csv"
        path.write_text(text, encoding="utf-8")
        return search_golden(shop.open(release), shop.items, read_golden(str(path)), MAX_PIXELS)

    return asked


def publish_broken(shop) -> None:
    """A release whose vectors stand under the wrong items: those three products further."""
    names = sorted(shop.vectors)
    right = dict(shop.vectors)
    shop.vectors.update({name: right[names[(place + 9) % len(names)]] for place, name in enumerate(names)})
    shop.publish("broken", alias="latest")
    shop.vectors.update(right)


GOOD = "query,expected\n" + "".join(f"item-{n}-0.jpg,item-{n}-0|item-{n}-1\n" for n in range(8))


def test_a_perfect_chain_scores_one_and_a_broken_one_nothing(ask, shop):
    done = ask(GOOD)
    assert done.metrics == {"golden/hit@1": 1.0, "golden/recall@10": 1.0, "golden/mrr": 1.0}
    assert (done.facts.n_queries, done.facts.n_asked, done.facts.n_missed) == (8, 8, 0)
    assert done.facts.metrics == done.metrics
    assert done.facts.problems == ()
    assert done.facts.missing == ""
    publish_broken(shop)
    broken = ask(GOOD, "latest")
    assert broken.metrics["golden/hit@1"] == 0.0
    assert broken.metrics["golden/mrr"] < 0.5
    assert broken.metrics["golden/recall@10"] < 1.0
    assert broken.per_query["item_id"].equals(done.per_query["item_id"]), "the gate compares the same queries"
    assert broken.facts.n_missed == 8
    assert len(broken.facts.missed) == 8
    first = broken.facts.missed[0]
    assert first.query.jpeg
    assert first.hits[0].mark is False
    assert first.expected[0].jpeg


def test_metrics_are_what_their_definitions_say_of_the_hits(ask, shop):
    text = "query,expected,k\nitem-2-2.jpg,item-5-0|item-2-2|item-7-1,\nitem-3-0.jpg,item-4-0|item-6-2,3\n"
    done = ask(text)
    for row, (name, expected, k) in enumerate(
        [("item-2-2", {"item-5-0", "item-2-2", "item-7-1"}, 10), ("item-3-0", {"item-4-0", "item-6-2"}, 3)]
    ):
        hits = [hit.item_id for hit in shop.open().search(str(shop.picture(name)), k=k)]
        ranks = [rank for rank, hit in enumerate(hits, start=1) if hit in expected]
        assert done.per_query["golden/hit@1"][row] == float(hits[0] in expected)
        assert done.per_query["golden/recall@10"][row] == len(ranks) / min(len(expected), k)
        assert done.per_query["golden/mrr"][row] == (1 / ranks[0] if ranks else 0.0)
    assert done.metrics["golden/recall@10"] == np.mean(done.per_query["golden/recall@10"].to_list())


def test_an_item_queries_for_others_like_it_and_never_finds_itself(ask):
    done = ask("query,expected\nitem-3-0,item-3-1\nitem-4-0,item-4-0|item-4-1\n")
    assert done.metrics == {"golden/hit@1": 1.0, "golden/recall@10": 1.0, "golden/mrr": 1.0}
    assert done.facts.problems == ("query item-4-0: expects its own picture, which is never among its hits",)


def test_another_item_with_the_file_of_a_query_is_neither_expected_nor_found(shop, tmp_path: Path):
    path = tmp_path / "golden.csv"
    path.write_text("query,expected,k\nitem-3-0,item-3-1|item-3-2,3\n", encoding="utf-8")
    own = shop.items.filter(pl.col("item_id") == "item-3-0")["content_id"].item()
    same_file = pl.when(pl.col("item_id") == "item-3-1").then(pl.lit(own)).otherwise("content_id")
    items = shop.items.with_columns(content_id=same_file)
    done = search_golden(shop.open(), items, read_golden(str(path)), MAX_PIXELS)
    assert done.facts.problems == ("query item-3-0: expects its own picture, which is never among its hits",)
    hits = [hit.item_id for hit in shop.open().search(Query(item_ids=("item-3-0",)), k=4)]
    assert hits[0] == "item-3-1"
    assert done.metrics["golden/hit@1"] == (hits[1] == "item-3-2")
    assert done.metrics["golden/recall@10"] == ("item-3-2" in hits[1:])


def test_rows_of_one_query_are_one_query(ask):
    one = ask("query,expected\nitem-1-0.jpg,item-1-0|item-2-0|item-3-0\n")
    rows = ask(
        "query,expected,note\nitem-1-0.jpg,item-1-0,\nitem-1-0.jpg,item-2-0,why\nitem-1-0.jpg,item-3-0|item-1-0,"
    )
    assert rows.per_query.equals(one.per_query)
    assert len(rows.per_query) == rows.facts.n_queries == 1


def test_ids_are_known_in_any_spelling(ask):
    plain = ask("query,expected\nitem-3-0,item-3-1|item-3-2\n")
    text = "query,expected\n\u200bitem-3-0,item-3-1\u00a0|\ufeffitem-3-2\nitem-3\u00ad-0,item-\u200d3-1\n"
    assert ask(text).per_query.equals(plain.per_query)


def test_an_item_that_left_the_catalogue_is_told_and_the_rest_still_judged(ask):
    done = ask("query,expected\nitem-1-0.jpg,item-1-0|item-99-0\nitem-2-0.jpg,item-98-0\nitem-97-0,item-1-0\n")
    assert done.metrics["golden/recall@10"] == 1.0
    assert done.facts.n_asked == 1
    said = "\n".join(done.facts.problems)
    assert "item-99-0 not in the catalogue" in said
    assert "item-2-0.jpg: left out" in said
    assert "item-97-0: no such item, and no picture" in said
    other = ask("query,expected\nitem-1-0.jpg,item-1-0\n")
    assert other.per_query["item_id"].equals(done.per_query["item_id"]), "judged by the same, it is the same question"
    more = ask("query,expected\nitem-1-0.jpg,item-1-0|item-1-1\n")
    assert not more.per_query["item_id"].equals(done.per_query["item_id"]), "judged by more, it is another one"


def test_pictures_that_cannot_be_read_are_told_by_name(ask, tmp_path: Path):
    (tmp_path / "note.jpg").write_text("no picture")
    (tmp_path.parent / "outside.jpg").write_bytes((tmp_path / "item-1-0.jpg").read_bytes())
    names = ["gone.jpg", "note.jpg", "../outside.jpg", "http://shop/a.jpg", "a\x1b[31m.jpg", "a\0.jpg", "x" * 5000]
    done = ask("query,expected\n" + "".join(f"{name},item-1-0\n" for name in names) + "item-1-0.jpg,item-1-0\n")
    assert done.facts.n_asked == 1
    assert done.metrics["golden/hit@1"] == 1.0
    assert done.facts.n_problems == len(names)
    for name, problem in zip(names, done.facts.problems, strict=True):
        assert name[:50] in problem or not name.isprintable()
        assert len(problem) <= 300
        assert "\n" not in problem


def test_absolute_paths_are_read_and_relative_ones_start_at_the_file(ask, shop, tmp_path: Path):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "mine.jpg").write_bytes(shop.picture("item-5-0").read_bytes())
    done = ask(f"query,expected\n{shop.picture('item-4-0')},item-4-0\nkept/mine.jpg,item-5-0\n")
    assert done.metrics["golden/hit@1"] == 1.0
    assert done.facts.n_asked == 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty; expected the columns query, expected, k, note"),
        (b"query;expected\na;b\n", "lacks the column query and expected; its first row is query;expected"),
        (b"query,wanted\na,b\n", "lacks the column expected"),
        (b"query,expected\n", "has no queries"),
        (b"query,expected\n,\n \n", "has no queries"),
        ("query,expected\ncafé,x\n".encode("latin-1"), "is not a CSV in UTF-8"),
        (b'query,expected\n"a,b\n', "is not a CSV in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "is not a CSV in UTF-8"),
    ],
)
def test_a_file_that_says_nothing_is_told_and_never_a_crash(shop, tmp_path: Path, data, said):
    path = tmp_path / "golden.csv"
    path.write_bytes(data)
    check_golden(str(path))
    done = search_golden(shop.open(), shop.items, read_golden(str(path)), MAX_PIXELS)
    assert said in done.facts.missing
    assert done.metrics == {}
    assert done.per_query.height == 0
    assert done.per_query.columns == ["item_id"]


def test_rows_that_make_no_sense_are_told_by_their_number(ask):
    done = ask(
        "\ufeffnote, query ,expected,k\n,item-1-0.jpg,item-1-0,ten\n\n,,item-1-0,\n"
        ",item-2-0.jpg, | ,\n,item-3-0.jpg,item-3-0,0\n"
    )
    assert done.facts.n_asked == 2
    assert done.metrics["golden/hit@1"] == 1.0
    assert [problem.split(":")[0] for problem in done.facts.problems] == ["row 2", "row 4", "row 5", "row 6"]
    assert "k is 'ten', expected 1 to 100" in done.facts.problems[0]
    assert "no query" in done.facts.problems[1]
    assert "no expected items" in done.facts.problems[2]


def test_a_thousand_problems_are_counted_and_few_are_told(ask):
    done = ask("query,expected\n" + "".join(f"gone-{n}.jpg,item-1-0\n" for n in range(1000)))
    assert done.facts.n_problems == 1000
    assert len(done.facts.problems) == 20
    assert done.facts.missing == "None of the golden queries could be searched."


def test_no_file_is_bad_config_before_a_night_and_told_in_it(tmp_path: Path):
    check_golden("")
    for wrong in (str(tmp_path / "gone.csv"), str(tmp_path), "ftp://shop/golden.csv"):
        with pytest.raises(BadConfig, match=r"evaluate\.golden"):
            check_golden(wrong)
        assert "cannot be read" in read_golden(wrong).missing
    assert read_golden("").missing == "No golden queries are kept (evaluate.golden is empty)."


def test_a_file_is_known_by_its_bytes(tmp_path: Path):
    path = tmp_path / "golden.csv"
    path.write_text(GOOD)
    first = read_golden(str(path)).digest
    path.write_text(GOOD + "item-9-0.jpg,item-9-0\n")
    assert first
    assert read_golden(str(path)).digest not in (first, "")


def test_the_same_file_and_release_give_the_same_answers(ask):
    assert ask(GOOD).facts == ask(GOOD).facts
