"""Synthetic queries: distorted pictures of the catalogue, each of which should find the item that it shows.

Items are drawn by a hash of their row id and distorted by a generator of their own, so that an item that stays in the
catalogue gives the same queries in every run; only new backgrounds depend on the run, which provides the mask. No
labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.artifacts.manifests import MaskSet, Ref, Value
from retrieval_core.artifacts.parts import MaskRow, read_masks
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.config.stages import EvaluateConfig
from retrieval_core.errors import Permanent
from retrieval_core.evaluate.measure.indexed_rows import sample_rows
from retrieval_core.evaluate.measure.known_answer import (
    Answer,
    Missed,
    MissedQuery,
    contents_of,
    first_problems,
    hit_ids,
    show_missed,
)
from retrieval_core.evaluate.measure.picture_search import PictureSearch
from retrieval_core.evaluate.measure.setup import cluster_names
from retrieval_core.evaluate.thumbnails import FROM_SOURCE, Thumbnail, jpeg_base64
from retrieval_core.images import RGB, decode
from retrieval_core.metrics.distortions import DISTORTIONS, Distortion
from retrieval_core.metrics.registry import SYNTHETIC_RECALL, SYNTHETIC_RECALL_OF
from retrieval_core.store.base import Store

PREFIX = "synthetic"
RECALL = SYNTHETIC_RECALL.name
K = 10


class DistortionFacts(Value):
    """A way to distort pictures, and the share of its `n_queries` queries whose first hit is their item."""

    name: str
    meaning: str
    n_queries: int
    recall: float


class SyntheticFacts(Value):
    """The synthetic queries of `n_items` drawn items, each distorted in the ways of `distortions`.

    `recall` is averaged over items. `problems` are the first of the `n_problems` pictures that could not be read.
    `missing` says why there are no queries. `missed` are some of the `n_missed` queries whose first hit was wrong.
    """

    n_items: int = 0
    n_queries: int = 0
    recall: float = 0.0
    distortions: tuple[DistortionFacts, ...] = ()
    n_problems: int = 0
    problems: tuple[str, ...] = ()
    n_missed: int = 0
    missed: tuple[MissedQuery, ...] = ()
    missing: str = ""


class Synthetic(NamedTuple):
    """Metrics by name, one row a drawn item (item_id, cluster and metrics), and the facts of the report."""

    metrics: dict[str, float]
    per_query: pl.DataFrame
    facts: SyntheticFacts


class _Query(NamedTuple):
    item: dict[str, Any]
    distortion: Distortion
    picture: RGB


class _Searched(NamedTuple):
    item_id: str
    cluster: str
    distortion: str
    answer: Answer
    thumbnail: str


def draw_items(items: pl.DataFrame, config: EvaluateConfig) -> pl.DataFrame:
    """Draw up to `config.synthetic_queries` of the items; ascending row ids."""
    drawn = sample_rows(items["row_id"].to_numpy(), config.synthetic_queries, config.seed)
    return items.filter(pl.col("row_id").is_in(drawn)).sort("row_id")


def read_item_masks(store: Store, masks: Ref | None, items: pl.DataFrame) -> dict[str, MaskRow]:
    """Read the trusted masks of these items, by content id; none where the run has no masks."""
    if masks is None or items.is_empty():
        return {}
    rows = read_masks(store, MaskSet.open(store, masks), items["content_id"])
    return {content: row for content, row in rows.items() if not row.reason}


def search_synthetic(
    release: PictureSearch,
    items: pl.DataFrame,
    masks: Mapping[str, MaskRow],
    config: EvaluateConfig,
    max_pixels: int,
    pictures: PictureReader = FROM_SOURCE,
) -> Synthetic:
    """Distort the pictures of drawn items and search for each as a user does; its item should be the first hit.

    A picture that cannot be read is left out and listed as a problem; one without a mask keeps its background.
    """
    drawn = draw_items(items, config)
    drawn = drawn.with_columns(cluster_names(drawn))
    problems: list[str] = []
    readable = _readable(drawn, pictures, max_pixels, problems)
    searched = [_search(release, query) for query in _queries(readable, masks, config.seed)]
    if not searched:
        return Synthetic({}, _no_rows(), _nothing(config, len(drawn), problems))
    contents = contents_of(items, hit_ids(query.answer for query in searched))
    hits = [query.answer.hit(contents) for query in searched]
    per_query = _per_item(searched, hits)
    metrics = {name: float(per_query[name].drop_nulls().to_numpy().mean()) for name in per_query.columns[2:]}
    missed = [query for query, hit in zip(searched, hits, strict=True) if not hit]
    facts = SyntheticFacts(
        n_items=len(per_query),
        n_queries=len(searched),
        recall=metrics[RECALL],
        distortions=tuple(
            DistortionFacts(
                name=distortion.name,
                meaning=distortion.meaning,
                n_queries=sum(query.distortion == distortion.name for query in searched),
                recall=metrics[_recall_of(distortion.name)],
            )
            for distortion in DISTORTIONS
            if _recall_of(distortion.name) in metrics
        ),
        n_problems=len(problems),
        problems=first_problems(problems),
        n_missed=len(missed),
        missed=show_missed(items, _spread(missed), contents, pictures),
    )
    return Synthetic(metrics, per_query, facts)


def _recall_of(distortion: str) -> str:
    return SYNTHETIC_RECALL_OF[distortion].name


def _per_item(searched: Sequence[_Searched], hits: Sequence[float]) -> pl.DataFrame:
    """Return one row an item: the hit of each distortion, null where there is none, and their mean."""
    table = pl.DataFrame(
        {
            "item_id": [query.answer.name for query in searched],
            "cluster": [query.cluster for query in searched],
            "distortion": [query.distortion for query in searched],
            "hit": hits,
        }
    )
    names = [distortion.name for distortion in DISTORTIONS if distortion.name in table["distortion"]]
    return table.group_by("item_id", "cluster", maintain_order=True).agg(
        pl.col("hit").mean().alias(RECALL),
        *(pl.col("hit").filter(pl.col("distortion") == name).first().alias(_recall_of(name)) for name in names),
    )


def _readable(
    drawn: pl.DataFrame, pictures: PictureReader, max_pixels: int, problems: list[str]
) -> Iterator[tuple[dict[str, Any], RGB]]:
    """Yield the items with their pictures, so that one is in memory at a time."""
    for item in drawn.iter_rows(named=True):
        try:
            yield item, decode(pictures.read(item), max_pixels=max_pixels)
        except Permanent as error:
            problems.append(f"the picture of {item['item_id']} cannot be read: {error}")


def _queries(
    readable: Iterable[tuple[dict[str, Any], RGB]], masks: Mapping[str, MaskRow], seed: int
) -> Iterator[_Query]:
    """Yield the distorted pictures of each item."""
    for item, picture in readable:
        row = masks.get(item["content_id"])
        mask = row.array() if row else None
        for number, distortion in enumerate(DISTORTIONS):
            distorted = distortion.change(picture, mask, np.random.default_rng([seed, item["row_id"], number]))
            if distorted is not None:
                yield _Query(item, distortion, distorted)


def _search(release: PictureSearch, query: _Query) -> _Searched:
    item = query.item
    hits = release.search(query.picture, K)
    name = f"{PREFIX}/{item['content_id']}/{item['item_id']}"
    answer = Answer(name, frozenset({item["content_id"]}), tuple(hits), K)
    is_hit = bool(hits) and hits[0].item_id == item["item_id"]
    thumbnail = "" if is_hit else jpeg_base64(query.picture)
    return _Searched(item["item_id"], item["cluster"], query.distortion.name, answer, thumbnail)


def _spread(missed: list[_Searched]) -> list[Missed]:
    """Order misses so that the first of each distortion comes first, then the second of each, and so on."""
    rank: dict[str, int] = {}
    order = []
    for miss in missed:
        rank[miss.distortion] = rank.get(miss.distortion, 0) + 1
        order.append(rank[miss.distortion])
    ordered = [missed[position] for position in np.argsort(order, kind="stable")]
    return [
        Missed(
            Thumbnail(item_id=miss.item_id, caption=miss.distortion, jpeg=miss.thumbnail),
            [miss.item_id],
            miss.answer,
            miss.distortion,
        )
        for miss in ordered
    ]


def _no_rows() -> pl.DataFrame:
    return pl.DataFrame(schema={"item_id": pl.String})


def _nothing(config: EvaluateConfig, n_drawn: int, problems: list[str]) -> SyntheticFacts:
    if not config.synthetic_queries:
        missing = "No synthetic queries were requested (evaluate.synthetic_queries is 0)."
    elif not n_drawn:
        missing = "The catalogue has no item to draw."
    else:
        missing = f"None of the {n_drawn} drawn pictures can be read."
    return SyntheticFacts(n_problems=len(problems), problems=first_problems(problems), missing=missing)
