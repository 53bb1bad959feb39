"""Foresee what memory each stage of a run takes."""

from __future__ import annotations

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.index.recipes import choose_shards

# Of memory that no file backs, measured with `python -m benchmarks.memory`; docs/scaling.md explains the terms.
# What a process takes over a handful of items: libraries, the networks that it runs, the weights that it trains.
PROCESS_BYTES = {"ingest": 150e6, "mask": 700e6, "head": 600e6, "reduce": 200e6, "index": 200e6, "evaluate": 700e6}
PREFECT_BYTES = 200e6
ACTIVATION_BYTES = 1_000  # of the U-Net, per pixel of a training batch
MASK_BYTES = 3_000  # a compressed mask and its facts
HEAD_COPIES = 3  # of the head's vectors: as loaded, standardised, and one of either for the training rows
LABEL_COPIES = 2  # of the matrix of labels: of all rows, and of those of the gallery or of the training
SHARD_COPIES = 2  # of the vectors of an index shard: as loaded, and in the order of the shard
TABLE_COPIES = 3  # of the catalogue's rows while they are read, sorted and filtered; of ingest, files hold them
BATCH_BYTES, IN_BATCHES = 2_000, 100_000  # of a row in a batch, and how many rows batches and their copies have
INGEST_ROW_BYTES = 100  # hashes and positions, by which rows are found (`python -m benchmarks.memory.catalogue`)
TYPICAL_ROW_BYTES = 130  # of a row of a source in memory
ROW_BYTES = 150  # columns that ingest adds to a row, and the hash that finds its vector
DIM_ROWS = 200_000  # that decide in how many dimensions candidates are searched
BLOCK_BYTES = 4 * 32_768 * 3  # per dimension: blocks of vectors that are compared, joined and checked


class CatalogueSize(Value):
    """What the memory of a run depends on; `table_bytes` are those of the source's rows in memory."""

    n_rows: int
    n_masked: int
    n_labels: int
    table_bytes: int
    dim: int

    @classmethod
    def of(cls, rows: pl.DataFrame, dim: int) -> CatalogueSize:
        """Return the size of a source's rows with vectors of `dim` dimensions."""
        return cls(
            n_rows=len(rows),
            n_masked=rows["mask_uri"].count(),
            n_labels=rows["labels"].explode().drop_nulls().n_unique(),
            table_bytes=int(rows.estimated_size()),
            dim=dim,
        )


def stage_bytes(size: CatalogueSize, config: NightlyConfig, n_shards: int) -> dict[str, int]:
    """Return the most bytes that each stage takes in a process of its own, without the pages of mapped files."""
    n_headed, n_pictures = min(size.n_rows, config.head.max_rows), min(size.n_masked, config.mask.max_pictures)
    table = size.table_bytes + ROW_BYTES * size.n_rows
    n_learned = min(size.n_labels, config.head.max_labels or size.n_labels)
    boosted_dim = size.dim + (n_learned if config.head.boosting == "classes" else 0)
    reduced = sum(dim for dim in config.reduce.dims if dim < boosted_dim)
    compared = 4 * min(size.n_rows, DIM_ROWS) * (boosted_dim + reduced)
    of_shard = SHARD_COPIES * 4 * size.n_rows // n_shards * (boosted_dim + max(config.reduce.dims))
    grows = {
        "mask": ACTIVATION_BYTES * config.mask.batch_size * config.mask.size_px**2 + MASK_BYTES * n_pictures,
        "head": 4 * n_headed * (HEAD_COPIES * size.dim + LABEL_COPIES * size.n_labels),
        "reduce": BLOCK_BYTES * boosted_dim,
        "index": max(compared, of_shard),
        "evaluate": BLOCK_BYTES * boosted_dim + LABEL_COPIES * size.n_rows * size.n_labels,
    }
    over_rows = {stage: TABLE_COPIES * table + n_bytes for stage, n_bytes in grows.items()}
    of_batches = BATCH_BYTES * min(size.n_rows, IN_BATCHES)
    over_rows = {"ingest": of_batches + INGEST_ROW_BYTES * size.n_rows, **over_rows}
    return {stage: round(PROCESS_BYTES[stage] + n_bytes) for stage, n_bytes in over_rows.items()}


def run_bytes(n_pictures: int) -> int:
    """Return what the largest stage of a run with the default config takes, with 512 dimensions and 300 labels."""
    config = NightlyConfig()
    size = CatalogueSize(
        n_rows=n_pictures, n_masked=0, n_labels=300, table_bytes=TYPICAL_ROW_BYTES * n_pictures, dim=512
    )
    return round(PREFECT_BYTES + max(stage_bytes(size, config, choose_shards(n_pictures, config.index)).values()))
