"""Store the masks that a source has itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import polars as pl

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.growing_sets import seal_view
from retrieval_core.artifacts.manifests import MaskSet, Ref, fingerprint
from retrieval_core.artifacts.parts import masks_bytes
from retrieval_core.artifacts.pictures import Picture
from retrieval_core.artifacts.shards import Target, log_progress, plan_work, put_shard, shard_pictures
from retrieval_core.errors import BadConfig, Permanent
from retrieval_core.ingest.change import MAX_LISTED
from retrieval_core.ingest.sources.base import Source
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

SHARD_ROWS = 256


def collect_truth_masks(store: Store, source: str, catalog: Ref) -> MaskSet | None:
    """Store the source's own masks by the id of the mask file; return None when the source has none.

    A mask that cannot be read is skipped with a warning, and its items have none.
    """
    items = load_items(store, catalog.name).filter(pl.col("mask_id").is_not_null())
    if items.is_empty():
        return None
    family = fingerprint("truth masks", STAGE_VERSIONS["ingest"], source.partition(":")[0], [])
    table = items.select(content_id="mask_id", image_uri="mask_uri", item_id="item_id")
    target = Target(folder=MaskSet.folder, family=family)
    plan = plan_work(store, [target], table, SHARD_ROWS)
    reader, report = open_source(source), log_progress("truth masks", plan.n_missing)
    problems: list[str] = []
    for shard in plan.split():
        files = shard_pictures(store, shard)
        masks = _read_masks(reader, files, problems)
        encode = partial(masks_bytes, list(masks), list(masks.values()), [""] * len(masks))
        put_shard(store, shard, target, list(masks), encode)
        report(len(files))
    if problems:
        examples = "; ".join(problems[:MAX_LISTED])
        log.warning("%d masks of the source cannot be read and are skipped: %s", len(problems), examples)
    sealed = seal_view(store, MaskSet, family, catalog.name, table["content_id"])
    return sealed if sealed.parts else None


def _read_masks(reader: Source, files: Sequence[Picture], problems: list[str]) -> dict[str, Bool]:
    """Return the masks by content id; add a line to `problems` for each mask that cannot be read."""
    masks = {}
    for file in files:
        try:
            masks[file.content_id] = reader.read_mask(file.image_uri)
        except BadConfig:  # a wrong S3 setting says nothing about the mask
            raise
        except Permanent as error:
            problems.append(f"{file.image_uri}: {error}")
    return masks
