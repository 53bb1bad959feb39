"""Releases of drawn vectors, and a target of each kind to export them to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval_core.artifacts.manifests import Release
from retrieval_core.export.export import Exported, How, export
from retrieval_core.export.target import Address, Target
from retrieval_core.export.targets.registry import open_target
from tests.core.sealed_runs import SealedRuns

ITEMS = tuple(f"item-{number}" for number in range(30))
KINDS = ("parquet",)


@pytest.fixture
def runs(tmp_path: Path) -> SealedRuns:
    """Seals releases of `ITEMS` and others in a store."""
    from retrieval_core.store.uris import open_store

    return SealedRuns(open_store(str(tmp_path / "store")))


class Exporter:
    """Exports releases of a store to one target."""

    def __init__(self, runs: SealedRuns, kind: str, address: Address) -> None:
        self.runs, self.kind, self.address = runs, kind, address

    def open(self) -> Target:
        return open_target(self.kind, self.address)

    def run(
        self, release: Release, wrap: Callable[[Target], Target] = lambda target: target, **how: object
    ) -> Exported:
        """Export a release to the target, seen through `wrap`."""
        target = self.open()
        try:
            return export(self.runs.store, release, wrap(target), How(self.address.name, **how))
        finally:
            target.close()

    def held(self, collection: str, dim: int = 8) -> dict[int, int]:
        """Return the content hash of each row that a collection holds."""
        target = self.open()
        try:
            target.open(collection, dim)
            return {row: value for rows, values in target.hashes() for row, value in zip(rows, values, strict=True)}
        finally:
            target.close()

    def current(self) -> str | None:
        """Return the collection that searches use."""
        target = self.open()
        try:
            return target.current()
        finally:
            target.close()


@pytest.fixture(params=KINDS)
def exporter(request: pytest.FixtureRequest, runs: SealedRuns, tmp_path: Path) -> Exporter:
    """An exporter to an empty target of each kind."""
    address = Address("shop", str(tmp_path / "target"))
    return Exporter(runs, request.param, address)
