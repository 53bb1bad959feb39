"""What changed since the release in production: items, models and configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Fitted, Release, Value
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate.measure.setup import hash_rows
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.store.base import Store

BLOCK_ROWS = 100_000  # of the catalogue joined at a time
N_NAMED = 8  # items of each kind that the page names
COMPARED = ("image_uri", "product_id", "category", "labels", "attributes", "split", "content_id", "mask_id", "status")
COLUMNS = ["item_id", "row_id", *COMPARED]
# Words for columns whose name would not tell a reader what changed.
COLUMN_WORDS = {
    "image_uri": "address",
    "product_id": "product",
    "content_id": "picture",
    "mask_id": "mask",
    "status": "whether it can be read",
}

ChangeKind = Literal["added", "changed", "removed"]


class ItemChange(Value):
    """An item that was added, changed or removed; `differs` names what changed in it."""

    item_id: str
    what: ChangeKind
    differs: tuple[str, ...] = ()


class ModelChange(Value):
    """The fingerprint of the model in one role, before and now; "" for none."""

    role: str
    before: str
    now: str


class ConfigChange(Value):
    """One value of the configuration as JSON, before and now; "" if there was no such key."""

    key: str
    before: str
    now: str


class ReleaseDiffFacts(Value):
    """What differs from production `release`, sealed at `created`.

    `counts` are the changed items of each kind, `named` a few of them, sampled by hash. `models` and `config` hold only
    what differs.
    """

    release: str
    created: str
    counts: dict[ChangeKind, int]
    named: tuple[ItemChange, ...] = ()
    models: tuple[ModelChange, ...] = ()
    config: tuple[ConfigChange, ...] = ()


class ReleaseDiff(NamedTuple):
    """The facts, and the items of production (`COLUMNS`), which hold the pictures of removed items."""

    facts: ReleaseDiffFacts
    production_items: pl.DataFrame


def diff_production(store: Store, production: Release, outputs: RunOutputs, config: NightlyConfig) -> ReleaseDiff:
    """Compare this run's catalogue, models and config with those of production. Raises `NotFound`."""
    before = load_items(store, production.catalog.name, COLUMNS)
    now = load_items(store, outputs.catalog.name, COLUMNS)
    changes: dict[ChangeKind, pl.DataFrame] = {
        "added": _only_in(now, before),
        "changed": _changed(before, now),
        "removed": _only_in(before, now),
    }
    facts = ReleaseDiffFacts(
        release=production.fingerprint,
        created=production.created,
        counts={kind: len(items) for kind, items in changes.items()},
        named=tuple(change for kind, items in changes.items() for change in _named(kind, items, config.evaluate.seed)),
        models=tuple(_models(models_of(production), models_of(outputs))),
        config=tuple(_configs(production.config, config.model_dump(mode="json"))),
    )
    return ReleaseDiff(facts, before)


def _only_in(items: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    return items.join(others, on="item_id", how="anti").select("item_id", "row_id")


def _changed(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Return item_id, row_id and `differs`, the names of the columns that changed."""
    blocks = [_changed_in(before, block) for block in now.iter_slices(BLOCK_ROWS)]
    return pl.concat(blocks) if blocks else _changed_in(before, now)


def _changed_in(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    both = now.join(before, on="item_id", suffix="_before")
    differs = [
        pl.when(pl.col(name).ne_missing(pl.col(f"{name}_before"))).then(pl.lit(COLUMN_WORDS.get(name, name)))
        for name in COMPARED
    ]
    listed = both.select("item_id", "row_id", pl.concat_list(differs).list.drop_nulls().alias("differs"))
    return listed.filter(pl.col("differs").list.len() > 0)


def _named(kind: ChangeKind, items: pl.DataFrame, seed: int) -> Iterator[ItemChange]:
    order = hash_rows(items["row_id"].to_numpy(), seed).argsort(kind="stable")[:N_NAMED]
    for row in items[order].sort("item_id").iter_rows(named=True):
        yield ItemChange(item_id=row["item_id"], what=kind, differs=tuple(row.get("differs", ())))


def models_of(outputs: Release | RunOutputs) -> dict[str, str]:
    """Return the fingerprint of the model in each role, "" for none; several heads are joined by commas."""
    fitted = {role: getattr(outputs, role) for role in ("backbone", "segmenter", "detector", "classifier", "reducer")}
    refs = {role: model.ref if isinstance(model, Fitted) else model for role, model in fitted.items()}
    heads = (head.ref if isinstance(head, Fitted) else head for head in outputs.heads)
    return {role: ref.name if ref else "" for role, ref in refs.items()} | {"heads": ", ".join(h.name for h in heads)}


def _models(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[ModelChange]:
    for role, name in now.items():
        if before[role] != name:
            yield ModelChange(role=role, before=before[role], now=name)


def _configs(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[ConfigChange]:
    """Yield each value that differs; "" stands for a key that only the other side has."""
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _configs(old, new, f"{path}{key}.")
        elif old != new:
            old_json, new_json = (json.dumps(side[key]) if key in side else "" for side in (before, now))
            yield ConfigChange(key=f"{path}{key}", before=old_json, now=new_json)
