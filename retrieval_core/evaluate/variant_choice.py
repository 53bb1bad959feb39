"""Choose the variant to publish: the cheapest that no other beats beyond chance on rows that nothing trained on.

The queries are of the inner validation part of the training rows (`inner_validation`), searched exactly among the other
training rows; the held-out queries of the report take no part, so that its figures stay unbiased.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.fingerprints import STAGE_VERSIONS
from retrieval_core.artifacts.fitted import changed_fraction
from retrieval_core.artifacts.growing_sets import indexable_items
from retrieval_core.artifacts.manifests import Ref, Release, Report, Value, VectorSet, fingerprint
from retrieval_core.artifacts.variants import Variant, VariantField, parse_variant
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt
from retrieval_core.evaluate.measure.exact_search import stored_gallery
from retrieval_core.evaluate.measure.setup import K, draw_validation
from retrieval_core.metrics.registry import HEADLINES
from retrieval_core.metrics.retrieval import score
from retrieval_core.metrics.significance import paired_interval, permutation_p, sum_pairs
from retrieval_core.store.base import Store

MAX_QUERIES, MAX_ROWS = 2_000, 20_000  # of a larger catalogue a sample of whole products is searched
MIN_PRODUCTS = 10  # with fewer, or pictures without a product, hardly any difference is beyond chance
MAX_P = 0.01  # of a difference beyond chance; low, because the question is put again every night
MIN_GAIN = 0.005  # a smaller difference is not worth another variant, however certain it is


class VariantScore(Value):
    """The figures of a variant on the validation queries: `score` is the mean of its headline `metrics`, 0 to 1.

    `difference` is that of its score and the chosen variant's, with the ends `low` and `high` of its 95% interval.
    """

    name: str
    score: float
    metrics: dict[str, float]
    difference: float
    low: float
    high: float


class VariantChoice(Value):
    """The variant that a run publishes, and why, as a sentence.

    `scores` are of all variants it was chosen from, over `n_queries`; there are none where these were too few to judge.
    `question` is the fingerprint of what was compared, on a `catalog`; both are "" where nothing was to choose.
    """

    variant: VariantField
    why: str
    question: str = ""
    catalog: str = ""
    n_queries: int = 0
    scores: tuple[VariantScore, ...] = ()


class _Evidence(NamedTuple):
    """The (q,) mean of the headline metrics of each query, by variant, and the (q,) cluster of each query.

    `metrics` are the means over queries of each headline metric.
    """

    values: dict[Variant, Float64]
    metrics: dict[Variant, dict[str, float]]
    clusters: Int64


def choose_variant(
    store: Store, catalog: Ref, vectors: Sequence[VectorSet], config: NightlyConfig, reads_text: bool
) -> VariantChoice:
    """Return which of `vectors` to publish: the variant that the config names, or with `auto` the one chosen here.

    A head is trained on pictures only, so boosted vectors of texts would not be near those of the pictures they
    describe: they are no choice where the backbone also `reads_text`. The variant of production stays while no other is
    better beyond chance by `MIN_GAIN`. Without labels, or with too few validation queries, it stays as well, and a
    first release takes the cheapest: a head that was trained on few pictures may be much worse than none. The choice
    of production is returned while models and config are the same, and no more of the items than would train the head
    again have changed since it was made.

    Raises `BadConfig` when the run has not made the variant that the config names.
    """
    made = {vector_set.full_variant(): vector_set for vector_set in vectors}
    if config.index.variant != "auto":
        return _configured(config.index.variant, list(made))
    sets = {variant: made[variant] for variant in made if not (reads_text and variant.boosted)}
    if len(sets) == 1:
        only = next(iter(sets))
        return VariantChoice(variant=only, why=f"{only} is the only variant at hand")
    costs = {variant: (variant.view != "raw", vector_set.dim) for variant, vector_set in sets.items()}
    question = fingerprint(
        "variant",
        STAGE_VERSIONS["evaluate"],
        [config.head.seed, MAX_QUERIES, MAX_ROWS],
        [vector_set.family for vector_set in sets.values()],
    )
    release = releases.read_reference(store)
    earlier = read_choice(store, release) if release else None
    if earlier and earlier.question == question and _still_holds(store, earlier, catalog.name, config):
        return earlier
    evidence = _measure(store, catalog, sets, config.head.seed)
    n_products = len(np.unique(evidence.clusters))
    if n_products < MIN_PRODUCTS:
        current = release.variant if release and release.variant in sets else None
        chosen = current or min(sets, key=lambda variant: (costs[variant], variant.boosted))
        judged = f"{n_products} validation queries can be judged, {MIN_PRODUCTS} are needed to choose"
        return VariantChoice(
            variant=chosen,
            why=f"{chosen} {'stays' if current else 'by default'}: {judged}",
            question=question,
            catalog=catalog.name,
        )
    chosen = cheapest_of_the_best(evidence.values, evidence.clusters, costs, release.variant if release else None)
    stays = release is not None and chosen == release.variant
    return VariantChoice(
        variant=chosen,
        why=_reason(chosen, evidence, stays),
        question=question,
        catalog=catalog.name,
        n_queries=len(evidence.clusters),
        scores=tuple(_score(variant, chosen, evidence) for variant in sets),
    )


def read_choice(store: Store, release: Release) -> VariantChoice | None:
    """Return the choice that a release's run made, None where its report is lost or older than choices."""
    try:
        part = Report.open(store, release.report).part("metrics.json")
        choice = json.loads(store.local_path(part.key, part.sha256).read_bytes()).get("choice")
        return VariantChoice.model_validate(choice) if choice else None
    except (NotFound, ShardCorrupt, ValueError):
        return None


def _still_holds(store: Store, earlier: VariantChoice, catalog: str, config: NightlyConfig) -> bool:
    """Return whether a choice was made on about this catalogue; without evidence, on this very one."""
    if earlier.catalog == catalog:
        return True
    columns = ["item_id", "content_id"]
    try:
        then = load_items(store, earlier.catalog, columns)
    except NotFound:
        return False
    changed = changed_fraction(then, load_items(store, catalog, columns))
    return bool(earlier.scores) and changed <= config.head.refit_after_change


def cheapest_of_the_best(
    values: Mapping[Variant, Float64],
    clusters: Int64,
    costs: Mapping[Variant, tuple[int, int]],
    current: Variant | None,
) -> Variant:
    """Return the current variant if the best one is not clearly better, else the cheapest of those it does not beat.

    `values` (q,) are what each query scores, in 0 to 1, paired; queries of one cluster depend on each other. One
    variant is clearly better than another if its mean is higher by `MIN_GAIN` and `permutation_p` is at most `MAX_P`.
    `costs` are compared in order; among equally cheap variants the best is taken.
    """
    means = {variant: float(scores.mean()) for variant, scores in values.items()}
    best = max(values, key=lambda variant: means[variant])
    even = [variant for variant in values if not _is_better(values[best], values[variant], clusters)]
    return current if current in even else min(even, key=lambda variant: (costs[variant], -means[variant]))


def _is_better(a: Float64, b: Float64, clusters: Int64) -> bool:
    return a.mean() - b.mean() >= MIN_GAIN and permutation_p(sum_pairs(a, b, clusters)) <= MAX_P


def _configured(name: str, made: Sequence[Variant]) -> VariantChoice:
    variant = parse_variant(name)
    if variant not in made:
        names = ", ".join(str(variant) for variant in made)
        raise BadConfig(f"index.variant {name} was not made; this run made {names}")
    return VariantChoice(variant=variant, why=f"index.variant names {name}")


def _measure(store: Store, catalog: Ref, sets: Mapping[Variant, VectorSet], seed: int) -> _Evidence:
    """Search the validation queries in each variant."""
    items = indexable_items(store, load_items(store, catalog.name), next(iter(sets.values())))
    items, protocol = draw_validation(items, MAX_QUERIES, MAX_ROWS, seed)
    values, metrics = {}, {}
    for variant, vector_set in sets.items():
        _, positions = stored_gallery(store, vector_set, items, protocol.queries, protocol.gallery).nearest(K)
        scores = score(positions, protocol.truth)
        names = [name for name in HEADLINES if name in scores.summary]
        means = scores.per_query.with_columns(mean=pl.mean_horizontal(names) if names else pl.lit(np.nan))
        values[variant] = means["mean"].fill_null(np.nan).to_numpy()
        metrics[variant] = {name: scores.summary[name] for name in names}
    is_judged = ~np.isnan(next(iter(values.values())))
    judged = {variant: scores[is_judged] for variant, scores in values.items()}
    return _Evidence(judged, metrics, protocol.clusters[is_judged])


def _score(variant: Variant, chosen: Variant, evidence: _Evidence) -> VariantScore:
    values = evidence.values
    interval = paired_interval(values[variant], values[chosen], evidence.clusters)
    return VariantScore(
        name=str(variant),
        score=float(values[variant].mean()),
        metrics=evidence.metrics[variant],
        difference=interval.difference,
        low=interval.low,
        high=interval.high,
    )


def _reason(chosen: Variant, evidence: _Evidence, stays: bool) -> str:
    means = {variant: float(scores.mean()) for variant, scores in evidence.values.items()}
    others = ", ".join(f"{variant} {mean:.3f}" for variant, mean in means.items() if variant != chosen)
    what = "stays, as no other is clearly better" if stays else "is the cheapest that no other clearly beats"
    return (
        f"{chosen} {what}: {means[chosen]:.3f} ({others}), the mean of {', '.join(evidence.metrics[chosen])} "
        f"over {len(evidence.clusters):,} validation queries"
    )
