"""Choose the kind of index for a catalogue, its number of shards, and predict its size in bytes.

All shards of an index share one trained template and so its coarse centroids. Visiting `nprobe` lists in every shard
therefore scans the same rows that one undivided index would scan, and `nlist` depends on the size of the catalogue, not
of a shard.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import BadConfig
from retrieval_core.index.codes import inverted_lists

ROWS_PER_SHARD = 100_000
MIN_POINTS_PER_LIST = 39  # training points for each centroid; faiss warns below this number
TRAIN_POINTS_PER_LIST = 64  # a quarter of faiss's own limit, to keep training short
# Of k-means. With the default of 10, searches at a recall of 0.99 read as many bytes (within 7%), but training takes
# twice as long.
TRAIN_ITERATIONS = 5
MIN_LISTS = 16
ID_BYTES = 8
ID_TABLE_BYTES = 46  # memory a row of the table from ids to rows in an IDMap2, measured
ARROW_BYTES = 890  # schema, metadata and padding of one vectors.arrow
FAST_SCAN_ROWS = 32  # rows in each block that a list of fast-scan codes is stored in


class Recipe(Value):
    """How every shard is built, and the bytes that the index is predicted to take.

    `key` is a faiss factory key, `nprobe` a first guess of the inverted lists to visit per query (0 for a key without
    lists), `train_rows` the number of random rows that the template is trained on (0 without training), and `why`
    explains the choice in numbers. `index_bytes` is the size of all `index.faiss` files, `vector_bytes` that of all
    `vectors.arrow` files, and `memory_bytes` what a search may keep in memory: the full vectors stay on disk, mapped.
    """

    key: str
    nprobe: int = Field(ge=0)
    train_rows: int = Field(ge=0)
    why: str
    index_bytes: int = Field(ge=0)
    vector_bytes: int = Field(ge=0)
    memory_bytes: int = Field(ge=0)


class _Size(NamedTuple):
    n_rows: int
    dim: int  # of the candidates
    full_dim: int


class _Kind(NamedTuple):
    max_rows: float  # of the catalogues for which this kind is tried first
    key: str
    reason: str


# From the most accurate to the smallest. Measured on 200,000 product-like rows of 128 dimensions, with one thread and a
# recall@10 of 0.99 after the rerank: SQ8 takes half the time of whole floats, at rerank depth 2; fast-scan PQ with half
# a byte for two components takes a quarter of SQ8's time, at depth 12 to 20, but its shards cannot be updated.
_KINDS = (
    _Kind(20_000, "Flat", "comparing every row is exact, and quick enough to need no training"),
    _Kind(200_000, "IVF{nlist},Flat", "inverted lists skip most rows, and whole floats still fit in memory"),
    _Kind(math.inf, "IVF{nlist},SQ8", "one byte a component quarters the memory; the rerank repairs the rounding"),
    _Kind(math.inf, "IVF{nlist},PQ{m}x4fs", "half a byte for {components} saves memory; the rerank repairs the error"),
)


def choose_recipe(n_rows: int, dim: int, full_dim: int, config: IndexConfig) -> Recipe:
    """Return the recipe for `n_rows` rows of `full_dim` dimensions whose candidates have `dim`.

    With `config.recipe` "auto" the kind follows from the number of rows: the most accurate kind for that size, or the
    next one that fits into `config.memory_gb`. Raises `BadConfig` when faiss refuses the named key, there are too few
    rows to train its lists, or nothing fits.
    """
    if n_rows < 0 or dim < 1 or full_dim < 1:
        raise BadConfig(
            f"an index has 0 or more rows of 1 or more dimensions, got {n_rows} rows of {full_dim} found in {dim}"
        )
    size = _Size(n_rows, dim, full_dim)
    if config.recipe == "auto":
        return _recipe_by_size(size, config)
    return _recipe_by_name(size, config)


def scan_bytes(recipe: Recipe, n_rows: int, dim: int) -> int:
    """Return the bytes that finding a query's candidates is expected to read: centroids, and codes and ids of lists."""
    index = new_index(recipe.key, dim)
    nlist = n_lists(index)
    row_bytes = n_rows * _row_bytes(index)
    return round(_centroid_bytes(index) + row_bytes * recipe.nprobe / nlist if nlist else row_bytes)


def choose_shards(n_rows: int, config: IndexConfig) -> int:
    """Return the number of shards: `config.shards`, or the power of two that leaves at most 100,000 rows in a shard.

    It is a power of two because every change of the number rebuilds every shard, and so a growing catalogue seldom
    changes it.
    """
    if config.shards:
        return config.shards
    return 1 << max(0, math.ceil(math.log2(max(1, n_rows) / ROWS_PER_SHARD)))


def shard_of(row_ids: Int64, n_shards: int) -> Int64:
    """Return the (n,) shard number of each row, 0 to `n_shards` - 1: SplitMix64's finaliser of the id, modulo n_shards.

    It depends on nothing but the id, so a row stays in its shard while the number of shards stays. Raises `BadConfig`
    for a number below 1. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    if n_shards < 1:
        raise BadConfig(f"an index has at least 1 shard, got {n_shards}")
    bits = np.asarray(row_ids, np.int64).view(np.uint64).copy()
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return (bits % np.uint64(n_shards)).astype(np.int64)


def new_index(key: str, dim: int) -> Any:
    """Return an empty, untrained faiss index of inner products that stores explicit int64 ids.

    Inverted lists store ids themselves; other kinds are wrapped in an IDMap2. Raises `BadConfig` for a key that faiss
    refuses.
    """
    import faiss

    if key.startswith("IDMap"):
        raise BadConfig(f"index.recipe {key!r}: leave IDMap out, shards keep their ids without it")
    try:
        index = faiss.index_factory(dim, key, faiss.METRIC_INNER_PRODUCT)
        if inverted_lists(index) is None:
            index = faiss.index_factory(dim, f"IDMap2,{key}", faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise BadConfig(
            f"index.recipe {key!r} is no faiss key for {dim} dimensions and inner products "
            f"({_reason(error)}); write auto, or a key such as Flat, IVF256,Flat or IVF1024,SQ8"
        ) from error
    if n_lists(index) == 0 and key.startswith("IVF"):
        raise BadConfig(f"index.recipe {key!r} has no inverted lists; write their number after IVF, as in IVF256,Flat")
    return index


def n_lists(index: Any) -> int:
    """Return the number of inverted lists of a faiss index; 0 for a kind without them."""
    import faiss

    ivf = faiss.try_extract_index_ivf(index)
    return int(ivf.nlist) if ivf is not None else 0


def require_training_rows(key: str, nlist: int, n_rows: int) -> None:
    """Raise `BadConfig` when `n_rows` are too few to train the `nlist` centroids of `key`."""
    if n_rows < nlist * MIN_POINTS_PER_LIST:
        raise BadConfig(
            f"index.recipe {key!r} needs {nlist * MIN_POINTS_PER_LIST:,} training rows ({MIN_POINTS_PER_LIST} for each "
            f"of {nlist:,} lists), got {n_rows:,}; take at most {n_rows // MIN_POINTS_PER_LIST:,} lists, raise "
            "index.sample_rows if that is what limits them, or write auto"
        )


def _recipe_by_size(size: _Size, config: IndexConfig) -> Recipe:
    kinds = [kind for kind in _KINDS if size.n_rows <= kind.max_rows]
    if min(size.n_rows, config.sample_rows) < MIN_LISTS * MIN_POINTS_PER_LIST:
        kinds = kinds[:1]
    recipe, instead = _recipe_of_kind(kinds[0], size, config), ""
    for kind in kinds[1:]:
        if _fits(recipe, config):
            break
        instead = f" {recipe.key} would need {_gb(recipe.memory_bytes)} of the {config.memory_gb:g} GB allowed."
        recipe = _recipe_of_kind(kind, size, config)
    if not _fits(recipe, config):
        raise _too_large(recipe, size, config)
    return recipe.model_copy(update={"why": recipe.why + instead})


def _recipe_of_kind(kind: _Kind, size: _Size, config: IndexConfig) -> Recipe:
    nlist = 0 if kind.key == "Flat" else _choose_nlist(size.n_rows, config)
    m, components = (size.dim // 2, "two components") if size.dim % 2 == 0 else (size.dim, "a component")
    key = kind.key.format(nlist=nlist, m=m)
    row_bytes = round(_row_bytes(new_index(key, size.dim))) - ID_BYTES
    total = f"{size.n_rows:,} rows of {row_bytes:,} bytes ({size.n_rows * row_bytes / 1e6:,.1f} MB)"
    why = f"{total}: {kind.reason.format(components=components)}"
    if nlist == 0:
        return _sized(key, 0, why, size, config)
    train_rows = min(size.n_rows, config.sample_rows, nlist * TRAIN_POINTS_PER_LIST)
    why = f"{why}; {nlist:,} lists of about {size.n_rows // nlist:,} rows train on {train_rows:,}"
    return _sized(key, train_rows, why, size, config)


def _recipe_by_name(size: _Size, config: IndexConfig) -> Recipe:
    index = new_index(config.recipe, size.dim)
    train_rows = 0 if index.is_trained else min(size.n_rows, config.sample_rows)
    require_training_rows(config.recipe, n_lists(index), train_rows)
    why = f"index.recipe asks for it, for {size.n_rows:,} rows"
    if _is_graph(index):
        why += "; a graph cannot give up rows, so every shard that changes is rebuilt"
    recipe = _sized(config.recipe, train_rows, why, size, config)
    if not _fits(recipe, config):
        raise _too_large(recipe, size, config)
    return recipe


def _sized(key: str, train_rows: int, why: str, size: _Size, config: IndexConfig) -> Recipe:
    index = new_index(key, size.dim)
    nlist, n_shards = n_lists(index), choose_shards(size.n_rows, config)
    nprobe, why_nprobe = _choose_nprobe(nlist, config)
    shard_bytes = _template_bytes(index) + _padding_bytes(index)
    index_bytes = round(n_shards * shard_bytes + size.n_rows * _row_bytes(index))
    id_bytes = ID_BYTES + (0 if nlist else ID_TABLE_BYTES)  # the ids of vectors.arrow are read at opening
    return Recipe(
        key=key,
        nprobe=nprobe,
        train_rows=train_rows,
        why=f"{why}{why_nprobe}.",
        index_bytes=index_bytes,
        vector_bytes=n_shards * ARROW_BYTES + size.n_rows * (ID_BYTES + 4 * size.full_dim),
        memory_bytes=index_bytes + size.n_rows * id_bytes,
    )


def _choose_nlist(n_rows: int, config: IndexConfig) -> int:
    """Return the power of two nearest to 2·√n_rows for which the sample is large enough to train.

    Measured on product-like vectors of 128 dimensions with SQ8 and a recall@10 of 0.99: twice as many lists read about
    as many bytes (100,000 rows: 2.04 and 2.06 MB a query; 200,000 rows: 3.6 and 3.4; 1,000,000 rows: 12.5 with 2,048
    lists and 12.8 with 1,024) and take two to four times as long to train.
    """
    trainable = min(n_rows, config.sample_rows) // MIN_POINTS_PER_LIST
    if trainable < MIN_LISTS:
        raise BadConfig(
            f"index.sample_rows {config.sample_rows:,} trains {trainable} inverted lists, fewer than the {MIN_LISTS} "
            f"worth having for {n_rows:,} rows; raise it to {MIN_LISTS * MIN_POINTS_PER_LIST} or more"
        )
    nearest = 1 << round(math.log2(2 * math.sqrt(n_rows)))
    return max(MIN_LISTS, min(nearest, 1 << int(math.log2(trainable))))


def _choose_nprobe(nlist: int, config: IndexConfig) -> tuple[int, str]:
    """Return a first guess of nprobe, 4·√nlist, and the sentence that explains it.

    Measured: product-like vectors in 512 to 2,048 lists needed 3·√nlist to 4·√nlist for a recall of 0.99. Tight
    clusters need less; vectors without structure need far more.
    """
    if nlist == 0:
        return 0, ""
    if config.nprobe:
        nprobe = min(config.nprobe, nlist)
        return nprobe, f"; index.nprobe visits {nprobe:,} lists, {nprobe / nlist:.1%} of them"
    nprobe = min(nlist, math.ceil(4 * math.sqrt(nlist)))
    return nprobe, f"; about {nprobe:,} of them ({nprobe / nlist:.1%}) will be visited, which tuning settles"


def _fits(recipe: Recipe, config: IndexConfig) -> bool:
    return not config.memory_gb or recipe.memory_bytes <= config.memory_gb * 1e9


def _too_large(smallest: Recipe, size: _Size, config: IndexConfig) -> BadConfig:
    return BadConfig(
        f"index.memory_gb allows {config.memory_gb:g} GB, and {size.n_rows:,} rows of {size.dim} dimensions need "
        f"{_gb(smallest.memory_bytes)} as {smallest.key}; find candidates in fewer dimensions (reduce.dims, "
        f"index.candidate_dim){'' if config.recipe == 'auto' else ', write index.recipe auto'} or allow more memory"
    )


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.3g} GB"


def _row_bytes(index: Any) -> float:
    """Return the bytes that one more row takes in the file of a faiss index: its code, its id and its links."""
    import faiss

    kind: Any = faiss.downcast_index(index)  # a view, valid while `index` lives
    if isinstance(kind, faiss.IndexIDMap):
        return ID_BYTES + _row_bytes(kind.index)
    if isinstance(kind, faiss.IndexPreTransform):
        return _row_bytes(kind.index)
    if isinstance(kind, faiss.IndexIVF):
        return ID_BYTES + float(kind.code_size)
    if isinstance(kind, faiss.IndexRefine):
        return _row_bytes(kind.base_index) + _row_bytes(kind.refine_index)
    if _is_graph(kind):
        return _row_bytes(kind.storage) + _link_bytes(kind)
    return float(kind.sa_code_size())


def _link_bytes(graph: Any) -> float:
    import faiss

    if isinstance(graph, faiss.IndexNSG):
        return 4.0 * (graph.nsg.R + 1)
    m = graph.hnsw.nb_neighbors(1)
    # 2·m links on the lowest level, m on each higher level, which one row in m reaches; then its level and its offset.
    return 4 * (2 * m + m / (m - 1)) + 4 + 8


def _template_bytes(index: Any) -> float:
    """Return the bytes that an untrained index will have once it is trained, with the lengths of its lists."""
    import faiss

    chain: Any = index.chain if isinstance(index, faiss.IndexPreTransform) else None
    transforms = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())] if chain else []
    learned = sum(4 * t.d_in * (t.d_out + t.d_in * isinstance(t, faiss.PCAMatrix)) for t in transforms)
    return len(faiss.serialize_index(index)) + learned + _centroid_bytes(index) + 8 * n_lists(index)


def _centroid_bytes(index: Any) -> float:
    import faiss

    nlist = n_lists(index)
    return nlist * _row_bytes(faiss.extract_index_ivf(index).quantizer) if nlist else 0.0


def _padding_bytes(index: Any) -> float:
    """Return the bytes that pad the last block of each fast-scan list: half a block on average."""
    import faiss

    ivf: Any = faiss.downcast_index(faiss.extract_index_ivf(index)) if n_lists(index) else None
    if not isinstance(ivf, faiss.IndexIVFFastScan):
        return 0.0
    return float(ivf.nlist * ivf.code_size * (FAST_SCAN_ROWS - 1) / 2)


def _is_graph(index: Any) -> bool:
    import faiss

    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    return isinstance(inner, (faiss.IndexHNSW, faiss.IndexNSG))


def _reason(error: RuntimeError) -> str:
    """Return the message of a faiss error without its C++ signature."""
    return str(error).strip().splitlines()[-1].rsplit("Error: ", 1)[-1].rsplit(".cpp:", 1)[-1]
