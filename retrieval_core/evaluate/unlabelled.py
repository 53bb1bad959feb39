"""What the published chain is worth by queries that need no labels: the team's golden ones, and synthetic ones."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.candidate import open_candidate
from retrieval_core.evaluate.distorted import ask_distorted, draw_items, read_item_masks
from retrieval_core.evaluate.facts import GoldenFacts, SyntheticFacts
from retrieval_core.evaluate.golden import ask_golden, read_golden
from retrieval_core.evaluate.night import Night
from retrieval_core.settings import Settings
from retrieval_core.store import Store


class Unlabelled(NamedTuple):
    """Metrics by name, facts, and a row a golden query or a drawn item: item_id, a name of its own, and metrics."""

    metrics: dict[str, float]
    per_query: pl.DataFrame
    golden: GoldenFacts
    synthetic: SyntheticFacts


def measure_unlabelled(
    store: Store, night: Night, items: pl.DataFrame, config: NightlyConfig, settings: Settings
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
