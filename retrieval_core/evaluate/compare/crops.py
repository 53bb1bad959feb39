"""Where cropping to the product helped or hurt a search, by the share of the query's picture that the crop keeps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import MaskSet
from retrieval_core.artifacts.parts import MaskRow, read_masks
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.errors import VitrineError
from retrieval_core.evaluate.compare.measure import BuiltVariant, ComparisonResults
from retrieval_core.evaluate.compare.paired import n_pairs, per_query
from retrieval_core.evaluate.compare.schema import CropBand, CropExample, CropFacts
from retrieval_core.evaluate.thumbnails import Thumbnail, jpeg_base64
from retrieval_core.images import crop_to_mask, decode
from retrieval_core.metrics.significance import paired_interval
from retrieval_core.store.base import Store

log = logging.getLogger(__name__)

N_BANDS = 3
MIN_QUERIES = 2 * N_BANDS  # an interval needs at least two queries per band
N_EXAMPLES = 4


class _Pair(NamedTuple):
    """Two variants that differ only in the crop: (q,) values of the metric, and the trusted masks by content id."""

    raw: Float64
    crop: Float64
    masks: Mapping[str, MaskRow]
    pictures: PictureReader


def crop_effects(store: Store, results: ComparisonResults, metric: str, margin: float) -> tuple[CropFacts, ...]:
    """Return one entry for each pair of variants that differ only in that one crops its pictures with this `margin`.

    Queries for which `metric` is undefined are ignored; a query whose box is not trusted is not cropped and keeps its
    whole picture. Pairs with fewer than six queries and crops without masks have no entry.
    """
    facts = []
    for raw in results.variants:
        for crop in results.variants:
            is_crop_pair = crop.spec.background == "crop" and raw.spec.is_pair(crop.spec, "background")
            pair = _pair(store, results, metric, raw, crop) if is_crop_pair else None
            if pair:
                facts.append(_effect(results, pair, raw, crop, margin))
    return tuple(facts)


def _pair(store: Store, results: ComparisonResults, metric: str, raw: BuiltVariant, crop: BuiltVariant) -> _Pair | None:
    if crop.masks is None:
        return None
    raw_values, crop_values = (per_query(results.scores[variant.spec.name], metric) for variant in (raw, crop))
    if n_pairs(raw_values, crop_values) < MIN_QUERIES:
        return None
    content_ids = results.items["content_id"].gather(results.protocol.queries)
    masks = read_masks(store, MaskSet.open(store, crop.masks), content_ids)
    return _Pair(
        raw_values, crop_values, {key: mask for key, mask in masks.items() if not mask.reason}, PictureReader(store)
    )


def _effect(results: ComparisonResults, pair: _Pair, raw: BuiltVariant, crop: BuiltVariant, margin: float) -> CropFacts:
    content_ids = results.items["content_id"].gather(results.protocol.queries).to_list()
    kept = np.array([_kept_share(pair.masks.get(key), margin) for key in content_ids])
    judged = np.flatnonzero(~np.isnan(pair.crop - pair.raw))
    by_kept_share = judged[np.argsort(kept[judged], kind="stable")]
    clusters = results.protocol.clusters
    bands = [_band(pair, kept, clusters, rows) for rows in np.array_split(by_kept_share, N_BANDS)]
    gain = (pair.crop - pair.raw)[judged]
    by_gain = judged[np.argsort(-gain, kind="stable")]
    most, least = by_gain[:N_EXAMPLES], by_gain[::-1][:N_EXAMPLES]
    return CropFacts(
        raw=raw.spec.name,
        crop=crop.spec.name,
        bands=tuple(bands),
        helped=_examples(results, pair, most[pair.crop[most] > pair.raw[most]], margin),
        hurt=_examples(results, pair, least[pair.crop[least] < pair.raw[least]], margin),
    )


def _kept_share(mask: MaskRow | None, margin: float) -> float:
    """Return the share of a picture that its crop keeps, 0 to 1."""
    if mask is None:
        return 1.0
    height, width, _ = crop_to_mask(np.empty((mask.height, mask.width, 3), np.uint8), mask.array(), margin).shape
    return height * width / (mask.height * mask.width)


def _band(pair: _Pair, kept: Float64, clusters: Int64, rows: Int64) -> CropBand:
    raw, crop = pair.raw[rows], pair.crop[rows]
    difference, low, high, n_queries = paired_interval(crop, raw, clusters[rows])
    return CropBand(
        low=float(kept[rows].min()),
        high=float(kept[rows].max()),
        difference=difference,
        interval=(low, high),
        n_queries=n_queries,
        n_better=int((crop > raw).sum()),
        n_worse=int((crop < raw).sum()),
    )


def _examples(results: ComparisonResults, pair: _Pair, queries: Int64, margin: float) -> tuple[CropExample, ...]:
    """Return those of the (n,) query numbers that were cropped and whose picture can still be read."""
    examples = []
    for query in queries.tolist():
        item = results.items.row(int(results.protocol.queries[query]), named=True)
        mask = pair.masks.get(item["content_id"])
        if mask is None:
            continue
        try:
            image = decode(pair.pictures.read(item))
        except VitrineError as error:
            log.warning("no thumbnail of %s: %s", item["item_id"], error)
            continue
        name, cropped = item["item_id"], crop_to_mask(image, mask.array(), margin)
        examples.append(
            CropExample(
                before=Thumbnail(item_id=name, caption=name, jpeg=jpeg_base64(image)),
                after=Thumbnail(item_id=name, caption=name, jpeg=jpeg_base64(cropped)),
                raw=float(pair.raw[query]),
                crop=float(pair.crop[query]),
            )
        )
    return tuple(examples)
