"""The facts of a comparison: the ranking, the fronts, the models and the queries to show."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.manifests import Fitted
from retrieval_core.evaluate.compare.build import gather_facts, pareto_front
from retrieval_core.evaluate.compare.schema import ComparisonFacts
from retrieval_core.evaluate.report import curves
from retrieval_core.train.config import TripletTraining

METRICS = {"metrics": ("recall@1", "map@5")}


@pytest.fixture
def gathered(configured):
    """`gathered(shop, variants, *tables)`: the facts of these variants."""

    def gather(shop, variants, *tables, trained=None, **more) -> ComparisonFacts:
        config = configured(variants, *(tables or (METRICS,)), **more)
        results = shop.compare(*variants)
        return gather_facts(shop.store, shop.inputs(*variants, models=trained or {}), results, config, "name")

    return gather


def test_variants_are_ranked_by_the_first_metric_that_can_be_measured(open_shop, gathered) -> None:
    shop = open_shop(product_id=None)
    variants = [shop.variant(f"noise {noise}", shop.vectors(noise)) for noise in (0.2, 9.0, 0.6, 2.0, 1.0)]
    facts = gathered(shop, variants)
    assert facts.quality == "map@5"
    assert [variant.name for variant in facts.ranked] == [f"noise {noise}" for noise in (0.2, 0.6, 1.0, 2.0, 9.0)]


def test_the_same_queries_are_shown_under_the_best_the_worst_and_two_between(shop, gathered) -> None:
    variants = [shop.variant(f"noise {noise}", shop.vectors(noise)) for noise in (0.2, 9.0, 0.6, 2.0, 1.0)]
    facts = gathered(shop, variants, {"metrics": ("map@5",)})
    for grid in facts.grids:
        assert list(grid.answers) == [f"noise {noise}" for noise in (0.2, 0.6, 2.0, 9.0)]
        assert {answer.query.item_id for answer in grid.answers.values()} == {grid.query.item_id}
        assert all(len(answer.hits) == 5 for answer in grid.answers.values())
    assert len({grid.query.item_id for grid in facts.grids}) == len(facts.grids) == 6


def test_four_variants_or_fewer_are_all_shown_once(shop, gathered) -> None:
    two = [shop.variant(f"noise {noise}", shop.vectors(noise)) for noise in (2.0, 0.2)]
    by_map = {"metrics": ("map@5",)}
    assert [list(grid.answers) for grid in gathered(shop, two, by_map).grids] == [["noise 0.2", "noise 2.0"]] * 6
    assert [list(grid.answers) for grid in gathered(shop, two[:1], by_map).grids] == [["noise 2.0"]] * 6


def test_there_is_a_front_of_quality_against_each_cost(shop, gathered) -> None:
    facts = gathered(
        shop,
        [
            shop.variant("best", shop.vectors(0.1), ms_per_picture=90.0, n_bytes_per_item=2048),
            shop.variant("quick", shop.vectors(2.0), ms_per_picture=5.0, n_bytes_per_item=4096),
            shop.variant("bad", shop.vectors(9.0), ms_per_picture=50.0, n_bytes_per_item=1024),
        ],
        {"metrics": ("map@5",)},
    )
    assert [(front.cost, front.variants) for front in facts.fronts] == [
        ("ms_per_picture", ("quick", "best")),
        ("n_bytes_per_item", ("bad", "best")),
    ]


def test_a_model_has_its_start_its_size_and_whether_it_was_reused(shop, gathered) -> None:
    history = tuple({"epoch": float(epoch), "seconds": 2.0, "train_loss": 1 / epoch} for epoch in (1, 2, 3))
    made = shop.backbone("made", objective="triplet", history=history, counts={"train": 70}, metrics={"val_loss": 0.1})
    (model,) = gathered(
        shop,
        [shop.variant("tripled", shop.vectors(0.5), backbone=made, weights="model:triplets")],
        trained={"triplets": Fitted(ref=made, trained=False)},
        models={"triplets": TripletTraining(weights="random:3")},
    ).models
    assert (model.name, model.objective, model.start, model.trained) == ("triplets", "triplet", "random:3", False)
    assert (model.n_pictures, model.seconds, model.history) == (70, 6.0, history)


def test_without_queries_there_is_no_ranking_and_no_front(open_shop, gathered) -> None:
    shop = open_shop(n=6, split="train")
    facts = gathered(shop, [shop.variant("a", shop.vectors(1.0)), shop.variant("b", shop.vectors(1.0))])
    assert (facts.quality, facts.ranked, facts.fronts, facts.grids, facts.crops) == ("", (), (), (), ())


def test_hits_are_shown_even_if_the_catalogue_cannot_judge_them(open_shop, gathered) -> None:
    shop = open_shop(product_id=None, category=None, labels=[])
    facts = gathered(shop, [shop.variant("a", shop.vectors(1.0)), shop.variant("b", shop.vectors(1.0))])
    assert facts.quality == ""
    assert len(facts.grids) == 6


few = st.integers(0, 5).map(float)


@given(st.dictionaries(st.text(max_size=3), st.tuples(few, few), max_size=12))
def test_the_front_holds_the_points_that_no_other_beats(points) -> None:
    def beaten(name: str) -> bool:
        cost, value = points[name]
        return any(
            other_cost <= cost and other_value >= value and (other_cost, other_value) != (cost, value)
            for other_cost, other_value in points.values()
        )

    front = pareto_front(points)
    assert set(front) == {name for name in points if not beaten(name)}
    assert [points[name][0] for name in front] == sorted(points[name][0] for name in front)


def test_the_front_is_drawn_in_steps_and_described_in_words(read_page) -> None:
    points = {"slow": (100.0, 0.9), "quick": (5.0, 0.5), "beaten": (50.0, 0.4)}
    page = read_page(curves.front("map@5", points, pareto_front(points), "ms per picture"))
    (chart,) = page.all("svg")
    assert chart["aria-label"] == (
        "map@5 against ms per picture; from the cheapest, unbeaten: quick 0.500 at 5, slow 0.900 at 100"
    )
    assert [group["class"] for group in page.all("g")] == ["dot", "dot highlight", "dot highlight"]
    ((x0, y0), (x1, y1), (x2, y2)) = (
        map(float, point.split(",")) for point in page.all("polyline")[0]["points"].split()
    )
    assert x0 < x1 == x2
    assert y0 == y1 > y2


number = st.floats(-1e30, 1e30) | st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, 1e-300])


@given(st.dictionaries(st.text(max_size=8), st.tuples(number, number), max_size=8))
def test_any_numbers_make_a_whole_chart(read_page, points) -> None:
    finite = {name: point for name, point in points.items() if all(map(math.isfinite, point))}
    page = read_page(curves.front("map@5", points, pareto_front(finite), "bytes per item"))
    values = [value for _, attributes in page.tags for value in attributes.values() if value]
    assert not [value for value in values if re.search(r"(^|[ ,M])[+-]?(nan|inf)([ ,%l]|$)", value)]
