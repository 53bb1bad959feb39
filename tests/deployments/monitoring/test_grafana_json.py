"""The dashboard: every panel has a place of its own, a unit, and expressions over metrics that exist."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest

from tests.deployments.monitoring.conftest import FOLDER, RECORDED, metrics_of

DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
# Panels and units of Grafana 10 and later that the dashboard uses.
KINDS = {"stat", "timeseries", "state-timeline"}
UNITS = {"s", "bytes", "short", "none", "percentunit", "dateTimeFromNow"}


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_shows_metrics_that_exist(panel: dict[str, Any], exported: set[str]) -> None:
    assert panel["type"] in KINDS
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    for target in panel["targets"]:
        metrics = metrics_of(target["expr"])
        assert metrics
        assert metrics <= exported | RECORDED
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


def test_panels_have_names_and_places_of_their_own_and_a_data_source_that_a_person_chooses() -> None:
    for key in ("id", "title"):
        assert len({panel[key] for panel in PANELS}) == len(PANELS)
    places = [
        {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        for at in (panel["gridPos"] for panel in PANELS)
    ]
    assert all(x < 24 for place in places for x, _ in place)
    assert not any(a & b for a, b in combinations(places, 2))
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")


def test_every_metric_of_a_run_has_a_panel_or_is_there_for_an_alert(exported: set[str]) -> None:
    shown = set().union(*(metrics_of(target["expr"]) for panel in PANELS for target in panel["targets"]))
    assert {name for name in exported if name.startswith("vitrine_")} - shown == {"vitrine_store_up"}
