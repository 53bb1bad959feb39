"""Planted faults come first, a clean or a meaningless catalogue yields none, and no CSV cell becomes a formula."""

import csv
import io
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.evaluate.analysis.hygiene import FIX_SCHEMA, N_SHOWN, HygieneFacts, csv_bytes, find_hygiene
from retrieval_core.evaluate.analysis.near_duplicates import COLUMNS, GROUP_SCHEMA, DuplicateFacts, NearDuplicates
from retrieval_core.evaluate.measure.setup import find_neighbours

N, DIM = 300, 16
KINDS = ["dress", "shoe", "hat"]
NO_PAIRS = pl.DataFrame(schema=dict.fromkeys(COLUMNS[:4], pl.String) | {"similarity": pl.Float64})


def shelves(n: int = N, spread: float = 0.4) -> tuple[np.ndarray, list[str]]:
    """Unit vectors in three far clusters, and the category of each."""
    rng = np.random.default_rng(7)
    centres = 3 * np.eye(DIM)[:3]
    drawn = centres[np.arange(n) % 3] + spread * rng.standard_normal((n, DIM))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return vectors, [KINDS[i % 3] for i in range(n)]


@pytest.fixture
def clean(catalog_items, open_bench):
    """`clean(vectors, **columns)` is what hygiene finds in such a catalogue."""

    def find(vectors, pairs=NO_PAIRS, labels=None, groups=(), titles=None, **columns):
        items = catalog_items(len(vectors), **columns)
        if labels is not None:
            items = items.with_columns(pl.Series("labels", labels, pl.List(pl.String)))
        duplicates = NearDuplicates(pairs, pl.DataFrame(groups, GROUP_SCHEMA, orient="row"), DuplicateFacts())
        names = pl.Series("title", titles or [None] * len(items), pl.String)
        bench = open_bench(items, vectors)
        return find_hygiene(bench, find_neighbours(bench, 0), duplicates, names, seed=0)

    return find


def of(found, problem: str) -> pl.DataFrame:
    return found.fixes.filter(pl.col("problem") == problem)


def test_a_planted_wrong_category_is_found_first_with_the_right_suggestion(clean):
    vectors, kinds = shelves()
    kinds[31] = "hat"  # a shoe
    found = clean(vectors, category=kinds)
    assert found.fixes.schema == pl.Schema(FIX_SCHEMA)
    first = found.fixes.row(0, named=True)
    assert (first["item_id"], first["problem"]) == ("item-00031", "category")
    assert first["suggestion"] == "category shoe instead of hat"
    assert "10 of its 10 nearest pictures of other products are shoe, 0 are hat" in first["evidence"]
    assert first["score"] > 0.5
    assert len(of(found, "category")) == 1
    (example,) = [example for example in found.facts.examples if example.problem == "category"]
    assert len(example.beside) == 10
    assert all(int(item_id[-5:]) % 3 == 1 for item_id in example.beside)


def test_many_planted_wrong_categories_are_found_and_hardly_another(clean):
    vectors, kinds = shelves()
    planted = np.random.default_rng(3).permutation(N)[:24]
    for row in planted:
        kinds[row] = KINDS[(KINDS.index(kinds[row]) + 1) % 3]
    named = {int(item_id[-5:]) for item_id in of(clean(vectors, category=kinds), "category")["item_id"]}
    assert len(named & set(planted.tolist())) >= 15
    assert len(named - set(planted.tolist())) <= 2


def test_categories_that_are_right_and_categories_without_meaning_yield_nothing(clean):
    vectors, kinds = shelves()
    assert of(clean(vectors, category=kinds), "category").is_empty()
    drawn = np.random.default_rng(1).permutation(kinds).tolist()
    assert len(of(clean(vectors, category=drawn), "category")) <= 2


def test_other_pictures_of_the_product_do_not_vouch_for_its_category(clean):
    vectors, kinds = shelves()
    views = range(31, 31 + 3 * 12, 3)  # twelve views of a shoe, all called a hat
    products = [f"p-{i}" for i in range(N)]
    for row in views:
        vectors[row], kinds[row], products[row] = vectors[31] + 0.001 * vectors[row], "hat", "p-31"
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = of(clean(vectors, category=kinds, product_id=products), "category")
    assert set(found["item_id"]) == {f"item-{row:05}" for row in views}


def test_a_missing_and_a_wrong_label_are_found_with_a_suggestion(clean):
    vectors, kinds = shelves()
    labels = [[kind, "cotton"] for kind in kinds]
    labels[30], labels[61] = ["cotton"], ["shoe", "cotton", "hat"]
    found = of(clean(vectors, labels=labels), "label")
    assert dict(found.select("item_id", "suggestion").iter_rows()) == {
        "item-00030": "add the label dress",
        "item-00061": "remove the label hat",
    }
    assert "10 of its 10 nearest pictures of other products have the label dress" in found["evidence"].to_list()


def test_an_item_without_any_label_is_not_said_to_lack_one(clean):
    vectors, kinds = shelves()
    labels = [[kind] if i != 30 else [] for i, kind in enumerate(kinds)]
    assert of(clean(vectors, labels=labels), "label").is_empty()


def test_neighbours_without_any_label_are_no_evidence(clean):
    vectors, kinds = shelves()
    labels = [[] if kind == "dress" else [kind] for kind in kinds]
    labels[30] = ["shoe"]  # amid dresses, of which nothing is known
    assert of(clean(vectors, labels=labels), "label").is_empty()
    unlike = [["silk"] if kind == "dress" else [kind] for kind in kinds]
    unlike[30] = ["shoe"]
    assert of(clean(vectors, labels=unlike), "label")["item_id"].to_list() == ["item-00030"]


def test_an_orphan_is_found_and_the_threshold_is_stated(clean):
    vectors, _ = shelves(spread=0.15)
    vectors[40] = np.eye(DIM)[9]
    found = clean(vectors)
    orphans = of(found, "orphan")
    assert orphans["item_id"][0] == "item-00040"
    assert orphans["score"][0] > 0.9
    assert len(orphans) <= 0.05 * N
    distances = 1 - np.sort(vectors @ vectors.T, axis=1)[:, -2]
    assert found.facts.median_distance == pytest.approx(np.median(distances), abs=1e-5)
    far = {f"item-{row:05}" for row in np.flatnonzero(distances > found.facts.orphan_distance)}
    assert set(orphans["item_id"]) == far


def test_words_of_a_name_are_no_labels_to_judge(clean):
    vectors, kinds = shelves()
    labels = [["acme", kind, f"model{i}"] for i, kind in enumerate(kinds)]
    labels[30] = ["acme", "hat", "model30"]  # a dress
    titles = [f"Acme {kind.title()}, Model{i}" for i, kind in enumerate(kinds)]
    titles[30] = "Acme Hat: model30"
    found = clean(vectors, labels=labels, titles=titles)
    assert of(found, "label").is_empty()
    assert "words of the items' names" in found.facts.not_looked_for["label"]


def test_a_label_that_stands_in_the_name_of_its_item_is_not_to_be_removed(clean):
    vectors, kinds = shelves()
    labels = [[kind, "cotton"] for kind in kinds]
    labels[61] = ["shoe", "cotton", "hat"]
    titles = [None] * N
    assert of(clean(vectors, labels=labels, titles=titles), "label")["item_id"].to_list() == ["item-00061"]
    titles[61] = "Hat Trick"
    assert of(clean(vectors, labels=labels, titles=titles), "label").is_empty()


def test_variants_of_one_product_are_given_its_product_id(clean):
    vectors, _ = shelves()
    groups = [("item-00001", None, "p-2"), ("item-00002", "p-2", "p-2"), ("item-00003", "p-3", "p-2")]
    found = of(clean(vectors, groups=groups), "one_product")
    assert found["item_id"].to_list() == ["item-00001", "item-00003"]
    assert set(found["suggestion"]) == {"product_id p-2 for all 3 of them, as variants of one product"}
    assert found["evidence"][0] == "shows the design of item-00002, item-00003 in another colour"
    pair = of(clean(vectors, groups=groups[:2]), "one_product")
    assert pair["suggestion"].to_list() == ["product_id p-2 for both, as variants of one product"]


def test_the_share_of_suspicions_that_is_right_is_measured_on_planted_errors(clean):
    vectors, kinds = shelves(1200, spread=0.2)
    planted = clean(vectors, category=kinds).facts.planted["category"]
    assert planted.n_planted >= 10
    assert planted.found > 0.8
    assert planted.confirmed > 0.9
    drawn = np.random.default_rng(1).permutation(kinds).tolist()
    assert clean(vectors, category=drawn).facts.planted["category"].found < 0.2
    assert clean(vectors[:60], category=kinds[:60]).facts.planted == {}


def test_pairs_join_the_list_and_the_most_certain_of_a_kind_come_first(clean):
    vectors, kinds = shelves()
    kinds[31] = "hat"
    pairs = pl.DataFrame([("item-00001", "item-00002", "p-1", None, 0.98)], schema=NO_PAIRS.schema, orient="row")
    found = clean(vectors, pairs, category=kinds)
    assert found.fixes["problem"].unique(maintain_order=True)[:2].to_list() == ["category", "near_duplicate"]
    first = of(found, "near_duplicate").row(0, named=True)
    assert (first["item_id"], first["score"]) == ("item-00001", 1.0)
    assert "item-00002 (cosine 0.980), which belongs to no product; it to product p-1" in first["evidence"]
    assert all(kind["score"].is_sorted(descending=True) for kind in found.fixes.partition_by("problem"))
    assert found.facts.counts["near_duplicate"] == 1
    assert sum(found.facts.counts.values()) == len(found.fixes)
    assert found.facts.examples[
        [example.problem for example in found.facts.examples].index("near_duplicate")
    ].beside == ("item-00002",)


def test_only_a_few_examples_are_given_of_a_long_list(clean):
    vectors, kinds = shelves()
    pairs = pl.DataFrame(
        [(f"item-{i:05}", f"item-{i + 1:05}", None, None, 0.9) for i in range(100)],
        schema=NO_PAIRS.schema,
        orient="row",
    )
    found = clean(vectors, pairs, category=kinds)
    assert len(of(found, "near_duplicate")) == 100
    assert sum(example.problem == "near_duplicate" for example in found.facts.examples) == N_SHOWN
    text = found.facts.model_dump_json()
    assert HygieneFacts.model_validate_json(text) == found.facts
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_items_do_not_crash_and_give_a_reason_for_each_problem(clean, n):
    vectors, kinds = shelves()
    found = clean(vectors[:n], category=kinds[:n], labels=[["a"]] * n)
    assert found.fixes.is_empty()
    assert {"category", "orphan"} <= set(found.facts.not_looked_for)


def test_no_labels_and_one_category_say_why(clean):
    vectors, _ = shelves()
    bare = clean(vectors).facts.not_looked_for
    assert bare["category"] == "No item names a category."
    assert bare["label"] == "No item has a label."
    assert "Fewer than two categories" in clean(vectors, category=["hat"] * N).facts.not_looked_for["category"]


def test_a_category_of_one_item_is_neither_doubted_nor_suggested(clean):
    vectors, kinds = shelves()
    kinds[31] = "scarf"
    assert of(clean(vectors, category=kinds), "category").is_empty()


def test_equal_vectors_leave_no_usual_spread(clean):
    found = clean(np.full((60, 4), 0.5, np.float32))
    assert "usual spread" in found.facts.not_looked_for["orphan"]


CELLS = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\t=1",
    " =1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "plain",
    "a=b",
    "",
    'say "no"',
    "a,b",
    "Käse",
]


@given(st.lists(st.sampled_from(CELLS), min_size=1, max_size=20))
def test_no_cell_of_the_csv_begins_a_formula_and_all_texts_come_back(cells):
    fixes = pl.DataFrame([(cell, "orphan", cell, cell, 0.25) for cell in cells], schema=FIX_SCHEMA, orient="row")
    data = csv_bytes(fixes)
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert rows[0] == list(FIX_SCHEMA)
    for cell, row in zip(cells, rows[1:], strict=True):
        assert row[4] == "0.25"
        for text in (row[0], row[2], row[3]):
            assert not text.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
            assert text.removeprefix("'") == cell


def test_an_empty_list_is_a_csv_of_its_head():
    assert csv_bytes(pl.DataFrame(schema=FIX_SCHEMA)).decode("utf-8-sig").split() == [
        '"item_id","problem","evidence","suggestion","score"'
    ]
