from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_core.export import verification
from retrieval_core.export.rows import ReleaseRows
from retrieval_core.export.verification import Held, verify
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns

N_ITEMS = 60


class Answering:
    """A target that holds and finds what it is told."""

    def __init__(self, held: Held, found: list[list[int]]) -> None:
        self.held, self.found = held, found

    def hashes(self) -> Any:
        return iter([(self.held.row_ids[20:], self.held.hashes[20:]), (self.held.row_ids[:20], self.held.hashes[:20])])

    def nearest(self, vectors: np.ndarray, k: int) -> list[list[int]]:
        return self.found


@pytest.fixture
def rows(tmp_path: Path) -> ReleaseRows:
    store = open_store(str(tmp_path))
    return ReleaseRows(store, SealedRuns(store).seal(f"item-{number}" for number in range(N_ITEMS)))


@pytest.fixture
def expected(rows: ReleaseRows) -> Held:
    return Held.of((batch.row_ids, batch.hashes) for batch in rows.batches())


def exact(rows: ReleaseRows, k: int = 10) -> list[list[int]]:
    return [row.tolist() for row in rows.index.exact(rows.index.vectors_of(rows.row_ids), k)[1]]


def test_a_target_that_holds_and_finds_the_same_is_verified(rows: ReleaseRows, expected: Held) -> None:
    verified = verify(rows, expected, Answering(expected, exact(rows)), 1.0)
    assert (verified.ok, verified.reason, verified.overlap, verified.rows) == (True, "", 1.0, N_ITEMS)


def test_missing_unexpected_and_differing_rows_are_counted(rows: ReleaseRows, expected: Held) -> None:
    row_ids, hashes = expected.row_ids[2:].copy(), expected.hashes[2:].copy()
    hashes[:3] += 1
    held = Held.of([(row_ids, hashes), (np.array([1]), np.array([1]))])
    verified = verify(rows, expected, Answering(held, exact(rows)), 0.9)
    assert (verified.ok, verified.missing, verified.unexpected, verified.differing) == (False, 2, 1, 3)


def test_the_overlap_is_the_share_of_neighbours_found(rows: ReleaseRows, expected: Held) -> None:
    found = exact(rows)
    for row in found[:30]:
        row[5:] = [1, 2, *row[:3]]  # unknown rows, and neighbours a second time
    verified = verify(rows, expected, Answering(expected, found), 0.8)
    assert (verified.ok, verified.overlap) == (False, 0.75)
    assert "finds 0.750 of the 10 nearest items of 60 sampled ones" in verified.reason
    assert not verify(rows, expected, Answering(expected, [[] for _ in found]), 0.9).overlap


def test_another_row_that_is_as_near_counts(rows: ReleaseRows, expected: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    farthest = [row[-10:] for row in exact(rows, N_ITEMS)]
    assert verify(rows, expected, Answering(expected, farthest), 0.0).overlap == 0
    monkeypatch.setattr(verification, "TIE", 2.0)
    assert verify(rows, expected, Answering(expected, farthest), 1.0).ok


def test_the_sample_is_the_same_each_time(rows: ReleaseRows, expected: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SAMPLE", 7)
    asked: list[np.ndarray] = []

    class Recording(Answering):
        def nearest(self, vectors: np.ndarray, k: int) -> list[list[int]]:
            asked.append(vectors)
            return [[] for _ in vectors]

    for _ in range(2):
        assert verify(rows, expected, Recording(expected, []), 0.0).sample == 7
    assert (asked[0] == asked[1]).all()
    assert len(np.unique(asked[0], axis=0)) == 7
