"""Prometheus scrapes the search page and Prefect where the guide starts them, with the rules beside the file."""

from __future__ import annotations

from urllib.parse import urlsplit

import yaml

from deployments.cli.main import build_parser
from tests.deployments.monitoring.conftest import FOLDER

CONFIG = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
GUIDE = (FOLDER.parents[1] / "docs" / "operations.md").read_text()
JOBS = {job["job_name"]: job for job in CONFIG["scrape_configs"]}


def test_the_targets_are_the_addresses_of_the_guide() -> None:
    arguments = build_parser().parse_args(["app", "--store", "s"])
    assert JOBS["vitrine"]["static_configs"] == [{"targets": [f"{arguments.host}:{arguments.port}"]}]
    server = urlsplit(
        next(line for line in GUIDE.splitlines() if line.startswith("PREFECT_API_URL=")).partition("=")[2]
    )
    assert JOBS["prefect"]["static_configs"] == [{"targets": [server.netloc]}]
    assert JOBS["prefect"]["metrics_path"] == f"{server.path}/metrics"


def test_the_rules_and_the_password_lie_beside_the_file_and_the_guide_puts_them_there() -> None:
    assert [(FOLDER / name).exists() for name in CONFIG["rule_files"]] == [True]
    password = JOBS["prefect"]["basic_auth"]["password_file"]
    assert f"> /etc/prometheus/{password}\n" in GUIDE
    assert f"prometheus.yml {' '.join(CONFIG['rule_files'])} /etc/prometheus/" in GUIDE
