"""Near-duplicates across products: the same picture under two product numbers, or under none.

Vectors nominate and pictures decide. No one cosine tells a duplicate: of ten pairs among 1,550 street photographs the
cosines were 0.99 and more under some backbones and 0.2 to 0.8 under others, where unlike pictures reach 0.99 under the
former. But nine of the ten are among each other's five nearest (the mean of 94 sets of vectors), and are much nearer
than the fifth is: among the hundred pairs nearest by that measure are eight of them, by their cosine six.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.embed.extract import Picture, SquareLoader, in_batches
from retrieval_core.evaluate.measure.protocol import positions_in_gallery
from retrieval_core.evaluate.measure.search_setup import Bench, hash_rows
from retrieval_core.evaluate.thumbnails import Thumbnail, item_picture
from retrieval_core.images import Preprocess
from retrieval_core.metrics.picture_similarity import near_duplicates, thumbnails

N_NEIGHBOURS = 5
MAX_ASKED = 10_000  # rows that search for their own like; of a larger catalogue those with the lowest hashes
ASKED_AT_ONCE = 4_096
MAX_COMPARED = 1_000  # pairs whose pictures are read, those first that stand out most
N_SHOWN = 12
SQUARE = Preprocess(size_px=96, crop="squash")
THREADS = 4
EQUAL = 1e-6  # a distance below this is rounding
BATCH = 32

COLUMNS = ("item_id", "other_item_id", "product_id", "other_product_id", "similarity")


class DuplicatePair(Value):
    """Two items that show the same picture, their products (None where unknown) and the cosine of their vectors."""

    items: tuple[str, str]
    products: tuple[str | None, str | None]
    similarity: float
    pictures: tuple[Thumbnail, Thumbnail]


class DuplicateFacts(Value):
    """Pictures that several products share: `n_pairs` were confirmed among the `n_compared` pairs that were looked at.

    Those stand out most of the `n_near` pairs of neighbours, which `n_asked` of `n_rows` rows found by searching the
    index. `pairs` are the most similar.
    """

    n_rows: int = 0
    n_asked: int = 0
    n_near: int = 0
    n_compared: int = 0
    n_pairs: int = 0
    pairs: tuple[DuplicatePair, ...] = ()


class NearDuplicates(NamedTuple):
    """What was found: `pairs` with `COLUMNS`, the most similar first, and the facts of the report."""

    pairs: pl.DataFrame
    facts: DuplicateFacts


class _Pairs(NamedTuple):
    """Positions in the items, (n,) each with first < second, the pairs first that stand out most."""

    first: Int64
    second: Int64

    def take(self, chosen: Int64) -> _Pairs:
        return _Pairs(self.first[chosen], self.second[chosen])


def find_near_duplicates(bench: Bench, max_pixels: int, seed: int) -> NearDuplicates:
    """Pairs of items that show the same picture and are not known to be one product.

    Each asking row searches the index for the five nearest to itself. Of these pairs, the thousand that stand out most
    are compared by their pictures; those whose files are equal need no look.
    """
    asking = _asking(bench.items, seed)
    nearest = _across_products(bench.items, _nearest_pairs(bench, asking))
    content = bench.items["content_id"].to_numpy()
    same_file = content[nearest.first] == content[nearest.second]
    others = nearest.take(np.flatnonzero(~same_file)[:MAX_COMPARED])
    alike = others.take(np.flatnonzero(_same_picture(bench.items, others, max_pixels)))
    confirmed = _Pairs(*map(np.concatenate, zip(nearest.take(np.flatnonzero(same_file)), alike, strict=True)))
    pairs = _table(bench, confirmed)
    facts = DuplicateFacts(
        n_rows=len(bench.items),
        n_asked=len(asking),
        n_near=len(nearest.first),
        n_compared=int(same_file.sum()) + len(others.first),
        n_pairs=len(pairs),
        pairs=_shown(bench.items, pairs),
    )
    return NearDuplicates(pairs, facts)


def _asking(items: pl.DataFrame, seed: int) -> Int64:
    """Positions of the rows that search, ascending."""
    hashes = hash_rows(items["row_id"].to_numpy(), seed)
    return np.sort(np.argsort(hashes, kind="stable")[:MAX_ASKED])


def _nearest_pairs(bench: Bench, asking: Int64) -> _Pairs:
    """Every pair of which one is among the five nearest of the other."""
    row_ids = bench.items["row_id"].to_numpy()
    found, nearness = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for start in range(0, len(asking), ASKED_AT_ONCE):
        rows = asking[start : start + ASKED_AT_ONCE]
        scores, hits = bench.find(rows, N_NEIGHBOURS + 1)
        positions = positions_in_gallery(hits, row_ids, N_NEIGHBOURS + 1)
        distance = np.maximum(1 - scores, 0)
        query, slot = np.nonzero((positions >= 0) & (positions != rows[:, None]))
        farthest = np.where(positions >= 0, distance, 0).max(axis=1)
        found.append(np.sort(np.stack([rows[query], positions[query, slot]], axis=1), axis=1))
        nearness.append(distance[query, slot] / np.maximum(farthest[query], EQUAL))
    both, ratio = np.concatenate(found), np.concatenate(nearness)
    order = np.lexsort((both[:, 1], both[:, 0], ratio))
    _, once = np.unique(both[order], axis=0, return_index=True)
    pairs = both[order[np.sort(once)]]
    return _Pairs(pairs[:, 0], pairs[:, 1])


def _across_products(items: pl.DataFrame, pairs: _Pairs) -> _Pairs:
    products = items["product_id"]
    same = (products.gather(pairs.first) == products.gather(pairs.second)).fill_null(False)
    return pairs.take(np.flatnonzero(~same.to_numpy()))


def _same_picture(items: pl.DataFrame, pairs: _Pairs, max_pixels: int) -> list[bool]:
    """Whether the pictures of each pair are the same; no where one of them cannot be read any more."""
    content = items["content_id"]
    ids = list(zip(content.gather(pairs.first), content.gather(pairs.second), strict=True))
    wanted = sorted({key for pair in ids for key in pair})
    pictures = items.filter(pl.col("content_id").is_in(wanted)).unique("content_id", keep="first").sort("content_id")
    alike = _alike(pictures, max_pixels)
    return [(a, b) in alike or (b, a) in alike for a, b in ids]


def _alike(pictures: pl.DataFrame, max_pixels: int) -> set[tuple[str, str]]:
    """Pairs of content ids of `pictures` (content_id, image_uri, item_id) that show the same."""
    rows = pictures.select("content_id", "image_uri", "item_id").iter_rows(named=True)
    load = SquareLoader(None, "raw", 0.0, SQUARE, max_pixels)
    ids: list[str] = []
    small = [np.empty((0, 24, 24, 3), np.uint8)]
    for loaded in in_batches([Picture(**row) for row in rows], load, BATCH, THREADS):
        ids += loaded.content_ids
        small.append(thumbnails(loaded.pixels))
    return {(ids[a], ids[b]) for a, b in near_duplicates(np.concatenate(small))}


def _table(bench: Bench, pairs: _Pairs) -> pl.DataFrame:
    first, second = (bench.items.select("item_id", "product_id")[rows] for rows in pairs)
    similarity = np.vecdot(bench.vectors[pairs.first], bench.vectors[pairs.second])
    return (
        first.hstack(second.rename({name: f"other_{name}" for name in second.columns}))
        .with_columns(similarity=pl.Series(np.clip(similarity, -1, 1)))
        .select(COLUMNS)
        .sort("similarity", "item_id", "other_item_id", descending=[True, False, False])
    )


def _shown(items: pl.DataFrame, pairs: pl.DataFrame) -> tuple[DuplicatePair, ...]:
    row_of = {item_id: row for row, item_id in enumerate(items["item_id"])}
    return tuple(
        DuplicatePair(
            items=(item, other),
            products=(product, other_product),
            similarity=similarity,
            pictures=(item_picture(items, row_of[item]), item_picture(items, row_of[other])),
        )
        for item, other, product, other_product, similarity in pairs.head(N_SHOWN).iter_rows()
    )
