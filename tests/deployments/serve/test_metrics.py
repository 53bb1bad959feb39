"""What Prometheus reads from the search page: the state of the store, and its absence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.serve import metrics as metrics_module
from deployments.serve.metrics import Exporter
from retrieval_core.errors import StoreUnavailable
from tests.deployments.conftest import FIRST, SECOND

NEVER_RUN = {"vitrine_store_up", "vitrine_disk_free_bytes", "vitrine_disk_size_bytes"}
OF_SEARCHES = {
    "vitrine_search_stage_seconds",
    "vitrine_request_seconds",
    "vitrine_requests",
    "vitrine_batch_pictures",
    "vitrine_waiting_pictures",
    "vitrine_release",
    "vitrine_release_switches",
    "vitrine_events",
    "vitrine_unrecorded_searches",
    "vitrine_waiting_feedback",
}
OF_A_RUN = {
    "vitrine_production_age_seconds",
    "vitrine_last_run_timestamp_seconds",
    "vitrine_last_run_held",
    "vitrine_items",
    "vitrine_quarantined_items",
    "vitrine_quarantined_items_before",
    "vitrine_stage_seconds",
}


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of the store's metrics by name, each with its labels."""
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("vitrine_")]
    assert all(family.documentation.endswith(".") for family in families)
    families = [family for family in families if family.name not in OF_SEARCHES]
    assert all(family.type == "gauge" for family in families)
    return {family.name: [(sample.labels, sample.value) for sample in family.samples] for family in families}


def scrape(exporter: Exporter) -> dict[str, list[tuple[dict[str, str], float]]]:
    return samples(bytes(exporter.response().body).decode())


def end_run(shop: Any, moment: str, gate: str, quarantined: int) -> None:
    document = {"release": FIRST, "gate": gate, "reason": "fell", "causes": ["fell"]}
    document |= {"catalog": {"rows": 12, "quarantined": quarantined}, "seconds": {"ingest": 2.5, "total": 4.0}}
    shop.store.put(f"runs/{moment}.json", json.dumps(document).encode())


@pytest.fixture
def empty(new_shop: Callable[[Path], Any], tmp_path: Path) -> Any:
    return new_shop(tmp_path)


def test_a_run_is_exported_and_nothing_is_before_the_first(empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "CACHED_S", 0.0)
    exporter = Exporter(empty.store, empty.settings)
    assert scrape(exporter).keys() == NEVER_RUN
    empty.publish(FIRST)
    end_run(empty, "2026-11-20T010000.000+0000", "published", 1)
    end_run(empty, "2026-11-21T010000.000+0000", "held", 3)
    found = scrape(exporter)
    assert found.keys() == NEVER_RUN | OF_A_RUN
    assert found["vitrine_store_up"] == [({}, 1.0)]
    assert found["vitrine_last_run_held"] == [({}, 1.0)]
    assert found["vitrine_last_run_timestamp_seconds"] == [({}, 1795222800.0)]
    assert (found["vitrine_quarantined_items"], found["vitrine_quarantined_items_before"]) == ([({}, 3)], [({}, 1)])
    assert found["vitrine_stage_seconds"] == [({"stage": "ingest"}, 2.5)]
    assert found["vitrine_disk_free_bytes"][0][0] == {"folder": empty.store.url}


def test_the_store_is_read_once_however_many_scrape(empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(metrics_module, "measure_health", lambda *_: measured.append(1) or _raise())
    exporter = Exporter(empty.store, empty.settings)
    assert [scrape(exporter) for _ in range(3)] == [{"vitrine_store_up": [({}, 0.0)]}] * 3
    assert len(measured) == 1


def _raise() -> None:
    raise StoreUnavailable("the network is down")


def test_the_service_measures_what_it_answers(url: str, shop: Any) -> None:
    picture = {"image": shop.picture("item-1-0").read_bytes()}
    assert httpx.post(f"{url}/v1/search", files=picture).status_code == 200
    assert httpx.post(f"{url}/v1/search", json={"item_ids": ["nobody"]}).status_code == 404
    response = httpx.get(f"{url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert samples(response.text)["vitrine_store_up"] == [({}, 1.0)]
    assert "process_resident_memory_bytes" in response.text
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert families.keys() >= OF_SEARCHES
    counts = {
        sample.labels["stage"]: sample.value
        for sample in families["vitrine_search_stage_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts.keys() == {"decode", "embed", "search", "describe"}
    answered = {tuple(sample.labels.values()): sample.value for sample in families["vitrine_requests"].samples}
    assert answered["/v1/search", "404"] == 1
    assert families["vitrine_release"].samples[0].labels == {"release": SECOND}
    assert httpx.get(f"{url}/metrics", headers={"host": "other.example"}).status_code == 421
