"""Peak memory and time of what the flow's machine does with the rows of a catalogue, each step in its own process.

    python -m benchmarks.memory.catalogue [--rows 1000000] [--limit-mb 2000] [--folder DIR]

The rows are of a Parquet table whose pictures do not exist: instead of the shards, `read` writes what they would have
read, and `embed` draws vectors of eight dimensions, so that the rows alone decide what a step takes. Each has three of
1,000 labels. The first night lists everything. In the second one, whose table tells by `version` which rows changed,
one in a hundred did, and the evaluation compares with the first. `own` is memory that no file backs. Exits with 1 where
a step exceeds the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.measuring.process_usage import run_measured
from benchmarks.memory.drawn_run import N_QUERIES, DrawnRun
from retrieval_core.errors import NotFound

if TYPE_CHECKING:
    from retrieval_core.artifacts.manifests import Ref
    from retrieval_core.config.stages import NightlyConfig
    from retrieval_core.ingest.catalog import IngestPlan

NIGHTS = ("first", "second")
STEPS = (
    "draw", "list", "plan", "read", "seal", "embed", "plan pictures", "seal vectors", "reduce", "index", "evaluate"
)  # fmt: skip
NOT_MEASURED = {"draw", "read", "embed"}
STEP = "--step"  # hidden: run by the fresh process
CHANGED_EVERY, VIEWS, N_CATEGORIES, N_COLOURS, N_LABELS = 100, 5, 50, 12, 1_000
DIM, PART_ROWS, SHARD_ROWS = 8, 8_192, 8_192


class Nights(DrawnRun):
    """The steps of two nights."""

    def __init__(self, folder: Path, n_rows: int, night: str) -> None:
        super().__init__(folder, n_rows)
        self.night = night

    def run(self, step: str) -> None:
        getattr(self, f"_{step.replace(' ', '_')}")()

    @property
    def config(self) -> NightlyConfig:
        """As of a drawn run, for short vectors, and without the queries that are made of pictures."""
        from retrieval_core.config.stages import EvaluateConfig, ReduceConfig

        own = {"evaluate": EvaluateConfig(synthetic_queries=0), "reduce": ReduceConfig(dims=(DIM // 2,))}
        return super().config.model_copy(update=own)

    @property
    def source(self) -> str:
        return f"table:{self.folder / f'{self.night}.parquet'}?version=updated_at"

    def _draw(self) -> None:
        import polars as pl

        number = pl.col("number")
        changed = (number % CHANGED_EVERY == 0) & (self.night == "second")
        product = number // VIEWS
        pl.DataFrame({"number": range(self.n_rows)}).select(
            item_id=pl.format("sku-{}", number.cast(pl.String).str.zfill(9)),
            image_uri=pl.format("s3://shop-pictures/catalogue/{}/front.jpg", number),
            product_id=pl.format("product-{}", product),
            category=pl.format("category-{}", product % N_CATEGORIES),
            labels=pl.concat_str(
                *(pl.format("label-{}", product * step % N_LABELS) for step in (7, 13, 31)), separator="|"
            ),
            split=pl.when(number < N_QUERIES * VIEWS).then(pl.lit("query")).otherwise(pl.lit("train")),
            attr_colour=pl.format("colour-{}", product % N_COLOURS),
            title=pl.format("Product {}", product),
            price=pl.format("{}.00 EUR", product % 200),
            updated_at=pl.when(changed).then(pl.lit("2025-02-02")).otherwise(pl.lit("2025-01-01")),
        ).write_parquet(self.folder / f"{self.night}.parquet")

    def _list(self) -> None:
        from retrieval_core.ingest.sources.registry import open_source

        open_source(self.source).rows()

    def _plan(self) -> None:
        from retrieval_core.config.stages import IngestConfig
        from retrieval_core.ingest.catalog import plan_source

        plan = plan_source(self.store, self.source, IngestConfig(keep="none", shard_rows=SHARD_ROWS))
        self._save(reading=plan.model_dump())

    def _read(self) -> None:
        """Write what the shards of the plan would have read."""
        import polars as pl

        from retrieval_core.artifacts.parts import read_unsealed, table_bytes
        from retrieval_core.ingest.reading import READING_SCHEMA
        from retrieval_core.ingest.shards import ITEMS

        plan = self._plan_made()
        planned = read_unsealed(self.store, f"{plan.reading.folder}/{ITEMS}")
        for shard in plan.split():
            items = planned.filter(pl.col("shard") == shard.number)
            digest = pl.format("{}{}", "item_id", pl.lit(self.night)).hash().cast(pl.String).str.zfill(20)
            read = {
                "item_id": pl.col("item_id"),
                "content_id": pl.format("{}000000000000", digest),
                "height": pl.lit(500),
                "width": pl.lit(500),
                "size_bytes": pl.lit(50_000),
                "version": pl.format("\nrow {}", "row_version"),
                "is_unavailable": pl.lit(False),
            }
            columns = [read.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in READING_SCHEMA.items()]
            self.store.put(shard.key, table_bytes(items.select(columns)))

    def _seal(self) -> None:
        from retrieval_core.config.stages import IngestConfig
        from retrieval_core.ingest.catalog import seal_ingest
        from retrieval_core.store.traffic import Traffic

        outcome = seal_ingest(self.store, self._plan_made(), IngestConfig(keep="none"), Traffic())
        counts = {name: getattr(outcome.diff, name) for name in ("added", "changed", "unchanged")}
        self._save(catalog=outcome.catalog.model_dump(), counts=counts)

    def _embed(self) -> None:
        """Store random vectors of the pictures that have none, as the shards of a run would."""
        import numpy as np

        from retrieval_core.artifacts.parts import vectors_bytes
        from retrieval_core.artifacts.shards import put_shard, read_shard

        self._export_backbone(self._catalog())
        plan = self._work()
        for shard in plan.split():
            ids = [picture.content_id for picture in read_shard(self.store, shard).pictures]
            vectors = np.random.default_rng(shard.number).normal(size=(len(ids), DIM)).astype(np.float32)
            data = vectors_bytes(ids, vectors)
            put_shard(self.store, shard, plan.targets[0], ids, lambda data=data: data)  # type: ignore[misc]

    def _plan_pictures(self) -> None:
        self._work()

    def _work(self) -> Any:
        from retrieval_core.artifacts.shards import Target, plan_pictures

        return plan_pictures(
            self.store, [Target(folder="vectors", family=self._load("family"))], self._catalog(), PART_ROWS
        )

    def _seal_vectors(self) -> None:
        from retrieval_core.artifacts.growing_sets import seal_vectors
        from retrieval_core.artifacts.pictures import usable_pictures
        from retrieval_core.artifacts.variants import Variant

        catalog = self._catalog()
        ids = usable_pictures(self.store, catalog)["content_id"]
        vectors = seal_vectors(self.store, self._load("family"), Variant(), DIM, catalog.name, ids)
        ref = vectors.ref.model_dump()
        self._save(raw=ref, published=ref, heads=[])

    def _evaluate(self, in_shards: bool = False) -> None:
        """Evaluate without pictures, reading vectors in blocks, as those of a real backbone would be."""
        missing = NotFound("the rows of this benchmark have no pictures")
        with (
            patch("retrieval_core.artifacts.pictures.read_uri", side_effect=missing),
            patch("retrieval_core.evaluate.measure.exact_search.WHOLE_BYTES", 0),
        ):
            super()._evaluate(in_shards)

    def _plan_made(self) -> IngestPlan:
        from retrieval_core.ingest.catalog import IngestPlan

        return IngestPlan.model_validate(self._load("reading"))

    def _catalog(self) -> Ref:
        return self._ref("catalog")


def main() -> int:
    if STEP in sys.argv:
        night, step, rows, folder = sys.argv[2:]
        Nights(Path(folder), int(rows), night).run(step)
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory.catalogue", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--limit-mb", type=float, default=2_000, metavar="MB", help="largest own memory of a step")
    parser.add_argument("--folder", type=Path, help="where the store is written: 1 kB a row")
    arguments = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="vitrine-rows-") as folder:
        print(f"{arguments.rows:,} rows", flush=True)
        for night in NIGHTS:
            for step in STEPS:
                command = [sys.executable, "-m", "benchmarks.memory.catalogue", STEP, night, step]
                usage = run_measured([*command, str(arguments.rows), folder])
                if step not in NOT_MEASURED:
                    peaks.append(usage.peak_own_mb)
                    print(
                        f"  {night:6} {step:14} {usage.peak_own_mb:7,.0f} MB own, {usage.cpu_s:7.1f} s of CPU",
                        flush=True,
                    )
    return int(max(peaks) > arguments.limit_mb)


if __name__ == "__main__":
    sys.exit(main())
