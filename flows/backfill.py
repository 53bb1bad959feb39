"""A representation filled in beside the live one, at its own pace, until a person promotes it."""

from __future__ import annotations

import time
from typing import Any, Literal

from prefect import Task, flow

from flows.pictures import Shards, embed_pictures, mask_pictures
from flows.pipeline import DEFAULTS, publish_catalog
from flows.preflight import preflight
from flows.run import RUNNER, Clock, holds_lease
from flows.shards import each_shard, in_shards
from flows.summary import RunSummary, as_table
from flows.ui_artifacts import shard_progress, show_report, show_table
from retrieval_core.artifacts.manifests import Catalog, Value
from retrieval_core.artifacts.shards import WorkPlan
from retrieval_core.config import NightlyConfig
from retrieval_core.errors import BadConfig
from retrieval_core.ingest.selection import ItemSelection
from retrieval_core.settings import Settings
from tasks.embed import prepare_backbone
from tasks.ingest import choose_items, snapshot_catalog
from tasks.mask import prepare_detector
from tasks.preflight import check_before_run

Through = Literal["mask", "embed", "release"]


class BackfillSummary(Value):
    """What a backfill did: the document of `vitrine backfill --json`.

    `items` of the catalogue's `rows` were filled in, `through` which stage; `outcome` says what waits for whom, or why
    there is no release.
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
        """Tables for Prefect's UI."""
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
    """Make masks and vectors that are missing, then a release that waits for `vitrine promote`.

    What a killed backfill has made is there for the next one. Where only some of the items are filled in there is no
    release: the search of a part of the catalogue is none of the whole.

    Args:
        source: KIND:URI of the catalogue, as the nightly reads it.
        settings: where the store is and how many threads to use.
        config: the representation to make, stage by stage; the gate holds it whatever is set there.
        where: a filter of the items to fill in, for example category=dress; empty takes all.
        item_ids: the items to fill in; empty takes all.
        since: only items that came or changed in a catalogue sealed since this date, for example 2026-03-01.
        until: only items that came or changed in a catalogue sealed until this date, the day included.
        through: the stage to end with; release takes all items.
        pictures_per_second: pause between shards so as to do no more than this; 0 sets no limit.
    """
    selection = ItemSelection(where=where, item_ids=item_ids, since=since, until=until)
    _check(selection, config, through, pictures_per_second)
    preflight(check_before_run, settings, source, config, is_evaluated=through == "release")
    store, clock = settings.open_store(), Clock()
    each = paced(pictures_per_second) if pictures_per_second else each_shard
    with clock.stage("ingest"):
        catalog = snapshot_catalog(settings, source, config.ingest).catalog
        chosen = catalog if selection.selects_all else choose_items(settings, catalog, selection)
    with clock.stage("backbone"):  # before the long work: bad weights fail here
        detector = prepare_detector(settings, config.crop) if config.detects else None
        backbone = prepare_backbone(settings, catalog, config.embed, config.ingest) if through != "mask" else None
    with clock.stage("mask"):
        masking = mask_pictures(settings, source, catalog, detector, config, chosen, each)
    n_embedded = 0
    if backbone:
        with clock.stage("embed"):
            made = embed_pictures(settings, chosen, backbone, masking.masks, config, each)
            n_embedded = sum(embedding.n_embedded for embedding in made.values())
    release = _hold(source, settings, config) if through == "release" and chosen == catalog else None
    n_rows, n_items = (Catalog.open(store, ref).counts["rows"] for ref in (catalog, chosen))
    summary = BackfillSummary(
        rows=n_rows,
        items=n_items,
        through="embed" if through == "release" and release is None else through,
        outcome=_outcome(release, through, n_items, n_rows),
        masked=masking.n_masked,
        embedded=n_embedded,
        seconds=clock.total(),
        release=release,
    )
    show_table("backfill-summary", summary.as_markdown(), summary.outcome)
    show_report("backfill", release.link if release else "")
    return summary


def _check(selection: ItemSelection, config: NightlyConfig, through: Through, pictures_per_second: float) -> None:
    """Raises `BadConfig` for what cannot be done, before anything is read."""
    if pictures_per_second < 0:
        raise BadConfig(f"pictures_per_second is {pictures_per_second}; expected 0 for no limit, or more")
    if through == "mask" and not config.detects and (config.embed.background == "raw" or not config.mask.enabled):
        raise BadConfig("through is mask, but this config masks nothing; enable mask and embed another background")
    selection.period()


def _hold(source: str, settings: Settings, config: NightlyConfig) -> RunSummary:
    """A release of the catalogue as it is by now: a long backfill would otherwise offer one of days ago."""
    held = config.model_copy(update={"gate": config.gate.model_copy(update={"mode": "hold"})})
    return publish_catalog(source, settings, held, lambda _: snapshot_catalog(settings, source, config.ingest))


def _outcome(release: RunSummary | None, through: Through, n_items: int, n_rows: int) -> str:
    if release:
        return f"{release.reason} `vitrine promote {release.release[:12]}` publishes it."
    if through != "release":
        return f"No release: it was to go through {through} only."
    return (
        f"No release: {n_items} of {n_rows} items were filled in, and the search of a part is none of the whole. "
        "A backfill of all items makes one."
    )


def paced(pictures_per_second: float) -> Shards:
    """Makes the shards of a plan one by one, with pauses between them."""

    def each(work: Task[..., Any], settings: Settings, plan: WorkPlan, *shared: object) -> list[Any]:
        shards = plan.split()
        progress = shard_progress(work, [(settings, shard, *shared) for shard in shards])
        pause_s = plan.n_missing / max(len(shards), 1) / pictures_per_second
        made: list[Any] = []
        for shard in shards:
            started = time.monotonic()
            made += in_shards(work, settings, [shard], *shared)
            progress.advance()
            time.sleep(max(0.0, pause_s - (time.monotonic() - started)))
        return made

    return each
