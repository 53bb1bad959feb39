"""Put rows into an index so that what is stored for a row depends on that row alone, not on the rows beside it.

faiss assigns rows to inverted lists by matrix products, which round differently with a row's place in its block: near
the border of two lists a row may fall into either, and a rotated row differs in its last bits. Here such rows are
settled one at a time, so that a row added alone is stored as it is when a million others come with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.index.topk import TIE, best_of, kept_candidates, pair_scores, search_past_ties

BLOCK_ROWS = 65_536  # added at a time
MAX_PLAIN_DIM = 16  # faiss encodes subvectors shorter than this row by row, longer ones by matrix products


def add_rows(index: Any, row_ids: Int64, candidates: Float32) -> None:
    """Append (n, c) float32 `candidates`, unit length or shorter, under their (n,) int64 ids, in the order given."""
    if not stores_rows_alone(index):
        index.add_with_ids(candidates, row_ids)
        return
    for start in range(0, len(row_ids), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        _add_to_lists(index, row_ids[block], candidates[block])


def stores_rows_alone(index: Any) -> bool:
    """Whether `index` holds inverted lists of codes, one after the other, that each depend on their row alone."""
    import faiss

    ivf = own_lists(index)
    if type(ivf) not in (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ):
        return False
    if isinstance(ivf, faiss.IndexIVFPQ) and ivf.pq.dsub >= MAX_PLAIN_DIM:
        return False
    quantizer = faiss.downcast_index(ivf.quantizer)
    row_by_row = (faiss.LinearTransform, faiss.NormalizationTransform)
    return type(quantizer) in (faiss.IndexFlatIP, faiss.IndexHNSWFlat) and all(
        isinstance(transform, row_by_row) for transform in _transforms(index)
    )


def own_lists(index: Any) -> Any:
    """The inverted-file index that `index` is or transforms vectors for, which holds row ids; None for other kinds."""
    import faiss

    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    return inner if isinstance(inner, faiss.IndexIVF) else None


def transformed(index: Any, vectors: Float32) -> Float32:
    """(n, c) float32 as `index` hands them to its inverted lists; equal rows come out equal wherever they stand."""
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

    ivf = own_lists(index)
    vectors = transformed(index, candidates)
    lists = _nearest_lists(faiss.downcast_index(ivf.quantizer), vectors)
    ivf.add_core(len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(row_ids), faiss.swig_ptr(lists))
    index.ntotal = ivf.ntotal


def _nearest_lists(quantizer: Any, vectors: Float32) -> Int64:
    """(n,) the list of each row; of centroids equally near the lower number."""
    import faiss

    if not isinstance(quantizer, faiss.IndexFlatIP):
        return np.ascontiguousarray(quantizer.search(vectors, 1)[1][:, 0])
    scores, lists = quantizer.search(vectors, 2)
    nearest = lists[:, 0].copy()
    border = np.flatnonzero(scores[:, 1] >= scores[:, 0] - TIE)
    if len(border):
        centroids = faiss.rev_swig_ptr(quantizer.get_xb(), quantizer.ntotal * quantizer.d).reshape(-1, quantizer.d)
        nearest[border] = _settled(quantizer, vectors[border], centroids)
    return nearest


def _settled(quantizer: Any, vectors: Float32, centroids: Float32) -> Int64:
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
