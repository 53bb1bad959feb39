"""Golden queries with grades: a better order scores higher, what nobody judged is passed over, faults are told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.evaluate.measure.golden_queries import read_golden, search_golden
from retrieval_core.evaluate.measure.graded_queries import choose_graded, search_graded
from retrieval_core.feedback.grades import Evidence
from retrieval_core.feedback.judgements import judge_feedback
from retrieval_core.feedback.log import put_events, put_searches
from retrieval_core.search.query import Query
from tests.core.feedback.drawn_log import event, search

MAX_PIXELS = 1_000_000
NDCG = "golden/ndcg@10"


@pytest.fixture
def ask(shop, tmp_path: Path) -> Callable[..., pl.DataFrame]:
    """Writes a file of golden queries beside the shop's pictures, and asks those with grades of its production."""

    def asked(text: str) -> pl.DataFrame:
        path = tmp_path / "golden.csv"
        path.write_text(text, encoding="utf-8")
        queries = choose_graded(shop.store, EvaluateConfig(golden=str(path)), shop.items)
        return search_graded(shop.open(), shop.items, queries, MAX_PIXELS)

    return asked


def hits(shop, item_id: str) -> list[str]:
    return [hit.item_id for hit in shop.open().search(Query(item_ids=(item_id,)), k=100, by_product=True)]


def test_grades_in_the_order_of_the_hits_are_the_best(shop, ask):
    found = hits(shop, "item-3-0")
    best, worst = f"{found[1]}|{found[4]}|{found[6]}", f"{found[6]}|{found[4]}|{found[1]}"
    done = ask(f"query,expected,grades\nitem-3-0,{best},3|1|0\n")
    assert done[NDCG].to_list() == [1.0], "the hits that nobody judged are passed over"
    assert ask(f"query,expected,grades\nitem-3-0,{worst},3|1|0\n")[NDCG][0] < 0.7
    assert ask(f"query,expected,grades\nitem-3-0.jpg,{worst},3|1|0\n").height == 1, "also of a picture"


def test_another_picture_of_a_product_is_as_good(shop, ask):
    found = hits(shop, "item-3-0")
    others = [name.rpartition("-")[0] + "-2" for name in (found[1], found[4])]
    assert ask(f"query,expected,grades\nitem-3-0,{others[0]}|{others[1]},3|0\n")[NDCG].to_list() == [1.0]


def test_a_file_may_hold_both_kinds_and_each_is_measured_in_its_own_way(shop, ask, tmp_path):
    text = "query,expected,grades\nitem-3-0,item-3-1,\nitem-4-0,item-5-0|item-6-0,3|0\n"
    assert ask(text).height == 1
    plain = search_golden(shop.open(), shop.items, read_golden(str(tmp_path / "golden.csv")), MAX_PIXELS)
    assert (plain.facts.n_queries, plain.metrics["golden/hit@1"]) == (1, 1.0)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("item-4-0,item-5-0|item-6-0,3", "grades are '3'"),
        ("item-4-0,item-5-0|item-6-0,3|4", "grades are '3|4'"),
        ("item-4-0,item-5-0|item-6-0,a|b", "grades are 'a|b'"),
    ],
)
def test_wrong_grades_are_told(row, told, ask, tmp_path):
    assert ask(f"query,expected,grades\n{row}\n").is_empty()
    assert any(told in problem for problem in read_golden(str(tmp_path / "golden.csv")).problems)


def test_what_cannot_be_asked_or_judged_any_more_is_left_out(ask):
    rows = ("item-99-0,item-5-0|item-6-0,3|0", "item-4-0,item-98-0|item-6-0,3|0", "text:red,item-5-0|item-6-0,3|0",
            "gone.jpg,item-5-0|item-6-0,3|0", "item-7-0,item-5-0|item-5-1,3|0")  # fmt: skip
    assert ask("query,expected,grades\n" + "\n".join(rows)).is_empty()


def test_what_shoppers_chose_is_asked_of_the_next_release(shop):
    found = hits(shop, "item-3-0")[:5]
    assert not choose_graded(shop.store, EvaluateConfig(), shop.items)
    now = datetime.now(UTC)
    for query in ("item-3-0", "item-4-0", "item-5-0", "item-6-0", "item-7-0"):
        names = [f"{query}{number}" for number in range(20)]
        put_searches(shop.store, [search(name, found, item_ids=(query,), at=now) for name in names])
        put_events(shop.store, [event(name, found[1], at=now) for name in names])
    judged = judge_feedback(shop.store, Evidence(min_looks=1.0), datetime.now(UTC))
    assert judged.n_golden > 0
    queries = choose_graded(shop.store, EvaluateConfig(), shop.items)
    assert len(queries) == judged.n_golden
    assert search_graded(shop.open(), shop.items, queries, MAX_PIXELS).height == judged.n_golden
    assert not choose_graded(shop.store, EvaluateConfig(feedback=False), shop.items)
