"""The fix list: every problem has an action, and an entry leads to the item in the search page and in the shop."""

import csv
import io
from typing import get_args

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, NAMED_VALUES, FieldSet, field_table, row_id
from retrieval_core.artifacts.parts import put_parts, table_bytes
from retrieval_core.evaluate.analysis.hygiene import FIX_SCHEMA, ProblemKind
from retrieval_core.evaluate.report.fix_list import (
    ACTION_OF,
    ACTIONS,
    HEADINGS,
    PROBLEM_WORDS,
    count_actions,
    csv_of,
    entries,
    groups,
    not_looked_for,
    read_shop_words,
    words,
)
from retrieval_core.evaluate.report.schema import ItemWords
from tests.core.evaluate.report.sample_facts import analysed, minimal

FIXES = pl.DataFrame(
    [
        ("sure-1", "category", "10 of 10 neighbours are shoe", "category shoe instead of hat", 0.99),
        ("wrong-1", "category", "9 of 10 neighbours are shoe", "category shoe instead of hat", 0.93),
        ("twin-1", "one_product", "shows the design of twin-2 in another colour", "product_id p-1", 1.0),
        ("label-1", "label", "9 of 10 neighbours have the label new", "add the label new", 0.95),
        ("alone-1", "orphan", "nothing is nearer than 0.9", "look", 0.7),
    ],
    schema=FIX_SCHEMA,
    orient="row",
)


def test_every_problem_has_an_action_and_words():
    assert set(ACTION_OF) == set(get_args(ProblemKind)) == set(PROBLEM_WORDS)
    assert set(ACTIONS) == set(HEADINGS) >= set(ACTION_OF.values())


def test_entries_are_grouped_by_what_a_person_does_in_the_order_they_came():
    listed = entries(analysed(quarantine=analysed().quarantine[:1]), FIXES)
    assert [(entry.action, entry.item_id) for entry in listed] == [
        ("relabel", "sure-1"), ("relabel", "wrong-1"), ("relabel", "label-1"), ("replace", "bad-00"),
        ("merge", "twin-1"), ("check", "alone-1"),
    ]  # fmt: skip
    assert listed[3].evidence == "truncated"


def test_the_page_and_its_first_screen_count_the_same_entries():
    facts = analysed()
    assert {group.action: group.n for group in groups(facts)} == {k: n for k, n in count_actions(facts).items() if n}
    assert sum(count_actions(facts).values()) == sum(facts.hygiene.counts.values()) + len(facts.quarantine)
    assert groups(minimal()) == []
    assert not_looked_for(facts) == [("wrong labels", "No item has a label")]


def test_the_table_for_a_spreadsheet_has_titles_and_addresses():
    shop = {"wrong-1": ItemWords(title="=HAT()", link="https://shop.example/hat")}
    facts = analysed(shop=shop, app_url="https://vitrine.example/?item=", quarantine=())
    rows = {
        row["item_id"]: row
        for row in csv.DictReader(io.StringIO(csv_of(entries(facts, FIXES), facts).decode("utf-8-sig")))
    }
    wrong = rows["wrong-1"]
    assert wrong["title"] == "'=HAT()", "a spreadsheet must not run it"
    assert (wrong["shop"], wrong["search"]) == ("https://shop.example/hat", "https://vitrine.example/?item=wrong-1")
    assert (wrong["action"], wrong["score"]) == ("relabel", "0.93")
    assert (rows["alone-1"]["title"], rows["alone-1"]["shop"]) == ("", "")


def test_an_id_is_escaped_in_an_address():
    assert words(analysed(app_url="https://v.example/?item="), "a/b&c")[2] == "https://v.example/?item=a%2Fb%26c"
    assert words(analysed(), "a") == ("", "", "")


@pytest.mark.parametrize(
    ("link", "shown"),
    [("https://shop.example/a", "https://shop.example/a"), ("javascript:alert(1)", ""), ("data:text/html,x", "")],
)
def test_only_web_addresses_of_the_shop_are_links(local_store, link, shown):
    values = [[{"name": "title", "value": "A"}, {"name": "link", "value": link}]]
    items = pl.DataFrame({"row_id": [row_id("a")]}).with_columns(fields=pl.Series(values, dtype=NAMED_VALUES))
    parts = put_parts(local_store, "fields/f", {FIELDS_FILE: table_bytes(field_table(items))}, {FIELDS_FILE: 1})
    fields = FieldSet(fingerprint="f" * 32, parts=parts).seal(local_store).ref
    assert read_shop_words(local_store, fields, {"a", "b"}) == {"a": ItemWords(title="A", link=shown)}
    assert read_shop_words(local_store, None, {"a"}) == {}
