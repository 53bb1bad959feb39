"""What is asked of a worker, and what it answers, is the same on both sides, and nothing of it is left over."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import Task

from flows.shards.make_shards import TASKS
from flows.shards.orders import Order, Outcome, delete_orders, write_orders
from retrieval_core import errors
from retrieval_core.artifacts.manifests import Ref, Reject
from retrieval_core.artifacts.shards import DerivedSet, PartShard, Target, WorkShard
from retrieval_core.artifacts.variants import Variant
from retrieval_core.config.stages import (
    ClassifyConfig,
    CropConfig,
    EmbedConfig,
    IndexConfig,
    IngestConfig,
    MaskConfig,
    ReduceConfig,
)
from retrieval_core.embed.shards import PictureWork, ShardOutcome
from retrieval_core.errors import ImageRefused, NotFound, VitrineError
from retrieval_core.evaluate.search_shards import SearchShard
from retrieval_core.index.recipes import choose_recipe
from retrieval_core.index.versions import IndexPlan
from retrieval_core.ingest.shards import ReadingShard
from retrieval_core.settings import Pools, Settings
from retrieval_core.store.base import Store
from retrieval_core.store.traffic import Traffic
from retrieval_core.store.uris import open_store

SETTINGS = Settings(store="s")
REF = Ref(kind="VectorSet", key=f"vectors/{'0' * 32}/{'1' * 32}", sha256="é")
INDEX = IndexPlan(
    catalog=REF,
    vectors=REF,
    candidates=REF,
    recipe=choose_recipe(10**6, 128, 512, IndexConfig()),
    template="t",
    shards=tuple(f"indexes/shards/{number:032x}" for number in range(5)),
    missing=(1, 2, 4),
    n_rows=10**6,
    previous=None,
    when_new={"recall": 0.1},
)
WORK = PictureWork(
    masker=REF, backbone=REF, mask=MaskConfig(), crop=CropConfig(), embed=EmbedConfig(size_px=16), ingest=IngestConfig()
)
SHARD = WorkShard(targets=(Target(folder="masks", family="f"),), key="k", names=("a", "b"), number=3, n_shards=9)
PART_SHARD = PartShard(
    source=REF,
    sets=(DerivedSet(family="f", variant=Variant("masked", boosted=True), dim=8, made_by={"head": "h"}),),
    parts=(0, 3),
    number=1,
    n_shards=2,
)
CALLS: dict[str, list[tuple[Any, ...]]] = {
    "ingest": [(ReadingShard(folder="f", number=n, n_shards=3), IngestConfig(keep="none")) for n in range(3)],
    "embed": [(SHARD, WORK)] * 7,
    "classify": [(SHARD, REF, ClassifyConfig(), IngestConfig())],
    "head": [(PART_SHARD, REF)] * 2,
    "reduce": [(PART_SHARD, REF, ReduceConfig(dims=(8, 16)))],
    "index": [(shard,) for shard in INDEX.split()],
    "evaluate": [
        (SearchShard(source=REF, folder="vectors/f/plans/s", depth=32, number=n, n_shards=2),) for n in (0, 1)
    ],
}


def test_every_stage_that_may_have_a_pool_has_a_task() -> None:
    assert TASKS.keys() == Pools.model_fields.keys() - {"default"} == CALLS.keys()


@pytest.mark.parametrize("stage", CALLS)
@pytest.mark.parametrize("n_ranges", [1, 2])
def test_arguments_come_out_as_they_went_in(stage: str, n_ranges: int, local_store: Store) -> None:
    calls = [(SETTINGS, *call) for call in CALLS[stage]]
    n_ranges = min(n_ranges, len(calls))
    orders = write_orders(local_store, stage, TASKS[stage], "lease", calls, n_ranges)
    read = [Order.read(local_store, order.key) for order in orders]
    assert read == orders
    assert [call for order in read for call in order.calls(TASKS[stage], SETTINGS)] == calls


@given(n_calls=st.integers(1, 60), data=st.data())
def test_ranges_cover_every_shard_once_and_differ_by_one_at_most(
    n_calls: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.getbasetemp() / "ranges"))
    n_ranges = data.draw(st.integers(1, n_calls))
    calls = [(SETTINGS, SHARD.model_copy(update={"number": number}), WORK) for number in range(n_calls)]
    orders = write_orders(store, "embed", TASKS["embed"], "lease", calls, n_ranges)
    sizes = [len(order.shards) for order in orders]
    assert len(sizes) == n_ranges
    assert max(sizes) - min(sizes) <= 1
    assert [call for order in orders for call in order.calls(TASKS["embed"], SETTINGS)] == calls
    delete_orders(store, orders)
    assert list(store.list("")) == []


RESULTS: list[tuple[str, Any]] = [
    ("ingest", Traffic(3, 10**12, 2)),
    ("classify", 512),
    ("index", None),
    (
        "embed",
        ShardOutcome(
            n_masked=2,
            n_embedded={"raw": 3, "masked": 2},
            rejects=(Reject(item_id="\u202eé", image_uri="x", reason="r", last_seen=str(datetime(2026, 11, 30))),),
        ),
    ),
]


@pytest.mark.parametrize(("stage", "result"), RESULTS)
def test_a_result_comes_out_as_it_went_in(stage: str, result: Any, local_store: Store) -> None:
    work: Task[..., Any] = TASKS[stage]
    (order,) = write_orders(local_store, stage, work, "lease", [(SETTINGS, *CALLS[stage][0])], 1)
    order.put_outcome(local_store, 0, Outcome.of_result(work, result))
    order.put_outcome(local_store, 0, Outcome.of_error(ImageRefused("of a process that was slower")))
    assert order.outcomes(local_store)[0].returned(work) == result


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_an_error_comes_out_as_it_went_in(kind: type[VitrineError]) -> None:
    outcome = Outcome.model_validate_json(Outcome.of_error(kind("why é")).model_dump_json())
    with pytest.raises(kind, match=r"^why é$") as raised:
        outcome.returned(TASKS["index"])
    assert type(raised.value) is kind


def test_an_order_whose_run_has_ended_is_not_found(local_store: Store) -> None:
    orders = write_orders(local_store, "index", TASKS["index"], "lease", [(SETTINGS, *CALLS["index"][0])], 1)
    delete_orders(local_store, orders)
    with pytest.raises(NotFound):
        Order.read(local_store, orders[0].key)
