"""Verify an export: count what the target holds, and ask both sides for the neighbours of the same items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.export.rows import ReleaseRows
from retrieval_core.export.target import DEPTH, Target
from retrieval_core.index.shard_files import positions_of

SAMPLE = 100  # items whose neighbours both sides are asked for
TIE = 1e-5  # of two cosines, which databases round differently


class Held(NamedTuple):
    """What a target holds: (n,) ascending row ids and the (n,) content hash of each; 16 bytes of memory a row."""

    row_ids: Int64
    hashes: Int64

    @classmethod
    def of(cls, batches: Iterable[tuple[Int64, Int64]]) -> Self:
        """Return what these batches of row ids and hashes say together."""
        empty = np.empty(0, np.int64)
        both = [(empty, empty), *batches]
        row_ids = np.concatenate([row_ids for row_ids, _ in both])
        hashes = np.concatenate([hashes for _, hashes in both])
        order = np.argsort(row_ids, kind="stable")
        return cls(row_ids[order], hashes[order])

    @classmethod
    def read(cls, target: Target) -> Self:
        """Read what the open collection of a target holds."""
        return cls.of(target.hashes())


class Verification(Value):
    """What a target was found to hold after an export, compared with the release.

    `missing`, `unexpected` and `differing` count rows. `overlap` is the share, 0 to 1, of the `depth` nearest rows of
    `sample` items that the target finds; a row as near as the last of them counts.
    """

    ok: bool
    reason: str = ""
    rows: int
    missing: int
    unexpected: int
    differing: int
    sample: int
    depth: int
    overlap: float
    min_overlap: float


def verify(rows: ReleaseRows, expected: Held, target: Target, min_overlap: float) -> Verification:
    """Compare what a target holds and finds with a release; `expected` are all rows of the release."""
    held = Held.read(target)
    position, is_held = positions_of(held.row_ids, expected.row_ids)
    n_differing = int((held.hashes[position[is_held]] != expected.hashes[is_held]).sum())
    n_missing = int((~is_held).sum())
    n_unexpected = len(held.row_ids) - int(is_held.sum())
    sample = _sample(rows.row_ids)
    depth = min(DEPTH, len(rows.row_ids))
    overlap = _overlap(rows, sample, target, depth)
    reasons = []
    if n_missing or n_unexpected or n_differing:
        reasons.append(
            f"it lacks {n_missing} rows, has {n_unexpected} that the release has not, and {n_differing} that "
            "differ, although all were written: does something else write to it? Run the same command again"
        )
    if overlap < min_overlap:
        reasons.append(
            f"it finds {overlap:.3f} of the {depth} nearest items of {len(sample)} sampled ones, expected at least "
            f"{min_overlap:g}: send every item again with --rewrite, or let its index search more widely"
        )
    return Verification(
        ok=not reasons,
        reason="; ".join(reasons),
        rows=len(held.row_ids),
        missing=n_missing,
        unexpected=n_unexpected,
        differing=n_differing,
        sample=len(sample),
        depth=depth,
        overlap=overlap,
        min_overlap=min_overlap,
    )


def _sample(ascending: Int64) -> Int64:
    """Return up to `SAMPLE` row ids, always the same of the same rows; as they are hashes, these are random items."""
    places = np.linspace(0, len(ascending) - 1, min(SAMPLE, len(ascending)))
    return ascending[places.astype(np.int64)]


def _overlap(rows: ReleaseRows, sample: Int64, target: Target, depth: int) -> float:
    """Return the share of the exact neighbours of the sampled rows that the target finds, 1 where there are no rows."""
    if not len(sample):
        return 1.0
    vectors = rows.index.vectors_of(sample)
    scores, _ = rows.index.exact(vectors, depth)
    found = target.nearest(vectors, depth)
    n_found = sum(
        _n_near(rows, vector, np.array(row_ids[:depth], np.int64), last)
        for vector, row_ids, last in zip(vectors, found, scores[:, -1], strict=True)
    )
    return n_found / (len(sample) * depth)


def _n_near(rows: ReleaseRows, vector: Float32, row_ids: Int64, least: float) -> int:
    """Return how many different ones of these rows of the release are as near to a vector as `least`."""
    known = np.unique(row_ids[positions_of(rows.row_ids, row_ids)[1]])
    return int((rows.index.vectors_of(known) @ vector >= least - TIE).sum())
