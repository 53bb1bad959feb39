"""Read from a catalogue what the head learns to predict: class numbers of each attribute, and a matrix of labels."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import polars as pl

from retrieval_core.arrays import Bool, Float32, Int64

UNKNOWN = -1
CATEGORY = "category"
LABELS = "labels"


class Targets(NamedTuple):
    """Targets of n pictures, row by row in the catalogue's order.

    `tasks` maps every single-valued attribute to its classes, and "labels" to the label names, all sorted;
    `single` holds each attribute's class numbers, (n,) int64, -1 where unknown;
    `multi` is (n, L) float32, 1 where the picture has the label; rows of pictures without any label are NaN.
    """

    tasks: dict[str, list[str]]
    single: dict[str, Int64]
    multi: Float32 | None

    def known(self) -> Bool:
        """Return (n,) bool, True where at least one task has a target; there must be a task."""
        columns = [codes != UNKNOWN for codes in self.single.values()]
        if self.multi is not None:
            columns.append(~np.isnan(self.multi).any(axis=1))
        return np.logical_or.reduce(columns)

    def take(self, rows: Int64) -> Self:
        """Return the targets of some rows."""
        single = {name: codes[rows] for name, codes in self.single.items()}
        return self._replace(single=single, multi=None if self.multi is None else self.multi[rows])


def build_targets(items: pl.DataFrame, min_count: int, max_labels: int = 0) -> Targets:
    """Build targets from the columns category, attributes (list of {name, value}) and labels (list) of a catalogue.

    The category is a single-valued task like any attribute. A class of fewer than `min_count` pictures counts as
    unknown, and so do two values of one attribute for a picture; an attribute with fewer than two classes is dropped. A
    label is dropped when fewer than `min_count` of the labelled pictures have it, or all of them, or when `max_labels`,
    unless 0, are more frequent. `tasks` is empty when nothing is left.
    """
    tasks: dict[str, list[str]] = {}
    single: dict[str, Int64] = {}
    values = _attribute_values(items)
    for name in values["name"].unique().sort():
        pictures = values.filter(pl.col("name") == name)
        classes = _frequent(pictures["value"], min_count)
        if len(classes) >= 2:
            tasks[name] = classes
            single[name] = _class_numbers(pictures, classes, len(items))
    labels, multi = _label_matrix(items, min_count, max_labels)
    if labels:
        tasks[LABELS] = labels
    return Targets(tasks, single, multi)


def _attribute_values(items: pl.DataFrame) -> pl.DataFrame:
    """Return columns row, name, value, with at most one value per picture and attribute."""
    numbered = items.with_row_index("row")
    category = numbered.select("row", pl.lit(CATEGORY).alias("name"), pl.col("category").alias("value"))
    attributes = numbered.select("row", "attributes").explode("attributes").unnest("attributes")
    return (
        pl.concat([category, attributes.select("row", "name", "value")])
        # An attribute called "labels" would hide the multi-label task.
        .filter((pl.col("value") != "") & (pl.col("name") != LABELS))
        .unique()
        .filter(pl.len().over("row", "name") == 1)
    )


def _frequent(values: pl.Series, min_count: int) -> list[str]:
    counts = values.value_counts(name="n_rows")
    return sorted(counts.filter(pl.col("n_rows") >= min_count)[values.name].to_list())


def _class_numbers(pictures: pl.DataFrame, classes: list[str], n_rows: int) -> Int64:
    numbers = {value: number for number, value in enumerate(classes)}
    codes = np.full(n_rows, UNKNOWN, np.int64)
    codes[pictures["row"].to_numpy()] = [numbers.get(value, UNKNOWN) for value in pictures["value"]]
    return codes


def _label_matrix(items: pl.DataFrame, min_count: int, max_labels: int) -> tuple[list[str], Float32 | None]:
    pairs = items.with_row_index("row").select("row", pl.col("labels").alias("label")).explode("label")
    pairs = pairs.filter(pl.col("label") != "").unique()
    labelled = pairs["row"].unique().to_numpy()
    counts = pairs["label"].value_counts(name="n_rows")
    kept = counts.filter((pl.col("n_rows") >= min_count) & (pl.col("n_rows") < len(labelled)))
    most_frequent = kept.sort("n_rows", "label", descending=[True, False]).head(max_labels or len(kept))
    labels = sorted(most_frequent["label"].to_list())
    if not labels:
        return [], None
    columns = {label: column for column, label in enumerate(labels)}
    present = pairs.filter(pl.col("label").is_in(labels))
    # A picture without any label was not labelled; it may well show some of them.
    multi = np.full((len(items), len(labels)), np.nan, np.float32)
    multi[labelled] = 0.0
    multi[present["row"].to_numpy(), [columns[label] for label in present["label"]]] = 1.0
    return labels, multi
