"""Forecast what a run would do and cost, without decoding or writing anything: the document of `vitrine plan`."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.artifacts import backbone_names, fingerprints, releases
from retrieval_core.artifacts.catalog_rows import SEEN_ITEMS, load_items, read_last_seen, with_fields
from retrieval_core.artifacts.manifests import IndexSet, Value
from retrieval_core.config.stages import ClassifyConfig, EmbedConfig, IndexConfig, NightlyConfig
from retrieval_core.embed.auto import decide_backbone
from retrieval_core.embed.backbones import CARD_FILE, backbone_preprocess, describe
from retrieval_core.embed.cards import Card
from retrieval_core.embed.registry import get_card
from retrieval_core.errors import NotFound
from retrieval_core.index.recipes import choose_recipe, choose_shards
from retrieval_core.ingest.catalog import is_kept
from retrieval_core.ingest.delta import changed_rows, is_delta, named_items, without_base
from retrieval_core.ingest.snapshot import plan_snapshot, unread
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.listing import counted
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.capacity.memory import CatalogueSize, stage_bytes
from retrieval_core.maintenance.status import last_run
from retrieval_core.store.base import Store


class Forecast(Value):
    """What a run would do.

    `notes` say how the source was read and what was passed over. `to_read` counts pictures that are new or were changed
    since the last run; `moved` those of them that are probably the same at another address, because the item had a
    picture of that size in bytes. `gone` counts items that have left the source. `refit` says whether models would be
    fitted again. `keep_bytes` are those of the files to read that the store would keep, at most, None where no size is
    known; `embed_seconds` is None if no earlier run embedded anything; `detector` and `classifier` are empty if the
    config uses none. `variant` says which representation would be searched. `stage_bytes` are the most bytes of memory
    that each stage takes, without the pages of mapped files.
    """

    rows: int
    notes: tuple[str, ...] = ()
    to_read: int
    moved: int = 0
    gone: int
    refit: bool
    backbone: str
    dim: int
    licence: str
    detector: str
    classifier: str
    variant: str
    recipe: str
    recipe_why: str
    shards: int
    index_bytes: int
    vector_bytes: int
    memory_bytes: int
    stage_bytes: dict[str, int]
    embed_seconds: float | None
    keep_bytes: int | None = None

    def as_text(self) -> str:
        """Return the forecast as lines for a terminal."""
        moved = f" or moved; {self.moved} of them probably only moved" * bool(self.moved)
        n_embed = self.to_read - self.moved
        cost = "no earlier run to estimate from" if self.embed_seconds is None else f"about {self.embed_seconds:.0f} s"
        crop = [f"crop       every picture that {self.detector} has not seen yet"] * bool(self.detector)
        stages = ", ".join(f"{stage} {n_bytes / 1e9:.1f}" for stage, n_bytes in self.stage_bytes.items())
        classify = [f"classify   every picture that {self.classifier} has not seen yet"] * bool(self.classifier)
        return "\n".join(
            [
                f"catalogue  {self.rows} rows, {self.gone} gone since the last run",
                *(f"source     {note}" for note in self.notes),
                f"read       {self.to_read} pictures that are new or changed{moved}",
                *([] if self.keep_bytes is None else [f"keep       at most {self.keep_bytes:,} bytes of their files"]),
                f"embed      at most {n_embed} pictures with {self.backbone}, {self.dim} dimensions; {cost}",
                f"licence    {self.licence}",
                *crop,
                *classify,
                f"fit        {'models are fitted' if self.refit else 'models of the last release still serve'}",
                f"variant    {self.variant}",
                f"index      {self.recipe} in {counted(self.shards, 'shard')}: {self.recipe_why}",
                f"bytes      {self.index_bytes:,} to find candidates, {self.vector_bytes:,} of vectors to rerank them",
                f"memory     {self.memory_bytes:,} bytes while searching; the full vectors stay on disk, mapped",
                f"stages     GB of memory at most, without mapped files: {stages}",
            ]
        )


def forecast(source: str, store: Store, config: NightlyConfig) -> Forecast:
    """Compare the source with what was last seen of it. Raises as `open_source` does, and `BadConfig`."""
    opened = open_source(source)
    config = config.model_copy(update={"embed": decide_backbone(store, config.embed)})
    rows = opened.rows()
    seen = _last_seen(store)
    to_be_read = unread(plan_snapshot(rows, seen, is_kept(store, config.ingest)))
    moved = 0 if seen is None else to_be_read.join(seen, on=["item_id", "size_bytes"], how="semi").height
    to_read = len(to_be_read)
    if is_delta(opened):
        rows = _changed_catalog(store, opened, rows)
    gone = 0 if seen is None else seen.join(rows, on="item_id", how="anti").height
    card, dim = _backbone(store, config.embed)
    recipe = choose_recipe(len(rows), _candidate_dim(store, config, dim), dim, config.index)
    policies = (config.mask, config.head, config.reduce)
    changed = (to_read - moved + gone) / max(len(rows), 1)
    n_shards = choose_shards(len(rows), config.index)
    return Forecast(
        rows=len(rows),
        notes=opened.notes,
        to_read=to_read,
        moved=moved,
        gone=gone,
        refit=not _same_models(store, config) or changed > min(policy.refit_after_change for policy in policies),
        backbone=card.name,
        dim=dim,
        licence=_licence(card),
        detector=config.crop.detector if config.detects else "",
        classifier=_classifier(config.classify),
        variant=_variant(store, config.index),
        recipe=recipe.key,
        recipe_why=recipe.why,
        shards=n_shards,
        index_bytes=recipe.index_bytes,
        vector_bytes=recipe.vector_bytes,
        memory_bytes=recipe.memory_bytes,
        stage_bytes=stage_bytes(CatalogueSize.of(rows, dim), config, n_shards),
        embed_seconds=_embed_seconds(store, to_read - moved),
        keep_bytes=_keep_bytes(to_be_read, seen, config),
    )


def _changed_catalog(store: Store, source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of production's catalogue with those of a source of changes. Raises `BadConfig` without one."""
    production = releases.read_release(store, releases.PRODUCTION)
    if production is None:
        raise without_base(source.spec)
    items = with_fields(load_items(store, production.catalog.name))
    return changed_rows(items, rows, named_items(source, rows, items))


def _candidate_dim(store: Store, config: NightlyConfig, dim: int) -> int:
    """Return the configured candidate dimension, else production's, else the first that a run would try."""
    release = releases.read_reference(store)
    current = IndexSet.open(store, release.index).candidate_dim if release else 0
    return min(config.index.candidate_dim or current or config.reduce.dims[0], dim)


def _backbone(store: Store, config: EmbedConfig) -> tuple[Card, int]:
    """Return the card of the configured backbone and the width of its vectors, which training may have changed."""
    named = backbone_names.named_backbone(store, config)
    if named is None:
        backbone_preprocess(config)
        card = get_card(config.backbone)
        return card, card.dim
    part = named.part(CARD_FILE)
    return describe(store.local_path(part.key, part.sha256).parent).card, named.dim


def _licence(card: Card) -> str:
    """Return the licence of the pretrained weights."""
    if not card.licence:
        return "none: fitted on the catalogue's own pictures"
    return card.licence if card.commercial else f"{card.licence}, which forbids or limits commercial use"


def _classifier(config: ClassifyConfig) -> str:
    """Return the name and licence of the classifier, "" without one."""
    if not config.enabled:
        return ""
    card = get_card(config.backbone)
    return f"{card.name} (licence {_licence(card)})"


def _variant(store: Store, config: IndexConfig) -> str:
    """Return the configured variant, or how a run would choose one and what the last run chose."""
    if config.variant != "auto":
        return f"{config.variant}, as index.variant says"
    chosen = (last_run(store) or {}).get("variant")
    return f"chosen on validation rows; in the last run {chosen}" if chosen else "chosen on validation rows"


def _last_seen(store: Store) -> pl.DataFrame | None:
    try:
        return read_last_seen(store, SEEN_ITEMS)
    except NotFound:
        return None


def _same_models(store: Store, config: NightlyConfig) -> bool:
    """Return whether production's models answer the same questions, so that they may serve again."""
    release = releases.read_release(store, releases.PRODUCTION)
    if release is None:
        return False
    current = release.nightly_config()
    return (
        current.embed == config.embed
        and fingerprints.segmenter_question(current.mask) == fingerprints.segmenter_question(config.mask)
        and fingerprints.head_question(current.head) == fingerprints.head_question(config.head)
        and fingerprints.reducer_question(current.reduce) == fingerprints.reducer_question(config.reduce)
    )


def _keep_bytes(to_be_read: pl.DataFrame, seen: pl.DataFrame | None, config: NightlyConfig) -> int | None:
    """Return the size of the pictures to read; one of unknown size counts as the mean of the known ones."""
    if config.ingest.keep == "none" or to_be_read.is_empty():
        return 0
    sizes = to_be_read["size_bytes"].to_numpy().astype(float)
    known = sizes[~np.isnan(sizes)]
    if not len(known) and seen is not None:
        known = seen["size_bytes"].drop_nulls().to_numpy()
    return round(float(np.where(np.isnan(sizes), known.mean(), sizes).sum())) if len(known) else None


def _embed_seconds(store: Store, n_pictures: int) -> float | None:
    """Return the time to embed `n_pictures` at the last run's rate; None if that run embedded nothing."""
    run = last_run(store)
    if not run or not run.get("embedded"):
        return None
    return float(run["seconds"]["embed"] / run["embedded"] * n_pictures)
