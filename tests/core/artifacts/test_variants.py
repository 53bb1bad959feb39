"""A representation and its spelling in manifests, metrics and configuration are one and the same."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.artifacts.manifests import Head, VectorSet
from retrieval_core.artifacts.variants import Reduced, Variant, parse_representation, parse_variant
from retrieval_core.config.stages import IndexConfig, View

VARIANTS = [Variant(view, boosted) for view in get_args(View) for boosted in (False, True)]
SPELLINGS = ["raw", "boosted", "masked", "masked_boosted", "crop", "crop_boosted"]


def test_the_spellings_are_those_that_stores_hold() -> None:
    assert [str(variant) for variant in VARIANTS] == SPELLINGS
    assert str(Reduced(64)) == "pca64"


def test_the_configuration_offers_every_variant_and_auto() -> None:
    offered = get_args(IndexConfig.model_fields["variant"].annotation)
    assert set(offered) == {"auto", *SPELLINGS}


@given(st.one_of(st.sampled_from(VARIANTS), st.builds(Reduced, st.integers(1, 10_000))))
def test_a_spelling_is_parsed_to_what_it_was_made_of(representation: Variant | Reduced) -> None:
    assert parse_representation(str(representation)) == representation


def test_boosting_keeps_the_view() -> None:
    assert [str(Variant(view).boost()) for view in get_args(View)] == ["boosted", "masked_boosted", "crop_boosted"]


@pytest.mark.parametrize("name", ["", "Raw", "pca0", "pca", "boosted_masked", "raw_boosted", "pca64 "])
def test_an_unknown_spelling_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="names no variant"):
        parse_representation(name)
    with pytest.raises(ValueError, match="names no variant"):
        parse_variant(name)


def test_a_manifest_holds_the_spelling_and_gives_back_the_value() -> None:
    vectors = VectorSet(fingerprint="f", family="v", variant=Reduced(8), dim=8)
    assert json.loads(vectors.model_dump_json())["variant"] == "pca8"
    assert VectorSet.model_validate_json(vectors.model_dump_json()) == vectors
    head = Head.model_validate({"fingerprint": "f", "variant": "masked", "input_dim": 8, "dim": 4})
    assert head.variant == Variant("masked")
