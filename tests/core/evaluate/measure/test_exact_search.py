"""The chain leads from plain vectors to the published ones, by the steps that were taken."""

import pytest

from retrieval_core.artifacts.variants import parse_representation, parse_variant
from retrieval_core.evaluate.measure.exact_search import chain_names


@pytest.mark.parametrize(
    ("variant", "candidates", "available", "chain"),
    [
        ("masked_boosted", "pca64", {"raw", "masked", "boosted", "masked_boosted", "pca64", "pca128"},
         [("raw", ""), ("masked", "mask"), ("masked_boosted", "head"), ("pca64", "PCA")]),
        ("boosted", "boosted", {"raw", "masked", "boosted", "masked_boosted"}, [("raw", ""), ("boosted", "head")]),
        ("crop", "pca8", {"crop", "pca8"}, [("crop", ""), ("pca8", "PCA")]),
        ("crop_boosted", "pca8", {"raw", "crop", "crop_boosted", "pca8"},
         [("raw", ""), ("crop", "crop"), ("crop_boosted", "head"), ("pca8", "PCA")]),
        ("raw", "raw", {"raw"}, [("raw", "")]),
    ],
)  # fmt: skip
def test_the_chain_names_the_steps_to_what_is_published(variant, candidates, available, chain):
    assert chain_names(parse_variant(variant), parse_representation(candidates), available) == chain
