"""A map of the catalogue: its vectors projected onto a plane, for a person to look at."""

from __future__ import annotations

import importlib.util
import json
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Report, Value
from retrieval_core.artifacts.parts import is_stored
from retrieval_core.evaluate.measure.indexed_rows import IndexedItems
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.reduce.pca import fit_pca, project
from retrieval_core.store.base import Store

MAX_POINTS = 2_000
MAX_CATEGORIES = 8  # colours that the eye can tell apart
K = 10
PERPLEXITY, N_STEPS = 30, 500  # of t-SNE
ANGLE = 0.9  # of t-SNE: 0.5 keeps no more of the nearest, and takes a third longer
START_SPREAD = 1e-4  # of the principal components that t-SNE starts from (Kobak and Berens, 2019)
MIN_SPREAD = 1e-6  # less is rounding
DECIMALS = 4
MAX_PLACED = 0.2  # share of points that came to a map after it was drawn, above which it is drawn again
N_BESIDE = 3  # a point that comes to a map is put in the middle of so many
MAP_COLUMNS, MAP_ROWS = 8, 5
POINT_SCHEMA = {"item_id": pl.String(), "x": pl.Float64(), "y": pl.Float64()}
OTHER = -1


class MapPoint(Value):
    """An item at (x, y); `category` indexes the map's `categories`, -1 for a rarer category or none."""

    item_id: str
    x: float
    y: float
    category: int


class MapFacts(Value):
    """Up to `MAX_POINTS` of `n_rows` items, their vectors brought into a plane by t-SNE, or by PCA.

    `explained` is the share of the variance on the two principal components, None for t-SNE, which has none. `kept` is
    the share of the points' ten nearest in the full dimension that are also among their ten nearest on the map,
    `kept_by_chance` the share that a random map would keep: together they say how far the map can be trusted.
    `categories` are the most frequent ones, in falling order. `n_placed` counts the points that came to the map since
    it was drawn, over all runs. `missing` says why there is no map.
    """

    n_rows: int
    points: tuple[MapPoint, ...] = ()
    categories: tuple[str, ...] = ()
    explained: float | None = None
    kept: float = 0.0
    kept_by_chance: float = 0.0
    n_placed: int = 0
    missing: str = ""


class EarlierMap(NamedTuple):
    """The map of an earlier release, and the rows whose vectors are the same there, ascending."""

    facts: MapFacts
    unchanged: Int64


def read_map(store: Store, earlier: Report | None) -> MapFacts | None:
    """Return the map of an earlier report, None where it is lost or older than maps."""
    part = earlier.find_part("metrics.json") if earlier else None
    if part is None or not is_stored(store, part):
        return None
    facts = json.loads(store.local_path(part.key, part.sha256).read_bytes()).get("map")
    return MapFacts.model_validate(facts) if facts else None


def map_catalog(release: IndexedItems, seed: int, earlier: EarlierMap | None = None) -> MapFacts:
    """Bring a release's vectors into a plane; above `MAX_POINTS` items, sample that many by their hash.

    By t-SNE where scikit-learn is installed (the group `map`): it keeps more of the nearest, for a few seconds. Where
    little changed since an `earlier` map, its points stay where they are, so that a reader finds them again, and new
    ones are put among those that they are most like.
    """
    sample = release.sample(MAX_POINTS, seed)
    n_rows = len(release.items)
    if len(sample) < 3 or release.index.dim < 2:
        return MapFacts(n_rows=n_rows, missing="A map needs at least three items, and vectors of two dimensions.")
    vectors = release.index.vectors_of(sample)
    items = pl.DataFrame({"row_id": sample}).join(release.items, on="row_id", how="left", maintain_order="left")
    plane, explained, n_placed = (earlier and _kept_plane(vectors, items, earlier)) or (*_plane(vectors, seed), 0)
    counts = items["category"].drop_nulls().value_counts().sort(["count", "category"], descending=[True, False])
    categories = tuple(counts["category"].head(MAX_CATEGORIES))
    number_of = {name: number for number, name in enumerate(categories)}
    coordinates = np.round(plane.astype(np.float64), DECIMALS).tolist()
    names = items.select("item_id", "category").iter_rows()
    return MapFacts(
        n_rows=n_rows,
        points=tuple(
            MapPoint(item_id=item_id, x=x, y=y, category=number_of.get(category, OTHER))
            for (item_id, category), (x, y) in zip(names, coordinates, strict=True)
        ),
        categories=categories,
        explained=explained,
        kept=_kept_neighbours(vectors, plane),
        kept_by_chance=min(K, len(sample) - 1) / (len(sample) - 1),
        n_placed=n_placed,
    )


def _kept_plane(vectors: Float32, items: pl.DataFrame, earlier: EarlierMap) -> tuple[Float32, float | None, int] | None:
    """Return (n, 2) coordinates on an earlier map of t-SNE, and how many points came to it; None to draw another."""
    facts, unchanged = earlier
    points = pl.DataFrame([(p.item_id, p.x, p.y) for p in facts.points], schema=POINT_SCHEMA, orient="row")
    plane = items.join(points, on="item_id", how="left", maintain_order="left").select("x", "y").to_numpy(writable=True)
    is_new = np.isnan(plane[:, 0]) | ~np.isin(items["row_id"].to_numpy(), unchanged)
    n_placed = facts.n_placed + int(is_new.sum())
    if facts.explained is not None or not _has_tsne() or n_placed > MAX_PLACED * len(items):
        return None
    mapped = plane[~is_new]
    _, nearest = exact_topk(vectors[is_new], vectors[~is_new], min(N_BESIDE, len(mapped)))
    plane[is_new] = mapped[nearest].mean(axis=1)
    return plane.astype(np.float32), None, n_placed


def _has_tsne() -> bool:
    return importlib.util.find_spec("sklearn") is not None


def _plane(vectors: Float32, seed: int) -> tuple[Float32, float | None]:
    """Return (n, 2) coordinates, and the share of the variance on them if they are principal components."""
    pca = fit_pca([vectors], 2)
    plane = project(pca, vectors, 2)
    spread = float(plane[:, 0].std())
    if not _has_tsne() or spread < MIN_SPREAD:  # t-SNE crashes on equal vectors
        return plane, pca.explained_variance(2)
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    start = (plane / spread * START_SPREAD).astype(np.float32)
    tsne = TSNE(2, perplexity=perplexity, init=start, random_state=seed, max_iter=N_STEPS, angle=ANGLE)
    return tsne.fit_transform(vectors), None


def map_cells(facts: MapFacts) -> list[tuple[str, int, int]]:
    """Divide the map into `MAP_COLUMNS` by `MAP_ROWS` cells and pick one item for each cell that holds any.

    Returns (item_id, column, row from the top) of the item nearest to the centre of its cell, row by row.
    """
    if not facts.points:
        return []
    positions = np.array([(point.x, -point.y) for point in facts.points])
    low = positions.min(axis=0)
    scaled = (positions - low) / np.maximum(positions.max(axis=0) - low, 1e-9) * (MAP_COLUMNS, MAP_ROWS)
    cells = np.minimum(scaled.astype(np.int64), (MAP_COLUMNS - 1, MAP_ROWS - 1))
    from_centre = np.abs(scaled - cells - 0.5).max(axis=1)
    nearest: dict[tuple[int, int], int] = {}
    for point in np.argsort(from_centre, kind="stable").tolist():
        nearest.setdefault((int(cells[point, 1]), int(cells[point, 0])), point)
    return [(facts.points[point].item_id, column, row) for (row, column), point in sorted(nearest.items())]


def _kept_neighbours(vectors: Float32, plane: Float32) -> float:
    """Return the mean share of each row's ten nearest by `vectors` that are also among its ten nearest on the plane."""
    k = min(K, len(vectors) - 1)
    # The nearest on the plane have the largest x·y - |y|²/2: a third coordinate makes that an inner product.
    gallery = np.column_stack([plane, -(plane**2).sum(axis=1) / 2]).astype(np.float32)
    queries = np.column_stack([plane, np.ones(len(plane))]).astype(np.float32)
    itself = np.arange(len(vectors))
    _, by_vectors = exact_topk(vectors, vectors, k, exclude=itself)
    _, on_plane = exact_topk(queries, gallery, k, exclude=itself)
    return float((by_vectors[:, :, None] == on_plane[:, None, :]).any(axis=2).mean())
