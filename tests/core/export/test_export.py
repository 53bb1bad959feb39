"""What every target promises, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from retrieval_core.artifacts import releases
from retrieval_core.errors import AliasConflict, BadConfig, NotFound, TargetUnavailable
from retrieval_core.export import rows as rows_module
from retrieval_core.export.export import How, export, find_exportable
from retrieval_core.export.rows import ReleaseRows, Rows
from retrieval_core.export.target import Target
from retrieval_core.store.base import Store
from tests.core.export.conftest import ITEMS, Exporter
from tests.core.sealed_runs import SealedRuns


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "BATCH_ROWS", 8)


class Seen:
    """A target seen through changes of some of its methods."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


class Dying(Seen):
    """A target whose connection is lost at the third batch."""

    n_batches = 0

    def upsert(self, rows: Rows) -> None:
        self.n_batches += 1
        if self.n_batches == 3:
            raise TargetUnavailable("the connection was lost")
        self._target.upsert(rows)


class Losing(Seen):
    """A target of which something else removes a row meanwhile."""

    def finish(self) -> None:
        self._target.finish()
        rows, _ = next(iter(self._target.hashes()))
        self._target.delete(rows[:1])
        self._target.finish()


class Muddling(Seen):
    """A target that is sent vectors of other items."""

    def upsert(self, rows: Rows) -> None:
        self._target.upsert(Rows(rows.row_ids, rows.items, np.roll(rows.vectors, 1, axis=0), rows.hashes))


def hashes_of(store: Store, release: releases.Release) -> dict[int, int]:
    batches: Iterator[Rows] = ReleaseRows(store, release).batches()
    return {row: value for batch in batches for row, value in zip(batch.row_ids, batch.hashes, strict=True)}


def test_a_first_export_holds_every_row_and_searches_find_it(exporter: Exporter) -> None:
    release = exporter.runs.seal(ITEMS)
    done = exporter.run(release)
    assert (done.ok, done.created, done.switched) == (True, True, True)
    assert (done.rows, done.added, done.changed, done.removed) == (30, 30, 0, 0)
    assert (done.verification.rows, done.verification.sample, done.verification.overlap) == (30, 30, 1.0)
    assert exporter.current() == done.collection
    assert exporter.held(done.collection) == hashes_of(exporter.runs.store, release)


def test_only_the_difference_is_sent(exporter: Exporter) -> None:
    first = exporter.run(exporter.runs.seal(ITEMS))
    again = exporter.run(exporter.runs.seal(ITEMS))
    assert (again.unchanged, again.created, again.switched) == (30, False, False)
    release = exporter.runs.seal(["item-0@repainted", *ITEMS[3:], "item-new"])
    done = exporter.run(release)
    assert (done.collection, done.created) == (first.collection, False)
    assert (done.added, done.changed, done.removed, done.unchanged) == (1, 1, 2, 27)
    assert exporter.held(done.collection) == hashes_of(exporter.runs.store, release)


def test_another_vector_space_goes_into_a_collection_of_its_own(exporter: Exporter) -> None:
    first = exporter.run(exporter.runs.seal(ITEMS))
    done = exporter.run(exporter.runs.seal(ITEMS, backbone="another"))
    assert (done.created, done.switched, done.added) == (True, True, 30)
    assert done.collection != first.collection
    assert exporter.current() == done.collection
    assert done.superseded == (() if exporter.kind == "parquet" else (first.collection,))
    pruned = exporter.run(exporter.runs.seal(ITEMS, backbone="another"), prunes=True)
    assert pruned.pruned == done.superseded
    assert exporter.run(exporter.runs.seal(ITEMS, backbone="another")).superseded == ()


def test_an_interrupted_export_is_completed_by_the_next(exporter: Exporter) -> None:
    first = exporter.run(exporter.runs.seal(ITEMS))
    release = exporter.runs.seal(ITEMS, backbone="another")
    with pytest.raises(TargetUnavailable):
        exporter.run(release, Dying)
    assert exporter.current() == first.collection
    done = exporter.run(release)
    assert (done.ok, done.switched) == (True, True)
    assert exporter.held(done.collection) == hashes_of(exporter.runs.store, release)


def test_what_was_changed_by_hand_is_mended(exporter: Exporter) -> None:
    release = exporter.runs.seal(ITEMS)
    done = exporter.run(release)
    target = exporter.open()
    target.open(done.collection, 8)
    some = next(ReleaseRows(exporter.runs.store, release).batches())
    target.delete(some.row_ids[:2])
    target.upsert(Rows(np.array([5]), some.items[:1], some.vectors[:1], np.array([7])))
    target.finish()
    target.publish()
    target.close()
    mended = exporter.run(release)
    assert (mended.added, mended.removed, mended.unchanged) == (2, 1, 28)
    assert exporter.held(done.collection) == hashes_of(exporter.runs.store, release)


def test_searches_do_not_use_an_export_that_lost_a_row(exporter: Exporter) -> None:
    first = exporter.run(exporter.runs.seal(ITEMS))
    done = exporter.run(exporter.runs.seal(ITEMS, backbone="another"), Losing)
    assert (done.ok, done.verification.missing, done.switched) == (False, 1, False)
    assert "lacks 1 rows" in done.reason
    assert exporter.current() == first.collection


def test_searches_do_not_use_an_export_whose_neighbours_are_others(exporter: Exporter) -> None:
    release = exporter.runs.seal(ITEMS)
    done = exporter.run(release, Muddling)
    assert (done.ok, done.verification.missing) == (False, 0)
    assert done.verification.overlap < 0.9
    assert "--rewrite" in done.reason
    assert exporter.current() is None
    mended = exporter.run(release, rewrites=True)
    assert (mended.ok, mended.verification.overlap, mended.unchanged) == (True, 1.0, 0)


def test_ids_may_be_anything(exporter: Exporter) -> None:
    ids = ["o'brien", 'say "no"', "日本 🧥", "a\\b; DROP TABLE x", "x" * 5000, "{}", "%s"]
    done = exporter.run(exporter.runs.seal(ids))
    assert (done.ok, done.rows) == (True, 7)
    changed = exporter.run(exporter.runs.seal([ids[0], "x" * 5000 + "@2"]))
    assert (changed.changed, changed.unchanged, changed.removed) == (1, 1, 5)


def test_a_collection_of_another_width_is_refused(exporter: Exporter) -> None:
    done = exporter.run(exporter.runs.seal(ITEMS))
    target = exporter.open()
    with pytest.raises(Exception, match="dimensions, expected 5"):
        target.open(done.collection, 5)
    target.close()


def test_production_that_moved_meanwhile_is_not_overtaken(exporter: Exporter) -> None:
    older = exporter.runs.seal(ITEMS)

    class Moving(Seen):
        def finish(self) -> None:
            self._target.finish()
            exporter.runs.seal(ITEMS[3:])

    with pytest.raises(AliasConflict, match="no longer production"):
        exporter.run(older, Moving)
    assert exporter.current() is None


def test_production_is_exported_unless_another_release_is_named(runs: SealedRuns) -> None:
    with pytest.raises(NotFound, match="nothing is published"):
        find_exportable(runs.store)
    older, production = runs.seal(ITEMS), runs.seal(ITEMS[1:])
    assert find_exportable(runs.store).fingerprint == production.fingerprint
    assert find_exportable(runs.store, older.fingerprint[:8]).fingerprint == older.fingerprint


def test_a_release_that_the_gate_holds_is_refused_until_a_person_promotes_it(runs: SealedRuns) -> None:
    runs.seal(ITEMS)
    sealed = runs.seal(ITEMS[2:], alias="elsewhere")
    held = sealed.model_copy(update={"fingerprint": "f" * 32, "gate": "held", "gate_reason": "Recall fell."})
    held.seal(runs.store)
    with pytest.raises(BadConfig, match="Recall fell"):
        find_exportable(runs.store, "ffff")
    releases.point_alias(runs.store, releases.PRODUCTION, "f" * 32)
    assert find_exportable(runs.store).fingerprint == "f" * 32
    runs.seal(ITEMS[1:])
    assert find_exportable(runs.store, "ffff").fingerprint == "f" * 32


def test_progress_is_told_in_rows(exporter: Exporter) -> None:
    n_rows: list[int] = []
    release = exporter.runs.seal(ITEMS)
    target = exporter.open()
    export(exporter.runs.store, release, target, How("shop"), n_rows.append)
    target.close()
    assert (sum(n_rows), max(n_rows)) == (30, 8)
