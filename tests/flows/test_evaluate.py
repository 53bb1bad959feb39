"""A sealed release measured again: the same as on its night, otherwise where asked, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.evaluate import evaluate
from flows.nightly import nightly
from flows.summary import RunSummary
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Report
from retrieval_core.artifacts.parts import read_table
from retrieval_core.artifacts.releases import find_baseline
from retrieval_core.config.stages import EvaluateConfig, NightlyConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.measure.measure import measure
from retrieval_core.evaluate.reconstruct import reconstruct_outputs
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=resnet18",
        "embed.weights=random:0",
        "embed.size_px=64",
        "mask.encoder=resnet18",
        "mask.weights=random:0",
        "mask.size_px=64",
        "mask.max_epochs=1",
        "head.max_epochs=2",
        "head.min_count=2",
        "reduce.dims=[16, 8]",
        "evaluate.queries=12",
        "evaluate.synthetic_queries=4",
        "gate.mode=off",
    ],
)
TIMED = {"seconds"}

pytestmark = pytest.mark.usefixtures("prefect_server")


class House(NamedTuple):
    settings: Settings
    store: Store
    older: RunSummary
    newer: RunSummary


@pytest.fixture(scope="module")
def house(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> House:
    """Two nights: all views, boosted; then raw alone."""
    folder = tmp_path_factory.mktemp("house")
    source = f"synthetic:{folder / 'catalog'}?products=16&views=4&size_px=64"
    settings = Settings.load(store=str(folder / "store"), threads=1)
    boosted = CONFIG.model_copy(update={"index": CONFIG.index.model_copy(update={"variant": "boosted"})})
    older = nightly(source, settings, boosted)
    raw = CONFIG.model_copy(
        update={
            "embed": CONFIG.embed.model_copy(update={"background": "raw"}),
            "head": CONFIG.head.model_copy(update={"enabled": False}),
        }
    )
    return House(settings, settings.open_store(), older, nightly(source, settings, raw))


def keys(store: Store) -> set[str]:
    return set(store.list(""))


def test_a_release_is_reassembled_as_its_night_measured_it(house: House) -> None:
    for run in (house.older, house.newer):
        release = releases.get_release(house.store, run.release)
        night = reconstruct_outputs(house.store, release)
        assert night.catalog_facts.model_dump(include={"rows", "added", "quarantined"}) == run.catalog.model_dump(
            include={"rows", "added", "quarantined"}
        )
        again = measure(house.store, night, release.nightly_config())
        assert again.metrics == run.metrics
    report = Report.open(house.store, releases.get_release(house.store, house.older.release).report)
    night = reconstruct_outputs(house.store, releases.get_release(house.store, house.older.release))
    assert [ref.name for ref in night.variants] == report.config["variants"]


def test_production_is_measured_against_the_release_before_with_queries_of_its_own(house: House) -> None:
    before, production = keys(house.store), releases.read_alias(house.store, releases.PRODUCTION)
    done = evaluate(house.settings, config=EvaluateConfig(queries=8, seed=3))
    assert (done.release, done.against) == (house.newer.release, house.older.release)
    assert done.report not in {key.split("/")[1] for key in before if key.startswith("reports/")}
    made = keys(house.store) - before
    assert {key.split("/")[0] for key in made} == {"reports"}, "nothing but reports was made"
    assert len({key.split("/")[1] for key in made}) == 2, "both releases were measured alike"
    assert {"recall@1", "ann_recall@10"} <= set(done.metrics) & set(done.against_metrics)
    assert releases.read_alias(house.store, releases.PRODUCTION) == production
    assert "<html" in Path(done.page).read_text()

    again = evaluate(house.settings, config=EvaluateConfig(queries=8, seed=3))
    assert again.model_dump(exclude=TIMED) == done.model_dump(exclude=TIMED)
    assert keys(house.store) - before == made, "the same question has the same report"


def test_the_second_report_tells_what_changed_where_quality_went_and_what_to_fix(house: House) -> None:
    report = Report.open(house.store, releases.get_release(house.store, house.newer.release).report)
    told = json.loads(house.store.get(report.part("metrics.json").key))
    assert told["since"]["release"] == house.older.release
    changed = {change["key"] for change in told["since"]["config"]}
    assert changed == {"embed.background", "head.enabled", "index.variant"}
    assert [night["release"] for night in told["nights"]] == [house.older.release]
    assert told["losses"]["links"][0]["name"] == "raw"
    assert told["churn"]["by_model"] > 0
    assert told["drift"]["incomparable"]
    assert {stage["stage"] for stage in told["costs"]["stages"]} >= {"ingest", "embed", "index"}
    assert told["costs"]["stages"][0]["n_bytes_before"]
    assert sum(told["hygiene"]["counts"].values()) == len(read_table(house.store, report.part("fixes.parquet")))
    assert house.store.get(report.part("fixes.csv").key).startswith(b"\xef\xbb\xbf")
    intervals = read_table(house.store, report.part("metrics.parquet")).drop_nulls("low")
    assert (intervals["low"] <= intervals["value"]).all()
    assert (intervals["value"] <= intervals["high"]).all()
    assert "recall@1" in set(read_table(house.store, report.part("categories.parquet"))["metric"])


def test_any_release_is_measured_against_any_or_nobody(house: House) -> None:
    alone = evaluate(house.settings, release=house.older.release[:10], against="none", config=CONFIG.evaluate)
    assert (alone.release, alone.against, alone.against_metrics) == (house.older.release, "", {})
    assert "no production to compare with" in alone.reason
    assert alone.metrics == house.older.metrics
    newest = evaluate(house.settings, release="latest", against=house.older.release, config=CONFIG.evaluate)
    assert newest.against_metrics == house.older.metrics
    with pytest.raises(NotFound, match="no release 'feed'"):
        evaluate(house.settings, release="feed")


def test_the_rival_is_production_and_of_production_the_one_before(house: House) -> None:
    older, newer = (releases.get_release(house.store, run.release) for run in (house.older, house.newer))
    assert find_baseline(house.store, older, "") == newer
    assert find_baseline(house.store, newer, "") == older
    assert find_baseline(house.store, newer, "none") is None
    assert find_baseline(house.store, newer, newer.fingerprint[:8]) == newer


def test_a_release_of_which_something_is_gone_says_so(house: House) -> None:
    release = releases.get_release(house.store, house.older.release)
    report = Report.open(house.store, release.report)
    gone = release.model_copy(update={"backbone": release.backbone.model_copy(update={"key": "backbones/gone"})})
    with pytest.raises(NotFound, match="no vectors"):
        reconstruct_outputs(house.store, gone)
    with pytest.raises(ShardCorrupt, match="config of release"):
        reconstruct_outputs(house.store, release.model_copy(update={"config": {"stage": "unknown"}}))
    part = report.part("metrics.json")
    other = house.store.local_path(part.key)
    kept = other.read_bytes()
    try:
        other.write_bytes(b"{}")
        with pytest.raises(ShardCorrupt):
            reconstruct_outputs(house.store, release)
    finally:
        other.write_bytes(kept)
