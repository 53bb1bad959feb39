"""A planted shift is flagged where it is, an equal sample is not, and two spaces are not compared."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.analysis.drift import (
    MAX_SAMPLED,
    DriftFacts,
    compare_distributions,
    find_drift,
    kolmogorov_smirnov,
    stability_index,
)
from retrieval_core.evaluate.measure.indexed_rows import ReleasePair

N = 900


def unit(drawn: np.ndarray) -> np.ndarray:
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def shelf(n: int, seed: int, centre: float = 0.0) -> np.ndarray:
    """(n, 10) unit vectors around a direction that `centre` turns."""
    drawn = np.random.default_rng(seed).standard_normal((n, 10))
    drawn[:, 0] += 4
    drawn[:, 1] += centre
    return unit(drawn)


def named(drifts) -> dict:
    return {drift.name: drift for drift in drifts}


def test_equal_catalogues_have_not_drifted(catalog_items, index_items):
    items = catalog_items(2 * N)
    then, now = index_items(items[:N], shelf(N, 1)), index_items(items[N:], shelf(N, 2))
    facts = find_drift(ReleasePair(then, now), seed=0)
    assert list(named(facts.catalog)) == [
        "norm", "distance to the nearest", "component 1", "component 2", "component 3",
    ]  # fmt: skip
    assert facts.drifted == ()
    assert {drift.shift for drift in (*facts.catalog, *facts.arrived)} == {"none"}
    assert facts.n_arrived == N


def test_norms_that_doubled_are_flagged(catalog_items, index_items):
    items = catalog_items(N)
    lengths = np.random.default_rng(1).uniform(1, 2, (N, 1)).astype(np.float32)
    then = index_items(items, shelf(N, 1) * lengths)
    facts = find_drift(ReleasePair(then, index_items(items, 2 * shelf(N, 1) * lengths)), seed=0)
    norm = named(facts.catalog)["norm"]
    assert norm.shift == "large"
    assert norm.ks > 0.9
    assert norm in facts.drifted


def test_vectors_that_turned_are_flagged_by_their_components_and_not_by_their_norm(catalog_items, index_items):
    items = catalog_items(N)
    facts = find_drift(ReleasePair(index_items(items, shelf(N, 1)), index_items(items, shelf(N, 2, centre=3))), seed=0)
    shift = {drift.name: drift.shift for drift in facts.catalog}
    assert shift["norm"] == "none"
    assert "large" in {shift[f"component {i}"] for i in (1, 2, 3)}


def test_vectors_that_move_together_are_flagged_by_their_distances(catalog_items, index_items):
    items, drawn = catalog_items(N), np.random.default_rng(1).standard_normal((N, 10))
    huddled = unit(drawn[np.arange(N) // 3] + 0.01 * drawn)
    facts = find_drift(ReleasePair(index_items(items, unit(drawn)), index_items(items, huddled)), seed=0)
    assert named(facts.catalog)["distance to the nearest"].shift == "large"


def test_arrivals_of_another_kind_are_flagged_though_the_catalogue_hardly_drifted(catalog_items, index_items):
    items = catalog_items(N + 30)
    old, new = shelf(N, 1), shelf(30, 2, centre=6)
    facts = find_drift(ReleasePair(index_items(items[:N], old), index_items(items, np.concatenate([old, new]))), seed=0)
    assert facts.n_arrived == 30
    assert {drift.shift for drift in facts.catalog} == {"none"}
    assert "large" in {drift.shift for drift in facts.arrived}


def test_a_changed_picture_arrives_and_few_arrivals_say_nothing(catalog_items, index_items):
    items, vectors = catalog_items(N), shelf(N, 1)
    pictures = ["f" * 32 if i < 5 else name for i, name in enumerate(items["content_id"])]
    now = index_items(items.with_columns(pl.Series("content_id", pictures)), vectors)
    facts = find_drift(ReleasePair(index_items(items, vectors), now), seed=0)
    assert facts.n_arrived == 5
    assert facts.arrived == ()


def test_vectors_of_another_space_are_not_compared(catalog_items, index_items):
    items = catalog_items(N)
    then, now = index_items(items, shelf(N, 1)), index_items(items, shelf(N, 2, 9)[:, :4], "g")
    facts = find_drift(ReleasePair(then, now), seed=0)
    assert "another space" in facts.incomparable
    assert facts.drifted == ()
    assert all((drift.then, drift.psi, drift.shift) == ((), None, "none") for drift in facts.catalog)
    assert all(sum(drift.now) == pytest.approx(1) for drift in facts.catalog)


def test_a_first_run_shows_its_distributions_alone(catalog_items, index_items):
    facts = find_drift(ReleasePair(None, index_items(catalog_items(N), shelf(N, 1))), seed=0)
    assert "no release" in facts.incomparable
    assert len(facts.catalog) == 5


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_items_have_no_distribution(catalog_items, index_items, n):
    few, many = index_items(catalog_items(n), shelf(n, 1)), index_items(catalog_items(50), shelf(50, 1))
    assert "Fewer than two" in find_drift(ReleasePair(many, few), seed=0).missing
    assert "fewer than two" in find_drift(ReleasePair(few, many), seed=0).incomparable


def test_a_single_dimension_and_equal_vectors_do_not_crash(catalog_items, index_items):
    items = catalog_items(30)
    flat = index_items(items, np.ones((30, 1), np.float32))
    facts = find_drift(ReleasePair(flat, flat), seed=0)
    assert [drift.psi for drift in facts.catalog] == [0, 0, 0]
    assert {drift.shift for drift in facts.catalog} == {"none"}


def test_a_large_catalogue_is_sampled_alike_and_gives_the_same_facts(catalog_items, index_items):
    n = MAX_SAMPLED + 300
    items, vectors = catalog_items(n), shelf(n, 1)
    side = index_items(items, vectors)
    facts = find_drift(ReleasePair(side, index_items(items, vectors)), seed=0)
    assert (facts.n_rows, facts.n_sampled) == (n, MAX_SAMPLED)
    assert all((drift.ks, drift.psi) == (0, 0) for drift in facts.catalog)
    assert facts == find_drift(ReleasePair(side, side), seed=0)
    text = facts.model_dump_json()
    assert DriftFacts.model_validate_json(text) == facts
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@settings(max_examples=50)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), m=st.integers(1, 300), levels=st.integers(1, 50))
def test_figures_agree_with_their_definitions(seed, n, m, levels):
    rng = np.random.default_rng(seed)
    then, now = rng.integers(0, levels, n) / 7.0, rng.integers(0, levels, m) / 5.0
    (drift,) = compare_distributions([("x", then, now)])
    assert drift.ks == pytest.approx(ks_2samp(then, now).statistic)
    assert sum(drift.then) == pytest.approx(1)
    assert sum(drift.now) == pytest.approx(1)
    assert len(drift.edges) == len(drift.now) + 1
    assert drift.psi >= 0
    assert stability_index(then, then) == 0


@pytest.mark.parametrize(("n", "m"), [(30, 2_000), (20, 60), (150, 150), (2_000, 2_000)])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.4])
def test_the_p_is_about_the_exact_one_and_not_below_it(n, m, shift):
    rng = np.random.default_rng(n)
    then, now = rng.standard_normal(n), rng.standard_normal(m) + shift
    ks, p = kolmogorov_smirnov(then, now)
    exact = ks_2samp(then, now, method="exact")
    assert ks == pytest.approx(exact.statistic)
    assert 0.98 * exact.pvalue < p < 1.5 * exact.pvalue + 1e-6


def test_the_stability_index_is_the_textbook_sum():
    then, now = np.arange(1_000.0), np.arange(500.0)
    p, q = np.full(10, 100.5) / 1_005, np.repeat([100.5, 0.5], 5) / 505
    assert stability_index(then, now) == pytest.approx(((p - q) * np.log(p / q)).sum(), rel=0.01)


def test_few_equal_samples_in_a_hundred_are_flagged():
    rng = np.random.default_rng(0)
    pairs = [[("x", rng.standard_normal(60), rng.standard_normal(60))] for _ in range(200)]
    flagged = sum(compare_distributions(pair)[0].shift != "none" for pair in pairs)
    assert flagged <= 15


def test_a_side_without_values_or_with_nan_is_refused():
    for bad in (np.empty(0), np.array([1.0, np.nan])):
        with pytest.raises(BadConfig, match="norm: got"):
            compare_distributions([("norm", np.ones(3), bad)])
