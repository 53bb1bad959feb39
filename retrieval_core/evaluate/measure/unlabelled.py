"""What the published chain is worth by queries that need no labels: the team's golden ones, and synthetic ones."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.manifests import Ref, Release, VectorSet
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.measure.golden_queries import GoldenFacts, ask_golden, read_golden
from retrieval_core.evaluate.measure.synthetic_queries import SyntheticFacts, ask_distorted, draw_items, read_item_masks
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.search.release import OpenRelease
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

UNSEALED = "candidate"


class Unlabelled(NamedTuple):
    """Metrics by name, facts, and a row a golden query or a drawn item: item_id, a name of its own, and metrics."""

    metrics: dict[str, float]
    per_query: pl.DataFrame
    golden: GoldenFacts
    synthetic: SyntheticFacts


def measure_unlabelled(
    store: Store, night: RunOutputs, items: pl.DataFrame, config: NightlyConfig, settings: Settings
) -> Unlabelled:
    """Search what the night would publish, of these indexed `items`, as a searcher does: from a picture to its hits."""
    release, max_pixels = open_candidate(store, night, config, settings), config.ingest.max_pixels
    golden = ask_golden(release, items, read_golden(config.evaluate.golden), max_pixels)
    masks = read_item_masks(store, night.masks, draw_items(items, config.evaluate))
    synthetic = ask_distorted(release, items, masks, config.evaluate, max_pixels)
    return Unlabelled(
        metrics=golden.metrics | synthetic.metrics,
        per_query=pl.concat([golden.per_query, synthetic.per_query], how="diagonal"),
        golden=golden.facts,
        synthetic=synthetic.facts,
    )


def chain_of(store: Store, night: RunOutputs) -> dict[str, Ref | None]:
    """What a release of this night names, by role, but for its report; `head` is the one that the vectors came by."""
    vectors = VectorSet.open(store, night.vectors)
    boosted_by = [outcome.ref for outcome in night.heads if outcome.ref.name == vectors.parents.get("head")]
    return {
        "catalog": night.catalog,
        "backbone": night.backbone,
        "segmenter": night.segmenter.ref if night.segmenter else None,
        "detector": night.detector,
        "classifier": night.classifier,
        "classes": night.classes,
        "head": boosted_by[0] if boosted_by else None,
        "reducer": night.reducer.ref,
        "vectors": night.vectors,
        "index": night.index,
    }


def open_candidate(store: Store, night: RunOutputs, config: NightlyConfig, settings: Settings) -> OpenRelease:
    """The release that this night would be, which has no report yet. Raises `NotFound`, `ShardCorrupt`."""
    release = Release.model_validate(
        {
            **chain_of(store, night),
            "kind": "Release",
            "fingerprint": UNSEALED,
            "config": config.model_dump(mode="json"),
            "report": Ref(kind="Report", key=f"reports/{UNSEALED}"),
            "variant": VectorSet.open(store, night.vectors).full_variant(),
            "gate": "held",
        }
    )
    return OpenRelease(store, release, settings)
