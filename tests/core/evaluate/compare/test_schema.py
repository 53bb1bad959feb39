"""The facts of a comparison: what they derive, and what of them facts.json holds."""

import pytest

from retrieval_core.evaluate.compare.schema import ComparisonFacts, ModelFacts


@pytest.mark.parametrize(
    ("collapsed", "since"), [([0, 0, 0], None), ([1, 0, 0], None), ([0, 1, 1], 2), ([1, 1, 1], 1), ([1, 0, 1], 3)]
)
def test_a_collapse_counts_if_it_lasts_to_the_end(collapsed, since) -> None:
    model = ModelFacts(
        name="triplets",
        trained=True,
        fitted="",
        history=tuple({"epoch": e, "collapsed": float(c)} for e, c in enumerate(collapsed, start=1)),
        objective="triplet",
        backbone="resnet18",
        start="random:0",
        n_pictures=1,
        seconds=0.0,
    )
    assert model.collapsed_since == since


def test_facts_without_pictures_can_be_written_and_read(full) -> None:
    assert full.crops[0].helped
    assert full.grids
    crops = tuple(crop.model_copy(update={"helped": (), "hurt": ()}) for crop in full.crops)
    expected = full.model_copy(update={"grids": (), "crops": crops})
    assert ComparisonFacts.model_validate_json(full.json_bytes()) == expected
    assert b"jpeg" not in full.json_bytes()


def test_variants_of_equal_quality_keep_their_order(full) -> None:
    metrics = {"map@5": 0.5}
    first, second, third = (variant.model_copy(update={"metrics": metrics}) for variant in full.variants[:3])
    best = third.model_copy(update={"metrics": {"map@5": 0.6}})
    facts = full.model_copy(update={"variants": (second, first, best), "quality": "map@5"})
    assert facts.ranked == (best, second, first)
    assert facts.model_copy(update={"quality": ""}).ranked == ()
