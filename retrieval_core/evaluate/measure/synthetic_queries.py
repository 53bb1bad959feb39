"""Synthetic queries: pictures of the catalogue, changed, that ought to find the item they show. No label is needed.

Items are drawn by a hash of their row id and changed by a generator of their own, so that an item which stays in the
catalogue asks the same question every night; but for new backgrounds, which are put in where the night's mask says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from retrieval_core.artifacts.manifests import MaskSet, Ref, Value
from retrieval_core.artifacts.parts import MaskRow, read_masks
from retrieval_core.config import EvaluateConfig
from retrieval_core.errors import Permanent
from retrieval_core.evaluate.measure.indexed_rows import sample_rows
from retrieval_core.evaluate.measure.known_answer import (
    Answer,
    Missed,
    MissedQuery,
    contents_of,
    hit_ids,
    show_missed,
    told,
)
from retrieval_core.evaluate.thumbnails import Thumbnail, jpeg_base64
from retrieval_core.images import RGB, decode
from retrieval_core.metrics.distortions import DISTORTIONS, Distortion
from retrieval_core.metrics.registry import SYNTHETIC_RECALL, SYNTHETIC_RECALL_OF
from retrieval_core.search.release import OpenRelease
from retrieval_core.store.base import Store
from retrieval_core.store.uris import read_uri

PREFIX = "synthetic"
RECALL = SYNTHETIC_RECALL.name
K = 10


class DistortionFacts(Value):
    """One way to change pictures, and the share of the `n_queries` changed so that find their item first."""

    name: str
    meaning: str
    n_queries: int
    recall: float


class SyntheticFacts(Value):
    """Pictures of `n_items` drawn items, each changed in the ways of `distortions`, that ought to find their item.

    `recall` is averaged over items. `problems` are the first of the `n_problems` pictures that could not be read.
    `missing` says why nothing was asked. `missed` are some of the `n_missed` queries whose first hit was wrong.
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
    """Metrics by name, one row an item (item_id names its queries, and their metrics), and the facts of the report."""

    metrics: dict[str, float]
    per_query: pl.DataFrame
    facts: SyntheticFacts


class _Question(NamedTuple):
    item: dict[str, Any]
    distortion: Distortion
    picture: RGB


class _Asked(NamedTuple):
    item_id: str
    distortion: str
    answer: Answer
    thumbnail: str


def draw_items(items: pl.DataFrame, config: EvaluateConfig) -> pl.DataFrame:
    """Up to `synthetic_queries` of the items, by ascending row id."""
    drawn = sample_rows(items["row_id"].to_numpy(), config.synthetic_queries, config.seed)
    return items.filter(pl.col("row_id").is_in(drawn)).sort("row_id")


def read_item_masks(store: Store, masks: Ref | None, items: pl.DataFrame) -> dict[str, MaskRow]:
    """The trusted masks of these items, by content id; none where the night has no masks."""
    if masks is None or items.is_empty():
        return {}
    rows = read_masks(store, MaskSet.open(store, masks), items["content_id"])
    return {content: row for content, row in rows.items() if not row.reason}


def ask_distorted(
    release: OpenRelease, items: pl.DataFrame, masks: Mapping[str, MaskRow], config: EvaluateConfig, max_pixels: int
) -> Synthetic:
    """Change the pictures of drawn `items`, search each as a searcher would, and see whether its item comes first.

    A picture that cannot be read is left out and told of; one without a mask keeps its background.
    """
    drawn = draw_items(items, config)
    problems: list[str] = []
    asked = [_ask(release, question) for question in _questions(drawn, masks, config.seed, max_pixels, problems)]
    if not asked:
        return Synthetic({}, _no_rows(), _nothing(config, len(drawn), problems))
    contents = contents_of(items, hit_ids(found.answer for found in asked))
    right = [found.answer.hit(contents) for found in asked]
    per_query = _per_item(asked, right)
    metrics = {name: float(per_query[name].drop_nulls().to_numpy().mean()) for name in per_query.columns[1:]}
    missed = [found for found, value in zip(asked, right, strict=True) if not value]
    facts = SyntheticFacts(
        n_items=len(per_query),
        n_queries=len(asked),
        recall=metrics[RECALL],
        distortions=tuple(
            DistortionFacts(
                name=one.name,
                meaning=one.meaning,
                n_queries=sum(found.distortion == one.name for found in asked),
                recall=metrics[_recall_of(one.name)],
            )
            for one in DISTORTIONS
            if _recall_of(one.name) in metrics
        ),
        n_problems=len(problems),
        problems=told(problems),
        n_missed=len(missed),
        missed=show_missed(items, _spread(missed), contents),
    )
    return Synthetic(metrics, per_query, facts)


def _recall_of(distortion: str) -> str:
    return SYNTHETIC_RECALL_OF[distortion].name


def _per_item(asked: Sequence[_Asked], right: Sequence[float]) -> pl.DataFrame:
    """A row an item, in their order: what its changed pictures found, each and on average; null where none was made.

    The pictures of one item are no independent queries: what a test of chance draws are items.
    """
    table = pl.DataFrame(
        {"item_id": [found.answer.name for found in asked], "of": [found.distortion for found in asked], "right": right}
    )
    kinds = [one.name for one in DISTORTIONS if one.name in table["of"]]
    return table.group_by("item_id", maintain_order=True).agg(
        pl.col("right").mean().alias(RECALL),
        *(pl.col("right").filter(pl.col("of") == kind).first().alias(_recall_of(kind)) for kind in kinds),
    )


def _questions(
    drawn: pl.DataFrame, masks: Mapping[str, MaskRow], seed: int, max_pixels: int, problems: list[str]
) -> Iterator[_Question]:
    """The changed pictures, one in memory at a time."""
    for item in drawn.iter_rows(named=True):
        try:
            picture = decode(read_uri(item["image_uri"]), max_pixels=max_pixels)
        except Permanent as error:
            problems.append(f"the picture of {item['item_id']} cannot be read: {error}")
            continue
        row = masks.get(item["content_id"])
        mask = row.array() if row else None
        for number, distortion in enumerate(DISTORTIONS):
            changed = distortion.change(picture, mask, np.random.default_rng([seed, item["row_id"], number]))
            if changed is not None:
                yield _Question(item, distortion, changed)


def _ask(release: OpenRelease, question: _Question) -> _Asked:
    item, kind = question.item, question.distortion.name
    hits = release.search(question.picture, k=K)
    name = f"{PREFIX}/{item['content_id']}/{item['item_id']}"
    answer = Answer(name, frozenset({item["content_id"]}), tuple(hits), K)
    right_at_once = bool(hits) and hits[0].item_id == item["item_id"]
    return _Asked(item["item_id"], kind, answer, "" if right_at_once else jpeg_base64(question.picture))


def _spread(missed: list[_Asked]) -> list[Missed]:
    """The first miss of each distortion, then the second of each, and so on."""
    rank: dict[str, int] = {}
    order = []
    for found in missed:
        rank[found.distortion] = rank.get(found.distortion, 0) + 1
        order.append(rank[found.distortion])
    chosen = [missed[place] for place in np.argsort(order, kind="stable")]
    return [
        Missed(
            Thumbnail(item_id=found.item_id, caption=found.distortion, jpeg=found.thumbnail),
            [found.item_id],
            found.answer,
            found.distortion,
        )
        for found in chosen
    ]


def _no_rows() -> pl.DataFrame:
    return pl.DataFrame(schema={"item_id": pl.String})


def _nothing(config: EvaluateConfig, n_drawn: int, problems: list[str]) -> SyntheticFacts:
    if not config.synthetic_queries:
        missing = "No synthetic query was asked for (evaluate.synthetic_queries is 0)."
    elif not n_drawn:
        missing = "The catalogue has no item to draw."
    else:
        missing = f"None of the {n_drawn} drawn pictures can be read."
    return SyntheticFacts(n_problems=len(problems), problems=told(problems), missing=missing)
