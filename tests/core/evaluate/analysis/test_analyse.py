"""Every analysis runs on a run's outputs, with and without a release to compare with, and gives its tables."""

import io

import polars as pl
import pytest

from retrieval_core.evaluate.analysis.analyse import Analysis, analyse, tables
from retrieval_core.evaluate.measure.measure import Measured, measure
from retrieval_core.settings import Settings
from tests.core.sealed_runs import CONFIG, SealedRuns

NAMES = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture
def run(store, outputs_of):
    """`run(names, against)` publishes a release of these items, measures its run and analyses it."""

    def make(names, against=None) -> tuple[Measured, Analysis]:
        outputs = outputs_of(SealedRuns(store).seal(names))
        measured = measure(store, outputs, CONFIG, Settings.load(store=store.url, threads=1))
        return measured, analyse(store, outputs, measured, CONFIG, against)

    return make


def test_a_first_run_is_analysed_without_a_comparison(run):
    _, analysis = run(NAMES)
    assert (analysis.against, analysis.diff, analysis.churn) == (None, None, None)
    assert "no release" in analysis.drift.incomparable
    assert len(analysis.map.points) == len(NAMES)
    assert analysis.duplicates.facts.n_asked == analysis.hygiene.facts.n_asked == len(NAMES)


def test_a_second_run_is_compared_with_the_release_before(store, run):
    before = SealedRuns(store).seal(NAMES[:4])
    _, analysis = run(NAMES, before.fingerprint)
    assert analysis.against == before
    assert analysis.diff.facts.counts == {"added": 2, "changed": 0, "removed": 0}
    assert analysis.churn.n_shared == 4
    assert analysis.drift.incomparable == ""


def test_a_release_whose_parts_were_removed_is_named_but_not_compared(store, run):
    before = SealedRuns(store).seal(NAMES[:4])
    store.delete(f"{before.index.key}/manifest.json")
    store.delete(f"{before.catalog.key}/manifest.json")
    _, analysis = run(NAMES, before.fingerprint)
    assert analysis.against == before
    assert (analysis.diff, analysis.churn) == (None, None)
    assert "no release" in analysis.drift.incomparable


def test_the_tables_hold_every_metric_and_the_fix_list(run):
    measured, analysis = run(NAMES)
    files = tables(measured, analysis)
    assert set(files) == {
        "metrics.parquet", "queries.parquet", "categories.parquet",
        "near_duplicates.parquet", "fixes.parquet", "fixes.csv",
    }  # fmt: skip
    metrics = pl.read_parquet(io.BytesIO(files["metrics.parquet"]))
    assert metrics.columns == ["metric", "value", "n_queries", "low", "high"]
    assert dict(metrics.select("metric", "value").iter_rows()) == measured.metrics
    assert len(pl.read_parquet(io.BytesIO(files["queries.parquet"]))) == len(measured.per_query)
    assert pl.read_parquet(io.BytesIO(files["fixes.parquet"])).equals(analysis.hygiene.fixes)
