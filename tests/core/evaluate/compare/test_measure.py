"""All variants are measured on the same queries and items, and their hits are those of a brute-force search."""

import numpy as np
import polars as pl
import pytest
from sklearn.neighbors import NearestNeighbors

from retrieval_core.artifacts.parts import unit_length
from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.config import VariantConfig
from retrieval_core.evaluate.compare.measure import Searched, per_query_table, summary_table


def test_each_variant_finds_what_brute_force_finds(shop) -> None:
    noises = {"sharp": 0.1, "blurred": 1.0}
    results = shop.compare(*(shop.variant(name, shop.vectors(noise)) for name, noise in noises.items()))
    queries, gallery = results.protocol.queries, results.protocol.gallery
    for name, noise in noises.items():
        vectors = shop.vectors(noise)
        oracle = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(vectors[gallery])
        found = oracle.kneighbors(vectors[queries], return_distance=False)
        assert np.array_equal(results.positions[name], found)
        precision = (shop.kinds[gallery][found[:, :5]] == shop.kinds[queries][:, None]).mean()
        assert results.scores[name].summary["precision@5"] == pytest.approx(precision, abs=1e-9)


def test_an_item_that_one_variant_lacks_is_left_out_for_all(shop) -> None:
    vectors, ids = shop.vectors(0.5), shop.content_ids
    results = shop.compare(shop.variant("whole", vectors), shop.variant("short", vectors[5:], ids[5:]))
    assert results.items["item_id"].to_list() == [f"item-{i:03}" for i in range(5, 120)]
    assert np.array_equal(results.positions["whole"], results.positions["short"])


def test_a_classified_search_looks_among_the_items_of_the_likeliest_class_first(shop) -> None:
    vectors = shop.vectors(5.0)
    plain = shop.variant("plain", vectors)
    told = {"mode": "classified", "classifier": "resnet18"}
    sorted_out = shop.variant("sorted out", vectors, classes=shop.classes(shop.kinds), **told)
    results = shop.compare(plain, sorted_out)
    assert results.scores["sorted out"].summary["precision@5"] == 1.0
    assert results.scores["plain"].summary["precision@5"] < 0.9


def test_a_classified_variant_without_classes_is_refused(shop) -> None:
    lost = shop.variant("lost", shop.vectors(1.0), mode="classified", classifier="resnet18")
    with pytest.raises(BadConfig, match="'lost' has mode classified, but no classes"):
        shop.compare(lost)


def test_scores_of_a_backbones_training_are_listed_with_those_of_the_search(shop) -> None:
    labeller = shop.backbone("labeller", metrics={"f1_example": 0.7, "val_loss": 0.3})
    results = shop.compare(
        shop.variant("labels", shop.vectors(0.5), backbone=labeller), shop.variant("plain", shop.vectors(0.5))
    )
    assert results.trained == {"labels": {"f1_example": 0.7}, "plain": {}}
    summary = summary_table(results)
    assert summary.filter(metric="f1_example")["variant"].to_list() == ["labels"]


def test_the_table_of_queries_averages_to_the_summary(shop) -> None:
    results = shop.compare(*(shop.variant(f"{noise}", shop.vectors(noise)) for noise in (0.3, 2.0)))
    queries, summary = per_query_table(results), summary_table(results)
    assert len(queries) == 2 * len(results.protocol.queries)
    assert set(queries["item_id"]) == set(results.items["item_id"].gather(results.protocol.queries))
    for variant, metric, value in summary.select("variant", "metric", "value").iter_rows():
        if metric in queries.columns:
            assert queries.filter(variant=variant)[metric].mean() == pytest.approx(value, abs=1e-12)
    drawn = summary.filter(metric="precision@5")["random"].unique().to_list()
    assert drawn == [results.random.summary["precision@5"]]


@pytest.mark.parametrize(("queries", "split"), [(0, "query"), (500, "train"), (500, "query")])
def test_a_comparison_without_queries_or_gallery_does_not_fail(open_shop, queries: int, split: str) -> None:
    """No queries configured, no picture held out, or all pictures held out."""
    shop = open_shop(n=6, split=split, product_id=None)
    results = shop.compare(shop.variant("only", shop.vectors(1.0)), queries=queries)
    assert results.scores["only"].summary == {}
    assert per_query_table(results).columns[:2] == ["variant", "item_id"]
    assert summary_table(results).is_empty()


def test_few_dimensions_find_candidates_that_all_dimensions_rerank(shop) -> None:
    vectors = shop.vectors(0.5)
    few = unit_length(vectors[:, :3])
    whole = shop.variant("whole", vectors)
    reranked = shop.variant("reranked", few, whole=whole.vectors, dim=3, rerank_depth=15)
    results = shop.compare(whole, reranked, metrics=("r_precision",))
    queries, gallery = results.protocol.queries, results.protocol.gallery
    for query, hits in zip(queries, results.positions["reranked"], strict=True):
        candidates = np.argsort(-(few[gallery] @ few[query]), kind="stable")[:15]
        expected = candidates[np.argsort(-(vectors[gallery[candidates]] @ vectors[query]), kind="stable")][:10]
        assert np.array_equal(hits, expected)
    assert "r_precision" in results.scores["whole"].summary
    assert "r_precision" not in results.scores["reranked"].summary
    by_variant = per_query_table(results).group_by("variant").agg(pl.col("r_precision").count())
    assert dict(by_variant.iter_rows())["reranked"] == 0


def test_a_variant_of_several_seeds_has_their_mean_and_their_deviation(shop) -> None:
    seeds = [shop.variant(f"seed {seed}", shop.vectors(1.0, seed)) for seed in range(3)]
    first, *others = seeds
    replicas = tuple(Searched(vectors=variant.vectors) for variant in others)
    results = shop.compare(*seeds, first.model_copy(update={"replicas": replicas, "spec": VariantConfig(name="all")}))
    values = [results.scores[variant.spec.name].summary["precision@5"] for variant in seeds]
    assert results.scores["all"].summary["precision@5"] == pytest.approx(np.mean(values))
    assert results.seed_deviations["all"]["precision@5"] == pytest.approx(np.std(values, ddof=1))
    assert results.seed_deviations["seed 0"] == {}
    by_query = [results.scores[variant.spec.name].per_query["precision@5"].to_numpy() for variant in seeds]
    np.testing.assert_allclose(results.scores["all"].per_query["precision@5"].to_numpy(), np.mean(by_query, axis=0))
