"""A sealed run to damage, and three successive ones."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts.manifests import Release
from retrieval_core.store.base import Store
from tests.core.damage import ITEMS
from tests.core.sealed_runs import SealedRuns


@pytest.fixture
def runs(local_store: Store) -> SealedRuns:
    made = SealedRuns(local_store)
    made.seal(ITEMS)
    return made


@pytest.fixture
def three_runs(local_store: Store) -> tuple[Store, list[Release]]:
    runs = SealedRuns(local_store)
    catalogues = [ITEMS, [*ITEMS[4:], "new-1"], [*ITEMS[4:], "new-1", "new-2", "item-5@recoloured"][1:]]
    catalogues[2].remove("item-5")
    return local_store, [runs.seal(names) for names in catalogues]
