"""The remarks under a table: how its differences were tested, and why some metrics are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrieval_core.evaluate.compare.measure import ComparisonResults
from retrieval_core.evaluate.compare.paired import PairedTest, n_pairs, paired_tests, per_query
from retrieval_core.evaluate.measure.protocol import Protocol
from retrieval_core.metrics.registry import is_measured_by

TESTED_AGAINST_RANDOM = "label_iou@5"


def how_tested(tests: Sequence[PairedTest]) -> str:
    """Describe the tests of one table."""
    n_queries = max(test.n_queries for test in tests)
    family = "the one test" if len(tests) == 1 else f"the {len(tests)} tests"
    return (
        f"All differences are over the same {n_queries:,} queries, with 95% intervals from a paired bootstrap and p "
        f"from a permutation test, Holm-corrected over {family} of this table."
    )


def against_random(variants: Sequence[str], results: ComparisonResults) -> Iterator[str]:
    """Yield which variants have a higher label IoU than random retrieval; nothing without labels."""
    random = per_query(results.random, TESTED_AGAINST_RANDOM)
    pairs = {name: (per_query(results.scores[name], TESTED_AGAINST_RANDOM), random) for name in variants}
    pairs = {name: pair for name, pair in pairs.items() if n_pairs(*pair) > 1}
    tests = dict(zip(pairs, paired_tests(list(pairs.values())), strict=True))
    if not tests:
        return
    groups = {"better": "better", "same": "within chance", "worse": "worse"}
    by_group = {
        group: [f"{name} (p {test.p_holm:.2g})" for name, test in tests.items() if test.verdict == verdict]
        for verdict, group in groups.items()
    }
    outcome = "; ".join(f"{group}: {', '.join(names)}" for group, names in by_group.items() if names)
    reached = f"{TESTED_AGAINST_RANDOM} {results.random.summary[TESTED_AGAINST_RANDOM]:.3f}"
    family = "" if len(tests) == 1 else f", Holm-corrected over these {len(tests)} tests"
    yield f"Tested against random retrieval ({reached}){family}: {outcome}."


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


def why_undefined(metric: str, protocol: Protocol) -> str:
    """Return why `metric` is undefined for every query, as a clause without a full stop."""
    if is_measured_by(metric, "head"):
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
    kinds = _judging_kinds(metric)
    existing = [kind for kind in kinds if by_kind[kind] is not None]
    if not existing:
        return f"the catalogue has no {' or '.join(kinds)}"
    return f"no query can be judged by its {' and '.join(existing)}: it has none, or no item of the gallery matches"


def _judging_kinds(metric: str) -> tuple[str, ...]:
    """Return what a catalogue may have to define a metric; any of these is enough."""
    if metric.startswith("recall@"):
        return ("products",)
    if metric == "label_iou@5":
        return ("labels",)
    if metric == "attribute_map@10":
        return ("labels", "attributes")
    if metric.startswith("map@"):
        return ("categories", "labels", "attributes")
    return ("categories",)
