"""A sealed run to damage, and three successive ones."""

from __future__ import annotations

import pytest

from retrieval_core.store.base import Store
from tests.core.maintenance.damage import ITEMS
from tests.core.sealed_runs import SealedRuns


@pytest.fixture
def runs(local_store: Store) -> SealedRuns:
    made = SealedRuns(local_store)
    made.seal(ITEMS)
    return made
