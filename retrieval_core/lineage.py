"""What makes what: the fingerprint of each stage's product, and when a fitted model of an earlier night still serves.

Only what changes the output enters a fingerprint: shard sizes and the policies of refitting do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from retrieval_core import embed, head, index, mask, reduce
from retrieval_core.artifacts import Catalog, Head, Reducer, Segmenter, fingerprint
from retrieval_core.config import EmbedConfig, HeadConfig, IndexConfig, MaskConfig, ReduceConfig
from retrieval_core.embed.backbones import weights_sha256
from retrieval_core.errors import NotFound
from retrieval_core.shards import read_table
from retrieval_core.store import Store

_POLICY = {"shard_rows", "refit_after_change", "enabled"}
_DISTRUST = {"min_area", "max_area", "min_largest_part"}


def segmenter_question(config: MaskConfig) -> dict[str, Any]:
    """The part of the mask config that the trained U-Net depends on."""
    return config.model_dump(mode="json", exclude=_POLICY | _DISTRUST)


def segmenter_fingerprint(config: MaskConfig, catalog: str) -> str:
    """Of the U-Net trained on one catalogue's masks."""
    return fingerprint("segmenter", mask.VERSION, segmenter_question(config), [catalog])


def mask_family(config: MaskConfig, segmenter: str) -> str:
    """Of the masks one segmenter makes under one rule of distrust."""
    return fingerprint("masks", mask.VERSION, config.model_dump(mode="json", include=_DISTRUST), [segmenter])


def backbone_fingerprint(config: EmbedConfig) -> str:
    """Of a frozen backbone; weights from a file are named by its content. Raises `WeightsInvalid` without the file."""
    kind, _, path = config.weights.partition(":")
    weights = weights_sha256(Path(path)) if kind == "file" else config.weights
    return fingerprint("backbone", embed.VERSION, [config.backbone, weights, config.size_px], [])


def vector_family(backbone: str, masks: str | None) -> str:
    """Of the vectors one backbone makes of raw pictures, or of pictures under one family of masks."""
    return fingerprint("vectors", embed.VERSION, {}, [backbone, masks or "raw"])


def head_question(config: HeadConfig) -> dict[str, Any]:
    """The part of the head config that the trained head depends on."""
    return config.model_dump(mode="json", exclude=_POLICY)


def head_fingerprint(config: HeadConfig, catalog: str, vectors: str) -> str:
    """Of the head trained on one catalogue's labels over one family of vectors."""
    return fingerprint("head", head.VERSION, head_question(config), [catalog, vectors])


def boosted_family(head_fingerprint: str, vectors: str) -> str:
    """Of the hidden layer of one head over one family of vectors."""
    return fingerprint("boosted", head.VERSION, {}, [head_fingerprint, vectors])


def reducer_question(config: ReduceConfig) -> dict[str, Any]:
    """The part of the reduce config that the fitted PCA depends on."""
    return config.model_dump(mode="json", exclude=_POLICY)


def reducer_fingerprint(config: ReduceConfig, catalog: str, vectors: str) -> str:
    """Of the PCA fitted on one catalogue's rows of one family of vectors."""
    return fingerprint("reducer", reduce.VERSION, reducer_question(config), [catalog, vectors])


def reduced_family(reducer: str, vectors: str, dim: int) -> str:
    """Of the first `dim` principal components of one family of vectors."""
    return fingerprint("reduced", reduce.VERSION, dim, [reducer, vectors])


def template_fingerprint(recipe_key: str, config: IndexConfig, candidates: str) -> str:
    """Of the empty trained index that every shard of one recipe over one family of candidate vectors starts from."""
    return fingerprint("template", index.VERSION, [recipe_key, config.sample_rows, config.seed], [candidates])


def still_serves(
    store: Store,
    fitted: Segmenter | Head | Reducer,
    question: dict[str, Any],
    parents: dict[str, str],
    policy: MaskConfig | HeadConfig | ReduceConfig,
    items: pl.DataFrame,
) -> bool:
    """Whether a model fitted on an earlier catalogue may be used for `items` as it is.

    It may when it answers the same question over the same parents (the catalogue aside), and no more than
    `policy.refit_after_change` of the catalogue has changed since.
    """
    same_question = fitted.config == question
    same_parents = all(fitted.parents.get(role) == name for role, name in parents.items() if role != "catalog")
    if not (same_question and same_parents):
        return False
    try:
        then = load_items(store, fitted.parents["catalog"])
    except NotFound:
        return False
    return changed_fraction(then, items) <= policy.refit_after_change


def changed_fraction(then: pl.DataFrame, now: pl.DataFrame) -> float:
    """Share of items, of the larger catalogue, that came, went or show another picture."""
    key = ["item_id", "content_id"]
    same = then.select(key).join(now.select(key), on=key, how="inner", nulls_equal=True).height
    return 1 - same / max(then.height, now.height, 1)


def load_items(store: Store, catalog_fingerprint: str) -> pl.DataFrame:
    """Every row of a sealed catalogue. Raises `NotFound`."""
    catalog = Catalog.find(store, catalog_fingerprint)
    if catalog is None:
        raise NotFound(f"no catalogue {catalog_fingerprint} in {store.url}")
    return read_table(store, catalog.part("items.parquet"))
