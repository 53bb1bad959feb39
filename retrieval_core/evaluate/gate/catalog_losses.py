"""Find what a challenger's catalogue lost of production's: items, and what the catalogue says of them.

A search can look as good as before among the items that are left, or better where all of them have the same category.
So losses of the catalogue are bounded apart from the metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from retrieval_core.arrays import Bool
from retrieval_core.artifacts.mapped_rows import KeyIndex
from retrieval_core.config.stages import GateConfig

# The columns of a catalogue that can be lost, and what is said of the items that lost it.
LOSSES = {
    "item_id": "are gone",
    "content_id": "show the same picture as items that showed another",
    "product_id": "lost their product or share it with items of another",
    "category": "lost their category or share it with items of another",
    "labels": "lost all labels",
    "attributes": "lost all attributes",
}
COLUMNS = list(LOSSES)
WAY_ON = (
    "repair the source and run again, or name what is removed on purpose in `removed` of a catalog-update, or `vitrine "
    "promote RELEASE --anyway --why 'TEXT'`"
)
BOUND = ", more than "
N_CATEGORIES_NAMED = 3
MAX_NAME_CHARS = 60


def find_catalog_losses(
    production: pl.DataFrame, challenger: pl.DataFrame, config: GateConfig, declared: Collection[str] = ()
) -> Iterator[str]:
    """Yield a cause for each kind of loss that hit more than `config.max_removed_fraction` of production's items.

    Both tables hold the `COLUMNS` of the items that a release finds, so not those in quarantine. An item is lost if
    only production has it and it is not `declared` as removed. Of the items that both have, a column is lost where the
    catalogue no longer says anything, and a picture, product or category also where items of another one now share it.
    The bound holds overall and within each category of at least `config.min_category_items`, but for the category
    itself.
    """
    marked = _mark_losses(production, challenger, declared)
    is_large = pl.col("of").is_not_null() & (pl.len().over("of") >= config.min_category_items)
    for column, words in LOSSES.items():
        n_lost, n_items = int(marked[column].sum()), marked[column].count()
        if n_lost > config.max_removed_fraction * n_items:
            renamed = _renamed(production, challenger) if column == "item_id" else ""
            yield f"{n_lost:,} of {n_items:,} items {words}{renamed}{_bound(config)}: {WAY_ON}"
        elif column != "category":
            yield from _losses_by_category(marked.filter(is_large), column, config)


def _mark_losses(production: pl.DataFrame, challenger: pl.DataFrame, declared: Collection[str]) -> pl.DataFrame:
    """Return a row for each item of production: whether it lost each of `COLUMNS`, and its category in `of`.

    The columns but item_id are null for an item that the challenger lacks.
    """
    there = KeyIndex(challenger.select("item_id")).first(production.select("item_id"))
    is_gone, both = there < 0, np.flatnonzero(there >= 0)
    is_declared = production["item_id"].is_in(list(declared)).to_numpy()
    marked: dict[str, npt.NDArray[np.generic] | pl.Series] = {"item_id": is_gone & ~is_declared}
    for column in COLUMNS[1:]:
        before, now = _compared(production[column]).gather(both), _compared(challenger[column]).gather(there[both])
        lost = np.zeros(len(there), np.bool_)
        lost[both] = _is_lost(before, now)
        marked[column] = pl.select(pl.when(pl.Series(~is_gone)).then(pl.Series(lost))).to_series()
    return pl.DataFrame(marked | {"of": production["category"]})


def _compared(values: pl.Series) -> pl.Series:
    """Return what is compared: of labels, which come and go (such as "new"), only whether there are any, else null."""
    if not isinstance(values.dtype, pl.List):
        return values
    has_any = values.list.len().fill_null(0) > 0
    return pl.select(pl.when(has_any).then(has_any)).to_series()


def _is_lost(before: pl.Series, now: pl.Series) -> Bool:
    """Return which values are lost, (n,), of items that had those `before` and have those `now`."""
    is_moved = before.ne_missing(now)
    pairs = pl.DataFrame({"before": before, "now": now}).with_row_index("row")
    unsure = pairs.filter(pl.col("now").is_in(now.filter(is_moved).unique().implode()), pl.col("before").is_not_null())
    # The items of the most frequent earlier value keep the current one: a value that was only renamed is not lost.
    # The share that is kept is the purity of a clustering (Manning, Raghavan and Schütze, 2008, section 16.3).
    counts = unsure.group_by("now", "before").len().sort("len", "before", descending=[True, False])
    kept = counts.unique("now", keep="first").select("now", "before")
    is_lost = (before.is_not_null() & now.is_null()).to_numpy(writable=True)
    is_lost[unsure.join(kept, on=["now", "before"], how="anti")["row"].to_numpy()] = True
    return np.asarray(is_lost)


def _losses_by_category(marked: pl.DataFrame, column: str, config: GateConfig) -> Iterator[str]:
    counts = marked.group_by("of").agg(pl.col(column).sum().alias("n_lost"), pl.col(column).count().alias("n_items"))
    losses = counts.filter(pl.col("n_lost") > config.max_removed_fraction * pl.col("n_items"))
    worst = losses.sort("n_lost", "of", descending=[True, False])
    for category, n_lost, n_items in worst.head(N_CATEGORIES_NAMED).rows():
        yield f"{n_lost:,} of {n_items:,} items of category {short_name(category)} {LOSSES[column]}{_bound(config)}"
    if len(worst) > N_CATEGORIES_NAMED:
        yield f"so it is in {len(worst) - N_CATEGORIES_NAMED} more categories"


def _renamed(production: pl.DataFrame, challenger: pl.DataFrame) -> str:
    pictures = production.select("item_id", "content_id")
    gone = pictures.join(challenger.select("item_id"), on="item_id", how="anti")
    n_renamed = len(gone.join(challenger.select("content_id"), on="content_id", how="semi"))
    return f" ({n_renamed:,} of their pictures have another id now)" if n_renamed else ""


def _bound(config: GateConfig) -> str:
    return f"{BOUND}{config.max_removed_fraction:g} of them (gate.max_removed_fraction)"


def what_was_lost(cause: str) -> str:
    """Return what a cause of `find_catalog_losses` says was lost, without the bound and the advice."""
    return cause.rpartition(BOUND)[0] or cause


def short_name(name: str) -> str:
    """Return a name from the catalogue as one line of bounded length."""
    line = " ".join(name.split())
    return line if len(line) <= MAX_NAME_CHARS else f"{line[: MAX_NAME_CHARS - 1]}…"
