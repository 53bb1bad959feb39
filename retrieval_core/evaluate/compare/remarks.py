"""What a table's figures do not say themselves: how they were tested, and why some are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retrieval_core.evaluate.compare.measure import Compared
from retrieval_core.evaluate.compare.paired import PairedTest, n_pairs, paired_tests, per_query
from retrieval_core.evaluate.measure.protocol import Protocol
from retrieval_core.metrics.registry import is_measured_by

JUDGED_AGAINST_RANDOM = "label_iou@5"


def how_tested(tests: Sequence[PairedTest]) -> str:
    """Which tests these are, of one table."""
    n_queries = max(test.n_queries for test in tests)
    family = "the one test" if len(tests) == 1 else f"the {len(tests)} tests"
    return (
        f"Differences are of the same {n_queries:,} queries, with 95% intervals of a paired bootstrap and p of a "
        f"permutation test, Holm-corrected over {family} of this table."
    )


def against_random(variants: Sequence[str], compared: Compared) -> Iterator[str]:
    """Which variants share more labels with what they find than retrieval at random does; nothing without labels."""
    theirs = per_query(compared.random, JUDGED_AGAINST_RANDOM)
    pairs = {name: (per_query(compared.scores[name], JUDGED_AGAINST_RANDOM), theirs) for name in variants}
    pairs = {name: pair for name, pair in pairs.items() if n_pairs(*pair) > 1}
    tests = dict(zip(pairs, paired_tests(list(pairs.values())), strict=True))
    if not tests:
        return
    groups = {"better": "better", "same": "within chance", "worse": "worse"}
    sorted_out = {
        words: [f"{name} (p {test.p_holm:.2g})" for name, test in tests.items() if test.verdict == verdict]
        for verdict, words in groups.items()
    }
    found = "; ".join(f"{words}: {', '.join(names)}" for words, names in sorted_out.items() if names)
    reached = f"{compared.random.summary[JUDGED_AGAINST_RANDOM]:.3f} of {JUDGED_AGAINST_RANDOM}"
    family = "" if len(tests) == 1 else f", Holm-corrected over these {len(tests)} tests"
    yield f"Tested against retrieval at random ({reached}){family}: {found}."


def why_missing(undefined: Sequence[str], compared: Compared) -> Iterator[str]:
    """A sentence for each reason that leaves some of these metrics without a value."""
    by_reason: dict[str, list[str]] = {}
    for metric in undefined:
        by_reason.setdefault(why_undefined(metric, compared.protocol), []).append(metric)
    for reason, metrics in by_reason.items():
        yield f"{_listed(metrics)} undefined here: {reason}."


def why_untested(metrics: Sequence[str]) -> str:
    """Of metrics that were not measured here, query by query."""
    return (
        f"{_listed(metrics)} scored while a backbone is trained to label, on pictures kept from that training: not "
        "tested here, and other backbones have none."
    )


def _listed(metrics: Sequence[str]) -> str:
    """a is; a, b and c are."""
    *first, last = metrics
    return f"{', '.join(first)} and {last} are" if first else f"{last} is"


def why_undefined(metric: str, protocol: Protocol) -> str:
    """The reason that no query defines `metric`, as a clause without a full stop."""
    if is_measured_by(metric, "head"):
        return "no variant's backbone was trained to label (objective multilabel)"
    if not len(protocol.queries):
        return "no picture was held out to query with; name a split in the source, or raise ingest.n_holdout"
    if not len(protocol.gallery):
        return "every picture queries, so none is left to be found; lower evaluate.queries"
    judged = protocol.truth.queries
    named = {
        "products": judged.product is not None,
        "categories": judged.category is not None,
        "labels": judged.labels is not None,
        "attributes": judged.attributes is not None,
    }
    kinds = _judging_kinds(metric)
    known = [kind for kind in kinds if named[kind]]
    if not known:
        return f"the catalogue names no {' or '.join(kinds)}"
    return f"no query can be judged by its {' and '.join(known)}: it names none, or the gallery holds nothing alike"


def _judging_kinds(metric: str) -> tuple[str, ...]:
    """Any of these is enough to define a metric."""
    if metric.startswith("recall@"):
        return ("products",)
    if metric == "label_iou@5":
        return ("labels",)
    if metric == "attribute_map@10":
        return ("labels", "attributes")
    if metric.startswith("map@"):
        return ("categories", "labels", "attributes")
    return ("categories",)
