"""The representations that lead to the published one, and what the queries find in each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.evaluate.measure.search_setup import Bench, K
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.retrieval import score

Step = Literal["", "mask", "crop", "head", "PCA", "ANN", "rerank"]


class Link(NamedTuple):
    """A stage of the chain and what it achieves: one row a query in the protocol's order, one column a metric.

    `step` is what lies between it and the link before, "" for the first.
    """

    name: str
    step: Step
    per_query: pl.DataFrame


def chain_names(variant: Variant, candidates: Variant | Reduced, available: Collection[str]) -> list[tuple[str, Step]]:
    """The variants that lead to the published one and to its candidates, with the step to each; the absent left out.

    With `masked_boosted` published and `pca64` for the candidates: raw, masked, masked_boosted and pca64.
    """
    steps: list[tuple[str, Step]] = [("raw", "")]
    if variant.view != "raw":
        steps.append((variant.view, "crop" if variant.view == "crop" else "mask"))
    if variant.boosted:
        steps.append((str(variant), "head"))
    if candidates != variant:
        steps.append((str(candidates), "PCA"))
    present = [(name, step) for name, step in steps if name in available]
    return [(name, step if place else "") for place, (name, step) in enumerate(present)]


def exact_link(bench: Bench, name: str, step: Step, vectors: Float32) -> Link:
    """The queries through exact search in (n, any) float32 vectors of the bench's items, in the gallery."""
    protocol = bench.protocol
    _, positions = exact_topk(vectors[protocol.queries], vectors[protocol.gallery], K)
    return Link(name, step, score(positions, protocol.truth).per_query)
