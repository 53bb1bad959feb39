"""The alert rules ask for metrics that exist, in expressions that Prometheus can parse, and each is made to fire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployments.monitoring.conftest import BY_PROMETHEUS, RECORDED, RULES, metrics_of

ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASES = yaml.safe_load((Path(__file__).parent / "alerts_test.yml").read_text())


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert", rule.get("record")) for rule in RULES])
def test_a_rule_asks_for_metrics_that_exist(rule: dict[str, Any], exported: set[str]) -> None:
    metrics = metrics_of(rule["expr"])
    assert metrics
    assert metrics <= exported | RECORDED | BY_PROMETHEUS


def test_every_alert_says_what_happened_and_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert all(alert["annotations"]["summary"].endswith(".") for alert in ALERTS.values())
    cases = [case for group in CASES["tests"] for case in group["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) == fires} == ALERTS.keys()
