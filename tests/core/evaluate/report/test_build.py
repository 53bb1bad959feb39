"""The facts of a report are gathered from what the run made, measured and analysed."""

import pytest

from retrieval_core.artifacts.manifests import Backbone, IndexSet, Reject
from retrieval_core.evaluate.gate.decide import Verdict
from retrieval_core.evaluate.measure.index_quality import measure_index
from retrieval_core.evaluate.report.build import N_BEST, N_WORST, gather_facts
from retrieval_core.index.shard_files import INDEX_FILE
from tests.core.sealed_runs import CONFIG, SealedRuns

NAMES = ["a", "b", "c", "d", "e", "f"]
VERDICT = Verdict(gate="held", reason="Held: recall fell.", causes=("recall fell",), kinds=("search",))


@pytest.fixture
def gather(local_store):
    """`gather(run)` are the facts of a report named `name` on an analysed run."""
    return lambda run: gather_facts(local_store, *run, VERDICT, CONFIG, "name")


def test_the_facts_name_the_report_its_verdict_and_the_release_it_is_compared_with(local_store, analyse_run, gather):
    before = SealedRuns(local_store).seal(NAMES[:4])
    facts = gather(analyse_run(NAMES, before.fingerprint))
    assert (facts.report, facts.gate, facts.reason) == ("name", "held", VERDICT.reason)
    assert (facts.causes, facts.kinds) == (VERDICT.causes, VERDICT.kinds)
    assert (facts.production, facts.production_since) == (before.fingerprint, before.created)
    assert facts.since.counts["added"] == 2
    first = gather(analyse_run(NAMES))
    assert (first.production, first.production_since, first.since, first.churn) == (None, "", None, None)


def test_the_index_is_described_as_built_and_as_predicted(local_store, analyse_run, gather):
    run = analyse_run(NAMES)
    facts = gather(run).index
    index = IndexSet.open(local_store, run.outputs.index)
    assert (facts.variant, facts.n_rows, facts.n_shards, facts.n_shards_built) == ("masked_boosted", 6, 2, 2)
    assert facts.index_bytes == sum(part.n_bytes for part in index.parts if part.key.endswith(INDEX_FILE)) > 0
    assert facts.predicted_index_bytes == index.config["index_bytes"]
    assert (facts.latency_ms_p50, facts.latency_ms_p95) == (0.0, 0.0)


def test_every_fitted_model_is_listed_with_whether_this_run_trained_it(local_store, analyse_run, gather):
    run = analyse_run(NAMES)
    facts = gather(run)
    assert [(model.name, model.trained) for model in facts.training] == [
        ("U-Net segmenter", False), ("head of 8 over masked", False), ("PCA", False),
    ]  # fmt: skip
    assert facts.training[0].metrics == {"mask_iou": 1.0}
    trained = Backbone.open(local_store, run.outputs.backbone).model_copy(
        update={"fingerprint": "t" * 32, "objective": "triplet"}
    )
    outputs = run.outputs.model_copy(
        update={"backbone": trained.seal(local_store).ref, "segmenter": None},
    )
    assert [model.name for model in gather(run._replace(outputs=outputs)).training] == [
        "tiny trained by triplet", "head of 8 over masked", "PCA",
    ]  # fmt: skip


def test_rejects_of_the_run_join_the_quarantine_and_the_album(analyse_run, gather):
    run = analyse_run(NAMES)
    reject = Reject(item_id="bad", image_uri="bad.jpg", reason="truncated", last_seen="2026-11-21T02:04:49")
    facts = gather(run._replace(outputs=run.outputs.model_copy(update={"rejects": (reject,)})))
    assert facts.quarantine == (reject,)
    assert facts.album["bad"].jpeg == ""


def test_best_and_worst_queries_are_disjoint_and_ranked(analyse_run, gather, catalog_items, draw_vectors, open_bench):
    run = analyse_run(NAMES)
    items = catalog_items(100, category=[f"kind-{i % 7}" for i in range(100)])
    bench = open_bench(items, draw_vectors(100))
    published = measure_index(bench)
    per_query = published.scores.per_query.with_columns(item_id=items["item_id"].gather(bench.protocol.queries))
    facts = gather(run._replace(measured=run.measured._replace(setup=bench, published=published, per_query=per_query)))
    best, worst = ([grid.query.item_id for grid in grids] for grids in (facts.best, facts.worst))
    assert (len(best), len(worst)) == (N_BEST, N_WORST)
    assert not set(best) & set(worst)
    score = dict(per_query.select("item_id", "map@5").iter_rows())
    assert score[best[0]] >= score[best[-1]] > score[worst[0]]
    assert score[worst[0]] <= score[worst[-1]]
