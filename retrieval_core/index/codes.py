"""Add rows to an index so that the code of a row depends on that row alone, not on the rows added with it.

faiss assigns rows to inverted lists by matrix products, whose rounding depends on the position of a row in its block.
A row near the border of two lists may fall into either, and a rotated row differs in its last bits. Here such rows are
computed one at a time, so that a row added alone gets the same code as one added with a million others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.index.topk import TIE, best_of, kept_candidates, pair_scores, search_past_ties

BLOCK_ROWS = 65_536  # added at a time
MAX_PLAIN_DIM = 16  # faiss encodes shorter subvectors row by row, and longer ones by matrix products


def add_rows(index: Any, row_ids: Int64, candidates: Float32) -> None:
    """Add (n, c) float32 `candidates`, of length 1 or less, under their (n,) int64 ids, in the order given."""
    if not encodes_rows_alone(index):
        index.add_with_ids(candidates, row_ids)
        return
    for start in range(0, len(row_ids), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        _add_to_lists(index, row_ids[block], candidates[block])


def encodes_rows_alone(index: Any) -> bool:
    """Return whether `index` has inverted lists of codes that each depend on their row alone, stored row after row."""
    import faiss

    ivf = inverted_lists(index)
    if type(ivf) not in (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ):
        return False
    if isinstance(ivf, faiss.IndexIVFPQ) and ivf.pq.dsub >= MAX_PLAIN_DIM:
        return False
    quantizer = faiss.downcast_index(ivf.quantizer)
    row_by_row = (faiss.LinearTransform, faiss.NormalizationTransform)
    return type(quantizer) in (faiss.IndexFlatIP, faiss.IndexHNSWFlat) and all(
        isinstance(transform, row_by_row) for transform in _transforms(index)
    )


def inverted_lists(index: Any) -> Any:
    """Return the inverted-file index that `index` is, or passes transformed vectors to; None for other kinds.

    Such an index holds the row ids itself.
    """
    import faiss

    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    return inner if isinstance(inner, faiss.IndexIVF) else None


def apply_transforms(index: Any, vectors: Float32) -> Float32:
    """Return (n, c) float32 vectors as `index` passes them to its inverted lists.

    Equal rows give equal results, whatever their position.
    """
    import faiss

    for transform in _transforms(index):
        if isinstance(transform, faiss.LinearTransform):
            matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
            vectors = np.matmul(vectors[:, None, :], matrix.T)[:, 0]
            if transform.have_bias:
                vectors = vectors + faiss.vector_to_array(transform.b)
        else:
            vectors = transform.apply(vectors)
    return np.ascontiguousarray(vectors)


def _add_to_lists(index: Any, row_ids: Int64, candidates: Float32) -> None:
    import faiss

    ivf = inverted_lists(index)
    vectors = apply_transforms(index, candidates)
    lists = _nearest_lists(faiss.downcast_index(ivf.quantizer), vectors)
    ivf.add_core(len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(row_ids), faiss.swig_ptr(lists))
    index.ntotal = ivf.ntotal


def _nearest_lists(quantizer: Any, vectors: Float32) -> Int64:
    """Return the (n,) list of each row; of equally near centroids, the one of the lower number."""
    import faiss

    if not isinstance(quantizer, faiss.IndexFlatIP):
        return np.ascontiguousarray(quantizer.search(vectors, 1)[1][:, 0])
    scores, lists = quantizer.search(vectors, 2)
    nearest = lists[:, 0].copy()
    ties = np.flatnonzero(scores[:, 1] >= scores[:, 0] - TIE)
    if len(ties):
        centroids = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d).reshape(-1, quantizer.d)
        nearest[ties] = _nearest_of_ties(quantizer, vectors[ties], centroids)
    return nearest


def _nearest_of_ties(quantizer: Any, vectors: Float32, centroids: Float32) -> Int64:
    scores, lists = search_past_ties(quantizer.search, vectors, 1, len(centroids))
    row, column = kept_candidates(scores, lists, 1)
    number = lists[row, column]
    _, best = best_of(row, number, pair_scores(vectors, row, centroids, number), len(vectors), 1)
    return best[:, 0]


def _transforms(index: Any) -> list[Any]:
    import faiss

    if not isinstance(index, faiss.IndexPreTransform):
        return []
    chain: Any = index.chain
    return [faiss.downcast_VectorTransform(chain.at(n)) for n in range(chain.size())]
