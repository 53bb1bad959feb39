"""Fill in a representation beside the live one, at its own pace, until a person promotes its release."""

from __future__ import annotations

import time
from typing import Any, Literal

from prefect import Task, flow

from flows.pictures import RunShards, choose_masking, mask_and_embed, snapshot_catalog
from flows.pipeline import publish_catalog
from flows.preflight import preflight, with_backbone
from flows.run import DEFAULTS, RUNNER, Clock, holds_lease
from flows.shards.engines import each_shard, in_shards
from flows.summary import RunSummary, as_table
from flows.ui_artifacts import shard_progress, show_report, show_table
from retrieval_core.artifacts.manifests import Catalog, Value
from retrieval_core.artifacts.shards import WorkPlan
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.selection import ItemSelection
from retrieval_core.settings import Settings
from tasks.ingest import choose_items
from tasks.mask import prepare_detector
from tasks.pictures import prepare_backbone
from tasks.preflight import check_before_run

Through = Literal["mask", "embed", "release"]


class BackfillSummary(Value):
    """What a backfill did: the document of `vitrine backfill --json`.

    `items` of the catalogue's `rows` were filled in, `through` which stage; `outcome` is a sentence on how to publish
    the release, or on why there is none.
    """

    rows: int
    items: int
    through: Through
    outcome: str
    masked: int
    embedded: int
    seconds: dict[str, float]
    release: RunSummary | None = None

    def as_markdown(self) -> str:
        """Return tables for Prefect's UI."""
        rows = [
            ("outcome", self.outcome),
            ("items", f"{self.items:,} of {self.rows:,}"),
            ("through", self.through),
            ("masked", f"{self.masked:,}"),
            ("embedded", f"{self.embedded:,}"),
            ("seconds", f"{self.seconds['total']:.1f}"),
        ]
        return "\n\n".join([as_table(("", ""), rows), *([self.release.as_markdown()] if self.release else [])])


@flow(name="backfill", task_runner=RUNNER, validate_parameters=True)
@holds_lease
def backfill(
    source: str,
    settings: Settings,
    config: NightlyConfig = DEFAULTS,
    where: str = "",
    item_ids: tuple[str, ...] = (),
    since: str = "",
    until: str = "",
    through: Through = "release",
    pictures_per_second: float = 0.0,
) -> BackfillSummary:
    """Make the masks and vectors that are missing, then a release that waits for `vitrine promote`.

    A backfill that was killed is resumed by the next one. A backfill of selected items makes no release, since a search
    has to cover the whole catalogue.

    Args:
        source: KIND:URI of the catalogue, as the nightly reads it.
        settings: where the store is and how many threads to use; an empty field is as the worker's environment says.
        config: the representation to make, stage by stage; the release is held whatever the gate is set to.
        where: a filter of the items to fill in, for example category=dress; empty takes all.
        item_ids: the items to fill in; empty takes all.
        since: only items that were added or changed in a catalogue sealed since this date, for example 2026-03-01.
        until: only items that were added or changed in a catalogue sealed until this date, the day included.
        through: the last stage to run; release needs all items.
        pictures_per_second: the rate to keep below, by pauses between shards; 0 sets no limit.
    """
    selection = ItemSelection(where=where, item_ids=item_ids, since=since, until=until)
    _check(selection, config, through, pictures_per_second)
    preflight(check_before_run, settings, source, config, is_evaluated=through == "release")
    config = with_backbone(settings, config)
    store, clock = settings.open_store(), Clock()
    run_shards = paced(pictures_per_second) if pictures_per_second else each_shard
    with clock.stage("ingest"):
        snapshot = snapshot_catalog(settings, source, config.ingest)
        catalog, fields = snapshot.catalog, snapshot.fields
        selected = catalog if selection.selects_all else choose_items(settings, catalog, selection, fields)
    with clock.stage("backbone"):  # before the long work: bad weights fail here
        detector = prepare_detector(settings, config.crop) if config.detects else None
        backbone = prepare_backbone(settings, catalog, config.embed, config.ingest) if through != "mask" else None
    with clock.stage("mask"):
        masking = choose_masking(settings, source, catalog, detector, config)
    with clock.stage("embed" if backbone else "mask"):
        pictures = mask_and_embed(settings, selected, masking, backbone, config, run_shards)
    release = _hold(source, settings, config) if through == "release" and selected == catalog else None
    n_rows, n_items = (Catalog.open(store, ref).counts["rows"] for ref in (catalog, selected))
    summary = BackfillSummary(
        rows=n_rows,
        items=n_items,
        through="embed" if through == "release" and release is None else through,
        outcome=_outcome(release, through, n_items, n_rows),
        masked=pictures.n_masked,
        embedded=sum(pictures.n_embedded.values()),
        seconds=clock.total(),
        release=release,
    )
    show_table("backfill-summary", summary.as_markdown(), summary.outcome)
    show_report("backfill", release.link if release else "")
    return summary


def _check(selection: ItemSelection, config: NightlyConfig, through: Through, pictures_per_second: float) -> None:
    """Raise `BadConfig` for what cannot be done, before anything is read."""
    if pictures_per_second < 0:
        raise BadConfig(f"pictures_per_second is {pictures_per_second}; expected 0 for no limit, or more")
    if through == "mask" and not config.detects and (config.embed.background == "raw" or not config.mask.enabled):
        raise BadConfig("through is mask, but this config masks nothing; enable mask and embed another background")
    selection.period()


def _hold(source: str, settings: Settings, config: NightlyConfig) -> RunSummary:
    """Make a release of the catalogue as it is now: a long backfill started from one that may be days old."""
    held = config.model_copy(update={"gate": config.gate.model_copy(update={"mode": "hold"})})
    return publish_catalog(source, settings, held, lambda _: snapshot_catalog(settings, source, config.ingest))


def _outcome(release: RunSummary | None, through: Through, n_items: int, n_rows: int) -> str:
    if release:
        return f"{release.reason} `vitrine promote {release.release[:12]}` publishes it."
    if through != "release":
        return f"No release: the backfill ends with stage {through}."
    return (
        f"No release: {n_items} of {n_rows} items were filled in, and a search has to cover the whole catalogue. "
        "A backfill of all items makes one."
    )


def paced(pictures_per_second: float) -> RunShards:
    """Return a function that runs a task over the shards of a plan one by one, with pauses between them."""

    def run_shards(work: Task[..., Any], settings: Settings, plan: WorkPlan, *shared: object) -> list[Any]:
        shards = plan.split()
        progress = shard_progress(work, [(settings, shard, *shared) for shard in shards])
        pause_s = plan.n_missing / max(len(shards), 1) / pictures_per_second
        results: list[Any] = []
        for shard in shards:
            started = time.monotonic()
            results += in_shards(work, settings, [shard], *shared)
            progress.advance()
            time.sleep(max(0.0, pause_s - (time.monotonic() - started)))
        return results

    return run_shards
