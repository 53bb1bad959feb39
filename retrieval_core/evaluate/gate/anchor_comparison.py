"""Compare a challenger with the anchor, so that losses that each run tolerates cannot add up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from retrieval_core.artifacts.anchors import Anchor, anchor_of, describe_anchor, find_anchors, find_report
from retrieval_core.artifacts.manifests import Release, Value
from retrieval_core.artifacts.releases import get_release
from retrieval_core.config.stages import EvaluateConfig, GateConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.evaluate.gate.catalog_losses import WAY_ON, short_name
from retrieval_core.evaluate.gate.paired_comparison import Changes, MetricChange, compare
from retrieval_core.evaluate.gate.shared_gallery import SharedGallery, search_shared_gallery
from retrieval_core.evaluate.measure.setup import SearchSetup
from retrieval_core.store.base import Store

# Of `alpha`, for the comparison with the anchor. It sees a loss of one run, too; that with production takes the rest.
ALPHA_SHARE = 0.75
MIN_SHARED = 0.5  # of the challenger's queries; an anchor that shares fewer is too old to compare with
N_LOSSES_NAMED = 3

log = logging.getLogger(__name__)


class AnchorFigures(NamedTuple):
    """What the gate knows of the anchor.

    `challenger` and `anchor` are tables for `compare`, of both searches among the `n_gallery` items that both hold;
    None where production itself is the anchor. `most_rows` are the most items that production found since the anchor,
    less those removed on purpose. `note` is a sentence if another release stands in for the anchor, else "".
    """

    release: str
    challenger: pl.DataFrame | None = None
    anchor: pl.DataFrame | None = None
    n_gallery: int = 0
    most_rows: int = 0
    note: str = ""

    @property
    def is_compared(self) -> bool:
        return self.challenger is not None

    @property
    def alpha_share(self) -> float:
        """The share of the gate's `alpha` that the comparison with the anchor takes."""
        return ALPHA_SHARE if self.is_compared else 0.0


class AnchorFacts(Value):
    """The anchor as the report shows it, and the metrics compared with it, if production is not the anchor itself."""

    anchor: Anchor
    note: str = ""
    n_gallery: int = 0
    changes: tuple[MetricChange, ...] = ()


def search_anchor(
    store: Store, production: Release, setup: SearchSetup, config: EvaluateConfig, n_removed: int
) -> AnchorFigures:
    """Search production's anchor and the challenger among the items that both hold.

    A release that was removed, is damaged or shares too few queries is replaced by a later one, at last by production.
    `n_removed` items were removed on purpose in this run.
    """
    name = anchor_of(store, production)
    rows = production.counts["rows"]
    report = find_report(store, production) if name != production.fingerprint else None
    rows = max(rows, report.counts.get("most_rows", 0) if report else 0)
    figures = AnchorFigures(production.fingerprint, most_rows=rows - n_removed)
    for candidate in find_anchors(store, production):
        shared = _search(store, candidate, setup, config) if candidate != production else None
        if shared:
            categories = setup.items.select("item_id", "category")
            challenger = shared.challenger.join(categories, on="item_id", how="left", maintain_order="left")
            figures = AnchorFigures(
                candidate.fingerprint, challenger, shared.baseline, shared.n_gallery, most_rows=rows - n_removed
            )
            break
    if figures.release == name:
        return figures
    stand_in = figures.release[:12]
    return figures._replace(note=f"The anchor {name[:12]} cannot be compared with; {stand_in} stands in for it.")


def _search(store: Store, release: Release, setup: SearchSetup, config: EvaluateConfig) -> SharedGallery | None:
    try:
        shared = search_shared_gallery(store, release, setup, config)
    except (NotFound, ShardCorrupt) as error:
        log.warning("the anchor %s cannot be searched: %s", release.fingerprint, error)
        return None
    return shared if len(shared.challenger) >= MIN_SHARED * len(setup.protocol.queries) else None


def anchor_facts(store: Store, figures: AnchorFigures, changes: tuple[MetricChange, ...]) -> AnchorFacts:
    """Return what the report shows of an anchor that was searched."""
    anchor = describe_anchor(store, get_release(store, figures.release))
    return AnchorFacts(anchor=anchor, note=figures.note, n_gallery=figures.n_gallery, changes=changes)


def compare_with_anchor(figures: AnchorFigures, config: GateConfig) -> tuple[MetricChange, ...]:
    """Compare challenger and anchor as `compare` does, with `config.max_drift`; overall, then within categories."""
    if figures.challenger is None or figures.anchor is None:
        return ()
    limits = {"max_loss": config.max_drift, "alpha": figures.alpha_share * config.alpha}
    changes = compare(figures.challenger, figures.anchor, config.model_copy(update=limits))
    return (*changes.overall, *changes.by_category)


def find_drift(
    figures: AnchorFigures,
    since_production: Changes,
    since_anchor: tuple[MetricChange, ...],
    n_indexed: int,
    config: GateConfig,
) -> Iterator[str]:
    """Yield a cause for each loss since the anchor that blocks, and for a catalogue that shrank too far.

    Left out are metrics whose loss since production blocks, too: that is no drift.
    """
    since = f"since the anchor {figures.release[:12]}"
    at_once = {
        (row.name, row.category) for row in (*since_production.overall, *since_production.by_category) if row.blocks
    }
    drifted = (row for row in since_anchor if row.blocks and (row.name, row.category) not in at_once)
    losses = sorted(drifted, key=lambda row: (row.category != "", row.difference))
    for row in losses[:N_LOSSES_NAMED]:
        where = f" in category {short_name(row.category)}" if row.category else ""
        tolerated = f"{config.max_category_loss:g}" if row.category else f"{config.max_drift:g} (gate.max_drift)"
        yield (
            f"{row.name} fell{where} from {row.production:.3f} to {row.candidate:.3f} {since}, over several runs and "
            f"beyond chance (p = {row.p_holm:.2g}) on {row.n_queries:,} queries; {tolerated} is tolerated"
        )
    if len(losses) > N_LOSSES_NAMED:
        yield f"{len(losses) - N_LOSSES_NAMED} more metrics fell {since}"
    if figures.is_compared and n_indexed < (1 - config.max_removed_fraction) * figures.most_rows:
        yield (
            f"the catalogue shrank from {figures.most_rows:,} to {n_indexed:,} items {since}, over several runs, by "
            f"more than {config.max_removed_fraction:g} (gate.max_removed_fraction): {WAY_ON}"
        )
