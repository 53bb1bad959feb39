"""Near-duplicates across products: one picture under two product numbers, and one product under several.

Vectors nominate pairs and pixels decide (`metrics/same_picture.py`). No single cosine identifies a duplicate: of ten
known pairs among 1,550 street photographs, the cosines were 0.99 and more under some backbones and 0.2 to 0.8 under
others, and under the former unlike pictures reach 0.99 too. But nine of the ten are among each other's five nearest
(mean over 94 sets of vectors), and much nearer than the fifth: ranked by that ratio, the first hundred pairs contain
eight of the ten; ranked by cosine, six.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.manifests import Report, Value
from retrieval_core.artifacts.mapped_rows import rows_at
from retrieval_core.artifacts.parts import read_kept
from retrieval_core.embed.extract import SquareLoader, in_batches
from retrieval_core.evaluate.measure.known_answer import rows_of
from retrieval_core.evaluate.measure.setup import Neighbours, SearchSetup
from retrieval_core.evaluate.thumbnails import Thumbnail, item_picture
from retrieval_core.images import Preprocess
from retrieval_core.metrics.same_picture import SIDE_PX, Likeness, compare_pictures, shrink
from retrieval_core.store.base import Store

COMPARED_FILE = "compared_pictures.parquet"  # what the next run need not compare again
COMPARED_SCHEMA = {
    "version": pl.Int64(),
    "content_id": pl.String(),
    "other_content_id": pl.String(),
    "is_same": pl.Boolean(),
    "is_recoloured": pl.Boolean(),
}
N_NEIGHBOURS = 5
MAX_COMPARED = 1_000  # pairs whose pictures are compared, in order of rank
N_SHOWN = 12
N_GROUPS_SHOWN, N_OF_GROUP_SHOWN = 8, 6
SQUARE = Preprocess(size_px=96, crop="squash")
THREADS = 4
MIN_DISTANCE = 1e-6  # a smaller distance is rounding
BATCH = 32

COLUMNS = ("item_id", "other_item_id", "product_id", "other_product_id", "similarity")
GROUP_SCHEMA = {"item_id": pl.String(), "product_id": pl.String(), "proposed_product_id": pl.String()}


NOTHING_COMPARED = pl.DataFrame(schema=COMPARED_SCHEMA)


class DuplicatePair(Value):
    """Two items that show the same picture, their products (None if unknown) and the cosine of their vectors."""

    items: tuple[str, str]
    products: tuple[str | None, str | None]
    similarity: float
    pictures: tuple[Thumbnail, Thumbnail]


class ProductGroup(Value):
    """Items that show one design in several colours, and the product id proposed for all; some of their pictures."""

    product_id: str
    items: tuple[str, ...]
    pictures: tuple[Thumbnail, ...] = ()


class DuplicateFacts(Value):
    """Pictures that several products share: `n_pairs` were confirmed among the `n_compared` pairs that were compared.

    `n_asked` of the `n_rows` rows searched the index and gave `n_near` pairs of neighbours; those with the highest rank
    were compared. `pairs` are the most similar of the confirmed ones. `n_grouped` items are in the `n_groups` groups of
    variants of one product, of which `groups` are the largest.
    """

    n_rows: int = 0
    n_asked: int = 0
    n_near: int = 0
    n_compared: int = 0
    n_pairs: int = 0
    pairs: tuple[DuplicatePair, ...] = ()
    n_groups: int = 0
    n_grouped: int = 0
    groups: tuple[ProductGroup, ...] = ()


class NearDuplicates(NamedTuple):
    """The confirmed `pairs` (`COLUMNS`), the most similar first, the variants of one product, and the report's facts.

    `groups` (`GROUP_SCHEMA`) has a row for each item of a group, the largest group first. `compared`
    (`COMPARED_SCHEMA`) are the pictures that were compared, and what was found, for the next run.
    """

    pairs: pl.DataFrame
    groups: pl.DataFrame
    facts: DuplicateFacts
    compared: pl.DataFrame = NOTHING_COMPARED


class _Pairs(NamedTuple):
    """(n,) positions in the items of both sides of each pair, first < second, in order of rank."""

    first: Int64
    second: Int64

    def take(self, rows: Int64) -> _Pairs:
        return _Pairs(self.first[rows], self.second[rows])


def read_compared(store: Store, earlier: Report | None) -> pl.DataFrame:
    """Return what an earlier report compared (`COMPARED_SCHEMA`); nothing where it has none or it is lost."""
    return read_kept(store, earlier, COMPARED_FILE, COMPARED_SCHEMA)


def find_near_duplicates(
    setup: SearchSetup, neighbours: Neighbours, max_pixels: int, known: pl.DataFrame = NOTHING_COMPARED
) -> NearDuplicates:
    """Find items that show the same picture, or one design in several colours, and are not known to be one product.

    The five nearest of each row in `neighbours` give pairs, of which the `MAX_COMPARED` with the highest
    rank are compared by their pictures; pairs with identical files need no comparison, nor do pictures that are
    `known` (`COMPARED_SCHEMA`) from an earlier run.
    """
    nearest = _across_products(setup.items, _nearest_pairs(neighbours))
    content = setup.items["content_id"]
    is_same_file = (content.gather(nearest.first) == content.gather(nearest.second)).to_numpy()
    compared = nearest.take(np.flatnonzero(~is_same_file)[:MAX_COMPARED])
    verdicts = _compare(setup, compared, max_pixels, known)
    likeness = Likeness(*(verdicts[name].fill_null(False).to_numpy() for name in Likeness._fields))
    same = _joined(nearest.take(np.flatnonzero(is_same_file)), compared.take(np.flatnonzero(likeness.is_same)))
    recoloured = _of_one_category(setup.items, compared.take(np.flatnonzero(likeness.is_recoloured)))
    pairs, groups = _table(setup, same), group_variants(setup.items, recoloured, same)
    facts = DuplicateFacts(
        n_rows=len(setup.items),
        n_asked=len(neighbours.rows),
        n_near=len(nearest.first),
        n_compared=int(is_same_file.sum()) + len(compared.first),
        n_pairs=len(pairs),
        pairs=_first_pairs(setup, pairs),
        n_groups=groups["proposed_product_id"].n_unique(),
        n_grouped=len(groups),
        groups=_first_groups(setup, groups),
    )
    return NearDuplicates(pairs, groups, facts, verdicts.drop_nulls().unique(maintain_order=True))


def _nearest_pairs(neighbours: Neighbours) -> _Pairs:
    """Return every pair in which one is among the five nearest of the other.

    They are ranked by their distance relative to the distance of the row's fifth neighbour, the smallest ratio first.
    """
    rows = neighbours.rows
    positions, scores = (found[:, : N_NEIGHBOURS + 1] for found in neighbours[1:])
    distance = np.maximum(1 - scores, 0)
    row, slot = np.nonzero((positions >= 0) & (positions != rows[:, None]))
    farthest = np.where(positions >= 0, distance, 0).max(axis=1, initial=0)
    pairs = np.sort(np.stack([rows[row], positions[row, slot]], axis=1), axis=1)
    ratios = distance[row, slot] / np.maximum(farthest[row], MIN_DISTANCE)
    ranked = pairs[np.lexsort((pairs[:, 1], pairs[:, 0], ratios))]
    _, first_seen = np.unique(ranked, axis=0, return_index=True)
    unique = ranked[np.sort(first_seen)]
    return _Pairs(unique[:, 0], unique[:, 1])


def _across_products(items: pl.DataFrame, pairs: _Pairs) -> _Pairs:
    products = items["product_id"]
    same = (products.gather(pairs.first) == products.gather(pairs.second)).fill_null(False)
    return pairs.take(np.flatnonzero(~same.to_numpy()))


def _joined(pairs: _Pairs, more: _Pairs) -> _Pairs:
    return _Pairs(*map(np.concatenate, zip(pairs, more, strict=True)))


def _of_one_category(items: pl.DataFrame, pairs: _Pairs) -> _Pairs:
    category = items["category"]
    is_equal = category.gather(pairs.first).eq_missing(category.gather(pairs.second))
    return pairs.take(np.flatnonzero(is_equal.to_numpy()))


def _compare(setup: SearchSetup, pairs: _Pairs, max_pixels: int, known: pl.DataFrame) -> pl.DataFrame:
    """Return what is found of each pair (`COMPARED_SCHEMA`), null where a picture can no longer be read."""
    content = setup.items["content_id"]
    keys = list(COMPARED_SCHEMA)[:3]
    first, second = content.gather(pairs.first), content.gather(pairs.second)
    asked = pl.DataFrame(
        {keys[0]: [STAGE_VERSIONS["evaluate"]] * len(first), keys[1]: first, keys[2]: second},
        schema={name: COMPARED_SCHEMA[name] for name in keys},
    )
    new = asked.join(known, on=keys, how="anti").unique(maintain_order=True)
    found = pl.concat([known, _compare_new(setup, new, max_pixels)])
    return asked.join(found, on=keys, how="left", maintain_order="left")


def _compare_new(setup: SearchSetup, pairs: pl.DataFrame, max_pixels: int) -> pl.DataFrame:
    items = setup.items
    wanted = pl.concat([pairs["content_id"], pairs["other_content_id"]]).unique().implode()
    pictures = items.filter(pl.col("content_id").is_in(wanted)).unique("content_id", keep="first").sort("content_id")
    names: list[str] = []
    shrunk = [np.empty((0, SIDE_PX, SIDE_PX, 3), np.float32)]
    load = SquareLoader(None, "raw", 0.0, SQUARE, max_pixels)
    for loaded in in_batches(setup.pictures.locate(pictures), load, BATCH, THREADS):
        names += loaded.content_ids
        shrunk.append(shrink(loaded.pixels))
    readable = pairs.filter(pl.col("content_id").is_in(names), pl.col("other_content_id").is_in(names))
    row_of = {name: row for row, name in enumerate(names)}
    small = np.concatenate(shrunk)
    sides = (small[[row_of[name] for name in readable[key]]] for key in ("content_id", "other_content_id"))
    likeness = compare_pictures(*sides)
    return readable.with_columns(is_same=pl.Series(likeness.is_same), is_recoloured=pl.Series(likeness.is_recoloured))


def group_variants(items: pl.DataFrame, recoloured: _Pairs, same: _Pairs) -> pl.DataFrame:
    """Return the groups (`GROUP_SCHEMA`) that chains of pairs form, those with a recoloured pair, the largest first.

    The proposed id is the lowest product id in a group, or the lowest item id where no item names a product.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    linked = _joined(recoloured, same)
    shape = (len(items), len(items))
    graph = coo_array((np.ones(len(linked.first)), (linked.first, linked.second)), shape)
    group = connected_components(graph, directed=False)[1]
    rows = np.flatnonzero(np.isin(group, group[recoloured.first]))
    members = rows_at(items.select("item_id", "product_id"), rows).with_columns(group=pl.Series(group[rows]))
    proposed = pl.coalesce(pl.col("product_id").min(), pl.col("item_id").min()).over("group")
    return (
        members.with_columns(proposed_product_id=proposed, size=pl.len().over("group"))
        .sort("size", "group", "item_id", descending=[True, False, False])
        .select(*GROUP_SCHEMA)
        .cast(GROUP_SCHEMA)  # type: ignore[arg-type]
    )


def _table(setup: SearchSetup, pairs: _Pairs) -> pl.DataFrame:
    first, second = (rows_at(setup.items.select("item_id", "product_id"), rows) for rows in pairs)
    similarity = np.vecdot(setup.vectors[pairs.first], setup.vectors[pairs.second])
    return (
        first.hstack(second.rename({name: f"other_{name}" for name in second.columns}))
        .with_columns(similarity=pl.Series(np.clip(similarity, -1, 1)))
        .select(COLUMNS)
        .sort("similarity", "item_id", "other_item_id", descending=[True, False, False])
    )


def _first_pairs(setup: SearchSetup, pairs: pl.DataFrame) -> tuple[DuplicatePair, ...]:
    shown = pairs.head(N_SHOWN)
    items, pictures = setup.items, setup.pictures
    row_of = rows_of(items, [*shown["item_id"], *shown["other_item_id"]])
    return tuple(
        DuplicatePair(
            items=(item, other),
            products=(product, other_product),
            similarity=similarity,
            pictures=(
                item_picture(items, row_of[item], pictures=pictures),
                item_picture(items, row_of[other], pictures=pictures),
            ),
        )
        for item, other, product, other_product, similarity in shown.iter_rows()
    )


def _first_groups(setup: SearchSetup, groups: pl.DataFrame) -> tuple[ProductGroup, ...]:
    names = groups["proposed_product_id"].unique(maintain_order=True).head(N_GROUPS_SHOWN)
    members = {name: groups.filter(pl.col("proposed_product_id") == name)["item_id"].to_list() for name in names}
    row_of = rows_of(setup.items, [item for items in members.values() for item in items[:N_OF_GROUP_SHOWN]])
    return tuple(
        ProductGroup(
            product_id=name,
            items=tuple(items),
            pictures=tuple(
                item_picture(setup.items, row_of[item], pictures=setup.pictures) for item in items[:N_OF_GROUP_SHOWN]
            ),
        )
        for name, items in members.items()
    )
