"""Which rows of a ranking show something new: another product, or another picture of a product."""

from __future__ import annotations

from collections import Counter

import numpy as np

from retrieval_core.arrays import Bool, Float32, Int64
from retrieval_core.artifacts.catalog_rows import Items
from retrieval_core.index.lookup import ShardedIndex

COLLAPSE_SIMILARITY = 0.98  # cosine of two pictures that show the same


def is_new_product(items: Items, row_ids: Int64) -> Bool:
    """Return, for each of these rows (n,), whether no earlier one is of the same product."""
    products = items.values("product_id", row_ids)
    first = {product: rank for rank, product in reversed([*enumerate(products)])}
    return np.array([product is None or first[product] == rank for rank, product in enumerate(products)], bool)


def is_new_picture(items: Items, index: ShardedIndex, row_ids: Int64) -> Bool:
    """Return, for each of these rows (n,), whether no earlier one is a near-identical picture of the same product."""
    products = items.values("product_id", row_ids)
    counts = Counter(product for product in products if product is not None)
    repeated = [rank for rank, product in enumerate(products) if product is not None and counts[product] > 1]
    keep = np.ones(len(products), bool)
    kept_vectors: dict[str | None, list[Float32]] = {}
    for rank, vector in zip(repeated, index.vectors_of(row_ids[repeated]), strict=True):
        earlier = kept_vectors.setdefault(products[rank], [])
        keep[rank] = all(vector @ other < COLLAPSE_SIMILARITY for other in earlier)
        if keep[rank]:
            earlier.append(vector)
    return keep
