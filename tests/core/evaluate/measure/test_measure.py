"""A run is measured by every variant, its published index, its masks and its models, under names of the registry."""

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import MANIFEST, ClassSet, Fitted, Head, Segmenter
from retrieval_core.artifacts.parts import N_TOP_CLASSES, classes_bytes, put_part
from retrieval_core.evaluate.measure.measure import CLASSIFIED, measure
from retrieval_core.metrics.registry import find_metric, is_measured_by
from retrieval_core.settings import Settings
from tests.core.sealed_runs import BOOSTED_DIM, CONFIG, DIM, REDUCED_DIM


@pytest.fixture
def measured(local_store):
    """`measured(outputs)` is what `measure` gives of a run; sections of the config can be given."""
    settings = Settings.load(store=local_store.url, threads=1, device="cpu")
    return lambda outputs, **sections: measure(local_store, outputs, CONFIG.model_copy(update=sections), settings)


def of_published_search(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics of the published search over its queries, without those at random."""
    known = {name: find_metric(name) for name in metrics if is_measured_by(name, "search")}
    plain = {name for name, metric in known.items() if not metric.scope and "random" not in metric.statistic}
    return {name: metrics[name] for name in plain}


def seal_classes(store, outputs):
    """Seal classes that are the products."""
    items = load_items(store, outputs.catalog.name)
    classes = np.full((len(items), N_TOP_CLASSES), -1, np.int32)
    classes[:, 0] = items["product_id"].rank("dense")
    data = classes_bytes(items["content_id"].to_list(), classes, np.ones(classes.shape, np.float32))
    part = put_part(store, f"{ClassSet.folder}/f/parts/all.parquet", data, len(items))
    return ClassSet(fingerprint="classes", family="f", parts=(part,)).seal(store).ref


def test_every_metric_is_in_the_registry(local_store, labelled_run, measured, tmp_path):
    golden = tmp_path / "golden.csv"
    golden.write_text("query,expected\nitem-00,item-01\n")
    outputs = labelled_run()
    classes = seal_classes(local_store, outputs)
    evaluate = CONFIG.evaluate.model_copy(update={"golden": str(golden)})
    metrics = measured(outputs.model_copy(update={"classes": classes}), evaluate=evaluate).metrics
    assert [name for name in metrics if find_metric(name) is None] == []
    assert {"recall@1", "masked/recall@1", "classified/recall@1", "recall@1_random"} <= set(metrics)
    assert {"ann_recall@10", "golden/hit@1", "mask_iou", "mask_fallback_rate"} <= set(metrics)


def test_the_published_metrics_equal_exact_search_where_the_index_is_exact(labelled_run, measured):
    run = measured(labelled_run())
    exact = {variant.name: variant.metrics for variant in run.variants}
    assert len(run.protocol.queries) == 8
    assert of_published_search(run.metrics) == exact["masked_boosted"] != exact["masked"]
    assert run.metrics["ann_recall@10"] == 1
    assert {name: run.metrics[f"masked/{name}"] for name in exact["masked"]} == exact["masked"]


def test_every_query_has_a_row_with_its_item_and_its_metrics(labelled_run, measured):
    run = measured(labelled_run())
    assert run.per_query["item_id"].to_list() == [f"item-{number:02}" for number in range(2, 24, 3)]
    assert run.per_query["recall@1"].mean() == run.metrics["recall@1"]
    assert run.per_query["ann_recall@10"].to_list() == [1.0] * 8


def test_rows_that_are_read_in_batches_are_measured_the_same(labelled_run, measured, monkeypatch):
    outputs = labelled_run()
    whole = measured(outputs)
    monkeypatch.setattr("retrieval_core.artifacts.mapped_rows.BATCH_ROWS", 5)
    batched = measured(outputs)
    assert batched.metrics == whole.metrics
    assert batched.per_query.equals(whole.per_query)
    assert batched.confidence == whole.confidence


def test_the_variants_are_those_of_the_outputs_and_the_chain_leads_to_the_candidates(labelled_run, measured):
    outputs = labelled_run()
    run = measured(outputs)
    dims = {"masked": DIM, "masked_boosted": BOOSTED_DIM, "pca4": REDUCED_DIM}
    assert {variant.name: variant.dim for variant in run.variants} == dims
    assert [(link.name, link.step) for link in run.links] == [
        ("masked", ""),
        ("masked_boosted", "head"),
        ("pca4", "PCA"),
    ]
    alone = measured(outputs.model_copy(update={"variants": (outputs.vectors,)}))
    assert [variant.name for variant in alone.variants] == ["masked_boosted"]
    assert of_published_search(alone.metrics) == of_published_search(run.metrics)


def test_a_catalogue_of_queries_alone_has_an_empty_gallery_and_no_metrics_of_the_search(labelled_run, measured):
    run = measured(labelled_run(product_id=pl.lit(None, pl.String), split=pl.lit("query")))
    assert (len(run.protocol.queries), len(run.protocol.gallery)) == (24, 0)
    assert [name for name in run.metrics if is_measured_by(name, "search")] == []
    assert run.metrics["ann_recall@10"] == 1
    assert (run.published.positions == -1).all()


def test_a_catalogue_without_held_out_pictures_has_no_queries(labelled_run, measured):
    run = measured(labelled_run(split=pl.lit("train")))
    assert (len(run.per_query), run.filters) == (0, ())
    assert set(run.metrics) == {"mask_iou", "mask_fallback_rate"}


def test_a_search_among_the_classes_of_a_query_is_measured_beside_the_variants(local_store, labelled_run, measured):
    outputs = labelled_run()
    classes = seal_classes(local_store, outputs)
    run = measured(outputs.model_copy(update={"classes": classes}))
    classified = run.variants[-1]
    assert (classified.name, classified.metrics["recall@1"]) == (CLASSIFIED, 1.0)
    assert classified.note == f"in the {CONFIG.classify.top_classes} likeliest classes"
    assert run.metrics["classified/recall@1"] == 1 > run.metrics["recall@1"]


def test_the_masks_and_their_segmenter_are_measured_where_the_run_has_them(local_store, labelled_run, measured):
    outputs = labelled_run()
    metrics = measured(outputs).metrics
    assert metrics["mask_iou"] == Segmenter.open(local_store, outputs.segmenter.ref).val_iou
    assert metrics["mask_fallback_rate"] == 0
    without = measured(outputs.model_copy(update={"segmenter": None, "masks": None})).metrics
    assert metrics.keys() - without.keys() == {"mask_iou", "mask_fallback_rate"}


def test_a_head_is_measured_under_its_variant_and_plainly_where_its_vectors_are_published(
    local_store, labelled_run, measured
):
    outputs = labelled_run()
    scores = {"f1_example": 0.5, "loss": 2.0}
    (published,) = outputs.heads
    scored, data = Head.open(local_store, published.ref).model_copy(update={"metrics": scores}).to_sealed()
    local_store.put(f"{published.ref.key}/{MANIFEST}", data)
    published = Fitted(ref=scored.ref, trained=False)
    other = Head(fingerprint="other", variant="raw", input_dim=DIM, dim=DIM, metrics={"f1_example": 0.25})
    heads = (published, Fitted(ref=other.seal(local_store).ref, trained=True))
    metrics = measured(outputs.model_copy(update={"heads": heads})).metrics
    assert {name: value for name, value in metrics.items() if is_measured_by(name, "head")} == {
        "f1_example": 0.5, "masked_boosted/f1_example": 0.5, "boosted/f1_example": 0.25,
    }  # fmt: skip
    assert not any("loss" in name for name in metrics)
