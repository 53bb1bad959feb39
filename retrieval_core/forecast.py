"""What a run would do and cost, before it does: the document of `vitrine plan`. Nothing is decoded or written."""

from __future__ import annotations

import polars as pl

from retrieval_core import lineage, releases
from retrieval_core.artifacts import Value
from retrieval_core.config import NightlyConfig
from retrieval_core.embed.cards import get_card
from retrieval_core.errors import NotFound
from retrieval_core.index.recipes import choose_recipe, choose_shards
from retrieval_core.ingest.catalog import SEEN_ITEMS, unseen_pictures
from retrieval_core.ingest.sources import open_source
from retrieval_core.inspection import last_run
from retrieval_core.store import Store

BYTES_PER_FLOAT = 4


class Forecast(Value):
    """`to_read` pictures are new or touched since they were last seen; seconds are None before a first run."""

    rows: int
    to_read: int
    gone: int
    refit: bool
    backbone: str
    dim: int
    recipe: str
    recipe_why: str
    shards: int
    vector_bytes: int
    embed_seconds: float | None

    def as_text(self) -> str:
        cost = "no earlier run to estimate from" if self.embed_seconds is None else f"about {self.embed_seconds:.0f} s"
        return "\n".join(
            [
                f"catalogue  {self.rows} rows, {self.gone} gone since the last run",
                f"read       {self.to_read} pictures that are new or touched",
                f"embed      at most {self.to_read} pictures with {self.backbone}, {self.dim} dimensions; {cost}",
                f"fit        {'models are fitted anew' if self.refit else 'models of the last release still serve'}",
                f"index      {self.recipe} in {self.shards} shards: {self.recipe_why}",
                f"vectors    {self.vector_bytes:,} bytes a representation",
            ]
        )


def forecast(source: str, store: Store, config: NightlyConfig) -> Forecast:
    """Compare the source with what was last seen of it. Raises what `open_source` raises, and `BadConfig`."""
    rows = open_source(source).rows()
    seen = _last_seen(store)
    to_read = len(unseen_pictures(rows, seen))
    gone = 0 if seen is None else seen.join(rows, on="item_id", how="anti").height
    card = get_card(config.embed.backbone)
    candidate_dim = min(config.reduce.dims[0], card.dim)
    recipe = choose_recipe(len(rows), candidate_dim, config.index)
    policies = (config.mask, config.head, config.reduce)
    changed = (to_read + gone) / max(len(rows), 1)
    return Forecast(
        rows=len(rows),
        to_read=to_read,
        gone=gone,
        refit=not _same_models(store, config) or changed > min(policy.refit_after_change for policy in policies),
        backbone=card.name,
        dim=card.dim,
        recipe=recipe.key,
        recipe_why=recipe.why,
        shards=choose_shards(len(rows), config.index),
        vector_bytes=len(rows) * card.dim * BYTES_PER_FLOAT,
        embed_seconds=_embed_seconds(store, to_read),
    )


def _last_seen(store: Store) -> pl.DataFrame | None:
    try:
        return pl.read_parquet(store.get(SEEN_ITEMS))
    except NotFound:
        return None


def _same_models(store: Store, config: NightlyConfig) -> bool:
    """Whether production was made by the same questions, so that its models may serve again."""
    release = releases.read_release(store, releases.PRODUCTION)
    if release is None:
        return False
    then = NightlyConfig.model_validate(release.config)
    return (
        then.embed == config.embed
        and lineage.segmenter_question(then.mask) == lineage.segmenter_question(config.mask)
        and lineage.head_question(then.head) == lineage.head_question(config.head)
        and lineage.reducer_question(then.reduce) == lineage.reducer_question(config.reduce)
    )


def _embed_seconds(store: Store, n_pictures: int) -> float | None:
    """At the rate of the last run that embedded anything; None where it did not."""
    run = last_run(store)
    if not run or not run.get("embedded"):
        return None
    return float(run["seconds"]["embed"] / run["embedded"] * n_pictures)
