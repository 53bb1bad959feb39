"""All variants answer the same queries over the same items, and what they find is what brute force finds."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from retrieval_core.errors import BadConfig
from retrieval_core.evaluate.compare.measure import per_query_table, summary_table


def test_each_variant_finds_what_brute_force_finds(shop) -> None:
    noises = {"sharp": 0.1, "blurred": 1.0}
    compared = shop.compare(*(shop.candidate(name, shop.vectors(noise)) for name, noise in noises.items()))
    queries, gallery = compared.protocol.queries, compared.protocol.gallery
    for name, noise in noises.items():
        vectors = shop.vectors(noise)
        oracle = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(vectors[gallery])
        found = oracle.kneighbors(vectors[queries], return_distance=False)
        assert np.array_equal(compared.positions[name], found)
        precision = (shop.kinds[gallery][found[:, :5]] == shop.kinds[queries][:, None]).mean()
        assert compared.scores[name].summary["precision@5"] == pytest.approx(precision, abs=1e-9)


def test_an_item_that_one_variant_lacks_is_left_out_for_all(shop) -> None:
    vectors, ids = shop.vectors(0.5), shop.content_ids
    compared = shop.compare(shop.candidate("whole", vectors), shop.candidate("short", vectors[5:], ids[5:]))
    assert compared.items["item_id"].to_list() == [f"item-{i:03}" for i in range(5, 120)]
    assert np.array_equal(compared.positions["whole"], compared.positions["short"])


def test_a_classified_search_looks_among_the_items_of_the_likeliest_class_first(shop) -> None:
    vectors = shop.vectors(5.0)
    plain = shop.candidate("plain", vectors)
    told = {"mode": "classified", "classifier": "resnet18"}
    sorted_out = shop.candidate("sorted out", vectors, classes=shop.classes(shop.kinds), **told)
    compared = shop.compare(plain, sorted_out)
    assert compared.scores["sorted out"].summary["precision@5"] == 1.0
    assert compared.scores["plain"].summary["precision@5"] < 0.9


def test_a_classified_variant_without_classes_is_refused(shop) -> None:
    lost = shop.candidate("lost", shop.vectors(1.0), mode="classified", classifier="resnet18")
    with pytest.raises(BadConfig, match="'lost' has mode classified, but no classes"):
        shop.compare(lost)


def test_scores_of_a_backbones_own_training_stand_beside_those_of_the_search(shop) -> None:
    labeller = shop.backbone("labeller", metrics={"f1_example": 0.7, "val_loss": 0.3})
    compared = shop.compare(
        shop.candidate("labels", shop.vectors(0.5), backbone=labeller), shop.candidate("plain", shop.vectors(0.5))
    )
    assert compared.trained == {"labels": {"f1_example": 0.7}, "plain": {}}
    summary = summary_table(compared)
    assert summary.filter(metric="f1_example")["variant"].to_list() == ["labels"]


def test_the_table_of_queries_averages_to_the_summary(shop) -> None:
    compared = shop.compare(*(shop.candidate(f"{noise}", shop.vectors(noise)) for noise in (0.3, 2.0)))
    queries, summary = per_query_table(compared), summary_table(compared)
    assert len(queries) == 2 * len(compared.protocol.queries)
    assert set(queries["item_id"]) == set(compared.items["item_id"].gather(compared.protocol.queries))
    for variant, metric, value in summary.select("variant", "metric", "value").iter_rows():
        if metric in queries.columns:
            assert queries.filter(variant=variant)[metric].mean() == pytest.approx(value, abs=1e-12)
    drawn = summary.filter(metric="precision@5")["random"].unique().to_list()
    assert drawn == [compared.random.summary["precision@5"]]


@pytest.mark.parametrize(("queries", "split"), [(0, "query"), (500, "train"), (500, "query")])
def test_nothing_to_ask_or_to_find_is_no_failure(open_shop, queries: int, split: str) -> None:
    """No queries wanted, none held out, or all of a catalogue held out."""
    shop = open_shop(n=6, split=split, product_id=None)
    compared = shop.compare(shop.candidate("only", shop.vectors(1.0)), queries=queries)
    assert compared.scores["only"].summary == {}
    assert per_query_table(compared).columns[:2] == ["variant", "item_id"]
    assert summary_table(compared).is_empty()
