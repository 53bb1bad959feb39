"""Metrics for Prometheus: the state of the store, its last run and this machine's disks, and how searches are answered.

Where several processes answer, each sees a share of the requests. They keep their counts in the files of the folder
`PROMETHEUS_MULTIPROC_DIR`, from which any of them adds up the whole.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.responses import Response

from retrieval_core.errors import VitrineError
from retrieval_core.maintenance.health import Health, measure_health, watched_folders
from retrieval_core.search.live import LiveRelease
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

CACHED_S = 60.0  # a store with 100,000 documents of runs takes 1.4 s of CPU time to list

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PICTURES = (1, 2, 4, 8, 16, 32)

log = logging.getLogger("vitrine.serve")
tracer = trace.get_tracer("vitrine.serve")  # does nothing unless FastAPI sends traces to a collector
# They would be a second series beside each of a counter or histogram, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Measurements:
    """What the service measures while it answers."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        text = "Time that a search spent in a stage: decode, embed (with the wait for a batch), search or describe."
        self._stages = Histogram("vitrine_search_stage_seconds", text, ["stage"], buckets=SECONDS, registry=registry)
        text = "Time to answer a request."
        self._requests = Histogram("vitrine_request_seconds", text, ["route"], buckets=SECONDS, registry=registry)
        text = "Answered requests."
        self._answers = Counter("vitrine_requests", text, ["route", "status"], registry=registry)
        text = "Pictures in a forward pass."
        self.batch_pictures = Histogram("vitrine_batch_pictures", text, buckets=PICTURES, registry=registry)
        text = "Pictures that are decoded or wait for their forward pass."
        self.waiting_pictures = Gauge("vitrine_waiting_pictures", text, registry=registry, multiprocess_mode="livesum")
        text = "Events of shoppers that were taken: click, add_to_basket, purchase or not_what_i_meant."
        self.events = Counter("vitrine_events", text, ["event"], registry=registry)
        text = "Searches that were not recorded, as too many waited or the store takes none."
        self.unrecorded = Counter("vitrine_unrecorded_searches", text, registry=registry)
        text = "Searches and events that wait to be written to the store."
        self.waiting_rows = Gauge("vitrine_waiting_feedback", text, registry=registry, multiprocess_mode="livesum")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure and trace a stage of a search."""
        with tracer.start_as_current_span(name), self._stages.labels(name).time():
            yield

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route).observe(seconds)
        self._answers.labels(route, str(status)).inc()


class Exporter(Collector):
    """Renders the metrics; those of the store are at most `CACHED_S` old."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._folders = store, watched_folders(store, settings)
        self._lock, self._measured_s = threading.Lock(), float("-inf")
        self._health: Health | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self.live: LiveRelease | None = None  # the release that searches are answered from
        self.measurements = Measurements(None if MULTIPROCESS in os.environ else self._registry)

    def response(self) -> Response:
        """Return the metrics in Prometheus' text format. Reads the store."""
        data = generate_latest(self._registry)
        if MULTIPROCESS in os.environ:
            of_all_processes = CollectorRegistry()
            MultiProcessCollector(of_all_processes)  # type: ignore[no-untyped-call]
            data += generate_latest(of_all_processes)
        return Response(data, media_type=CONTENT_TYPE_LATEST)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; what is not known yet, such as the age before the first release, is absent."""
        if self.live:
            info = GaugeMetricFamily(
                "vitrine_release", "The release that searches are answered from.", labels=["release"]
            )
            info.add_metric([self.live.current.release.fingerprint], 1.0)
            switches = CounterMetricFamily("vitrine_release_switches", "Changes of the release since the start.")
            switches.add_metric([], self.live.n_switches)
            yield from (info, switches)
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
