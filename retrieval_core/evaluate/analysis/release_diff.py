"""What changed since the release in production: items, models, configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import polars as pl

from retrieval_core.artifacts.catalog_rows import load_items
from retrieval_core.artifacts.manifests import Fitted, Release, Value
from retrieval_core.config import NightlyConfig
from retrieval_core.evaluate.measure.search_setup import hash_rows
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.store.base import Store

N_NAMED = 8  # items of each kind on the page
SAYS = ("image_uri", "product_id", "category", "labels", "attributes", "split", "content_id", "mask_id", "status")
COLUMNS = ["item_id", "row_id", *SAYS]
# What a person calls the columns that an item can say something else in.
WORDS = {
    "image_uri": "address",
    "product_id": "product",
    "content_id": "picture",
    "mask_id": "mask",
    "status": "whether it can be read",
}

What = Literal["added", "changed", "removed"]


class ItemChange(Value):
    """An item that is new, gone, or says something else; `differs` names in what."""

    item_id: str
    what: What
    differs: tuple[str, ...] = ()


class ModelChange(Value):
    """What serves in one role, before and now: fingerprints, "" for none."""

    role: str
    before: str
    now: str


class ConfigChange(Value):
    """One value of the configuration, before and now, as JSON writes it; "" where there was no such key."""

    key: str
    before: str
    now: str


class SinceFacts(Value):
    """Against production `release`, sealed at `created`: `counts` of items, `named` some of each kind, drawn by hash.

    `models` and `config` are what differs.
    """

    release: str
    created: str
    counts: dict[What, int]
    named: tuple[ItemChange, ...] = ()
    models: tuple[ModelChange, ...] = ()
    config: tuple[ConfigChange, ...] = ()


class Since(NamedTuple):
    """The facts, and the items of production to draw pictures of what is gone from."""

    facts: SinceFacts
    before: pl.DataFrame


def find_since(store: Store, production: Release, night: RunOutputs, config: NightlyConfig) -> Since:
    """Compare tonight's catalogue, models and config with those of production. Raises `NotFound`."""
    seed = config.evaluate.seed
    before = load_items(store, production.catalog.name, COLUMNS)
    now = load_items(store, night.catalog.name, COLUMNS)
    kinds = {"added": _only(now, before), "changed": _changed(before, now), "removed": _only(before, now)}
    named = [change for what, items in kinds.items() for change in _named(what, items, seed)]
    facts = SinceFacts(
        release=production.fingerprint,
        created=production.created,
        counts={what: len(items) for what, items in kinds.items()},
        named=tuple(named),
        models=tuple(_models(models_of(production), models_of(night))),
        config=tuple(_configs(production.config, config.model_dump(mode="json"))),
    )
    return Since(facts, before)


def _only(these: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    return these.join(others, on="item_id", how="anti").select("item_id", "row_id")


def _changed(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """item_id, row_id and `differs`, the columns that say something else."""
    both = now.join(before, on="item_id", suffix="_before")
    differs = [
        pl.when(pl.col(name).ne_missing(pl.col(f"{name}_before"))).then(pl.lit(WORDS.get(name, name))) for name in SAYS
    ]
    listed = both.select("item_id", "row_id", pl.concat_list(differs).list.drop_nulls().alias("differs"))
    return listed.filter(pl.col("differs").list.len() > 0)


def _named(what: Any, items: pl.DataFrame, seed: int) -> Iterator[ItemChange]:
    order = hash_rows(items["row_id"].to_numpy(), seed).argsort(kind="stable")[:N_NAMED]
    for row in items[order].sort("item_id").iter_rows(named=True):
        yield ItemChange(item_id=row["item_id"], what=what, differs=tuple(row.get("differs", ())))


def models_of(made: Release | RunOutputs) -> dict[str, str]:
    """The fingerprints of what serves in each role, "" for none; several heads in one."""
    fitted = {role: getattr(made, role) for role in ("backbone", "segmenter", "detector", "classifier", "reducer")}
    refs = {role: part.ref if isinstance(part, Fitted) else part for role, part in fitted.items()}
    heads = (part.ref if isinstance(part, Fitted) else part for part in made.heads)
    return {role: ref.name if ref else "" for role, ref in refs.items()} | {"heads": ", ".join(h.name for h in heads)}


def _models(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[ModelChange]:
    for role, name in now.items():
        if before[role] != name:
            yield ModelChange(role=role, before=before[role], now=name)


def _configs(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[ConfigChange]:
    """Value by value; "" for a key that only the other side has."""
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _configs(old, new, f"{path}{key}.")
        elif old != new:
            told = (json.dumps(side[key]) if key in side else "" for side in (before, now))
            yield ConfigChange(key=f"{path}{key}", before=next(told), now=next(told))
