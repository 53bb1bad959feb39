"""The protocol of a comparison: which items are queries, which are trained on, and which can be found."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from retrieval_core.artifacts.catalog_rows import HELD_OUT, product_unit
from retrieval_core.config.stages import EvaluateConfig, StageConfig
from retrieval_core.evaluate.measure.setup import Protocol, choose_protocol, draw_protocol
from retrieval_core.metrics.relevance import find_truth


class ProtocolConfig(StageConfig):
    """The parts of a report's protocol that are its own; the defaults are those of a run."""

    split: Literal["source", "random", "stratified"] = Field(
        "source", description="Which items are held out: as the source or ingest says, or drawn, within categories."
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="Share of the items that a drawn split holds out.")
    max_items: int = Field(0, ge=0, description="Items that a drawn split samples first; 0 takes all.")
    gallery: Literal["rest", "train", "test"] = Field(
        "rest",
        description="What the queries search: all that are no queries, the items trained on, or the other queries.",
    )
    seeds: int = Field(1, ge=1, le=20, description="Times that each model and head is trained, with other seeds.")
    seed: int = Field(0, ge=0, description="Seed of a drawn split.")


def split_items(items: pl.DataFrame, config: ProtocolConfig) -> pl.DataFrame:
    """Return the items of a drawn split, in their order: held out ("query") and the others ("train").

    With random, no product is divided; with stratified, each category holds out its share, and an item whose category
    is unknown or has no other item is left out. Quarantined items are left out, too.
    """
    usable = items.filter(pl.col("status") == "ok").with_columns(unit=product_unit())
    units = usable["unit"].unique().sort()
    order = pl.Series(np.random.default_rng(config.seed).permutation(len(units)))
    drawn = usable.with_columns(order=pl.col("unit").replace_strict(units, order)).sort("order", "row_id")
    drawn = drawn.head(config.max_items) if config.max_items else drawn
    if config.split == "stratified":
        drawn = drawn.filter(pl.col("category").is_not_null() & (pl.len().over("category") > 1))
    stratum = pl.col("category") if config.split == "stratified" else pl.lit("")
    drawn = drawn.with_columns(stratum=stratum).with_columns(position=pl.int_range(pl.len()).over("stratum"))
    # The shares are rounded so that those of all categories together hold out the share of all items.
    strata = drawn.group_by("stratum").len("n").sort("stratum")
    total = (strata["n"].cum_sum() * config.test_share + 1e-9).floor()
    n_held_out = np.minimum(np.diff(total.to_numpy(), prepend=0), strata["n"].to_numpy() - 1)
    drawn = drawn.join(strata.select("stratum", n_held_out=n_held_out), on="stratum", maintain_order="left")
    first = pl.col("position").min().over("stratum", "unit")
    split = pl.when(first < pl.col("n_held_out")).then(pl.lit("query")).otherwise(pl.lit("train"))
    return drawn.with_columns(split=split).sort("row_id").select(items.columns)


def comparison_protocol(items: pl.DataFrame, evaluate: EvaluateConfig, config: ProtocolConfig) -> Protocol:
    """Return the queries and the gallery of a comparison, of which `items` are the rows with vectors."""
    if config.gallery == "rest":
        return choose_protocol(items, evaluate)
    can_query = items["split"].is_in(HELD_OUT)
    protocol = draw_protocol(items, can_query, items["split"] == "train", evaluate.queries, evaluate.seed)
    if config.gallery == "train":
        return protocol
    judged = protocol.judgements.take(protocol.queries)
    truth = find_truth(judged, judged, np.arange(len(protocol.queries)))
    return protocol._replace(gallery=protocol.queries, truth=truth)
