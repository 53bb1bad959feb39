"""What changed since the release in production: items, models and configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import polars as pl

from retrieval_core.arrays import Int64
from retrieval_core.artifacts.catalog_rows import FIELDS_FILE, FieldSet, load_items
from retrieval_core.artifacts.manifests import Fitted, Ref, Release, Value
from retrieval_core.artifacts.mapped_rows import KeyIndex, in_batches, rows_at
from retrieval_core.artifacts.parts import read_table
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.evaluate.measure.setup import hash_rows
from retrieval_core.evaluate.run_outputs import RunOutputs
from retrieval_core.filters import FIELD
from retrieval_core.store.base import Store

N_NAMED = 8  # items of each kind that the page names
N_GONE = 3  # categories that the page names
COMPARED = ("image_uri", "product_id", "category", "labels", "attributes", "split", "content_id", "mask_id", "status")
COLUMNS = ["item_id", "row_id", *COMPARED]
# Words for columns whose name would not tell a reader what changed.
COLUMN_WORDS = {
    "image_uri": "address",
    "product_id": "product",
    "content_id": "picture",
    "mask_id": "mask",
    "status": "state",
}
STATE_WORDS = {"ok": "can be read", "quarantined": "cannot be read"}
LIST = pl.List(pl.String)
SHORT = 12  # digits of a content id, where people read it

ChangeKind = Literal["added", "changed", "removed"]


class ValueChange(Value):
    """One thing that the catalogue says of an item, before and now, as text; "none" where it says nothing."""

    what: str
    before: str
    now: str


class ItemChange(Value):
    """An item that was added, changed or removed, and what changed in it."""

    item_id: str
    what: ChangeKind
    differs: tuple[ValueChange, ...] = ()


class GoneCategory(Value):
    """A category of production that lost `n_gone` of its `n_before` items; "" for items without one."""

    category: str
    n_gone: int
    n_before: int


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

    `counts` are the changed items of each kind, `named` a few of them, sampled by hash; `values` counts the changed
    items by what the catalogue says otherwise of them, the most frequent first. `gone` are the categories that lost
    most items. `n_newly_unreadable` items cannot be read, and are new or could be read before. `models` and `config`
    hold only what differs.
    """

    release: str
    created: str
    counts: dict[ChangeKind, int]
    values: dict[str, int] = {}
    gone: tuple[GoneCategory, ...] = ()
    n_newly_unreadable: int = 0
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
    if production.fields != outputs.fields:
        before, now = _with_fields(store, before, production.fields), _with_fields(store, now, outputs.fields)
    changed, removed = _changed(before, now), _only_in(before, now)
    changes: dict[ChangeKind, pl.DataFrame] = {"added": _only_in(now, before), "changed": changed, "removed": removed}
    seed = config.evaluate.seed
    values = (
        changed["differs"].explode().drop_nulls().value_counts().sort(["count", "differs"], descending=[True, False])
    )
    facts = ReleaseDiffFacts(
        release=production.fingerprint,
        created=production.created,
        counts={kind: len(items) for kind, items in changes.items()},
        values={column_words(name): n for name, n in values.iter_rows()},
        gone=tuple(_gone(before, removed)),
        n_newly_unreadable=_n_newly_unreadable(before, now),
        named=tuple(
            change for kind, items in changes.items() for change in _named(kind, _sample(items, seed), before, now)
        ),
        models=tuple(_models(models_of(production), models_of(outputs))),
        config=tuple(_configs(production.config, config.model_dump(mode="json"))),
    )
    return ReleaseDiff(facts, before)


def _with_fields(store: Store, items: pl.DataFrame, fields: Ref | None) -> pl.DataFrame:
    """Add the text of each field as a column `field.NAME`; without fields there are none."""
    if fields is None:
        return items
    table = read_table(store, FieldSet.open(store, fields).part(FIELDS_FILE))
    names = [name for name in table.columns if name.startswith(FIELD)]
    return items.join(
        table.select("row_id", *(pl.col(name).struct.field("text").alias(name) for name in names)),
        on="row_id",
        how="left",
        maintain_order="left",
    )


def _only_in(items: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    only = items.select("item_id", "row_id").join(others.select("item_id"), on="item_id", how="anti")
    return only.with_columns(pl.lit([], LIST).alias("differs"))


def _changed(before: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Return item_id, row_id and `differs`, the names of the columns that changed."""
    known = KeyIndex(before.select("item_id"))
    return pl.concat([_changed_in(before, known.first(batch.select("item_id")), batch) for batch in in_batches(now)])


def _changed_in(before: pl.DataFrame, positions: Int64, now: pl.DataFrame) -> pl.DataFrame:
    """Return the same of a batch, whose items are at these (n,) positions in `before`, or -1."""
    is_known = positions >= 0
    both = now.filter(pl.Series(is_known)).hstack(
        rows_at(before, positions[is_known]).rename({name: f"{name}_before" for name in before.columns})
    )
    differs = [
        pl.when(pl.col(name).ne_missing(pl.col(f"{name}_before")) & _is_told(name)).then(pl.lit(name))
        for name in now.columns
        if name in before.columns and name not in ("item_id", "row_id")
    ]
    listed = both.select("item_id", "row_id", pl.concat_list(differs).list.drop_nulls().alias("differs"))
    return listed.filter(pl.col("differs").list.len() > 0)


def _is_told(column: str) -> pl.Expr:
    """Whether a change is one of its own: a picture that cannot be read any more is another state, not another one."""
    return pl.col(column).is_not_null() if column in ("content_id", "mask_id") else pl.lit(True)


def _n_newly_unreadable(before: pl.DataFrame, now: pl.DataFrame) -> int:
    unreadable, known = (side.filter(pl.col("status") != "ok") for side in (now, before))
    return unreadable.join(known, on="item_id", how="anti").height


def _gone(before: pl.DataFrame, removed: pl.DataFrame) -> Iterator[GoneCategory]:
    is_gone = pl.col("item_id").is_in(removed["item_id"].implode())
    marked = before.select(pl.col("category").fill_null(""), is_gone.alias("is_gone"))
    counts = marked.group_by("category").agg(n_gone=pl.col("is_gone").sum(), n_before=pl.len())
    worst = counts.filter(pl.col("n_gone") > 0).sort("n_gone", "category", descending=[True, False])
    return (GoneCategory(**row) for row in worst.head(N_GONE).iter_rows(named=True))


def _sample(items: pl.DataFrame, seed: int) -> pl.DataFrame:
    order = hash_rows(items["row_id"].to_numpy(), seed).argsort(kind="stable")[:N_NAMED]
    return items[order].sort("item_id")


def _named(kind: ChangeKind, items: pl.DataFrame, before: pl.DataFrame, now: pl.DataFrame) -> Iterator[ItemChange]:
    sides = [
        {row["item_id"]: row for row in side.join(items, on="item_id", how="semi").iter_rows(named=True)}
        for side in (before, now)
    ]
    for item_id, _, differs in items.iter_rows():
        values = (
            ValueChange(
                what=column_words(name),
                before=value_text(name, sides[0][item_id][name]),
                now=value_text(name, sides[1][item_id][name]),
            )
            for name in differs
        )
        yield ItemChange(item_id=item_id, what=kind, differs=tuple(values))


def column_words(column: str) -> str:
    """Return what a person calls a column of the catalogue."""
    return COLUMN_WORDS.get(column, column.removeprefix(FIELD))


def value_text(column: str, value: Any) -> str:
    """Return a value of a catalogue's column as text."""
    if column in ("content_id", "mask_id"):
        value = value and value[:SHORT]
    elif column == "attributes":
        value = ", ".join(f"{attribute['name']} {attribute['value']}" for attribute in value or ())
    elif column == "labels":
        value = ", ".join(value or ())
    elif column == "status":
        value = STATE_WORDS.get(value, value)
    return str(value or "none")


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
