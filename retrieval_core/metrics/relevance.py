"""Which hits are relevant, by the product ids, categories, labels and attributes of the catalogue, as arrays.

There are three kinds of relevance: the same product (In-Shop retrieval), the same category (mAP and precision), and a
graded one by attributes and labels (the mAP@10 of boosted representations, and label IoU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.arrays import Bool, Float32, Float64, Int32, Int64
from retrieval_core.artifacts.mapped_rows import in_batches
from retrieval_core.errors import DimensionMismatch

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MAX_CUTOFF = 10
BLOCK_PAIRS = 4_000_000
GROUP_ROWS = 500  # of the gallery, in profiles that are compared at once


@dataclass(frozen=True, eq=False)
class Judgements:
    """What the catalogue says of `n_items` items; a field is None where it says nothing of the kind about any item.

    product, category: (n,) codes, -1 unknown. labels: (n, n_labels) bool, sparse. attributes: (n, n_attributes) codes,
    -1 unknown. Codes can be compared only between items that were encoded together.
    """

    n_items: int
    product: Int64 | None = None
    category: Int64 | None = None
    labels: csr_array | None = None
    label_names: tuple[str, ...] = ()
    attributes: Int32 | None = None
    attribute_names: tuple[str, ...] = ()

    def take(self, rows: npt.NDArray[np.integer] | Bool) -> Self:
        """Return the judgements of these rows: positions, or an (n,) mask."""
        return type(self)(
            n_items=np.arange(self.n_items)[rows].size,
            product=None if self.product is None else self.product[rows],
            category=None if self.category is None else self.category[rows],
            labels=None if self.labels is None else self.labels[rows],
            label_names=self.label_names,
            attributes=None if self.attributes is None else self.attributes[rows],
            attribute_names=self.attribute_names,
        )

    def only(self, rows: npt.NDArray[np.integer] | Bool) -> Self:
        """Return the judgements of these rows alone, as `encode` returns them: None where it says nothing of them."""
        taken = self.take(rows)
        has_labels = taken.labels is not None and taken.labels.nnz > 0
        has_attributes = taken.attributes is not None and bool((taken.attributes >= 0).any())
        return replace(
            taken,
            product=None if taken.product is None else _known(taken.product),
            category=None if taken.category is None else _known(taken.category),
            labels=taken.labels if has_labels else None,
            attributes=taken.attributes if has_attributes else None,
        )


def encode(items: pl.DataFrame) -> Judgements:
    """Encode the columns product_id, category, labels and attributes of catalogue rows, in their order.

    Encode queries and gallery together and `take` the rows of each. An item that has an attribute twice keeps the
    alphabetically first value.
    """
    labels, label_names = _encode_labels(items["labels"])
    attributes, attribute_names = _encode_attributes(items["attributes"])
    return Judgements(
        n_items=items.height,
        product=_known(_codes(items["product_id"])),
        category=_known(_codes(items["category"])),
        labels=labels,
        label_names=label_names,
        attributes=attributes,
        attribute_names=attribute_names,
    )


def _codes(values: pl.Series) -> Int64:
    """Return (n,) codes in the order of the values, -1 for null."""
    return values.rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1


def _known(codes: Int64) -> Int64 | None:
    return codes if (codes >= 0).any() else None


def _encode_labels(labels: pl.Series) -> tuple[csr_array | None, tuple[str, ...]]:
    from scipy.sparse import csr_array

    batches = [batch.to_series() for batch in in_batches(labels.to_frame())]
    found = pl.concat([pl.Series([], dtype=pl.String), *(batch.explode().unique() for batch in batches)])
    names = found.drop_nulls().unique().sort()
    if names.is_empty():
        return None, ()
    codes = [batch.explode().drop_nulls().cast(pl.Enum(names)).to_physical().to_numpy() for batch in batches]
    sizes = [batch.list.drop_nulls().list.len().fill_null(0).to_numpy() for batch in batches]
    columns = np.concatenate(codes).astype(np.int32)
    starts = np.concatenate([[0], *sizes]).cumsum()
    matrix = csr_array((np.ones(len(columns), np.bool_), columns, starts), (len(labels), len(names)))
    matrix.sum_duplicates()
    return matrix, tuple(names)


def _encode_attributes(attributes: pl.Series) -> tuple[Int32 | None, tuple[str, ...]]:
    rows = pl.DataFrame({"attribute": attributes}).with_row_index("row")
    batches = [_facts(batch) for batch in in_batches(rows)]
    names, values = (pl.concat([batch[of].unique() for batch in batches]).unique().sort() for of in ("name", "value"))
    if names.is_empty():
        return None, ()
    matrix = np.full((len(attributes), len(names)), -1, np.int32)
    for facts in batches:
        name, value = (
            facts[of].cast(pl.Enum(all_of)).to_physical() for of, all_of in (("name", names), ("value", values))
        )
        matrix[facts["row"].to_numpy(), name.to_numpy()] = value.to_numpy()
    return matrix, tuple(names)


def _facts(rows: pl.DataFrame) -> pl.DataFrame:
    """Return row, name and value of each attribute, one value for each row and name."""
    pairs = rows.explode("attribute").drop_nulls().unnest("attribute").drop_nulls()
    return pairs.sort("row", "name", "value").unique(["row", "name"], keep="first")


def is_labelled(labels: csr_array) -> Bool:
    """Return which rows of (n, n_labels) have a label, (n,)."""
    return np.asarray(np.diff(labels.indptr) > 0)


def label_iou(labels: csr_array, others: csr_array) -> Float64:
    """Return shared labels over labels of either, (n,) in 0 to 1, for each pair of rows of two (n, n_labels).

    It is 0 for two items without labels.
    """
    shared = labels.multiply(others).sum(axis=1)
    return shared / np.maximum(labels.sum(axis=1) + others.sum(axis=1) - shared, 1)


def label_share(labels: csr_array, others: csr_array) -> Float64:
    """Return the share of the first's labels that the second has; shapes as in `label_iou`."""
    return labels.multiply(others).sum(axis=1) / np.maximum(labels.sum(axis=1), 1)


class BestGains(NamedTuple):
    """The largest gains in the gallery, (q, 10), falling, padded with 0, and how many more equal the tenth, (q,)."""

    best: Float32
    n_more_tied: Int64


@dataclass(frozen=True, eq=False)
class Truth:
    """What is relevant to q queries in a gallery of n items; computed once for all vector sets that are measured.

    own: (q,) the position of each query itself in the gallery, which it never finds, -1 where it is not there.
    n_same_product, n_same_category: (q,) relevant gallery items, 0 where the query's own code is unknown.
    query_profiles (q,), gallery_profiles (n,): codes of category and attributes together, -1 where none is known.
    """

    queries: Judgements
    gallery: Judgements
    own: Int64
    n_same_product: Int64 | None
    n_same_category: Int64 | None
    query_profiles: Int64
    gallery_profiles: Int64

    @cached_property
    def best_gains(self) -> BestGains | None:
        """The best items by label IoU; None where the catalogue has neither labels nor attributes."""
        return _best_gains(self, iou_matrix)

    @cached_property
    def best_shares(self) -> BestGains | None:
        """The best items by the share of the query's labels, or None likewise."""
        return _best_gains(self, share_matrix)

    @property
    def n_relevant(self) -> Int64 | None:
        """(q,) gallery items of the query's product or, in a catalogue without products, of its category."""
        return self.n_same_category if self.n_same_product is None else self.n_same_product

    @property
    def n_items(self) -> Int64:
        """(q,) gallery items that a query can find."""
        return self.gallery.n_items - (self.own >= 0).astype(np.int64)


def find_truth(queries: Judgements, gallery: Judgements, own: Int64 | None = None) -> Truth:
    """Find what is relevant to queries in a gallery, in which they are at the positions `own`, or not at all.

    Raises `DimensionMismatch` if encoded apart.
    """
    if (queries.label_names, queries.attribute_names) != (gallery.label_names, gallery.attribute_names):
        raise DimensionMismatch(
            "queries and gallery have different label vocabularies; encode them together, then take rows"
        )
    query_profiles, gallery_profiles = _profiles(queries, gallery)
    own = np.full(queries.n_items, -1, np.int64) if own is None else own
    return Truth(
        queries,
        gallery,
        own,
        n_same_product=_count_equal(queries.product, gallery.product, own),
        n_same_category=_count_equal(queries.category, gallery.category, own),
        query_profiles=query_profiles,
        gallery_profiles=gallery_profiles,
    )


def same_code(query_codes: Int64, gallery_codes: Int64, positions: Int64) -> Bool:
    """Return whether the gallery item at each position (-1 for none) has the query's code, (q, k)."""
    codes = np.append(gallery_codes, -1)[positions]
    return np.asarray((codes == query_codes[:, None]) & (codes >= 0))


def neighbour_iou(queries: Judgements, gallery: Judgements, positions: Int64) -> Float64:
    """Return the label IoU of each query with the gallery items at `positions`, (q, k); 0 at position -1."""
    values = np.zeros(positions.shape, np.float64)
    if queries.labels is None or gallery.labels is None:
        return values
    query, slot = np.nonzero(positions >= 0)
    values[query, slot] = label_iou(queries.labels[query], gallery.labels[positions[query, slot]])
    return values


def neighbour_gain(truth: Truth, positions: Int64, shares: bool = False) -> Float32:
    """Return the gain of the gallery items at `positions` for each query, (q, k) in 0 to 1; 0 at position -1.

    The gain of a pair is its label IoU, or with `shares` the share of the query's labels that the item has, if category
    and all attributes are equal, else 0; what the catalogue lacks altogether counts as equal. An attribute that both
    items lack is equal (shoes have no sleeves). A query without any known category or attribute, in a catalogue that
    has them, gains nothing.
    """
    equal = same_code(truth.query_profiles, truth.gallery_profiles, positions)
    gains, labels, gallery_labels = equal.astype(np.float32), truth.queries.labels, truth.gallery.labels
    if labels is None or gallery_labels is None:
        return gains
    compare = label_share if shares else label_iou
    query, slot = np.nonzero(equal)
    # float64 quotients rounded to float32 are the float32 quotients of `_best_gains`, so ties stay exact.
    gains[query, slot] = compare(labels[query], gallery_labels[positions[query, slot]])
    return gains


def _best_gains(truth: Truth, compare: Callable[[csr_array, ByLabel], Float32]) -> BestGains | None:
    queries, gallery = truth.queries, truth.gallery
    if queries.labels is None and queries.attributes is None:
        return None
    best = np.zeros((queries.n_items, MAX_CUTOFF), np.float32)
    n_more_tied = np.zeros(queries.n_items, np.int64)
    for asked, members in _profile_groups(truth.query_profiles, truth.gallery_profiles):
        labels = None if gallery.labels is None else ByLabel.of(gallery.labels[members])
        for block in row_blocks(len(asked), len(members)):
            rows = asked[block]
            if queries.labels is None or labels is None:
                gains = np.ones((len(rows), len(members)), np.float32)
            else:
                gains = compare(queries.labels[rows], labels)
            gains[truth.query_profiles[rows, None] != truth.gallery_profiles[members]] = -1
            gains[members == truth.own[rows, None]] = -1
            width = min(MAX_CUTOFF, len(members))
            best[rows, :width] = np.maximum(_largest(gains, width), 0)
            n_more_tied[rows] = (gains == best[rows, -1:]).sum(axis=1)
    return BestGains(best, n_more_tied)


def _profile_groups(queries: Int64, gallery: Int64) -> Iterator[tuple[Int64, Int64]]:
    """Yield the rows of queries and of the gallery that share a profile, for a few small profiles at a time, or one.

    `queries` (q,) and `gallery` (n,) are their profiles, -1 for none.
    """
    shared = np.intersect1d(queries, gallery[gallery >= 0])
    ordered = [np.argsort(profiles, kind="stable") for profiles in (queries, gallery)]
    asked, members = (
        rows[np.isin(profiles[rows], shared)] for rows, profiles in zip(ordered, (queries, gallery), strict=True)
    )
    number = np.searchsorted(shared, gallery[members])
    group = np.cumsum(np.bincount(number, minlength=len(shared))) // GROUP_ROWS
    for each in np.unique(group):
        yield asked[group[np.searchsorted(shared, queries[asked])] == each], members[group[number] == each]


def _largest(values: Float32, k: int) -> Float32:
    """Return the k largest of each row, falling; overwrites `values`. Ten times as fast as np.partition for k = 10."""
    rows = np.arange(len(values))
    largest = np.empty((len(values), k), np.float32)
    for rank in range(k):
        columns = values.argmax(axis=1)
        largest[:, rank] = values[rows, columns]
        values[rows, columns] = -1
    return largest


class ByLabel(NamedTuple):
    """The labels of n items as (n_labels, n) float32, sparse, and how many each item has, (n,)."""

    items: csr_array
    n_labels: Float32

    @classmethod
    def of(cls, labels: csr_array) -> Self:
        """Return (n, n_labels) bool labels by label."""
        return cls(labels.astype(np.float32).T.tocsr(), _n_labels(labels))

    def shared(self, labels: csr_array) -> Float32:
        """Return how many of (q, n_labels) bool labels each item has, (q, n); float32 counts them exactly."""
        counts: Float32 = (labels.astype(np.float32) @ self.items).toarray()
        return counts


def share_matrix(labels: csr_array, gallery: ByLabel) -> Float32:
    """Return the share of each query's `labels` that each item of the gallery has, (q, n)."""
    shared = gallery.shared(labels)
    return np.divide(shared, np.maximum(_n_labels(labels), 1)[:, None], out=shared)


def iou_matrix(labels: csr_array, gallery: ByLabel) -> Float32:
    """Return the label IoU of each query, of `labels`, and each item of the gallery, (q, n)."""
    shared = gallery.shared(labels)
    either = _n_labels(labels)[:, None] + gallery.n_labels
    either -= shared
    np.maximum(either, 1, out=either)
    return np.divide(shared, either, out=shared)


def _n_labels(labels: csr_array) -> Float32:
    return np.diff(labels.indptr).astype(np.float32)


def _profiles(queries: Judgements, gallery: Judgements) -> tuple[Int64, Int64]:
    """Return codes (q,) and (n,) of category and attributes together; all equal where there are neither."""
    profiles = np.zeros(queries.n_items + gallery.n_items, np.int64)
    is_known = np.zeros(len(profiles), np.bool_)
    properties: list[Int64] = [
        np.concatenate(codes) for codes in zip(_properties(queries), _properties(gallery), strict=True)
    ]
    for codes in properties:
        both = profiles * (int(codes.max(initial=-1)) + 2) + codes + 1
        profiles = np.unique(both, return_inverse=True)[1].astype(np.int64)
        is_known |= codes >= 0
    if properties:
        profiles[~is_known] = -1
    return profiles[: queries.n_items], profiles[queries.n_items :]


def _properties(judged: Judgements) -> list[Int32 | Int64]:
    """Return (n,) codes of the category, if known, and of each attribute."""
    category = [] if judged.category is None else [judged.category]
    return category + ([] if judged.attributes is None else list(judged.attributes.T))


def _count_equal(query_codes: Int64 | None, gallery_codes: Int64 | None, own: Int64) -> Int64 | None:
    if query_codes is None or gallery_codes is None:
        return None
    n_codes = int(max(query_codes.max(initial=-1), gallery_codes.max(initial=-1))) + 1
    counts = np.bincount(gallery_codes[gallery_codes >= 0], minlength=n_codes)
    is_own = (own >= 0) & (query_codes >= 0)
    return np.append(counts, 0)[query_codes] - is_own


def row_blocks(n_rows: int, row_size: int) -> Iterator[slice]:
    """Split rows into slices, so that rows times row_size stays within `BLOCK_PAIRS`."""
    step = max(1, BLOCK_PAIRS // max(row_size, 1))
    return (slice(start, start + step) for start in range(0, n_rows, step))
