"""A loss that is planted at one link is found at that link, and equal links lose nothing."""

import json

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.variants import parse_representation, parse_variant
from retrieval_core.evaluate.analysis.stage_losses import LossFacts, find_losses
from retrieval_core.evaluate.measure.exact_search import Link, chain_names
from retrieval_core.evaluate.measure.index_quality import measure_index
from retrieval_core.metrics.exact_knn import exact_topk
from retrieval_core.metrics.retrieval import score

N, DIM = 600, 24
KINDS = [f"kind-{i % 12:02}" for i in range(N)]


def unit(drawn: np.ndarray) -> np.ndarray:
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def good() -> np.ndarray:
    """Vectors that lie by kind, the kinds told apart by the last dimensions only."""
    rng = np.random.default_rng(1)
    centres = np.concatenate([np.zeros((12, DIM - 12)), 3 * np.eye(12)], axis=1)
    return unit(centres[np.arange(N) % 12] + 0.5 * rng.standard_normal((N, DIM)))


def spoilt(vectors: np.ndarray, share: float = 0.5) -> np.ndarray:
    """A share of the rows replaced by noise."""
    rng = np.random.default_rng(2)
    noise = unit(rng.standard_normal(vectors.shape))
    return np.where((rng.random(len(vectors)) < share)[:, None], noise, vectors).astype(np.float32)


def exact_link(bench, vectors: np.ndarray):
    """The metrics of each query under exact search in these vectors."""
    protocol = bench.protocol
    _, positions = exact_topk(vectors[protocol.queries], vectors[protocol.gallery], 10)
    return score(positions, protocol.truth).per_query


@pytest.fixture
def lose(catalog_items, open_bench):
    """`lose({name: vectors}, published, **index)` runs the chain to `published` over the given exact variants."""

    def run(variants, published: str, candidates: str = "", product_id=None, **index) -> LossFacts:
        items = catalog_items(N, **({"product_id": product_id} if product_id else {"category": KINDS}))
        bench = open_bench(items, variants[published], **index)
        variants = variants | ({candidates: bench.candidates} if candidates else {})
        names = chain_names(parse_variant(published), parse_representation(candidates or published), variants)
        links = (Link(name, step, exact_link(bench, variants[name])) for name, step in names)
        return find_losses(bench, links, measure_index(bench).scores.per_query)

    return run


@pytest.mark.parametrize(
    ("spoil", "step"), [({"masked", "masked_boosted"}, "mask"), ({"masked_boosted"}, "head"), (set(), "")]
)
def test_a_planted_loss_is_found_at_its_step(lose, spoil, step):
    names = ("raw", "masked", "masked_boosted")
    variants = {name: spoilt(good()) if name in spoil else good() for name in names}
    facts = lose(variants, "masked_boosted")
    assert [(link.name, link.step) for link in facts.links] == [
        ("raw", ""), ("masked", "mask"), ("masked_boosted", "head"), ("index", "ANN"), ("reranked", "rerank"),
    ]  # fmt: skip
    assert facts.lost_most == step
    if step:
        (link,) = [link for link in facts.links if link.step == step]
        (change,) = [change for change in link.changes if change.metric == facts.lost_metric]
        assert change.is_loss
        assert facts.lost == -change.difference > 0.2
        assert change.low <= change.difference <= change.high < 0


def test_candidates_that_lose_are_no_loss_where_reranking_makes_up_for_them(lose):
    facts = lose({"raw": good()}, "raw", "pca12", candidate_dim=12, depth=60)
    by_step = {link.step: link.changes[0] for link in facts.links[1:]}
    assert by_step["PCA"].is_loss
    assert by_step["PCA"].difference < -0.3
    assert by_step["rerank"].difference > 0.3
    assert [change.difference for change in facts.search] == [pytest.approx(0)]
    assert facts.lost_most == ""


def test_candidates_that_reranking_cannot_save_are_found_at_the_pca(lose):
    facts = lose({"raw": good()}, "raw", "pca12", candidate_dim=12, depth=1)
    assert facts.lost_most == "PCA"
    assert all(change.is_loss for change in facts.search)


def test_lists_that_are_not_visited_are_found_at_the_ann(lose):
    vectors = unit(np.random.default_rng(4).standard_normal((N, DIM)))
    vectors[N // 2 :] = vectors[: N // 2] + 0.8 * vectors[N // 2 :]  # each has one like it, some in another list
    pairs = [f"p-{i % (N // 2)}" for i in range(N)]
    facts = lose({"raw": unit(vectors)}, "raw", product_id=pairs, key="IVF64,Flat")
    assert [link.step for link in facts.links] == ["", "ANN", "rerank"]
    assert (facts.lost_most, facts.lost_metric) == ("ANN", "recall@1")


def test_links_have_the_metrics_of_exact_search(lose, catalog_items, open_bench):
    vectors = {"raw": spoilt(good()), "boosted": good()}
    facts = lose(vectors, "boosted")
    protocol = open_bench(catalog_items(N, category=KINDS), vectors["boosted"]).protocol
    for link in facts.links[:2]:
        rows = vectors[link.name]
        _, positions = exact_topk(rows[protocol.queries], rows[protocol.gallery], 10)
        expected = score(positions, protocol.truth).summary
        assert link.metrics == pytest.approx({"map@5": expected["map@5"]})
    # An index of all dimensions that compares every row is exact search.
    assert facts.links[-1].metrics == facts.links[-2].metrics == facts.links[1].metrics


def test_a_single_link_leaves_the_index_alone_to_judge(lose):
    facts = lose({"raw": good()}, "raw")
    assert [link.step for link in facts.links] == ["", "ANN", "rerank"]
    assert facts.lost_most == ""


def test_facts_are_plain_json_without_infinities(lose):
    facts = lose({"raw": good()}, "raw")
    text = facts.model_dump_json()
    assert LossFacts.model_validate_json(text) == facts
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_without_queries_or_labels_it_says_why_there_is_nothing(catalog_items, open_bench):
    vectors = good()
    for columns, words in (({"split": [None] * N}, "held out"), ({}, "No label")):
        bench = open_bench(catalog_items(N, **columns), vectors)
        facts = find_losses(bench, [Link("raw", "", exact_link(bench, vectors))], measure_index(bench).scores.per_query)
        assert (facts.links, facts.lost_most) == ((), "")
        assert words in facts.missing


def test_one_query_is_no_evidence(catalog_items, open_bench):
    vectors = good()[:20]
    splits = ["query", *[None] * 19]
    bench = open_bench(catalog_items(20, category=KINDS[:4] * 5, split=splits), vectors)
    facts = find_losses(bench, [Link("raw", "", exact_link(bench, vectors))], measure_index(bench).scores.per_query)
    assert facts.n_queries == 1
    assert all(link.changes == () for link in facts.links)
    assert facts.lost_most == ""


def test_one_item_and_an_empty_catalogue_do_not_crash(catalog_items, open_bench):
    for n in (0, 1):
        items = catalog_items(n, split=["query"] * n)
        bench = open_bench(items, np.ones((n, 4), np.float32) / 2)
        assert find_losses(bench, [], pl.DataFrame()).missing
