"""Gather the facts of a comparison's report from its inputs and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from retrieval_core.artifacts.manifests import Backbone, Fitted, VectorSet
from retrieval_core.artifacts.pictures import PictureReader
from retrieval_core.evaluate.compare.config import ComparisonConfig
from retrieval_core.evaluate.compare.crops import crop_effects
from retrieval_core.evaluate.compare.measure import BuiltVariant, ComparisonInputs, ComparisonResults, all_scores
from retrieval_core.evaluate.compare.schema import ComparisonFacts, Cost, Front, MeasuredVariant, ModelFacts, SideBySide
from retrieval_core.evaluate.compare.tables import build_tables
from retrieval_core.evaluate.report.curves import Point
from retrieval_core.evaluate.report.image_grids import query_grids
from retrieval_core.metrics.registry import definitions
from retrieval_core.store.base import Store

N_GRIDS = 6
N_SHOWN = 4
COSTS: tuple[Cost, ...] = ("ms_per_picture", "n_bytes_per_item")


def gather_facts(
    store: Store, inputs: ComparisonInputs, results: ComparisonResults, config: ComparisonConfig, name: str
) -> ComparisonFacts:
    """Return the facts of the comparison with fingerprint `name`."""
    quality = ranking_metric(config, results)
    variants = tuple(_measured(store, variant, results) for variant in results.variants)
    return ComparisonFacts(
        comparison=name,
        title=config.title,
        about=config.about,
        source=inputs.source,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        n_items=len(results.items),
        n_queries=len(results.protocol.queries),
        n_gallery=len(results.protocol.gallery),
        quality=quality,
        variants=variants,
        random=results.random.summary,
        tables=build_tables(config, results),
        fronts=_fronts(variants, quality),
        models=tuple(_model(store, name, fitted, config) for name, fitted in inputs.models.items()),
        crops=crop_effects(store, results, quality, config.crop.margin) if quality else (),
        grids=_side_by_side(results, PictureReader(store), quality, config.evaluate.seed),
        definitions=_definitions(config),
        seconds=inputs.seconds,
    )


def ranking_metric(config: ComparisonConfig, results: ComparisonResults) -> str:
    """Return the first metric of the tables that every variant has for single queries; "" if there is none."""
    for table in config.tables:
        for metric in table.metrics:
            if all(metric in scores.per_query.columns for scores in results.scores.values()):
                return metric
    return ""


def _measured(store: Store, variant: BuiltVariant, results: ComparisonResults) -> MeasuredVariant:
    return MeasuredVariant(
        spec=variant.spec,
        dim=VectorSet.open(store, variant.vectors).dim,
        ms_per_picture=variant.ms_per_picture,
        n_bytes_per_item=variant.n_bytes_per_item,
        metrics=all_scores(results, variant.spec.name),
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


def _side_by_side(
    results: ComparisonResults, pictures: PictureReader, quality: str, seed: int
) -> tuple[SideBySide, ...]:
    """Return random queries with the hits of the best variant, the worst, and two between them."""
    names = _shown_variants(results, quality)
    grids = {
        name: query_grids(
            results.items,
            results.protocol,
            results.positions[name],
            results.similarities[name],
            N_GRIDS,
            seed,
            pictures,
        )
        for name in names
    }
    return tuple(
        SideBySide(query=answers[0].query, answers=dict(zip(names, answers, strict=True)))
        for answers in zip(*grids.values(), strict=True)
    )


def _shown_variants(results: ComparisonResults, quality: str) -> list[str]:
    names = list(results.scores)
    if quality:
        names.sort(key=lambda name: -results.scores[name].summary[quality])
    ranks = (round(step * (len(names) - 1) / (N_SHOWN - 1)) for step in range(N_SHOWN))
    return [names[rank] for rank in dict.fromkeys(ranks)]


def _definitions(config: ComparisonConfig) -> dict[str, str]:
    texts = definitions()
    return {metric: texts[metric] for table in config.tables for metric in table.metrics}


def pareto_front(points: Mapping[str, Point]) -> tuple[str, ...]:
    """Return the names of the (cost, value) points that no other point beats, the cheapest first.

    A point beats another if it costs no more and has no lower value, unless both are equal.
    """
    front: list[str] = []
    for name, (cost, value) in sorted(points.items(), key=lambda point: (point[1][0], -point[1][1])):
        if not front or value > points[front[-1]][1] or points[front[-1]] == (cost, value):
            front.append(name)
    return tuple(front)
