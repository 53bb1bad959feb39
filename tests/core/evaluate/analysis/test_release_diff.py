"""What changed since production is named: items, models and configuration."""

import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, NAMED_VALUES, FieldSet, field_table, row_id
from retrieval_core.artifacts.parts import put_parts, table_bytes
from retrieval_core.config.stages import EvaluateConfig, HeadConfig, NightlyConfig
from retrieval_core.errors import NotFound
from retrieval_core.evaluate.analysis.release_diff import diff_production
from tests.core.sealed_runs import CONFIG, SealedRuns, fake_fingerprint


def test_added_removed_and_changed_items_are_named(local_store, outputs_of):
    runs = SealedRuns(local_store)
    before = runs.seal(["a", "b", "c"])
    after = runs.seal(["a", "b@2", "d"])
    diff = diff_production(local_store, before, outputs_of(after), CONFIG)
    assert diff.facts.counts == {"added": 1, "changed": 1, "removed": 1}
    assert [(change.what, change.item_id, [value.what for value in change.differs]) for change in diff.facts.named] == [
        ("added", "d", []),
        ("changed", "b", ["address", "picture"]),
        ("removed", "c", []),
    ]
    address = diff.facts.named[1].differs[0]
    assert (address.before, address.now) == ("b.jpg", "b@2.jpg")
    assert diff.facts.values == {"address": 1, "picture": 1}
    assert diff.production_items["item_id"].to_list() == ["a", "b", "c"]
    assert (diff.facts.models, diff.facts.config) == ((), ())


def test_many_changes_are_counted_and_a_few_named_the_same_every_time(local_store, outputs_of):
    runs = SealedRuns(local_store)
    before = runs.seal(["a"])
    after = runs.seal(["a", *(f"new-{i:02}" for i in range(40))])
    first, again = (diff_production(local_store, before, outputs_of(after), CONFIG).facts for _ in range(2))
    assert first.counts["added"] == 40
    assert len(first.named) == 8
    assert first == again
    assert [change.item_id for change in first.named] != [f"new-{i:02}" for i in range(8)]


def test_models_and_config_that_changed_are_listed_with_both_values(local_store, outputs_of):
    runs = SealedRuns(local_store)
    before, after = runs.seal(["a"]), runs.seal(["a"], backbone="c")
    config = CONFIG.model_copy(update={"head": HeadConfig(max_epochs=1)})
    facts = diff_production(local_store, before, outputs_of(after, segmenter=None), config).facts
    changes = {change.role: (change.before, change.now) for change in facts.models}
    assert changes["backbone"] == (fake_fingerprint("b"), fake_fingerprint("c"))
    assert changes["segmenter"] == (fake_fingerprint("segmenter"), "")
    assert {"heads", "reducer"} <= changes.keys()
    assert "detector" not in changes
    assert [(change.key, change.before, change.now) for change in facts.config] == [("head.max_epochs", "60", "1")]


def test_a_key_that_the_older_release_did_not_have_is_no_value(local_store, outputs_of):
    before = SealedRuns(local_store).seal(["a"])
    evaluate = {key: value for key, value in before.config["evaluate"].items() if key != "queries"}
    older = before.model_copy(update={"config": before.config | {"evaluate": evaluate}})
    facts = diff_production(local_store, older, outputs_of(before), NightlyConfig.model_validate(before.config)).facts
    assert [(change.key, change.before, change.now) for change in facts.config] == [
        ("evaluate.queries", "", str(EvaluateConfig().queries))
    ]


def test_a_removed_catalogue_is_not_found(local_store, outputs_of):
    runs = SealedRuns(local_store)
    before = runs.seal(["a"])
    removed = before.model_copy(update={"catalog": before.catalog.model_copy(update={"key": "catalogs/none"})})
    with pytest.raises(NotFound):
        diff_production(local_store, removed, outputs_of(before), CONFIG)


def seal_prices(store, prices):
    items = pl.DataFrame({"row_id": [row_id(item) for item in prices]}).with_columns(
        fields=pl.Series([[{"name": "price", "value": price}] for price in prices.values()], dtype=NAMED_VALUES)
    )
    table, name = field_table(items), fake_fingerprint("".join(prices.values())[:1])
    parts = put_parts(store, f"{FieldSet.folder}/{name}", {FIELDS_FILE: table_bytes(table)}, {FIELDS_FILE: len(table)})
    return FieldSet(fingerprint=name, parts=parts).seal(store).ref


def test_a_price_is_told_as_it_was_and_is(local_store, outputs_of):
    runs = SealedRuns(local_store)
    before, after = runs.seal(["a", "b"]), runs.seal(["a", "b", "c"])
    before = before.model_copy(update={"fields": seal_prices(local_store, {"a": "9 EUR", "b": "5 EUR"})})
    fields = seal_prices(local_store, {"a": "8 EUR", "b": "5 EUR", "c": "1 EUR"})
    facts = diff_production(local_store, before, outputs_of(after, fields=fields), CONFIG).facts
    assert facts.values == {"price": 1}
    (changed,) = [change for change in facts.named if change.what == "changed"]
    assert changed.item_id == "a"
    assert [(value.what, value.before, value.now) for value in changed.differs] == [("price", "9 EUR", "8 EUR")]


def test_the_categories_that_lost_most_are_named(local_store, outputs_of):
    runs = SealedRuns(local_store)
    before, after = runs.seal(["a", "b", "c"]), runs.seal(["a"])
    facts = diff_production(local_store, before, outputs_of(after), CONFIG).facts
    assert sum(group.n_gone for group in facts.gone) == 2
    assert all(group.n_gone <= group.n_before for group in facts.gone)
