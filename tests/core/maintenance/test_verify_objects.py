"""`vitrine verify --all`: a changed bit of any object that has a checksum is found, wherever it is."""

from __future__ import annotations

import time

import pytest

from retrieval_core.artifacts.releases import RUNS
from retrieval_core.errors import TooNew
from retrieval_core.maintenance.verify_objects import Pace, verify_all
from retrieval_core.store.base import Store
from retrieval_core.store.format import MARKER
from tests.core.damage import ITEMS, flip, lose, production, truncate
from tests.core.sealed_runs import SealedRuns


def failed(store: Store) -> set[str]:
    return {check.name for check in verify_all(store).checks if not check.ok}


def test_an_intact_store_of_two_releases_is_read_whole(runs: SealedRuns) -> None:
    runs.seal([*ITEMS[4:], "new"])
    seen: list[int] = []
    found = verify_all(runs.store, progress=lambda total: seen.append)
    assert found.ok
    assert sum(seen) > 0.5 * sum(entry.size_bytes for entry in runs.store.entries(""))
    (objects,) = (check for check in found.checks if check.name == "objects")
    assert f"{len(list(runs.store.list('')))} objects were read" in objects.detail


def test_a_changed_bit_or_a_cut_of_any_object_is_found_and_named(runs: SealedRuns) -> None:
    """Also in what no search of production opens: an earlier release, a template, a mask, a plan, the last ingest."""
    store = runs.store
    runs.seal([*ITEMS[4:], "new"])
    for key in list(store.list("")):
        data = store.get(key)
        for damage in (flip, truncate):
            damage(store, key)
            if key == MARKER:
                assert not verify_ok(store)
            else:
                assert key in failed(store), f"{damage.__name__} {key}"
            store.put(key, data)
    assert verify_all(store).ok


def verify_ok(store: Store) -> bool:
    try:
        return verify_all(store).ok
    except TooNew:
        return False


def test_a_missing_part_is_found(runs: SealedRuns) -> None:
    store, first = runs.store, production(runs.store)
    runs.seal([*ITEMS[4:], "new"])
    parts = [key for key in store.list(f"{first.catalog.key}/") if key.endswith(".parquet")]
    lose(store, parts[0])
    assert failed(store) == {"objects", parts[0]}


def test_what_has_no_checksum_is_counted(runs: SealedRuns) -> None:
    runs.store.put(f"{RUNS}/2026.json", b"{}")
    found = verify_all(runs.store)
    assert found.ok
    assert any("1 have no checksum" in check.detail for check in found.checks)


@pytest.mark.parametrize("bytes_per_s", [1e6, 1e7])
def test_a_pace_lets_no_more_bytes_through_than_it_may(bytes_per_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now_s.__setitem__(0, now_s[0] + seconds))
    pace = Pace(bytes_per_s)
    for _ in range(50):
        pace.wait_for(100_000)
    assert now_s[0] - 100.0 == pytest.approx(49 * 100_000 / bytes_per_s)


def test_without_a_bound_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    Pace(0.0).wait_for(10**12)
