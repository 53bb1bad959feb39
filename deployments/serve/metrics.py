"""The state of the store, its last run and this machine's disks as metrics for Prometheus: `GET /metrics`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.responses import Response

from retrieval_core.errors import VitrineError
from retrieval_core.maintenance.health import Health, measure_health, watched_folders
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

CACHED_S = 60.0  # a store with 100,000 documents of runs takes 1.4 s of CPU time to list

log = logging.getLogger("vitrine.app")


class Exporter(Collector):
    """Renders the metrics of a store, from a state that is at most `CACHED_S` old."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._folders = store, watched_folders(store, settings)
        self._lock, self._measured_s = threading.Lock(), float("-inf")
        self._health: Health | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def response(self) -> Response:
        """Return the metrics in Prometheus' text format. Reads the store."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics; what is not known yet, such as the age before the first release, is absent."""
        health = self._measure()
        yield _gauge("store_up", "Whether the store can be read.", float(health is not None))
        if health is None:
            return
        if health.production_s is not None:
            age_s = time.time() - health.production_s
            yield _gauge("production_age_seconds", "Time since the last run whose release is production ended.", age_s)
        if health.last_run:
            run = health.last_run
            yield _gauge("last_run_timestamp_seconds", "When the last run ended.", run.ended_s)
            yield _gauge("last_run_held", "Whether the gate held the release of the last run.", run.outcome == "held")
            yield _gauge("items", "Items of the catalogue in the last run.", run.items)
            yield _gauge("quarantined_items", "Items in quarantine in the last run.", run.quarantined)
            stages = GaugeMetricFamily("vitrine_stage_seconds", "Duration of the last run's stages.", labels=["stage"])
            for stage, seconds in run.seconds.items():
                if stage != "total":
                    stages.add_metric([stage], seconds)
            yield stages
        if health.quarantined_before is not None:
            text = "Items in quarantine in the last run that ended half a day before the last one."
            yield _gauge("quarantined_items_before", text, health.quarantined_before)
        free = GaugeMetricFamily("vitrine_disk_free_bytes", "Free space of a folder's disk.", labels=["folder"])
        size = GaugeMetricFamily("vitrine_disk_size_bytes", "Size of a folder's disk.", labels=["folder"])
        for disk in health.disks:
            free.add_metric([str(disk.folder)], disk.free_bytes)
            size.add_metric([str(disk.folder)], disk.total_bytes)
        yield from (free, size)

    def _measure(self) -> Health | None:
        """Return the state of the store, None where it cannot be read."""
        with self._lock:
            if time.monotonic() - self._measured_s > CACHED_S:
                try:
                    self._health = measure_health(self._store, self._folders)
                except VitrineError as error:
                    log.warning("the store's state cannot be measured: %s", error)
                    self._health = None
                self._measured_s = time.monotonic()
            return self._health


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"vitrine_{name}", text, value)
