"""Every metric of Vitrine: its name, its definition, how it is computed, and what the gate and the report do with it.

A new metric of the search is a function of a `Retrieval` and one of a `Truth`, its expectation at random, in
`per_query.py`, and one entry in `METRICS`; gate, report, comparison and metrics.json follow from the entry. A metric
that is measured elsewhere has an entry without a function.

A measured value has a full name: `map@5` of the published search, `masked/map@5` of a variant or a filter, and beside
it `map@5_random` (retrieval at random) and `map@5_std` (standard deviation over queries). `parse_metric` takes such a
name apart; nothing else reads the spelling of a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from retrieval_core.arrays import Float64
from retrieval_core.metrics import chance, per_query
from retrieval_core.metrics.distortions import DISTORTIONS
from retrieval_core.metrics.per_query import N_NEIGHBOURS, Retrieval
from retrieval_core.metrics.relevance import MAX_CUTOFF, Truth

Source = Literal["search", "ranking", "index", "golden", "synthetic", "mask", "head"]
UNLABELLED: tuple[Source, ...] = ("golden", "synthetic")  # their queries need no labels of the catalogue
Statistic = Literal["value", "std", "random", "random_std"]
TruthKind = Literal["products", "categories", "labels", "attributes"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    `source` is what measures it. `compute` gives one value a query, (q,) with NaN where the query leaves it undefined,
    or None where the catalogue does; `chance` its expectation where the gallery is in random order. `headline`: the
    gate tests it and the report shows it first; one for each kind of truth, because Holm's correction pays for every
    metric tested. `by_category`: reported within categories too, as headlines are. `judged_by`: what a catalogue needs
    of its items to define the metric; any one of these is enough. `baseline`: the value of retrieval at random stands
    beside it. `chance_moments` takes the place of `chance` where the metric is reported with its standard deviation
    over queries (`deviation`): it gives the expectation and the variance of a query's value over random orders. `words`
    explain it on the report's first page, "" where it is not shown there.
    """

    name: str
    definition: str
    source: Source = "search"
    compute: Callable[[Retrieval], Float64 | None] | None = None
    chance: Callable[[Truth], Float64 | None] | None = None
    headline: bool = False
    by_category: bool = False
    judged_by: tuple[TruthKind, ...] = ()
    higher_is_better: bool = True
    chance_moments: Callable[[Truth], tuple[Float64, Float64] | None] | None = None
    words: str = ""

    @property
    def deviation(self) -> bool:
        return self.chance_moments is not None

    @property
    def baseline(self) -> bool:
        return self.chance is not None or self.chance_moments is not None

    @property
    def needs_labels(self) -> bool:
        """Whether its queries are judged by what the catalogue says of its items."""
        return self.source not in UNLABELLED

    def full_name(self, statistic: Statistic, scope: str = "") -> str:
        """Return the name of a measured value; `scope` is a variant or a filter, "" for the published search."""
        name = self.name if statistic == "value" else f"{self.name}_{statistic}"
        return f"{scope}/{name}" if scope else name


class MeasuredName(NamedTuple):
    """A full name taken apart."""

    metric: Metric
    statistic: Statistic
    scope: str


_SAME_PRODUCT = "queries whose product has no gallery item are left out"
_SAME_CATEGORY = "queries whose category has no gallery item are left out"

ANN_RECALL = Metric(
    "ann_recall@10",
    "Share of the 10 exact nearest items that the index also returns, averaged over queries; with a scope such as "
    "where10 or where_category: among the items that a filter passes. where_category is the mean over the 20 most "
    "frequent categories, each filtered for alone.",
    "index",
    words="exact neighbours that the index finds",
)
GOLDEN_HIT = Metric(
    "golden/hit@1", "Share of the golden queries without grades whose first hit is expected.", "golden", headline=True
)
GOLDEN_RECALL = Metric(
    "golden/recall@10",
    "Expected pictures among the first 10 hits (or the query's own k), over as many as could be there, averaged over "
    "golden queries.",
    "golden",
)
GOLDEN_MRR = Metric(
    "golden/mrr",
    "1 / the rank of the first expected hit, 0 where none is among the first 10 (or the query's own k), averaged over "
    "golden queries.",
    "golden",
)
GOLDEN_NDCG = Metric(
    "golden/ndcg@10",
    "nDCG of the first 10 judged hits, averaged over golden queries with grades: those of the run's file, and what "
    "shoppers chose of earlier hits. A grade from 0 to 3 gains 2^grade - 1; hits without a grade are passed over.",
    "golden",
    headline=True,
    words="what shoppers chose comes first, first 10",
)
SYNTHETIC_RECALL = Metric(
    "synthetic/recall@1",
    "Share of an item's synthetic queries, its picture changed on purpose, whose first hit is the item, or another "
    "with the very same picture; averaged over items.",
    "synthetic",
    headline=True,
)
SYNTHETIC_RECALL_OF = {
    distortion.name: Metric(
        f"synthetic/{distortion.name}/recall@1",
        f"synthetic/recall@1 of those with {distortion.meaning}.",
        "synthetic",
    )
    for distortion in DISTORTIONS
}
MASK_IOU = Metric(
    "mask_iou",
    "Pixels shared by the predicted and the true mask over pixels of either, averaged over pictures.",
    "mask",
    words="overlap of predicted and true masks",
)
MASK_FALLBACK_RATE = Metric(
    "mask_fallback_rate",
    "Share of the pictures whose mask is distrusted, so that the whole picture is embedded instead.",
    "mask",
    higher_is_better=False,
)

METRICS: tuple[Metric, ...] = (
    *(
        Metric(
            f"recall@{k}",
            f"Share of queries with an item of the same product among the first {k}; {_SAME_PRODUCT}.",
            compute=per_query.recall(k),
            chance=per_query.recall_chance(k),
            headline=k == 1,
            judged_by=("products",),
            words="the first hit is the same product" if k == 1 else "",
        )
        for k in (1, 2, 3, 5, 10)
    ),
    Metric(
        "precision@5",
        f"Items of the query's category among the first 5, over 5; {_SAME_CATEGORY}.",
        compute=per_query.category_share(lambda n_hits, _: n_hits / N_NEIGHBOURS),
        chance=per_query.category_chance(lambda n, r: np.minimum(n, N_NEIGHBOURS) * r / n / N_NEIGHBOURS),
        by_category=True,
        judged_by=("categories",),
    ),
    Metric(
        "recall_of_category@5",
        f"Items of the query's category among the first 5, over all of that category in the gallery; {_SAME_CATEGORY}.",
        compute=per_query.category_share(lambda n_hits, n_relevant: n_hits / n_relevant),
        chance=per_query.category_chance(lambda n, _: np.minimum(n, N_NEIGHBOURS) / n),
        judged_by=("categories",),
    ),
    Metric(
        "accuracy@5",
        f"Share of queries with at least one item of their category among the first 5; {_SAME_CATEGORY}.",
        compute=per_query.category_share(lambda n_hits, _: n_hits > 0),
        chance=per_query.category_chance(lambda n, r: chance.hit_probability(n, r, N_NEIGHBOURS)),
        judged_by=("categories",),
    ),
    *(
        Metric(
            f"map@{k}",
            f"Mean average precision of the first {k}, over min(relevant, {k}). Relevant: the same category; in a "
            f"catalogue without categories, the {k} gallery items of largest gain, as in attribute_map@10.",
            compute=per_query.mean_average_precision(k),
            chance=per_query.mean_average_precision_chance(k),
            headline=k == 5,
            judged_by=("categories", "labels", "attributes"),
            words="how early relevant hits come, first 5" if k == 5 else "",
        )
        for k in (1, 3, 5, 10)
    ),
    Metric(
        "attribute_map@10",
        "Mean average precision of the first 10 against the 10 gallery items of largest gain, over min(10, items with "
        "a gain). Gain: 1 if category and all attributes are equal, times the label IoU. Of items tied for the last "
        "places those found first count; queries that no item has a gain for are left out.",
        compute=per_query.attribute_map(MAX_CUTOFF),
        chance=per_query.attribute_map_chance(MAX_CUTOFF),
        headline=True,
        judged_by=("labels", "attributes"),
        words="the same by all attributes, first 10",
    ),
    Metric(
        "share_map@10",
        "Mean average precision of the first 10 against the 10 gallery items of largest gain, always over 10; a query "
        "that no item has a gain for counts 0. Gain: 1 if category and all attributes are equal, times the share of "
        "the query's labels that the item has. Ties count as in attribute_map@10.",
        compute=per_query.share_map,
        chance=per_query.share_map_chance,
        judged_by=("labels", "attributes"),
    ),
    Metric(
        "r_precision",
        "Share of the query's relevant items among as many first hits as there are; relevant: the same product, in a "
        "catalogue without products the same category. Measured by vitrine compare.",
        "ranking",
        chance=per_query.r_chance(lambda n, r: r / n),
        judged_by=("products", "categories"),
    ),
    Metric(
        "map_at_r",
        "MAP@R (Musgrave et al., ECCV 2020): the sum of precisions at the relevant items among the first R hits, over "
        "R, the number of relevant items, which are those of r_precision. Measured by vitrine compare.",
        "ranking",
        chance=per_query.r_chance(chance.expected_map_at_r),
        judged_by=("products", "categories"),
    ),
    Metric(
        "label_iou@5",
        "Shared labels over labels of either, averaged over the 5 nearest items; queries without labels are left out.",
        compute=per_query.label_iou,
        headline=True,
        judged_by=("labels",),
        chance_moments=per_query.label_iou_chance,
        words="labels shared with the first 5 hits",
    ),
    ANN_RECALL,
    GOLDEN_HIT,
    GOLDEN_RECALL,
    GOLDEN_MRR,
    GOLDEN_NDCG,
    SYNTHETIC_RECALL,
    *SYNTHETIC_RECALL_OF.values(),
    MASK_IOU,
    MASK_FALLBACK_RATE,
    Metric(
        "f1_example",
        "F1 of each picture's predicted labels, averaged over pictures, at the threshold where it is best.",
        "head",
    ),
    Metric("accuracy_example", "Labels both predicted and true over labels of either, averaged over pictures.", "head"),
    Metric("precision_example", "Share of a picture's predicted labels that are true, averaged over pictures.", "head"),
    Metric("recall_example", "Share of a picture's true labels that are predicted, averaged over pictures.", "head"),
)
# The headlines of queries that are judged by the catalogue's labels, in the order of the report.
HEADLINES = tuple(metric.name for metric in METRICS if metric.headline and metric.needs_labels)
BY_CATEGORY = (*HEADLINES, *(metric.name for metric in METRICS if metric.by_category))


def _statistics(metric: Metric) -> Iterator[Statistic]:
    yield "value"
    if metric.deviation:
        yield "std"
    if metric.baseline:
        yield "random"
    if metric.baseline and metric.deviation:
        yield "random_std"


_NAMES = {
    metric.full_name(statistic): MeasuredName(metric, statistic, "")
    for metric in METRICS
    for statistic in _statistics(metric)
}


def find_metric(name: str) -> MeasuredName | None:
    """Take a full name apart; None where it names no metric of the registry."""
    known = _NAMES.get(name)
    if known:
        return known
    scope, _, rest = name.partition("/")
    return _NAMES[rest]._replace(scope=scope) if scope and rest in _NAMES else None


def parse_metric(name: str) -> MeasuredName:
    """Take a full name apart. Raises `KeyError` where it names no metric of the registry."""
    known = find_metric(name)
    if known is None:
        raise KeyError(f"{name!r} is no metric of the registry; add an entry to {__name__}.METRICS")
    return known


def is_headline(name: str) -> bool:
    """Whether a full name is of a headline metric of the published search."""
    known = _NAMES.get(name)
    return known is not None and known.statistic == "value" and known.metric.headline


def is_measured_by(name: str, *sources: Source) -> bool:
    """Whether a full name is of a metric that one of these sources measures."""
    known = find_metric(name)
    return known is not None and known.metric.source in sources


def definitions() -> dict[str, str]:
    """Return what each metric means, by name; of those with a deviation also what the derived values mean."""
    texts: dict[str, str] = {}
    for metric in METRICS:
        texts[metric.name] = metric.definition
        if metric.deviation:
            random = metric.full_name("random")
            texts[metric.full_name("std")] = f"Standard deviation over queries of their {metric.name}."
            texts[random] = f"Expected {metric.name} of {N_NEIGHBOURS} gallery items drawn at random for each query."
            texts[metric.full_name("random_std")] = f"Standard deviation over queries of their {random}."
    return texts
