"""Checks of drawings."""

import re

import pytest


@pytest.fixture(scope="session")
def assert_finite(read_page):
    """Fails if a drawing is not closed in order, or holds a number that is not finite."""

    def check(*drawings: str) -> None:
        for drawing in drawings:
            page = read_page(drawing)
            values = [value for _, attributes in page.tags for value in attributes.values() if value]
            assert not [value for value in values if re.fullmatch(r"[+-]?(nan|inf)%?", value)]

    return check
