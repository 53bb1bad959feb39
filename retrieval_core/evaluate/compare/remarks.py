"""The remarks under a table: how its differences were tested, and why some metrics are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrieval_core.evaluate.compare.measure import ComparisonResults
from retrieval_core.evaluate.compare.paired import PairedTest, n_pairs, paired_tests, per_query
from retrieval_core.evaluate.measure.setup import Protocol
from retrieval_core.metrics.registry import parse_metric


def how_tested(tests: Sequence[PairedTest]) -> str:
    """Describe the tests of one table."""
    n_queries = max(test.n_queries for test in tests)
    family = "the one test" if len(tests) == 1 else f"the {len(tests)} tests"
    return (
        f"All differences are over the same {n_queries:,} queries, with 95% intervals and p from a permutation test, "
        f"Holm-corrected over {family} of this table; the queries of one product count as one observation."
    )


def against_random(metric: str, variants: Sequence[str], results: ComparisonResults) -> Iterator[str]:
    """Yield which variants have a higher `metric` than random retrieval; nothing if it is undefined."""
    random = per_query(results.random, metric)
    pairs = {name: (per_query(results.scores[name], metric), random) for name in variants}
    pairs = {name: pair for name, pair in pairs.items() if n_pairs(*pair) > 1}
    tests = dict(zip(pairs, paired_tests(list(pairs.values()), results.protocol.clusters), strict=True))
    if not tests:
        return
    groups = {"better": "better", "same": "within chance", "worse": "worse"}
    by_group = {
        group: [f"{name} (p {test.p_holm:.2g})" for name, test in tests.items() if test.verdict == verdict]
        for verdict, group in groups.items()
    }
    outcome = "; ".join(f"{group}: {', '.join(names)}" for group, names in by_group.items() if names)
    family = "" if len(tests) == 1 else f", Holm-corrected over these {len(tests)} tests"
    yield f"Tested against random retrieval ({metric} {results.random.summary[metric]:.3f}){family}: {outcome}."


def why_missing(undefined: Sequence[str], results: ComparisonResults) -> Iterator[str]:
    """Yield a sentence for each reason why some of these metrics are undefined."""
    by_reason: dict[str, list[str]] = {}
    for metric in undefined:
        by_reason.setdefault(why_undefined(metric, results.protocol), []).append(metric)
    for reason, metrics in by_reason.items():
        yield f"{_listed(metrics)} undefined here: {reason}."


def why_untested(metrics: Sequence[str]) -> str:
    """Explain why metrics that are scores of a training are not tested."""
    return (
        f"{_listed(metrics)} measured when a backbone is trained to predict labels, on its validation pictures: not "
        "tested here, and undefined for other backbones."
    )


def _listed(metrics: Sequence[str]) -> str:
    """Return "a is" or "a, b and c are"."""
    *first, last = metrics
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"


def why_undefined(name: str, protocol: Protocol) -> str:
    """Return why the metric `name` is undefined for every query, as a clause without a full stop."""
    metric = parse_metric(name).metric
    if metric.source == "ranking" and protocol.truth.n_relevant is not None and protocol.truth.n_relevant.any():
        return "only a search by one distance, not classified or reranked, ranks the whole gallery"
    if metric.source == "head":
        return "no variant's backbone was trained to predict labels (objective multilabel)"
    if not len(protocol.queries):
        return "no picture is held out as a query; name a split in the source, or raise ingest.n_holdout"
    if not len(protocol.gallery):
        return "every picture is a query, so the gallery is empty; lower evaluate.queries"
    judgements = protocol.truth.queries
    by_kind = {
        "products": judgements.product,
        "categories": judgements.category,
        "labels": judgements.labels,
        "attributes": judgements.attributes,
    }
    existing = [kind for kind in metric.judged_by if by_kind[kind] is not None]
    if not existing:
        return f"the catalogue has no {' or '.join(metric.judged_by)}"
    return f"no query can be judged by its {' and '.join(existing)}: it has none, or no item of the gallery matches"
