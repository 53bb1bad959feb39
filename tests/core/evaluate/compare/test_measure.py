"""All variants are measured on the same queries and items, and their hits are those of a brute-force search."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.measure import per_query_table, summary_table


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
