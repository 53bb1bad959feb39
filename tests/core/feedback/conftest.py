"""An empty store, which feedback is logged in."""

from pathlib import Path

import pytest

from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))
