"""Measure what monitoring watches from a few small objects: production's age, the last run, quarantine, disks."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release, Value
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.local import LocalStore

# Updates may publish every minute; quarantine is compared with the state before the last night.
EARLIER_S = 12 * 3600.0
MAX_READ = 50  # documents in search of one run

log = logging.getLogger(__name__)


class RunRecord(Value):
    """A run that ended: when (seconds since 1970), what the gate decided, its items, and its seconds per stage.

    The release of a backfill `waits` to be promoted by a person; the gate had no cause to hold it.
    """

    ended_s: float
    release: str
    outcome: Literal["published", "held", "waits"]
    reason: str
    items: int
    quarantined: int
    seconds: dict[str, float]


class Disk(Value):
    """The space of the file system that holds a folder."""

    folder: Path
    free_bytes: int
    total_bytes: int


class Health(Value):
    """The state of a store and of this machine's disks.

    `production_s` is when the last run ended whose release is production now (seconds since 1970), None before the
    first release. `quarantined_before` is the quarantine of the last run that ended `EARLIER_S` before `last_run`.
    Backfills whose release waits are no `last_run`.
    """

    production: str | None
    production_s: float | None
    last_run: RunRecord | None
    quarantined_before: int | None
    disks: tuple[Disk, ...]


class Limits(Value):
    """From where on a store's health is worth a warning."""

    release_hours: float = Field(36.0, gt=0, description="Production's age in hours: nothing was published since then.")
    quarantine_percent: float = Field(
        1.0, ge=0, description="Growth of the quarantine in percent of the items; also when it doubles."
    )
    quarantine_items: int = Field(10, ge=0, description="Growth by so many items at most is never told.")
    disk_percent: float = Field(10.0, ge=0, le=100, description="Free share of a disk in percent.")
    disk_gb: float = Field(5.0, ge=0, description="Free GB of a disk (10^9 bytes).")
    certificate_days: float = Field(14.0, ge=0, description="Days until a certificate expires.")


class HealthWarning(Value):
    """What will need attention, and why, in a plain sentence.

    Warnings of one kind and `subject` are the same warning; the subject changes when it gets much worse.
    """

    kind: Literal["age", "quarantine", "disk", "certificate", "store", "run"]
    subject: str
    reason: str


def measure_health(store: Store, folders: Iterable[Path]) -> Health:
    """Return the health of a store, and of the disks that hold `folders`; folders on one disk count once.

    Raises `ShardCorrupt`, `NotFound` and `StoreUnavailable` where the store cannot be read.
    """
    keys = releases.run_keys(store)
    last = next(_judged(store, keys), None)
    until = datetime.fromtimestamp(last.ended_s - EARLIER_S, UTC).isoformat() if last else ""
    earlier = next(_judged(store, [key for key in keys if releases.run_ended(key) <= until]), None)
    production = releases.read_release(store, releases.PRODUCTION)
    return Health(
        production=production.fingerprint if production else None,
        production_s=_production_s(store, keys, production) if production else None,
        last_run=last,
        quarantined_before=earlier.quarantined if earlier else None,
        disks=tuple(_disks(folders)),
    )


def watched_folders(store: Store, settings: Settings) -> tuple[Path, ...]:
    """Return the folders of this machine that runs and searches write to: the store, or the cache of a remote one."""
    return (Path(store.url),) if isinstance(store, LocalStore) else (settings.cache_dir,)


def find_warnings(health: Health, limits: Limits, now_s: float) -> list[HealthWarning]:
    """Return what will need attention before it stops a run; `now_s` is in seconds since 1970."""
    return [
        *_age_warnings(health, limits, now_s),
        *_quarantine_warnings(health, limits),
        *_disk_warnings(health, limits),
    ]


def _age_warnings(health: Health, limits: Limits, now_s: float) -> Iterator[HealthWarning]:
    age_hours = (now_s - health.production_s) / 3600 if health.production_s is not None else 0.0
    if age_hours > limits.release_hours:
        last = f" The last run ended so: {health.last_run.reason}" if health.last_run else ""
        reason = f"Searches see the catalogue of {age_hours:.0f} hours ago; nothing newer was published.{last}"
        yield HealthWarning(kind="age", subject=health.production or "", reason=reason)


def _quarantine_warnings(health: Health, limits: Limits) -> Iterator[HealthWarning]:
    run, before = health.last_run, health.quarantined_before
    if run is None or before is None:
        return
    allowed = min(2 * before, before + limits.quarantine_percent / 100 * run.items)
    if run.quarantined > max(allowed, before + limits.quarantine_items):
        reason = (
            f"{run.quarantined:,} of {run.items:,} items are in quarantine, {before:,} were before; see the report."
        )
        yield HealthWarning(kind="quarantine", subject=_magnitude(run.quarantined), reason=reason)


def _disk_warnings(health: Health, limits: Limits) -> Iterator[HealthWarning]:
    for disk in health.disks:
        if disk.free_bytes < max(disk.total_bytes * limits.disk_percent / 100, limits.disk_gb * 1e9):
            free = f"{disk.free_bytes / 1e9:,.1f} of {disk.total_bytes / 1e9:,.1f} GB"
            subject = f"{disk.folder}.{_magnitude(disk.free_bytes)}"
            yield HealthWarning(kind="disk", subject=subject, reason=f"The disk of {disk.folder} has only {free} free.")


def _magnitude(number: int) -> str:
    """Return a text that changes when the number doubles or halves."""
    return f"2^{number.bit_length()}"


def _production_s(store: Store, keys: Sequence[str], production: Release) -> float:
    ended_s = (run.ended_s for run in _runs(store, keys) if run.release == production.fingerprint)
    return next(ended_s, _seconds(production.created))


def _judged(store: Store, keys: Sequence[str]) -> Iterator[RunRecord]:
    return (run for run in _runs(store, keys) if run.outcome != "waits")


def _runs(store: Store, keys: Sequence[str]) -> Iterator[RunRecord]:
    """Yield the last `MAX_READ` runs, the latest first, each read when it is needed; unreadable ones are skipped."""
    for key in list(reversed(keys))[:MAX_READ]:
        try:
            document = json.loads(store.get(key))
            waits = document["gate"] == "held" and not document.get("causes")
            yield RunRecord(
                ended_s=_seconds(releases.run_ended(key)),
                release=document["release"],
                outcome="waits" if waits else document["gate"],
                reason=document["reason"],
                items=document["catalog"]["rows"],
                quarantined=document["catalog"]["quarantined"],
                seconds=document["seconds"],
            )
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is not the document of a run: %s", key, error)


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _disks(folders: Iterable[Path]) -> Iterator[Disk]:
    seen = set()
    for folder in folders:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        device = existing.stat().st_dev
        if device not in seen:
            seen.add(device)
            usage = shutil.disk_usage(existing)
            yield Disk(folder=folder, free_bytes=usage.free, total_bytes=usage.total)
