"""Where quality is lost: the same queries at every link of the published chain, each judged against the link before.

A chain is raw -> masked -> boosted -> reduced -> index -> reranked, of which a release has some; up to the reduced one
every link is exact search in its vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from retrieval_core.arrays import Float64, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.evaluate.measure.chain import Link, Step
from retrieval_core.evaluate.measure.protocol import positions_in_gallery
from retrieval_core.evaluate.measure.search_setup import Bench, K
from retrieval_core.metrics.retrieval import HEADLINES, score
from retrieval_core.metrics.significance import bootstrap_intervals, holm, permutation_p_less

SEARCH: tuple[Step, ...] = ("PCA", "ANN", "rerank")  # the steps that make one search of exact vectors
ALPHA = 0.05
N_DRAWS = 5_000
INDEX, RERANKED = "index", "reranked"


class StepChange(Value):
    """What a step did to one metric: its 95% interval over the `n_queries`, and p of a loss by chance.

    `p_holm` is one-sided and corrected for every metric of every step; 1 for a step that did not lose visibly.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_holm: float
    n_queries: int

    @property
    def is_loss(self) -> bool:
        """Whether it fell by more than chance explains."""
        return self.high < 0 and self.p_holm < ALPHA


class LinkFacts(Value):
    """One link: its headline metrics, and the changes against the link before, none for the first."""

    name: str
    step: Step
    metrics: dict[str, float]
    changes: tuple[StepChange, ...] = ()


class LossFacts(Value):
    """The chain, first link first. `missing` says why there is none to look at.

    `search` is the index as a searcher meets it against exact search in the published vectors: what PCA, ANN and rerank
    do together. `lost_most` is the step with the largest loss beyond chance, of `lost` in `lost_metric`, "" where there
    is none. PCA and ANN count only where reranking did not make up for them.
    """

    n_queries: int
    links: tuple[LinkFacts, ...] = ()
    search: tuple[StepChange, ...] = ()
    lost_most: Step = ""
    lost_metric: str = ""
    lost: float = 0.0
    missing: str = ""


def find_losses(bench: Bench, exact: Iterable[Link], reranked: pl.DataFrame, seed: int = 0) -> LossFacts:
    """Pin a loss to its step.

    `exact` are the links under exact search in the order of `chain_names`, the published vectors among them: of each
    only the metrics are kept, so they may come one by one. `reranked` are the metrics of the index as a searcher meets
    it, as `measure_published` gives them in `worth.per_query`. The index without reranking is searched here.
    """
    links = list(exact)
    n_queries = len(bench.protocol.queries)
    if not n_queries or not len(bench.protocol.gallery):
        missing = "No picture is held out to query with." if not n_queries else "There is no gallery to find in."
        return LossFacts(n_queries=n_queries, missing=missing)
    metrics = [name for name in HEADLINES if name in reranked.columns]
    if not metrics:
        return LossFacts(n_queries=n_queries, missing="No label tells a right answer from a wrong one.")
    links += [Link(INDEX, "ANN", _unranked(bench)), Link(RERANKED, "rerank", reranked)]
    before = [link for link in links if link.step not in SEARCH]
    pairs = list(pairwise(links))
    pairs += [(before[-1], links[-1])] if before else []
    changes = _changes(pairs, metrics, seed)
    search = changes.pop() if before else ()
    facts = [
        LinkFacts(name=link.name, step=link.step, metrics=_means(link, metrics), changes=made)
        for link, made in zip(links, [(), *changes], strict=True)
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
    """The step that lost most, in a few words; "" where none lost beyond chance."""
    if losses is None or not losses.lost_most:
        return ""
    whole = search_loss(losses)
    regained = "" if whole is None else f"; reranked, the search loses {whole:.3f}"
    return f"{losses.lost_most} loses {losses.lost:.3f} of {losses.lost_metric}{regained}"


def search_loss(losses: LossFacts) -> float | None:
    """What the whole search loses of the metric its worst step loses most of; None where the worst is before it."""
    if losses.lost_most not in SEARCH:
        return None
    return next((-change.difference for change in losses.search if change.metric == losses.lost_metric), None)


def _unranked(bench: Bench) -> pl.DataFrame:
    protocol, row_ids = bench.protocol, bench.items["row_id"].to_numpy()
    # Queries are in the index too: ask for enough that ten hits of the gallery are left.
    k = min(len(row_ids), K + 2 * K * len(row_ids) // len(protocol.gallery))
    _, hits = bench.index.candidates(bench.candidates[protocol.queries], k)
    positions: Int64 = positions_in_gallery(hits, row_ids[protocol.gallery], K)
    return score(positions, protocol.truth).per_query


def _means(link: Link, metrics: Sequence[str]) -> dict[str, float]:
    values = {name: _values(link, name) for name in metrics}
    return {name: float(np.nanmean(known)) for name, known in values.items() if not np.isnan(known).all()}


def _values(link: Link, metric: str) -> Float64:
    if metric not in link.per_query.columns:
        return np.full(len(link.per_query), np.nan)
    return link.per_query[metric].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _changes(pairs: Sequence[tuple[Link, Link]], metrics: Sequence[str], seed: int) -> list[tuple[StepChange, ...]]:
    """Of each pair of links, every metric that at least two queries define."""
    found = [(n, change) for metric in metrics for n, change in enumerate(_metric_changes(pairs, metric, seed))]
    adjusted = holm([change.p_holm for _, change in found])
    corrected = [(n, change.model_copy(update={"p_holm": p})) for (n, change), p in zip(found, adjusted, strict=True)]
    return [tuple(change for n, change in corrected if n == number) for number in range(len(pairs))]


def _metric_changes(pairs: Sequence[tuple[Link, Link]], metric: str, seed: int) -> list[StepChange]:
    """One a pair, p not corrected yet; none where fewer than two queries, which have no spread, define the metric.

    Which queries do follows from the truth alone, so all links share them, and what is drawn of them.
    """
    differences = np.column_stack([_values(after, metric) - _values(before, metric) for before, after in pairs])
    differences = differences[~np.isnan(differences).any(axis=1)]
    if len(differences) < 2:
        return []
    low, high = bootstrap_intervals(differences, seed=seed)
    # A test that is not made counts as p = 1, which only makes the correction of the others stricter.
    p, fell = np.ones(len(pairs)), np.flatnonzero(high < 0)
    p[fell] = permutation_p_less(differences[:, fell], N_DRAWS, seed)
    columns = zip(differences.mean(axis=0).tolist(), low.tolist(), high.tolist(), p.tolist(), strict=True)
    return [
        StepChange(metric=metric, difference=difference, low=start, high=end, p_holm=chance, n_queries=len(differences))
        for difference, start, end, chance in columns
    ]


def _worst(links: Sequence[LinkFacts], search: Sequence[StepChange]) -> tuple[Step, StepChange] | None:
    """The step that lost most; one of the search only in a metric that the whole search loses in."""
    lost_by_search = {change.metric for change in search if change.is_loss}
    losses = [
        (link.step, change)
        for link in links
        for change in link.changes
        if change.is_loss and (link.step not in SEARCH or change.metric in lost_by_search)
    ]
    return min(losses, key=lambda loss: loss[1].difference, default=None)
