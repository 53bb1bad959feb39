"""A map of the catalogue: its vectors on a plane, for the eye."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.indexed_rows import Indexed
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.reduce.pca import fit_pca, project

MAX_POINTS = 2_000
MAX_CATEGORIES = 8  # colours that the eye can tell apart
K = 10
DECIMALS = 4
MAP_COLUMNS, MAP_ROWS = 8, 5
OTHER = -1


class MapPoint(Value):
    """An item at (x, y); `category` is its place in the map's `categories`, -1 for a rarer one or none."""

    item_id: str
    x: float
    y: float
    category: int


class MapFacts(Value):
    """`points` are up to `MAX_POINTS` of `n_rows` items on the two first principal components of their vectors.

    `explained` is the share of the variance that these hold, `kept` the share of the points' ten nearest in the full
    dimension that are among their ten nearest on the map, and `kept_by_chance` what a map without meaning would keep:
    how far the map may be trusted. `categories` are the commonest, the commonest first. `missing` says why there is no
    map.
    """

    n_rows: int
    points: tuple[MapPoint, ...] = ()
    categories: tuple[str, ...] = ()
    explained: float = 0.0
    kept: float = 0.0
    kept_by_chance: float = 0.0
    missing: str = ""


def map_catalog(now: Indexed, seed: int) -> MapFacts:
    """Lay a release's vectors on a plane; above `MAX_POINTS` items, that many are drawn by hash."""
    sample = now.sample(MAX_POINTS, seed)
    n_rows = len(now.items)
    if len(sample) < 3 or now.index.dim < 2:
        return MapFacts(n_rows=n_rows, missing="A map wants three items or more, and vectors of two dimensions.")
    vectors = now.index.vectors_of(sample)
    pca = fit_pca([vectors], 2)
    plane = project(pca, vectors, 2)
    items = pl.DataFrame({"row_id": sample}).join(now.items, on="row_id", how="left", maintain_order="left")
    counts = items["category"].drop_nulls().value_counts().sort(["count", "category"], descending=[True, False])
    categories = tuple(counts["category"].head(MAX_CATEGORIES))
    place = {name: number for number, name in enumerate(categories)}
    rounded = np.round(plane.astype(np.float64), DECIMALS).tolist()
    names = items.select("item_id", "category").iter_rows()
    return MapFacts(
        n_rows=n_rows,
        points=tuple(
            MapPoint(item_id=item_id, x=x, y=y, category=place.get(category, OTHER))
            for (item_id, category), (x, y) in zip(names, rounded, strict=True)
        ),
        categories=categories,
        explained=pca.explained_variance(2),
        kept=_kept(vectors, plane),
        kept_by_chance=min(K, len(sample) - 1) / (len(sample) - 1),
    )


def map_cells(facts: MapFacts) -> list[tuple[str, int, int]]:
    """(item_id, column, row from the top) of the item nearest to the middle of each field that holds any.

    The map is `MAP_COLUMNS` fields wide and `MAP_ROWS` high.
    """
    if not facts.points:
        return []
    places = np.array([(point.x, -point.y) for point in facts.points])
    low = places.min(axis=0)
    scaled = (places - low) / np.maximum(places.max(axis=0) - low, 1e-9) * (MAP_COLUMNS, MAP_ROWS)
    cells = np.minimum(scaled.astype(np.int64), (MAP_COLUMNS - 1, MAP_ROWS - 1))
    astray = np.abs(scaled - cells - 0.5).max(axis=1)
    nearest: dict[tuple[int, int], int] = {}
    for point in np.argsort(astray, kind="stable").tolist():
        nearest.setdefault((int(cells[point, 1]), int(cells[point, 0])), point)
    return [(facts.points[point].item_id, column, row) for (row, column), point in sorted(nearest.items())]


def _kept(vectors: Float32, plane: Float32) -> float:
    """Mean share of each row's ten nearest by `vectors` that are among its ten nearest on the plane."""
    k = min(K, len(vectors) - 1)
    # The nearest on the plane have the largest x·y - |y|²/2: a third coordinate makes that an inner product.
    lifted = np.column_stack([plane, -(plane**2).sum(axis=1) / 2]).astype(np.float32)
    asking = np.column_stack([plane, np.ones(len(plane))]).astype(np.float32)
    own = np.arange(len(vectors))
    full, flat = (_found(queries, gallery, k, own) for queries, gallery in ((vectors, vectors), (asking, lifted)))
    same = (full[:, :, None] == flat[:, None, :]).any(axis=2)
    return float(same.mean())


def _found(queries: Float32, gallery: Float32, k: int, own: Int64) -> Int64:
    return exact_topk(queries, gallery, k, exclude=own)[1]
