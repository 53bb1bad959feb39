"""What a person repairs in the catalogue, by what they do: as a table for a spreadsheet and as a list to print."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple
from urllib.parse import quote

import polars as pl

from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, FieldSet, row_ids
from retrieval_core.artifacts.manifests import Ref
from retrieval_core.artifacts.parts import read_rows
from retrieval_core.evaluate.analysis.hygiene import FixExample, ProblemKind, csv_bytes
from retrieval_core.evaluate.report.schema import ItemWords, ReportFacts
from retrieval_core.filters import FIELD
from retrieval_core.store.base import Store

Action = Literal["relabel", "replace", "merge", "check"]
# What a person does about each problem; a picture that cannot be read is in the quarantine ledger.
ACTION_OF: dict[ProblemKind, Action] = {
    "category": "relabel",
    "near_duplicate": "merge",
    "one_product": "merge",
    "label": "relabel",
    "orphan": "check",
}
ACTIONS: tuple[Action, ...] = ("relabel", "replace", "merge", "check")  # in the order of the page
HEADINGS: dict[Action, str] = {
    "relabel": "Correct the category or label",
    "replace": "Replace the picture",
    "merge": "Join under one product",
    "check": "Check: nothing else looks like it",
}
PROBLEM_WORDS: dict[ProblemKind, str] = {
    "category": "wrong categories",
    "label": "wrong labels",
    "near_duplicate": "one picture under two products",
    "one_product": "variants of one product under several",
    "orphan": "items that look like nothing else",
}
UNREADABLE = "unreadable"
N_SHOWN = 4  # examples of each action on the page
N_PRINTED = 400
WEB_ADDRESS = re.compile(r"https?://\S+")


class FixGroup(NamedTuple):
    """What one action is called, how often it is due, and the most certain examples that are shown."""

    action: Action
    heading: str
    n: int
    examples: list[FixExample]


class FixEntry(NamedTuple):
    """One thing to do: what, with which item, why, and how certain that is, from 0 to 1."""

    action: Action
    item_id: str
    problem: str
    suggestion: str
    evidence: str
    score: float


def count_actions(facts: ReportFacts) -> dict[Action, int]:
    """Count the entries of the fix list by what a person does."""
    counts = dict.fromkeys(ACTIONS, 0)
    for problem, n in (facts.hygiene.counts if facts.hygiene else {}).items():
        counts[ACTION_OF[problem]] += n
    counts["replace"] += len(facts.quarantine)
    return counts


def groups(facts: ReportFacts) -> list[FixGroup]:
    """Return the actions that are due; pairs to join have their own pictures among the duplicates."""
    shown = facts.hygiene.examples if facts.hygiene else ()
    examples = {
        action: [fix for fix in shown if ACTION_OF[fix.problem] == action and fix.problem != "near_duplicate"]
        for action in ACTIONS
    }
    return [
        FixGroup(action, HEADINGS[action], n, examples[action][:N_SHOWN])
        for action, n in count_actions(facts).items()
        if n
    ]


def not_looked_for(facts: ReportFacts) -> list[tuple[str, str]]:
    """Return each problem that could not be looked for, and why."""
    reasons = facts.hygiene.not_looked_for if facts.hygiene else {}
    return [(PROBLEM_WORDS[problem], why.rstrip(".")) for problem, why in reasons.items()]


def entries(facts: ReportFacts, fixes: pl.DataFrame) -> list[FixEntry]:
    """Return the fix list by action, in each as `find_hygiene` orders it; `fixes` is its table."""
    rows = [FixEntry(ACTION_OF[row["problem"]], **row) for row in fixes.iter_rows(named=True)]
    rows += [
        FixEntry("replace", reject.item_id, UNREADABLE, "another file of this picture", reject.reason, 1.0)
        for reject in facts.quarantine
    ]
    return sorted(rows, key=lambda row: ACTIONS.index(row.action))


def csv_of(listed: Collection[FixEntry], facts: ReportFacts) -> bytes:
    """Return the fix list for a spreadsheet, with the address of each item in the search page and in the shop."""
    rows = [(*entry, *words(facts, entry.item_id)) for entry in listed]
    schema = dict.fromkeys((*FixEntry._fields, "title", "shop", "search"), pl.String())
    return csv_bytes(pl.DataFrame(rows, schema=schema | {"score": pl.Float64()}, orient="row"))


def words(facts: ReportFacts, item_id: str) -> tuple[str, str, str]:
    """Return an item's title and its addresses in the shop and in the search page, "" for what is not known."""
    shop = facts.shop.get(item_id, ItemWords())
    return shop.title, shop.link, f"{facts.app_url}{quote(item_id, safe='')}" if facts.app_url else ""


def read_shop_words(store: Store, fields: Ref | None, item_ids: Collection[str]) -> dict[str, ItemWords]:
    """Return the title and the link of each of these items that has one; a link that is no web address is none."""
    if fields is None or not item_ids:
        return {}
    asked = pl.DataFrame({"item_id": list(item_ids)}).with_columns(row_ids(pl.Series(list(item_ids))))
    part = FieldSet.open(store, fields).part(FIELDS_FILE)
    table = read_rows(store, part, pl.col("row_id").is_in(asked["row_id"].to_list()))
    return dict(_shop_words(table.join(asked, on="row_id")))


def _shop_words(table: pl.DataFrame) -> Iterator[tuple[str, ItemWords]]:
    for row in table.iter_rows(named=True):
        title, link = ((row.get(FIELD + name) or {}).get("text") or "" for name in ("title", "link"))
        yield row["item_id"], ItemWords(title=title, link=link if WEB_ADDRESS.fullmatch(link) else "")
