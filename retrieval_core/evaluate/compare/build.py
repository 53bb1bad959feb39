"""From what a comparison made and found to the facts of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from retrieval_core.artifacts.manifests import Backbone, Fitted, VectorSet
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.compare.crops import crop_effects
from retrieval_core.evaluate.compare.measure import Candidate, Compared, Comparing, all_scores
from retrieval_core.evaluate.compare.schema import (
    ComparisonFacts,
    Cost,
    Front,
    MeasuredVariant,
    ModelFacts,
    SideBySide,
)
from retrieval_core.evaluate.compare.tables import build_tables
from retrieval_core.evaluate.report.curves import Point
from retrieval_core.evaluate.report.image_grids import query_grids
from retrieval_core.metrics.registry import definitions
from retrieval_core.store.base import Store

N_GRIDS = 6
N_SIDES = 4
COSTS: tuple[Cost, ...] = ("ms_per_picture", "n_bytes_per_item")


def gather_facts(
    store: Store, comparing: Comparing, compared: Compared, config: ComparisonConfig, name: str
) -> ComparisonFacts:
    """The facts of the comparison of fingerprint `name`: its tables tested, its fronts found, its pictures drawn."""
    quality = ranking_metric(config, compared)
    variants = tuple(_measured(store, candidate, compared) for candidate in compared.candidates)
    return ComparisonFacts(
        comparison=name,
        title=config.title,
        about=config.about,
        source=comparing.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        n_items=len(compared.items),
        n_queries=len(compared.protocol.queries),
        n_gallery=len(compared.protocol.gallery),
        quality=quality,
        variants=variants,
        random=compared.random.summary,
        tables=build_tables(config, compared),
        fronts=_fronts(variants, quality),
        models=tuple(_model(store, name, fitted, config) for name, fitted in comparing.models.items()),
        crops=crop_effects(store, compared, quality, config.crop.margin) if quality else (),
        grids=_side_by_side(compared, quality, config.evaluate.seed),
        definitions=_definitions(config),
        seconds=comparing.seconds,
    )


def ranking_metric(config: ComparisonConfig, compared: Compared) -> str:
    """The first metric of the first table that every variant defines query by query; "" where there is none."""
    for table in config.tables:
        for metric in table.metrics:
            if all(metric in scores.per_query.columns for scores in compared.scores.values()):
                return metric
    return ""


def _measured(store: Store, candidate: Candidate, compared: Compared) -> MeasuredVariant:
    return MeasuredVariant(
        spec=candidate.spec,
        dim=VectorSet.open(store, candidate.vectors).dim,
        ms_per_picture=candidate.ms_per_picture,
        n_bytes_per_item=candidate.n_bytes_per_item,
        metrics=all_scores(compared, candidate.spec.name),
    )


def _fronts(variants: Sequence[MeasuredVariant], quality: str) -> tuple[Front, ...]:
    if not quality:
        return ()
    return tuple(
        Front(
            cost=cost,
            variants=pareto_front(
                {variant.name: (float(getattr(variant, cost)), variant.metrics[quality]) for variant in variants}
            ),
        )
        for cost in COSTS
    )


def _model(store: Store, name: str, fitted: Fitted, config: ComparisonConfig) -> ModelFacts:
    backbone, training = Backbone.open(store, fitted.ref), config.models[name]
    return ModelFacts(
        name=name,
        trained=fitted.trained,
        fitted=backbone.created,
        metrics=backbone.metrics,
        history=backbone.history,
        objective=training.objective,
        backbone=training.backbone,
        start=training.weights,
        n_pictures=backbone.counts.get("train", 0),
        seconds=sum(row.get("seconds", 0.0) for row in backbone.history),
    )


def _side_by_side(compared: Compared, quality: str, seed: int) -> tuple[SideBySide, ...]:
    """Queries drawn at random under the best variant, the worst, and two between them."""
    names = _sides(compared, quality)
    grids = {
        name: query_grids(
            compared.items,
            compared.protocol,
            compared.positions[name],
            compared.similarities[name],
            N_GRIDS,
            seed,
        )
        for name in names
    }
    return tuple(
        SideBySide(query=answers[0].query, answers=dict(zip(names, answers, strict=True)))
        for answers in zip(*grids.values(), strict=True)
    )


def _sides(compared: Compared, quality: str) -> list[str]:
    names = list(compared.scores)
    if quality:
        names.sort(key=lambda name: -compared.scores[name].summary[quality])
    places = (round(side * (len(names) - 1) / (N_SIDES - 1)) for side in range(N_SIDES))
    return [names[place] for place in dict.fromkeys(places)]


def _definitions(config: ComparisonConfig) -> dict[str, str]:
    wanted: Mapping[str, None] = dict.fromkeys(metric for table in config.tables for metric in table.metrics)
    texts = definitions()
    return {metric: texts[metric] for metric in wanted}


def pareto_front(points: Mapping[str, Point]) -> tuple[str, ...]:
    """The names of those (cost, value) points that no other beats, the cheapest first.

    A point is beaten by one that costs no more and is worth no less, unless both are equal.
    """
    front: list[str] = []
    for name, (cost, value) in sorted(points.items(), key=lambda point: (point[1][0], -point[1][1])):
        if not front or value > points[front[-1]][1] or points[front[-1]] == (cost, value):
            front.append(name)
    return tuple(front)
