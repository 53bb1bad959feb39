"""Where quality is lost: the same queries at every link of the published chain, each compared with the link before.

The chain leads from plain vectors to what a search answers: raw -> masked -> boosted -> reduced -> index -> reranked.
A release has some of these links. Up to the reduced one, each is exact search in its vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.exact_search import Link, Step
from retrieval_core.evaluate.measure.setup import K, SearchSetup, gallery_depth, positions_in_gallery
from retrieval_core.metrics.registry import HEADLINES
from retrieval_core.metrics.retrieval import score
from retrieval_core.metrics.significance import difference_intervals, holm, permutation_p_less, sum_clusters

SEARCH: tuple[Step, ...] = ("PCA", "ANN", "rerank")  # together they make up the search of the published vectors
ALPHA = 0.05
N_DRAWS = 5_000
INDEX, RERANKED = "index", "reranked"


class StepChange(Value):
    """What a step did to one metric: the mean difference and its 95% interval over the `n_queries`.

    `p_holm` is the one-sided p of a loss by chance, corrected over every metric of every step; 1 for a step without a
    visible loss.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_holm: float
    n_queries: int

    @property
    def is_loss(self) -> bool:
        """Whether the metric fell by more than chance explains."""
        return self.high < 0 and self.p_holm < ALPHA


class LinkFacts(Value):
    """One link: its headline metrics, and their changes from the link before; the first has no changes."""

    name: str
    step: Step
    metrics: dict[str, float]
    changes: tuple[StepChange, ...] = ()


class LossFacts(Value):
    """The chain, first link first. `missing` says why there is none.

    `search` compares the index as users search it with exact search in the published vectors: the joint effect of PCA,
    ANN and rerank. `lost_most` is the step with the largest loss beyond chance, `lost` its size in `lost_metric`; ""
    if there is none. PCA and ANN count only if reranking did not make up for them.
    """

    n_queries: int
    links: tuple[LinkFacts, ...] = ()
    search: tuple[StepChange, ...] = ()
    lost_most: Step = ""
    lost_metric: str = ""
    lost: float = 0.0
    missing: str = ""


def find_losses(setup: SearchSetup, exact: Iterable[Link], reranked: pl.DataFrame, seed: int = 0) -> LossFacts:
    """Find the step that loses most.

    `exact` are the links under exact search in the order of `chain_names`, the published vectors among them. Only their
    metrics are kept, so they may be produced one at a time. `reranked` are the metrics of the published search, one row
    a query (`worth.per_query` of `measure_index`). The index without reranking is searched here.
    """
    links = list(exact)
    n_queries = len(setup.protocol.queries)
    if not n_queries or not len(setup.protocol.gallery):
        missing = "No picture is held out to query with." if not n_queries else "There is no gallery to find in."
        return LossFacts(n_queries=n_queries, missing=missing)
    metrics = [name for name in HEADLINES if name in reranked.columns]
    if not metrics:
        return LossFacts(n_queries=n_queries, missing="No label tells a right answer from a wrong one.")
    links += [Link(INDEX, "ANN", _without_rerank(setup)), Link(RERANKED, "rerank", reranked)]
    published = [link for link in links if link.step not in SEARCH]
    pairs = list(pairwise(links))
    pairs += [(published[-1], links[-1])] if published else []
    changes = _changes(pairs, metrics, setup.protocol.clusters, seed)
    search = changes.pop() if published else ()
    facts = [
        LinkFacts(name=link.name, step=link.step, metrics=_means(link, metrics), changes=of_link)
        for link, of_link in zip(links, [(), *changes], strict=True)
    ]
    worst = _worst(facts, search)
    step, change = worst if worst else ("", None)
    return LossFacts(
        n_queries=n_queries,
        links=tuple(facts),
        search=search,
        lost_most=step,
        lost_metric=change.metric if change else "",
        lost=-change.difference if change else 0.0,
    )


def lost_most(losses: LossFacts | None) -> str:
    """Describe the step that lost most; "" if none lost beyond chance."""
    if losses is None or not losses.lost_most:
        return ""
    whole = search_loss(losses)
    regained = "" if whole is None else f"; reranked, the search loses {whole:.3f}"
    return f"{losses.lost_most} loses {losses.lost:.3f} of {losses.lost_metric}{regained}"


def search_loss(losses: LossFacts) -> float | None:
    """Return what the whole search loses in the metric of the step that lost most; None if that step is before it."""
    if losses.lost_most not in SEARCH:
        return None
    return next((-change.difference for change in losses.search if change.metric == losses.lost_metric), None)


def _without_rerank(setup: SearchSetup) -> pl.DataFrame:
    protocol, row_ids = setup.protocol, setup.items["row_id"].to_numpy()
    k = gallery_depth(len(row_ids), len(protocol.gallery), K)
    _, hits = setup.index.candidates(setup.candidates[protocol.queries], k)
    positions: Int64 = positions_in_gallery(hits, row_ids[protocol.gallery], K)
    return score(positions, protocol.truth).per_query


def _means(link: Link, metrics: Sequence[str]) -> dict[str, float]:
    values = {name: _values(link, name) for name in metrics}
    return {name: float(np.nanmean(column)) for name, column in values.items() if not np.isnan(column).all()}


def _values(link: Link, metric: str) -> Float64:
    if metric not in link.per_query.columns:
        return np.full(len(link.per_query), np.nan)
    return link.per_query[metric].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _changes(
    pairs: Sequence[tuple[Link, Link]], metrics: Sequence[str], clusters: Int64, seed: int
) -> list[tuple[StepChange, ...]]:
    """Return, for each pair of links, the change of every metric that at least two queries define."""
    numbered = [
        (n, change) for metric in metrics for n, change in enumerate(_metric_changes(pairs, metric, clusters, seed))
    ]
    adjusted = holm([change.p_holm for _, change in numbered])
    corrected = [
        (n, change.model_copy(update={"p_holm": p})) for (n, change), p in zip(numbered, adjusted, strict=True)
    ]
    return [tuple(change for n, change in corrected if n == number) for number in range(len(pairs))]


def _metric_changes(pairs: Sequence[tuple[Link, Link]], metric: str, clusters: Int64, seed: int) -> list[StepChange]:
    """Return one change for each pair, p not yet corrected; none if fewer than two queries define the metric.

    Which queries define it follows from the truth alone, so all links share them.
    """
    differences = np.column_stack([_values(after, metric) - _values(before, metric) for before, after in pairs])
    is_defined = ~np.isnan(differences).any(axis=1)
    if is_defined.sum() < 2:
        return []
    summed = sum_clusters(differences[is_defined], clusters[is_defined])
    low, high = difference_intervals(summed)
    # A test that is skipped counts as p = 1, which only makes the correction of the others stricter.
    p, fallen = np.ones(len(pairs)), np.flatnonzero(high < 0)
    p[fallen] = permutation_p_less(summed.sums[:, fallen], N_DRAWS, seed)
    columns = zip(summed.means.tolist(), low.tolist(), high.tolist(), p.tolist(), strict=True)
    return [
        StepChange(metric=metric, difference=mean, low=start, high=end, p_holm=p_value, n_queries=int(is_defined.sum()))
        for mean, start, end, p_value in columns
    ]


def _worst(links: Sequence[LinkFacts], search: Sequence[StepChange]) -> tuple[Step, StepChange] | None:
    """Return the step that lost most; a step of the search counts only in a metric that the whole search loses in."""
    lost_by_search = {change.metric for change in search if change.is_loss}
    losses = [
        (link.step, change)
        for link in links
        for change in link.changes
        if change.is_loss and (link.step not in SEARCH or change.metric in lost_by_search)
    ]
    return min(losses, key=lambda loss: loss[1].difference, default=None)
