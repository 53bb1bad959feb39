"""What boosting adds: the metrics of a store's validation part under exact search, for several weights of the classes.

    python -m benchmarks.boosting --store DIR [--weights 0.1 0.2 0.5 1] [--queries 2000]

DIR holds a published run with a head. Its validation rows search its other training rows; the head is trained anew on
the latter, and no query of an evaluation is looked at.
"""

from __future__ import annotations

import argparse

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import inner_validation, load_items, without_held_out
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Head, VectorSet
from retrieval_core.artifacts.parts import load_vectors
from retrieval_core.config.stages import HeadConfig
from retrieval_core.evaluate.reconstruct import reconstruct_outputs
from retrieval_core.head.apply import boost
from retrieval_core.head.targets import build_targets
from retrieval_core.head.train import class_scales, train_head
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.relevance import encode, find_truth
from retrieval_core.metrics.retrieval import score
from retrieval_core.settings import Settings

METRICS = ("precision@5", "accuracy@5", "attribute_map@10", "share_map@10", "label_iou@5")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boosting", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 0.2, 0.5, 1.0])
    parser.add_argument("--queries", type=int, default=2_000)
    arguments = parser.parse_args()
    store = Settings(store=arguments.store).open_store()
    release = releases.read_release(store, releases.PRODUCTION)
    if release is None or release.head is None:
        raise SystemExit(f"{arguments.store} has no production release with a head; run the pipeline on it first")
    head = Head.open(store, release.head)
    variants = [VectorSet.open(store, ref) for ref in reconstruct_outputs(store, release).variants]
    vectors = next(known for known in variants if known.variant == head.variant)
    items = load_items(store, release.catalog.name)
    is_validation = pl.Series("is_validation", inner_validation(items, head.config["seed"]))
    items = indexable_items(store, without_held_out(items.with_columns(is_validation)), vectors)
    items = items.unique("content_id", keep="first", maintain_order=True)
    raw = load_vectors(store, vectors, items["content_id"])

    def show(name: str, rows: Float32) -> None:
        values = score(exact_topk(rows[queries], rows[gallery], 10)[1], truth).summary
        print(f"| {name} | {' | '.join(f'{values[metric]:.3f}' if metric in values else '' for metric in METRICS)} |")

    is_query = items["is_validation"].to_numpy()
    queries, gallery = np.flatnonzero(is_query)[: arguments.queries], np.flatnonzero(~is_query)
    judgements = encode(items)
    truth = find_truth(judgements.take(queries), judgements.take(gallery))
    print(f"{len(queries)} validation pictures search {len(gallery)} others")
    print(f"| | {' | '.join(METRICS)} |\n|{'---|' * (1 + len(METRICS))}")
    show("raw", raw)
    targets = build_targets(items, HeadConfig().min_count, HeadConfig().max_labels)
    weights = train_head(raw, targets, is_query, HeadConfig(boosting="hidden")).weights
    show("hidden layer", boost(weights, raw))
    for weight in arguments.weights:
        show(f"classes, {weight:g}", boost(weights | class_scales(list(targets.tasks), weight), raw))


if __name__ == "__main__":
    main()
