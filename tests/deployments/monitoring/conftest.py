"""What Prometheus can ask for: the names of all metrics that the search page and Prefect's server print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import Expr, VectorSelector, parse, walk

from deployments.serve.metrics import Exporter
from tests.deployments.serve.test_metrics import end_run
from tests.faults.servers import LOGIN

FOLDER = Path(__file__).parents[3] / "deployments" / "monitoring"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
BY_PROMETHEUS = {"up"}  # of each target


@pytest.fixture(scope="session")
def exported(api_url: str, new_shop: Any, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of what `/metrics` and `/api/metrics` print after two runs."""
    shop = new_shop(tmp_path_factory.mktemp("shop"))
    shop.publish("a" * 32)
    end_run(shop, "2026-11-20T010000.000+0000", "published", 1)
    end_run(shop, "2026-11-21T010000.000+0000", "held", 3)
    ours = bytes(Exporter(shop.store, shop.settings).response().body).decode()
    response = httpx.get(f"{api_url}/metrics", auth=tuple(LOGIN.split(":", 1)))
    assert response.status_code == 200
    families = [family for text in (ours, response.text) for family in text_string_to_metric_families(text)]
    suffix = {"counter": "_total", "histogram": "_bucket"}
    return {family.name + suffix.get(family.type, "") for family in families}


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression of PromQL reads. Raises `ValueError` if it cannot be parsed."""
    names: set[str] = set()

    def visit(node: Expr) -> bool:
        if isinstance(node, VectorSelector):
            names.add(str(node.name))
        return True

    walk(parse(expression), visit)
    return names
