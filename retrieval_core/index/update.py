"""A shard from its predecessor: rows taken out, rows put in, everything else copied.

An updated shard is byte for byte the shard that `build_shard` makes of its rows with the same template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_core.arrays import Float32, Int64
from retrieval_core.errors import BadConfig, CatalogInvalid, DimensionMismatch, ShardCorrupt
from retrieval_core.index.build import (
    INDEX_FILE,
    VECTORS_FILE,
    MappedVectors,
    map_index,
    map_vectors,
    open_template,
    places_of,
    require_width,
    valid_ids,
    valid_rows,
    write_shard,
)
from retrieval_core.index.codes import add_rows, own_lists, stores_rows_alone


def can_update(template: bytes) -> bool:
    """Whether shards of this template can be made of earlier ones: flat or inverted lists, but no graph or fast-scan.

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

    `previous` was written by `build_shard` or by this, from the same template. `removed` (r,) and `added` (n,) are row
    ids in any order; an id in both is replaced. `candidates` (n, c) and `vectors` (n, d) are those of `added`.

    Raises `ShardCorrupt` where `previous` is damaged or of another template (build the shard instead) and for NaN or
    infinite values, `CatalogInvalid` for bad ids, for removed rows that are not there and added ones that are,
    `DimensionMismatch` where the shapes do not fit, `BadConfig` where `can_update` is False.
    """
    removed = valid_ids(removed)
    added, candidates, vectors = valid_rows(added, candidates, vectors)
    index = open_template(template)
    require_width(index, candidates)
    if not _can_update(index):
        raise BadConfig(f"{type(index).__name__} cannot be updated; build the shard from all its rows")
    before = map_vectors(previous / VECTORS_FILE)
    kept = _kept_places(before, removed, added, vectors.shape[1])
    _take_over(index, template, previous / INDEX_FILE, before)
    order = np.argsort(added)
    if _replace_rows(index, removed, added[order], candidates[order]) != len(removed):
        raise ShardCorrupt(f"{previous / INDEX_FILE} lacks rows that {VECTORS_FILE} beside it holds; build it again")
    row_ids = np.concatenate([before.row_ids[kept], added[order]])
    ascending = np.argsort(row_ids, kind="stable")
    write_shard(index, row_ids[ascending], _merged(before.vectors, kept, vectors[order], ascending), folder)


def template_of(folder: Path) -> bytes | None:
    """The template that the shard in `folder` was made from: the shard without its rows. None for kinds that cannot be
    updated, which keep more than rows. Raises `ShardCorrupt` for a damaged shard.
    """
    import faiss

    index = map_index(folder / INDEX_FILE, map_vectors(folder / VECTORS_FILE).n_index_bytes, copy=True)
    if not _can_update(index):
        return None
    index.reset()
    return bytes(faiss.serialize_index(index).tobytes())


def imbalance(folders: Sequence[Path]) -> float:
    """How uneven the inverted lists of all shards together are: nlist · Σ size² / (Σ size)².

    That is the work of a query over that with equal lists (the imbalance factor of Jégou et al., "Searching in one
    billion vectors", 2011): 1 when all are equal, for indexes without lists, and without rows; `nlist` when one list
    holds every row. Raises `ShardCorrupt` for a damaged shard and for shards of different numbers of lists.
    """
    sizes = [_list_sizes(map_index(f / INDEX_FILE, map_vectors(f / VECTORS_FILE).n_index_bytes)) for f in folders]
    if len({len(of_shard) for of_shard in sizes}) > 1:
        raise ShardCorrupt(f"shards have {sorted({len(s) for s in sizes})} inverted lists; build the index again")
    total = np.array(sizes, np.float64).sum(axis=0).reshape(-1)
    return float(total.size * (total**2).sum() / total.sum() ** 2) if total.sum() else 1.0


def _can_update(index: Any) -> bool:
    return stores_rows_alone(index) or _is_flat(index)


def _is_flat(index: Any) -> bool:
    import faiss

    flat = (faiss.IndexFlatIP, faiss.IndexScalarQuantizer)
    return isinstance(index, faiss.IndexIDMap2) and type(faiss.downcast_index(index.index)) in flat


def _kept_places(before: MappedVectors, removed: Int64, added: Int64, dim: int) -> Int64:
    """(m,) ascending: where in the predecessor the rows stand that stay."""
    if before.vectors.shape[1] != dim:
        raise DimensionMismatch(f"added vectors have {dim} dimensions, the shard has {before.vectors.shape[1]}")
    place, here = places_of(before.row_ids, removed)
    if not here.all():
        raise CatalogInvalid(f"{(~here).sum()} rows to remove are not in the shard, e.g. {removed[~here][0]}")
    stays = np.ones(len(before.row_ids), bool)
    stays[place] = False
    place, here = places_of(before.row_ids, added)
    twice = added[here & stays[place]] if len(stays) else added[:0]
    if len(twice):
        raise CatalogInvalid(f"{len(twice)} rows to add are in the shard, e.g. {twice[0]}; remove what they replace")
    return np.flatnonzero(stays)


def _take_over(index: Any, template: bytes, path: Path, before: MappedVectors) -> None:
    """Move all rows of the index in `path` into the empty `index`."""
    import faiss

    held = map_index(path, before.n_index_bytes, copy=True)
    try:
        index.merge_from(held, 0)
        held.reset()
        emptied = faiss.serialize_index(held).tobytes()
    except RuntimeError as error:
        raise ShardCorrupt(f"{path} was made from another template; build the shard again: {error}") from error
    if emptied != template:
        raise ShardCorrupt(f"{path} was made from another template or is damaged; build the shard again")
    if index.ntotal != len(before.row_ids):
        raise ShardCorrupt(
            f"{path} holds {index.ntotal} rows, {VECTORS_FILE} beside it {len(before.row_ids)}; build the shard again"
        )


def _replace_rows(index: Any, removed: Int64, added: Int64, candidates: Float32) -> int:
    """Take out and put in; returns how many rows were there to take out."""
    before = _list_sizes(index)
    n_removed = int(index.remove_ids(removed))
    between = _list_sizes(index)
    add_rows(index, added, candidates)
    if len(before) == 0:
        _sort_flat(index)
    else:
        _sort_lists(index, np.flatnonzero((before != between) | (between != _list_sizes(index))))
    return n_removed


def _sort_lists(index: Any, numbers: Int64) -> None:
    """Put the rows of these lists in ascending id: faiss fills a gap with the list's last row, and adds at the end."""
    import faiss

    lists = own_lists(index).invlists
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
    """(nlist,) rows in each inverted list; none for other kinds."""
    import faiss

    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return np.empty(0, np.int64)
    lists = ivf.invlists
    return np.fromiter(map(lists.list_size, range(ivf.nlist)), np.int64, ivf.nlist)


def _merged(held: Float32, kept: Int64, added: Float32, ascending: Int64) -> Float32:
    """held[kept] and `added` one after the other, in the order `ascending`."""
    merged = np.empty((len(ascending), added.shape[1]), np.float32)
    new = ascending >= len(kept)
    if len(kept):
        np.take(held, kept[np.where(new, 0, ascending)], axis=0, out=merged, mode="clip")
    merged[new] = added
    return merged
