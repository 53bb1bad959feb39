from pathlib import Path

import numpy as np

from retrieval_core.config.stages import IndexConfig
from retrieval_core.index.build import build_shard, train_template
from retrieval_core.index.lookup import ShardedIndex
from retrieval_core.index.recipes import choose_recipe, shard_of
from retrieval_core.index.shard_files import INDEX_FILE, VECTORS_FILE

LIST_KEYS = ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ16x4", "IVF16,PQ16x4fs", "PCA8,IVF16,SQ8"]
KEYS = ["Flat", "SQ8", "HNSW16", "IVF16,Flat,RFlat", *LIST_KEYS]


def unit(drawn: np.ndarray) -> np.ndarray:
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def noise(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))


def clusters(n: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(77).standard_normal((60, dim))
    return unit(centres[rng.integers(0, 60, n)] + 0.5 * rng.standard_normal((n, dim)))


def far_ids(n: int) -> np.ndarray:
    return np.sort(np.random.default_rng(9).permutation(10 * n)[:n].astype(np.int64))[::-1] + 2**61


def build(
    folder: Path, ids: np.ndarray, low: np.ndarray, full: np.ndarray, *, n_shards: int = 1, key: str = "Flat"
) -> list[Path]:
    template = train_template(
        low, choose_recipe(len(ids), low.shape[1], full.shape[1], IndexConfig(recipe=key)), seed=0
    )
    shard = shard_of(ids, n_shards)
    folders = [folder / str(n) for n in range(n_shards)]
    for number, path in enumerate(folders):
        rows = shard == number
        build_shard(template, ids[rows], low[rows], full[rows], path)
    return folders


def opened(folder: Path, ids: np.ndarray, full: np.ndarray, *, n_shards: int = 1, key: str = "Flat") -> ShardedIndex:
    folders = build(folder, ids, full, full, n_shards=n_shards, key=key)
    return ShardedIndex.open(folders, full.shape[1], full.shape[1], nprobe=0)


def oracle(queries: np.ndarray, full: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Row ids by exact float64 inner product, ties by the lower id, -1 padded."""
    scores = queries.astype(np.float64) @ full.astype(np.float64).T
    order = [np.lexsort((ids, -row))[:k] for row in scores]
    return np.array([np.pad(ids[o], (0, k - len(o)), constant_values=-1) for o in order]).reshape(len(queries), k)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth, strict=True)]))


def assert_same_bytes(first: Path, second: Path) -> None:
    for name in (INDEX_FILE, VECTORS_FILE):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
