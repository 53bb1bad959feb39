"""A run or a release is evaluated once for each question, and its report holds what was measured and the verdict."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release, Report
from retrieval_core.artifacts.parts import read_table
from retrieval_core.evaluate.evaluation import evaluate_release, evaluate_run
from retrieval_core.evaluate.gate import shared_gallery
from retrieval_core.evaluate.measure import measure
from retrieval_core.evaluate.measure.filtered import FilterFacts
from retrieval_core.evaluate.publish import publish_release
from retrieval_core.feedback.grades import Evidence
from retrieval_core.feedback.judgements import judge_feedback
from retrieval_core.feedback.log import put_events, put_searches
from retrieval_core.metrics import exact_knn
from retrieval_core.settings import Settings
from tests.core.feedback.drawn_log import event, search
from tests.core.sealed_runs import CONFIG

FILES = {
    "metrics.json", "report.html", "metrics.parquet", "queries.parquet", "categories.parquet",
    "near_duplicates.parquet", "compared_pictures.parquet", "synthetic_vectors.parquet", "searched_rows.parquet",
    "neighbours.parquet", "hits.parquet",
    "product_groups.parquet", "fixes.parquet", "fixes.csv", "fixes.html", "summary.json",
}  # fmt: skip
OTHER_SEED = CONFIG.evaluate.model_copy(update={"queries": 4, "seed": 3})


@pytest.fixture
def settings(local_store):
    return Settings.load(store=local_store.url, threads=1, device="cpu")


@pytest.fixture
def publish(local_store, settings):
    """`publish(outputs)` evaluates a run and makes it production."""

    def make(outputs) -> Release:
        production = releases.read_alias(local_store, releases.PRODUCTION)
        before = production.release if production else None
        report = evaluate_run(settings, outputs, CONFIG)
        release = publish_release(local_store, outputs, report, before, CONFIG).release
        if releases.read_alias(local_store, releases.PRODUCTION).release != release:
            releases.promote(local_store, release, before)
        return releases.get_release(local_store, release)

    return make


def report_names(store) -> set[str]:
    return {key.split("/")[1] for key in store.list("reports/") if key.endswith("metrics.json")}


def read_aliases(store) -> dict[str, releases.Alias | None]:
    return {name: releases.read_alias(store, name) for name in releases.alias_names(store)}


def test_the_report_of_a_first_run_has_its_verdict_its_metrics_its_tables_and_its_page(
    local_store, settings, labelled_run
):
    report = evaluate_run(settings, labelled_run(), CONFIG)
    assert {part.key.rsplit("/", 1)[1] for part in report.parts} == FILES
    assert report.gate == "published"
    assert "no production to compare with" in report.gate_reason
    facts = json.loads(local_store.get(report.part("metrics.json").key))
    assert facts["metrics"] == report.metrics
    assert (facts["gate"], facts["reason"]) == (report.gate, report.gate_reason)
    assert (facts["n_queries"], facts["n_gallery"]) == (8, 16)
    assert "grids" not in facts, "thumbnails are only on the page"
    assert local_store.get(report.part("report.html").key).startswith(b"<!doctype html>")
    queries = read_table(local_store, report.part("queries.parquet"))
    assert len(queries) == 8
    assert queries["cluster"].str.contains("^(product|picture):").all()
    table = read_table(local_store, report.part("metrics.parquet"))
    assert dict(table.select("metric", "value").iter_rows()) == report.metrics


def test_the_same_question_keeps_its_report_and_another_has_one_of_its_own(local_store, settings, labelled_run):
    outputs = labelled_run()
    report = evaluate_run(settings, outputs, CONFIG)
    assert evaluate_run(settings, outputs, CONFIG) == report
    assert report_names(local_store) == {report.fingerprint}
    other = evaluate_run(settings, outputs, CONFIG.model_copy(update={"evaluate": OTHER_SEED}))
    assert report_names(local_store) == {report.fingerprint, other.fingerprint}


def test_a_run_that_made_what_is_production_keeps_the_report_of_production(
    local_store, settings, labelled_run, publish
):
    outputs = labelled_run()
    release = publish(outputs)
    report = evaluate_run(settings, outputs, CONFIG)
    assert report.ref == release.report
    assert report_names(local_store) == {report.fingerprint}


def test_a_run_is_judged_against_production_among_the_items_of_both(local_store, settings, labelled_run, publish):
    production = publish(labelled_run())
    report = evaluate_run(settings, labelled_run(27), CONFIG)
    facts = json.loads(local_store.get(report.part("metrics.json").key))
    assert facts["production"] == production.fingerprint
    assert facts["n_shared_gallery"] == 16
    assert {"recall@1", "ann_recall@10"} <= {change["name"] for change in facts["changes"]}


@pytest.mark.parametrize("lost", ["searched_rows.parquet", "neighbours.parquet"])
@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_neighbours_that_production_kept_are_not_sought_again_and_sought_again_where_they_are_lost(
    local_store, settings, labelled_run, publish, monkeypatch, caplog, lost, how
):
    n_compared, search = [0], exact_knn.exact_search

    def counted(queries, gallery, n):
        n_compared[-1] += len(queries) * len(gallery)
        return search(queries, gallery, n)

    monkeypatch.setattr(exact_knn, "exact_search", counted)
    kept = Report.open(local_store, publish(labelled_run()).report).part(lost)
    outputs, found = labelled_run(27), []
    for is_lost in (False, True):
        n_compared.append(0)
        if is_lost and how == "deleted":
            local_store.delete(kept.key)
        elif is_lost:
            local_store.put(kept.key, b"damaged")
        report = evaluate_run(settings, outputs, CONFIG)
        assert (f"{kept.key} is lost or damaged" in caplog.text) is is_lost
        found.append((report.metrics, report.gate_reason, read_table(local_store, report.part("queries.parquet"))))
        local_store.delete(f"{report.key}/manifest.json")
    assert found[0][:2] == found[1][:2]
    assert found[0][2].equals(found[1][2])
    assert n_compared[1] < n_compared[2]


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_production_has_asked_its_index_is_asked_again_only_where_it_is_lost(
    local_store, settings, labelled_run, publish, monkeypatch, is_lost
):
    outputs = labelled_run()
    production = publish(outputs)
    kept = Report.open(local_store, production.report).part("hits.parquet")
    if is_lost:
        local_store.delete(kept.key)
    asked, query_vectors = [], shared_gallery._query_vectors

    def counted(store, release, baseline, queries):
        asked.append(len(queries))
        return query_vectors(store, release, baseline, queries)

    monkeypatch.setattr(shared_gallery, "_query_vectors", counted)
    report = evaluate_run(settings, labelled_run(27), CONFIG)
    assert asked == ([8] if is_lost else [])
    figures = read_table(local_store, Report.open(local_store, production.report).part("queries.parquet"))
    changes = json.loads(local_store.get(report.part("metrics.json").key))["changes"]
    found = next(change["production"] for change in changes if change["name"] == "recall@1")
    assert found == pytest.approx(figures["recall@1"].mean())


def test_a_run_whose_index_misses_neighbours_under_a_filter_is_held(settings, labelled_run, monkeypatch):
    worst = FilterFacts(
        name="where_category_worst", meaning="category hats", n_rows=9, recall=0.9, latency_ms_p50=1.0, how="selector"
    )
    monkeypatch.setattr(measure, "measure_filters", lambda *_: (worst,))
    report = evaluate_run(settings, labelled_run(), CONFIG)
    assert report.gate == "held"
    assert "category hats" in report.gate_reason
    assert report.metrics["where_category_worst/ann_recall@10"] == 0.9


def with_removals(outputs, *item_ids: str):
    return outputs.model_copy(
        update={"catalog_facts": outputs.catalog_facts.model_copy(update={"declared_removals": item_ids})}
    )


def test_half_of_the_items_gone_is_held_unless_they_were_listed_as_removed(settings, labelled_run, publish):
    publish(labelled_run())
    half = labelled_run(12)
    cut = evaluate_run(settings, half, CONFIG)
    assert cut.gate == "held"
    assert cut.gate_causes[0].startswith("12 of 24 items are gone")
    listed = with_removals(half, *(f"item-{number}" for number in range(12, 24)))
    declared = evaluate_run(settings, listed, CONFIG)
    assert not any("gone" in cause for cause in declared.gate_causes)
    publish(listed)
    assert evaluate_run(settings, half, CONFIG) == declared, "nothing is lost any more"


def test_products_and_categories_that_the_catalogue_lost_are_held(settings, labelled_run, publish):
    publish(labelled_run())
    for n, column in ((23, "product_id"), (22, "category")):
        causes = evaluate_run(settings, labelled_run(n, **{column: pl.lit(None, pl.String)}), CONFIG).gate_causes
        assert causes[0].startswith(f"{n} of {n} items lost their {column.removesuffix('_id')}")


def anchor_of(store, report) -> dict:
    return json.loads(store.get(report.part("metrics.json").key))["anchor"]


def test_every_run_is_also_compared_with_an_anchor_which_stays(local_store, settings, labelled_run, publish):
    first = publish(labelled_run())
    second = evaluate_run(settings, labelled_run(27), CONFIG)
    assert anchor_of(local_store, second)["anchor"]["release"] == first.fingerprint
    assert anchor_of(local_store, second)["changes"] == [], "production is the anchor itself"
    publish(labelled_run(27))
    third = evaluate_run(settings, labelled_run(30), CONFIG)
    facts = anchor_of(local_store, third)
    assert (third.anchor, facts["anchor"]["release"], facts["note"]) == (first.fingerprint, first.fingerprint, "")
    assert facts["n_gallery"] == 16
    assert {row["n_queries"] for row in facts["changes"] if row["name"] == "recall@1"} == {8}
    assert third.counts["most_rows"] == 27
    assert f"anchor {first.fingerprint[:12]}" in third.gate_reason or third.gate_causes
    page = local_store.get(third.part("report.html").key).decode()
    assert "Against the anchor" in page
    assert "The loss of all runs since the anchor" in page


def test_a_catalogue_that_shrinks_a_little_in_each_run_is_held_in_the_end(settings, labelled_run, publish):
    for n in (60, 54):
        publish(labelled_run(n))
    report = evaluate_run(settings, labelled_run(47), CONFIG)
    assert any(cause.startswith("the catalogue shrank from 60 to 47 items since") for cause in report.gate_causes)
    assert not any("are gone" in cause for cause in report.gate_causes)


@pytest.mark.parametrize("damage", ["no release", "a damaged index"])
def test_another_release_stands_in_for_an_anchor_that_is_gone(local_store, settings, labelled_run, publish, damage):
    first, second = publish(labelled_run()), publish(labelled_run(27))
    publish(labelled_run(30))
    key = f"{(first if damage == 'no release' else first.index).key}/manifest.json"
    local_store.delete(key)
    if damage == "a damaged index":
        local_store.put(key, b"{")
    fourth = evaluate_run(settings, labelled_run(33), CONFIG)
    assert fourth.anchor == second.fingerprint
    assert f"The anchor {first.fingerprint[:12]} cannot be compared with; {second.fingerprint[:12]} stands in" in (
        fourth.gate_reason
    )


def test_an_anchor_that_shares_few_queries_is_replaced_by_a_later_release(settings, labelled_run, publish):
    first = publish(labelled_run(12))
    publish(labelled_run(30))
    production = publish(labelled_run(33))
    report = evaluate_run(settings, labelled_run(36), CONFIG)
    assert report.anchor not in (first.fingerprint, production.fingerprint)


def test_production_that_was_removed_is_compared_with_what_its_run_measured(
    local_store, settings, labelled_run, publish, caplog
):
    production = publish(labelled_run())
    outputs = labelled_run(27)
    local_store.delete(f"{production.index.key}/manifest.json")
    report = evaluate_run(settings, outputs, CONFIG)
    facts = json.loads(local_store.get(report.part("metrics.json").key))
    assert f"release {production.fingerprint} cannot be searched to compare with" in caplog.text
    assert (facts["production"], facts["n_shared_gallery"]) == (production.fingerprint, 0)


def test_a_release_evaluated_as_its_run_was_keeps_the_report(local_store, settings, labelled_run, publish):
    release = publish(labelled_run())
    evaluated = evaluate_release(settings, release, None, CONFIG.evaluate, CONFIG.gate)
    assert evaluated == (Report.open(local_store, release.report), None)


def test_a_release_against_itself_changed_nothing(local_store, settings, labelled_run, publish):
    release = publish(labelled_run())
    report, baseline = evaluate_release(settings, release, release, CONFIG.evaluate, CONFIG.gate)
    assert baseline.ref == release.report != report.ref
    assert report.metrics == baseline.metrics
    changes = json.loads(local_store.get(report.part("metrics.json").key))["changes"]
    assert changes
    assert {change["difference"] for change in changes} == {0}


def test_a_release_and_its_baseline_are_measured_alike_and_no_alias_moves(local_store, settings, labelled_run, publish):
    production, release = publish(labelled_run()), publish(labelled_run(27))
    known, aliases = report_names(local_store), read_aliases(local_store)
    report, baseline = evaluate_release(settings, release, production, OTHER_SEED, CONFIG.gate)
    assert read_aliases(local_store) == aliases
    assert report_names(local_store) - known == {report.fingerprint, baseline.fingerprint}
    assert [sealed.config["evaluate"] for sealed in (report, baseline)] == [OTHER_SEED.model_dump()] * 2
    facts = json.loads(local_store.get(report.part("metrics.json").key))
    assert (facts["production"], facts["n_queries"]) == (production.fingerprint, 4)


@pytest.mark.parametrize("lost", ["manifest.json", "queries.parquet"])
@pytest.mark.parametrize("n_items", [24, 30])
def test_production_whose_report_was_lost_is_searched_again(
    local_store, settings, labelled_run, publish, lost, n_items
):
    production = publish(labelled_run())
    (key,) = (key for key in local_store.list(f"{production.report.key}/") if key.endswith(f"/{lost}"))
    local_store.delete(key)
    config = CONFIG.model_copy(
        update={"gate": CONFIG.gate.model_copy(update={"min_queries": 2, "max_unseen_loss": 0.5})}
    )
    report = evaluate_run(settings, labelled_run(n_items), config)
    assert report.gate == "published"
    assert "8 queries shared with production" in report.gate_reason
    assert report.fingerprint != production.report.name


def judge_shoppers(store) -> int:
    """Shoppers choose one item wherever they see it; return how many golden queries that gives."""
    now = datetime.now(UTC)
    for number in range(12):
        query, shown = f"item-{number:02}", [f"item-{number + step:02}" for step in (3, 6, 9)]
        names = [f"{query}/{each}" for each in range(20)]
        put_searches(store, [search(name, shown, item_ids=(query,), at=now) for name in names])
        put_events(store, [event(name, shown[1], at=now) for name in names])
    return judge_feedback(store, Evidence(), datetime.now(UTC)).n_golden


def test_what_shoppers_chose_judges_the_next_run_though_production_was_measured_without(
    local_store, settings, labelled_run, publish
):
    production = publish(labelled_run())
    assert "golden/ndcg@10" not in Report.open(local_store, production.report).metrics
    n_golden = judge_shoppers(local_store)
    assert n_golden > 2
    for outputs in (labelled_run(), labelled_run(27)):
        report = evaluate_run(settings, outputs, CONFIG)
        assert report.ref != production.report, "it is another question now"
        facts = json.loads(local_store.get(report.part("metrics.json").key))
        (change,) = (row for row in facts["changes"] if row["name"] == "golden/ndcg@10")
        assert change["n_queries"] == n_golden
        assert change["low"] <= change["difference"] <= change["high"]
        assert change["p_holm"] is not None
        assert 0 < report.metrics["golden/ndcg@10"] <= 1
    without = CONFIG.model_copy(update={"evaluate": CONFIG.evaluate.model_copy(update={"feedback": False})})
    assert "golden/ndcg@10" not in evaluate_run(settings, labelled_run(), without).metrics
