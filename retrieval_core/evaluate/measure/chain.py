"""The representations that lead to the published one, and what the queries find in each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import polars as pl

from retrieval_core.arrays import Float32
from retrieval_core.artifacts.variants import Reduced, Variant
from retrieval_core.evaluate.measure.search_setup import K, SearchSetup
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.retrieval import score

Step = Literal["", "mask", "crop", "head", "PCA", "ANN", "rerank"]


class Link(NamedTuple):
    """A representation of the chain and its metrics: one row a query, one column a metric.

    `step` is what leads to it from the link before, "" for the first.
    """

    name: str
    step: Step
    per_query: pl.DataFrame


def chain_names(variant: Variant, candidates: Variant | Reduced, available: Collection[str]) -> list[tuple[str, Step]]:
    """Return the available variants that lead to the published one and its candidates, each with the step to it.

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
    return [(name, step if number else "") for number, (name, step) in enumerate(present)]


def exact_link(bench: SearchSetup, name: str, step: Step, vectors: Float32) -> Link:
    """Search the gallery exactly with these vectors of the items, (n, any)."""
    protocol = bench.protocol
    _, positions = exact_topk(vectors[protocol.queries], vectors[protocol.gallery], K)
    return Link(name, step, score(positions, protocol.truth).per_query)
