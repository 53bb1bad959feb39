"""Every analysis runs on a run's outputs, with and without a release to compare with, and gives its tables."""

import io

import polars as pl

from retrieval_core.evaluate.analysis.analyse import tables
from tests.core.sealed_runs import SealedRuns

NAMES = ["a", "b", "c", "d", "e", "f"]


def test_a_first_run_is_analysed_without_a_comparison(analyse_run):
    analysis = analyse_run(NAMES).analysis
    assert (analysis.against, analysis.diff, analysis.churn) == (None, None, None)
    assert "no release" in analysis.drift.incomparable
    assert len(analysis.map.points) == len(NAMES)
    assert analysis.duplicates.facts.n_asked == analysis.hygiene.facts.n_asked == len(NAMES)


def test_a_second_run_is_compared_with_the_release_before(local_store, analyse_run):
    before = SealedRuns(local_store).seal(NAMES[:4])
    analysis = analyse_run(NAMES, before.fingerprint).analysis
    assert analysis.against == before
    assert analysis.diff.facts.counts == {"added": 2, "changed": 0, "removed": 0}
    assert analysis.churn.n_shared == 4
    assert analysis.drift.incomparable == ""


def test_a_release_whose_parts_were_removed_is_named_but_not_compared(local_store, analyse_run):
    before = SealedRuns(local_store).seal(NAMES[:4])
    local_store.delete(f"{before.index.key}/manifest.json")
    local_store.delete(f"{before.catalog.key}/manifest.json")
    analysis = analyse_run(NAMES, before.fingerprint).analysis
    assert analysis.against == before
    assert (analysis.diff, analysis.churn) == (None, None)
    assert "no release" in analysis.drift.incomparable


def test_the_tables_hold_every_metric_and_the_fix_list(analyse_run):
    _, measured, analysis = analyse_run(NAMES)
    files = tables(measured, analysis)
    assert set(files) == {
        "metrics.parquet", "queries.parquet", "categories.parquet",
        "near_duplicates.parquet", "compared_pictures.parquet", "synthetic_vectors.parquet", "searched_rows.parquet",
        "neighbours.parquet", "hits.parquet", "product_groups.parquet", "fixes.parquet",
    }  # fmt: skip
    metrics = pl.read_parquet(io.BytesIO(files["metrics.parquet"]))
    assert metrics.columns == ["metric", "value", "n_queries", "low", "high"]
    assert dict(metrics.select("metric", "value").iter_rows()) == measured.metrics
    assert len(pl.read_parquet(io.BytesIO(files["queries.parquet"]))) == len(measured.per_query)
    assert pl.read_parquet(io.BytesIO(files["fixes.parquet"])).equals(analysis.hygiene.fixes)
