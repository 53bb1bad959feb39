"""Make a shard from its predecessor: remove rows, add rows, and copy everything else.

An updated shard has the same bytes as the one that `build_shard` makes from its rows and the same template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.build import open_template, require_width, valid_ids, valid_rows
from retrieval_core.index.codes import add_rows, encodes_rows_alone, inverted_lists
from retrieval_core.index.shard_files import (
    INDEX_FILE,
    VECTORS_FILE,
    MappedVectors,
    map_index,
    map_vectors,
    positions_of,
    write_shard,
)


def can_update(template: bytes) -> bool:
    """Return whether shards of this template can be updated: flat indexes and inverted lists, not graphs or fast-scan.

    Raises `ShardCorrupt` for a template that cannot be read.
    """
    return _can_update(open_template(template))


def update_shard(
    template: bytes,
    previous: Path,
    removed: Int64,
    added: Int64,
    candidates: Float32,
    vectors: Float32,
    folder: Path,
) -> None:
    """Write into `folder` the shard in `previous` without the rows `removed` and with the rows `added`.

    `previous` was written by `build_shard` or `update_shard` from the same template. `removed` (r,) and `added` (n,)
    are int64 row ids in any order; an id in both is replaced. `candidates` (n, c) and `vectors` (n, d) are the float32
    vectors of `added`.

    Raises `ShardCorrupt` when `previous` is damaged or of another template (build the shard instead) and for NaN or
    infinite values; `CatalogInvalid` for bad ids, removed rows that the shard lacks, and added ones that it has;
    `DimensionMismatch` for shapes that do not fit; `BadConfig` when `can_update` is False.
    """
    removed = valid_ids(removed)
    added, candidates, vectors = valid_rows(added, candidates, vectors)
    index = open_template(template)
    require_width(index, candidates)
    if not _can_update(index):
        raise BadConfig(f"{type(index).__name__} cannot be updated; build the shard from all its rows")
    old = map_vectors(previous / VECTORS_FILE)
    kept = _kept_positions(old, removed, added, vectors.shape[1])
    _move_rows(index, template, previous / INDEX_FILE, old)
    order = np.argsort(added)
    if _replace_rows(index, removed, added[order], candidates[order]) != len(removed):
        raise ShardCorrupt(
            f"{previous / INDEX_FILE} lacks rows that {VECTORS_FILE} beside it has; build the shard again"
        )
    row_ids = np.concatenate([old.row_ids[kept], added[order]])
    ascending = np.argsort(row_ids, kind="stable")
    write_shard(index, row_ids[ascending], _merged(old.vectors, kept, vectors[order], ascending), folder)


def template_of(folder: Path) -> bytes | None:
    """Return the template of the shard in `folder`, which is its index without the rows.

    None for a kind that cannot be updated, whose index keeps more than rows. Raises `ShardCorrupt` for a damaged shard.
    """
    import faiss

    index = map_index(folder / INDEX_FILE, map_vectors(folder / VECTORS_FILE).n_index_bytes, copy=True)
    if not _can_update(index):
        return None
    index.reset()
    return bytes(faiss.serialize_index(index).tobytes())


def imbalance(folders: Sequence[Path]) -> float:
    """Return how uneven the inverted lists of all shards together are: nlist · Σ size² / (Σ size)².

    This is the expected work of a query relative to equal lists (the imbalance factor of Jégou et al., "Searching in
    one billion vectors: re-rank with source coding", ICASSP 2011): 1 when all lists are equal, and for an index without
    lists or rows; `nlist` when one list holds every row. Raises `ShardCorrupt` for a damaged shard, and for shards with
    different numbers of lists.
    """
    sizes = [_list_sizes(map_index(f / INDEX_FILE, map_vectors(f / VECTORS_FILE).n_index_bytes)) for f in folders]
    if len({len(of_shard) for of_shard in sizes}) > 1:
        raise ShardCorrupt(f"shards have {sorted({len(s) for s in sizes})} inverted lists; build the index again")
    total = np.array(sizes, np.float64).sum(axis=0).reshape(-1)
    return float(total.size * (total**2).sum() / total.sum() ** 2) if total.sum() else 1.0


def _can_update(index: Any) -> bool:
    return encodes_rows_alone(index) or _is_flat(index)


def _is_flat(index: Any) -> bool:
    import faiss

    flat = (faiss.IndexFlatIP, faiss.IndexScalarQuantizer)
    return isinstance(index, faiss.IndexIDMap2) and type(faiss.downcast_index(index.index)) in flat


def _kept_positions(old: MappedVectors, removed: Int64, added: Int64, dim: int) -> Int64:
    """Return (m,) ascending positions, in the predecessor, of the rows that are kept."""
    if old.vectors.shape[1] != dim:
        raise DimensionMismatch(f"added vectors have {dim} dimensions, the shard has {old.vectors.shape[1]}")
    position, is_present = positions_of(old.row_ids, removed)
    if not is_present.all():
        raise CatalogInvalid(
            f"{(~is_present).sum()} rows to remove are not in the shard, e.g. {removed[~is_present][0]}"
        )
    is_kept = np.ones(len(old.row_ids), bool)
    is_kept[position] = False
    position, is_present = positions_of(old.row_ids, added)
    repeated = added[is_present & is_kept[position]] if len(is_kept) else added[:0]
    if len(repeated):
        raise CatalogInvalid(
            f"{len(repeated)} rows to add are in the shard, e.g. {repeated[0]}; remove the rows that they replace"
        )
    return np.flatnonzero(is_kept)


def _move_rows(index: Any, template: bytes, path: Path, old: MappedVectors) -> None:
    """Move all rows of the index in `path` into the empty `index`."""
    import faiss

    source = map_index(path, old.n_index_bytes, copy=True)
    try:
        index.merge_from(source, 0)
        source.reset()
        emptied = faiss.serialize_index(source).tobytes()
    except RuntimeError as error:
        raise ShardCorrupt(f"{path} was made from another template; build the shard again: {error}") from error
    if emptied != template:
        raise ShardCorrupt(f"{path} was made from another template or is damaged; build the shard again")
    if index.ntotal != len(old.row_ids):
        raise ShardCorrupt(
            f"{path} holds {index.ntotal} rows, {VECTORS_FILE} beside it {len(old.row_ids)}; build the shard again"
        )


def _replace_rows(index: Any, removed: Int64, added: Int64, candidates: Float32) -> int:
    """Remove and add rows; return how many of the rows to remove existed."""
    sizes_before = _list_sizes(index)
    n_removed = int(index.remove_ids(removed))
    sizes_between = _list_sizes(index)
    add_rows(index, added, candidates)
    if len(sizes_before) == 0:
        _sort_flat(index)
    else:
        is_changed = (sizes_before != sizes_between) | (sizes_between != _list_sizes(index))
        _sort_lists(index, np.flatnonzero(is_changed))
    return n_removed


def _sort_lists(index: Any, numbers: Int64) -> None:
    """Sort the rows of these lists by id: faiss fills a gap with the last row of the list, and adds rows at the end."""
    import faiss

    lists = inverted_lists(index).invlists
    width = lists.code_size
    for number in numbers.tolist():
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            codes = faiss.rev_swig_ptr(lists.get_codes(number), size * width).reshape(size, width)
            order = ids.argsort()
            ids[:], codes[:] = ids[order], codes[order]


def _sort_flat(index: Any) -> None:
    import faiss

    inner: Any = faiss.downcast_index(index.index)
    ids = faiss.vector_to_array(index.id_map)
    order = np.argsort(ids)
    codes = faiss.vector_to_array(inner.codes).reshape(len(ids), inner.code_size)
    faiss.copy_array_to_vector(codes[order].reshape(-1), inner.codes)
    faiss.copy_array_to_vector(ids[order], index.id_map)


def _list_sizes(index: Any) -> Int64:
    """Return the (nlist,) number of rows in each inverted list; (0,) for an index without lists."""
    import faiss

    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return np.empty(0, np.int64)
    lists = ivf.invlists
    return np.fromiter(map(lists.list_size, range(ivf.nlist)), np.int64, ivf.nlist)


def _merged(old: Float32, kept: Int64, added: Float32, order: Int64) -> Float32:
    """Return the concatenation of old[kept] and `added`, in this `order`, without a copy of old[kept]."""
    merged = np.empty((len(order), added.shape[1]), np.float32)
    is_new = order >= len(kept)
    if len(kept):
        np.take(old, kept[np.where(is_new, 0, order)], axis=0, out=merged, mode="clip")
    merged[is_new] = added
    return merged
