"""The registry knows every metric, and its names are taken apart to what they were made of."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from retrieval_core.artifacts.variants import Variant
from retrieval_core.metrics.registry import (
    BY_CATEGORY,
    HEADLINES,
    METRICS,
    Metric,
    Retrieval,
    Source,
    Statistic,
    TruthKind,
    definitions,
    find_metric,
    is_headline,
    is_measured_by,
    parse_metric,
)
from retrieval_core.metrics.relevance import Judgements, find_truth

KINDS = get_args(TruthKind)
NAMES = [metric.name for metric in METRICS]
SCOPES = st.sampled_from(["", "raw", str(Variant("masked", boosted=True)), "pca64", "where_category", "classified"])


def statistics(metric: Metric) -> list[Statistic]:
    """Those that the metric has."""
    has = {"value": True, "std": metric.deviation, "random": metric.baseline}
    has["random_std"] = metric.baseline and metric.deviation
    return [statistic for statistic in get_args(Statistic) if has[statistic]]


def test_names_are_unique_and_every_metric_is_defined() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for metric in METRICS:
        assert metric.definition.endswith("."), metric.name
        assert metric.source in get_args(Source)


def test_what_a_search_is_scored_by_is_computed_here_and_nothing_else_is() -> None:
    for metric in METRICS:
        assert (metric.compute is not None) == (metric.source == "search"), metric.name


@given(st.sampled_from([metric for metric in METRICS if metric.source == "search"]), st.sets(st.sampled_from(KINDS)))
def test_a_metric_is_defined_where_the_catalogue_has_any_of_what_judges_it(metric: Metric, kinds: set[str]) -> None:
    codes = np.zeros(3, np.int64)
    known = {
        "products": {"product": codes},
        "categories": {"category": codes},
        "labels": {"labels": csr_array(np.ones((3, 1), np.bool_)), "label_names": ("hat",)},
        "attributes": {"attributes": codes[:, None], "attribute_names": ("colour",)},
    }
    items = Judgements(3, **{name: value for kind in kinds for name, value in known[kind].items()})
    truth = find_truth(items.take(np.array([0])), items.take(np.array([1, 2])))
    values = metric.compute(Retrieval(np.array([[0, 1, *[-1] * 8]]), truth))
    assert (values is not None and not np.isnan(values).all()) == bool(kinds & set(metric.judged_by))


def test_the_report_has_words_for_every_headline_that_needs_labels() -> None:
    assert HEADLINES == ("recall@1", "map@5", "attribute_map@10", "label_iou@5")
    assert all(parse_metric(name).metric.words for name in HEADLINES)


def test_the_gate_tests_one_metric_for_each_kind_of_truth() -> None:
    tested = [name for name in NAMES if is_headline(name)]
    assert tested == [*HEADLINES, "golden/hit@1", "golden/ndcg@10", "synthetic/recall@1"]
    assert not is_headline("masked/recall@1")
    assert not is_headline("recall@1_random")
    assert (*HEADLINES, "precision@5") == BY_CATEGORY


@given(st.sampled_from(METRICS), SCOPES, st.data())
def test_a_full_name_is_taken_apart_to_what_it_was_made_of(metric: Metric, scope: str, data: st.DataObject) -> None:
    statistic = data.draw(st.sampled_from(statistics(metric)))
    assert parse_metric(metric.full_name(statistic, scope)) == (metric, statistic, scope)


@pytest.mark.parametrize(
    "name", ["", "recall@4", "map@5_rate", "raw/", "/recall@1", "ann_recall@10_random", "raw/x/map@5"]
)
def test_an_unknown_name_says_where_a_metric_is_registered(name: str) -> None:
    assert find_metric(name) is None
    assert not is_measured_by(name, *get_args(Source))
    with pytest.raises(KeyError, match=r"registry\.METRICS"):
        parse_metric(name)


def test_every_name_that_is_defined_is_a_name_of_the_registry() -> None:
    texts = definitions()
    assert set(NAMES) <= texts.keys()
    assert all(find_metric(name) for name in texts)
    assert texts["label_iou@5_random_std"] == "Standard deviation over queries of their label_iou@5_random."
