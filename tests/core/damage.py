"""Ways to damage a sealed run, and to look at what a repair did."""

from __future__ import annotations

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import IndexSet, Release, VectorSet
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.repair import Repair
from retrieval_core.store.base import Store

ITEMS = [f"item-{number}" for number in range(14)]


def flip(store: Store, key: str) -> None:
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def truncate(store: Store, key: str) -> None:
    store.put(key, store.get(key)[:-9])


def lose(store: Store, key: str) -> None:
    store.delete(key)


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


def actions(found: Repair) -> dict[str, str]:
    return {finding.key: finding.action for finding in found.findings}


def production(store: Store) -> Release:
    release = releases.read_release(store, "production")
    assert release is not None
    return release


def parts_of(store: Store, role: str) -> list[str]:
    """Keys of the parts of the catalogue, the index, or the masked, boosted or reduced vectors of production."""
    release = production(store)
    boosted = VectorSet.open(store, release.vectors)
    index = IndexSet.open(store, release.index)
    inventory = Inventory(store)
    owners = {
        "masked": lambda: inventory.vector_set(boosted.parents["vectors"]),
        "boosted": lambda: boosted,
        "reduced": lambda: inventory.vector_set(index.parents["candidates"]),
        "index": lambda: index,
        "catalogue": lambda: inventory.open(release.catalog.key),
        "masks": lambda: inventory.open(next(key for key in inventory.artifact_keys() if key.startswith("masks/"))),
        "head": lambda: inventory.open(release.heads[0].key),
        "report": lambda: inventory.open(release.report.key),
    }
    return [part.key for part in owners[role]().parts]


DAMAGE = pytest.mark.parametrize("damage", [flip, truncate, lose])
