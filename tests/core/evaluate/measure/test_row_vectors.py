"""Vectors of which only some rows are kept in memory."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval_core.evaluate.measure.row_vectors import StoredVectors


@given(st.sets(st.integers(0, 19)), st.lists(st.integers(0, 19), max_size=30))
def test_rows_are_those_of_the_whole_array_and_kept_ones_are_not_read_again(kept, rows):
    whole, reads = np.arange(60, dtype=np.float32).reshape(20, 3), []

    def read(some):
        reads.append(some.tolist())
        return whole[some]

    stored = StoredVectors(np.array(sorted(kept), np.int64), read)
    assert np.array_equal(stored[np.array(rows, np.int64)], whole[rows])
    assert len(reads) == 1 + (not set(rows) <= kept)
