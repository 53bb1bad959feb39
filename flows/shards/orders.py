"""Orders of shards that other processes make, in the store: what is to be made, and what came of it.

    orders/CALL/plans/0003.json       a range of shards, with the arguments of the task that makes them
    orders/CALL/plans/0003/17.json    what the task returned for shard 17 of that range, or its error

Both are JSON that each side checks against the annotations of the task; nothing is pickled. Each object is written
once. A run deletes its orders when it ends; those of a killed one go with the next vacuum.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prefect import Task
from pydantic import JsonValue, TypeAdapter

from retrieval_core import errors
from retrieval_core.artifacts.manifests import Value
from retrieval_core.artifacts.shards import ORDERS
from retrieval_core.errors import Permanent, VitrineError
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store


class Order(Value):
    """A range of shards to make by the task of a stage, for the run that holds the `lease` of this key.

    `title` is for people.
    """

    key: str
    title: str
    stage: str
    lease: str
    shards: tuple[JsonValue, ...]
    shared: tuple[JsonValue, ...]

    @property
    def folder(self) -> str:
        """Where the outcomes are, each under the position of its shard in the range."""
        return f"{self.key.removesuffix('.json')}/"

    @classmethod
    def read(cls, store: Store, key: str) -> Order:
        """Read an order. Raises `NotFound` once its run has ended."""
        return cls.model_validate_json(store.get(key))

    def calls(self, work: Task[..., Any], settings: Settings) -> list[tuple[Any, ...]]:
        """Return the arguments of the task, for each shard of the range."""
        _, shard, *shared = _parameters(work)
        others = [adapter.validate_python(value) for adapter, value in zip(shared, self.shared, strict=True)]
        return [(settings, shard.validate_python(value), *others) for value in self.shards]

    def put_outcome(self, store: Store, number: int, outcome: Outcome) -> None:
        """Write what came of a shard, unless another process did."""
        store.put_if_absent(f"{self.folder}{number}.json", outcome.model_dump_json().encode())

    def numbers_done(self, store: Store) -> set[int]:
        """Return the positions of the shards that were made, or that failed."""
        return {int(key.rsplit("/", 1)[1].removesuffix(".json")) for key in store.list(self.folder)}

    def outcomes(self, store: Store) -> dict[int, Outcome]:
        """Return what came of the shards that were made, or that failed, by their positions."""
        keys = {number: f"{self.folder}{number}.json" for number in sorted(self.numbers_done(store))}
        return {number: Outcome.model_validate_json(store.get(key)) for number, key in keys.items()}


class Outcome(Value):
    """What a task returned for a shard, as JSON, or the name and the message of the error that it raised."""

    result: JsonValue = None
    error: tuple[str, str] | None = None

    @classmethod
    def of_result(cls, work: Task[..., Any], result: object) -> Outcome:
        """Return the outcome of a shard that was made."""
        return cls(result=_returned(work).dump_python(result, mode="json"))

    @classmethod
    def of_error(cls, error: VitrineError) -> Outcome:
        """Return the outcome of a shard that failed."""
        return cls(error=(type(error).__name__, str(error)))

    def returned(self, work: Task[..., Any]) -> Any:
        """Return what the task returned. Raises its error."""
        if self.error:
            name, message = self.error
            raise vars(errors).get(name, Permanent)(message)
        return _returned(work).validate_python(self.result)


def write_orders(
    store: Store, stage: str, work: Task[..., Any], lease: str, calls: Sequence[tuple[Any, ...]], n_ranges: int
) -> list[Order]:
    """Divide the calls of a task into ranges that differ by one shard at most, and write an order for each.

    All calls have the same arguments after the shard. No shard is in two ranges, and the ranges are in order.
    """
    folder = f"{ORDERS}/{uuid.uuid4().hex}/plans"
    _, shard, *shared = _parameters(work)
    others = tuple(adapter.dump_python(value, mode="json") for adapter, value in zip(shared, calls[0][2:], strict=True))
    bounds = [len(calls) * number // n_ranges for number in range(n_ranges + 1)]
    orders = [
        Order(
            key=f"{folder}/{number:04}.json",
            title=f"{stage}, shards {first + 1} to {end} of {len(calls)}",
            stage=stage,
            lease=lease,
            shards=tuple(shard.dump_python(call[1], mode="json") for call in calls[first:end]),
            shared=others,
        )
        for number, (first, end) in enumerate(pairwise(bounds))
    ]
    for order in orders:
        store.put(order.key, order.model_dump_json().encode())
    return orders


def delete_orders(store: Store, orders: Sequence[Order]) -> None:
    """Delete the orders of a call, and what came of them."""
    for order in orders:
        for key in (order.key, *store.list(order.folder)):
            store.delete(key)


def _parameters(work: Task[..., Any]) -> list[TypeAdapter[Any]]:
    parameters = inspect.signature(work.fn, eval_str=True).parameters.values()
    return [TypeAdapter(parameter.annotation) for parameter in parameters]


def _returned(work: Task[..., Any]) -> TypeAdapter[Any]:
    return TypeAdapter(inspect.signature(work.fn, eval_str=True).return_annotation)
