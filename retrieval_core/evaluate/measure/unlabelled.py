"""The published search measured by queries that need no labels: golden and synthetic ones."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Ref, Release, VectorSet
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.measure.golden_queries import GoldenFacts, read_golden, search_golden
from retrieval_core.evaluate.measure.synthetic_queries import (
    SyntheticFacts,
    draw_items,
    read_item_masks,
    search_synthetic,
)
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.search.release import OpenRelease
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

UNSEALED = "challenger"


class Unlabelled(NamedTuple):
    """Metrics by name, one row a golden query or drawn item (item_id and metrics), and the facts of the report."""

    metrics: dict[str, float]
    per_query: pl.DataFrame
    golden: GoldenFacts
    synthetic: SyntheticFacts


def measure_unlabelled(
    store: Store, night: RunOutputs, items: pl.DataFrame, config: NightlyConfig, settings: Settings
) -> Unlabelled:
    """Search the release that the run would publish as a user does, from a picture to its hits among `items`."""
    release, max_pixels = open_challenger(store, night, config, settings), config.ingest.max_pixels
    golden = search_golden(release, items, read_golden(config.evaluate.golden), max_pixels)
    masks = read_item_masks(store, night.masks, draw_items(items, config.evaluate))
    synthetic = search_synthetic(release, items, masks, config.evaluate, max_pixels)
    return Unlabelled(
        metrics=golden.metrics | synthetic.metrics,
        per_query=pl.concat([golden.per_query, synthetic.per_query], how="diagonal"),
        golden=golden.facts,
        synthetic=synthetic.facts,
    )


def open_challenger(store: Store, night: RunOutputs, config: NightlyConfig, settings: Settings) -> OpenRelease:
    """Open the release that this run would publish, which has no report yet. Raises `NotFound`, `ShardCorrupt`."""
    release = Release.model_validate(
        {
            **night.release_refs(store),
            "kind": "Release",
            "fingerprint": UNSEALED,
            "config": config.model_dump(mode="json"),
            "report": Ref(kind="Report", key=f"reports/{UNSEALED}"),
            "variant": VectorSet.open(store, night.vectors).full_variant(),
            "gate": "held",
        }
    )
    return OpenRelease(store, release, settings)
