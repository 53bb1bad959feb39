"""Planned products cover what a catalogue can hold, and their words agree."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_core.ingest.synthetic.products import CATEGORIES, COLOUR_SPREAD, CUTS, PALETTE, PATTERNS, plan_product


def test_every_category_colour_and_pattern_occurs_in_a_catalogue_of_default_size() -> None:
    products = [plan_product(0, number) for number in range(300)]
    assert {p.category for p in products} == set(CATEGORIES)
    assert {p.colour for p in products} == set(PALETTE)
    assert {p.pattern for p in products} == set(PATTERNS)
    for category, cut in CUTS.items():
        mine = [p for p in products if p.category == category]
        for name in ("sleeve", "neckline", "length", "style"):
            values = {p.attributes[name] for p in mine if name in p.attributes}
            assert values == set(getattr(cut, name)), (category, name)


@given(st.integers(0, 2**32 - 1), st.integers(0, 99_999))
@settings(max_examples=60)
def test_labels_are_sorted_words_that_agree_with_the_attributes(seed: int, number: int) -> None:
    product = plan_product(seed, number)
    assert product.labels == sorted(set(product.labels))
    assert {product.category, product.attributes["colour"], product.attributes["pattern"]} <= set(product.labels)
    assert np.abs(np.array(product.base) - PALETTE[product.colour]).max() <= COLOUR_SPREAD
