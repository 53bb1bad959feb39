"""`vitrine run`, `plan` and `backfill` as a script meets them: one JSON document and an exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deployments.cli.conftest import QUICK, Done


def test_run_prints_its_document_and_nothing_else(published: Path) -> None:
    run = json.loads((published / "run.json").read_text())
    assert {"release", "gate", "catalog", "masked", "embedded", "trained", "seconds", "metrics", "report"} <= set(run)
    assert run["gate"] == "published"
    counts = {"rows", "added", "changed", "removed", "unchanged", "quarantined", "moved", "refreshed", "passed_over"}
    assert set(run["catalog"]) == counts
    assert run["fetched"] == {"requests": 0, "bytes": 0, "not_modified": 0}
    assert (run["catalog"]["rows"], run["catalog"]["quarantined"], run["embedded"]) == (12, 1, 11)
    assert run["seconds"]["total"] >= run["seconds"]["embed"]
    assert Path(run["report"]).read_text().startswith("<!")


def test_a_run_logs_its_stages_and_nothing_of_prefect(published: Path) -> None:
    log = (published / "run.log").read_text()
    assert "INFO    | stage embed\n" in log
    for prefect in ("Flow run", "Task run", "Finished in state", "server"):
        assert prefect not in log


def test_a_failure_is_printed_once(published: Path, api_url: str) -> None:
    command = [sys.executable, "-m", "deployments.cli.main", "run", "--source=folder:photos", "--store=failed", *QUICK]
    environment = os.environ | {"PREFECT_API_URL": api_url}
    done = subprocess.run(command, cwd=published, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert (done.stderr.count("max_reject_fraction"), done.stderr.count("Traceback")) == (1, 0)
    assert done.stderr.splitlines()[-1].startswith("vitrine: 1 of 12 pictures")


def test_plan_says_what_a_run_would_do(original: Path, vitrine: Callable[..., Done]) -> None:
    done = vitrine("plan", "--source=folder:photos", "--store=store", "--json", *QUICK, cwd=original)
    plan = json.loads(done.out)
    assert (plan["rows"], plan["to_read"], plan["gone"], plan["refit"]) == (12, 1, 0, False)
    assert plan["recipe"] == "Flat"
    fresh = json.loads(vitrine("plan", "--source=folder:photos", "--store=new", "--json", *QUICK, cwd=original).out)
    assert (fresh["to_read"], fresh["refit"]) == (12, True)
    assert not (original / "new").exists(), "a plan writes nothing"


@pytest.mark.usefixtures("prefect_server")
def test_backfill_fills_in_what_is_chosen_and_says_why_there_is_no_release(
    published: Path, vitrine: Callable[..., Done]
) -> None:
    options = ["--source=folder:photos", "--store=filled", "--set=ingest.max_reject_fraction=0.1", *QUICK]
    done = vitrine("backfill", *options, "--where=category=red", "--item=red/1.jpg", "--json", cwd=published)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert (document["items"], document["rows"], document["embedded"]) == (1, 12, 1)
    assert (document["through"], document["release"]) == ("embed", None)
    assert document["outcome"].startswith("No release: 1 of 12 items")
    for wrong, message in (("--since=tomorrow", "since is 'tomorrow'"), ("--pictures-per-second=-1", "expected 0")):
        refused = vitrine("backfill", *options, wrong, cwd=published)
        assert (refused.code, refused.out) == (2, "")
        assert message in refused.err
