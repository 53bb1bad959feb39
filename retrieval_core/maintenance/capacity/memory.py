"""Foresee what memory each stage of a run takes."""

from __future__ import annotations

import polars as pl

from retrieval_core.artifacts.manifests import Value
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.index.recipes import choose_shards

# Of memory that no file backs, measured with `python -m benchmarks.memory`; docs/scaling.md explains the terms.
# What a process takes over a handful of items: libraries, the networks that it runs, the weights that it trains.
PROCESS_BYTES = {"ingest": 200e6, "mask": 700e6, "head": 600e6, "reduce": 200e6, "index": 200e6, "evaluate": 700e6}
PREFECT_BYTES = 200e6
ACTIVATION_BYTES = 1_000  # of the U-Net, per pixel of a training batch
MASK_BYTES = 3_000  # a compressed mask and its facts
HEAD_COPIES = 3.5  # of the head's vectors: as loaded, standardised, one of either for the training rows, and batches
LABEL_COPIES = 2  # of the matrix of labels: of all rows that the head learns from, and of those of the training
LABEL_BYTES = 20  # of a label of a row in an evaluation: sparse, of all rows and of the gallery
SHARD_COPIES = 2  # of the vectors of an index shard: as loaded, and in the order of the shard
TABLE_COPIES = 3  # of the rows with masks while the U-Net's pictures are chosen; other rows are in mapped files
BATCH_BYTES, IN_BATCHES = 2_000, 100_000  # of a row in a batch, and how many rows batches and their copies have
# Of each row: hashes, positions and codes; the most that `python -m benchmarks.memory.catalogue` shows.
STAGE_ROW_BYTES = {"ingest": 100, "mask": 0, "head": 150, "reduce": 50, "index": 300, "evaluate": 640}
TYPICAL_ROW_BYTES = 130  # of a row of a source in memory
ROW_BYTES = 150  # columns that ingest adds to a row
DIM_ROWS = 200_000  # that decide in how many dimensions candidates are searched
BLOCK_BYTES = 4 * 32_768 * 3  # per dimension: blocks of vectors that are compared, joined and checked


class CatalogueSize(Value):
    """What the memory of a run depends on; `table_bytes` are those of the source's rows in memory.

    The rows have `n_given` labels together, of a vocabulary of `n_labels`.
    """

    n_rows: int
    n_masked: int
    n_labels: int
    n_given: int
    table_bytes: int
    dim: int

    @classmethod
    def of(cls, rows: pl.DataFrame, dim: int) -> CatalogueSize:
        """Return the size of a source's rows with vectors of `dim` dimensions."""
        labels = rows["labels"].explode().drop_nulls()
        return cls(
            n_rows=len(rows),
            n_masked=rows["mask_uri"].count(),
            n_labels=labels.n_unique(),
            n_given=len(labels),
            table_bytes=int(rows.estimated_size()),
            dim=dim,
        )


def stage_bytes(size: CatalogueSize, config: NightlyConfig, n_shards: int) -> dict[str, int]:
    """Return the most bytes that each stage takes in a process of its own, without the pages of mapped files."""
    n_headed, n_pictures = min(size.n_rows, config.head.max_rows), min(size.n_masked, config.mask.max_pictures)
    masked = TABLE_COPIES * (size.table_bytes // max(size.n_rows, 1) + ROW_BYTES) * size.n_masked
    n_learned = min(size.n_labels, config.head.max_labels or size.n_labels)
    boosted_dim = size.dim + (n_learned if config.head.boosting == "classes" else 0)
    reduced = sum(dim for dim in config.reduce.dims if dim < boosted_dim)
    compared = 4 * min(size.n_rows, DIM_ROWS) * (boosted_dim + reduced)
    of_shard = SHARD_COPIES * 4 * size.n_rows // n_shards * (boosted_dim + max(config.reduce.dims))
    grows = {
        "ingest": BATCH_BYTES * min(size.n_rows, IN_BATCHES),
        "mask": ACTIVATION_BYTES * config.mask.batch_size * config.mask.size_px**2 + MASK_BYTES * n_pictures + masked,
        "head": 4 * n_headed * (HEAD_COPIES * size.dim + LABEL_COPIES * size.n_labels),
        "reduce": BLOCK_BYTES * boosted_dim,
        "index": max(compared, of_shard),
        "evaluate": BLOCK_BYTES * boosted_dim + LABEL_BYTES * size.n_given,
    }
    return {
        stage: round(PROCESS_BYTES[stage] + STAGE_ROW_BYTES[stage] * size.n_rows + n_bytes)
        for stage, n_bytes in grows.items()
    }


def run_bytes(n_pictures: int) -> int:
    """Return what the largest stage of a run with the default config takes, of rows of 512 dimensions with 3 labels."""
    config = NightlyConfig()
    size = CatalogueSize(
        n_rows=n_pictures,
        n_masked=0,
        n_labels=300,
        n_given=3 * n_pictures,
        table_bytes=TYPICAL_ROW_BYTES * n_pictures,
        dim=512,
    )
    return round(PREFECT_BYTES + max(stage_bytes(size, config, choose_shards(n_pictures, config.index)).values()))
