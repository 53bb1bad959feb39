"""Which of many content ids have not been found yet, without a Python object for each."""

from __future__ import annotations

import numpy as np
import polars as pl

from retrieval_core.arrays import Int64


class MissingIds:
    """The positions of content ids that are still missing, found by their hashes; 25 bytes an id."""

    def __init__(self, content_ids: pl.Series) -> None:
        hashes = content_ids.hash().to_numpy()
        self.content_ids = content_ids
        self.is_missing = np.ones(len(content_ids), np.bool_)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def take(self, stored: pl.Series) -> tuple[Int64, Int64]:
        """Return the missing positions whose ids are in `stored`, ascending, and where; they no longer are missing."""
        hashes = stored.hash().to_numpy()
        first = np.searchsorted(self._hashes, hashes, side="left")
        counts = np.searchsorted(self._hashes, hashes, side="right") - first
        rows = np.repeat(np.arange(len(stored)), counts)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = self._order[np.repeat(first, counts) + nth]
        is_same = self.content_ids.gather(positions).eq_missing(stored.gather(rows)).to_numpy()
        is_same = is_same & self.is_missing[positions]
        positions, at = np.unique(positions[is_same], return_index=True)
        self.is_missing[positions] = False
        return positions, rows[is_same][at]
