"""A shop with a release, which queries are asked of."""

from pathlib import Path

import pytest


@pytest.fixture
def shop(new_shop, tmp_path: Path):
    made = new_shop(tmp_path)
    made.publish()
    return made
