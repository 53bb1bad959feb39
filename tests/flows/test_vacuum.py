"""The vacuum as a flow: a dry run removes nothing, and a real one what nothing needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.vacuum import vacuum
from retrieval_core.maintenance.vacuum import Policy
from retrieval_core.settings import Settings

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_what_is_needed_by_nothing_goes_when_it_may(tmp_path: Path) -> None:
    settings = Settings.load(store=str(tmp_path))
    left = tmp_path / "vectors" / ("0" * 32) / "parts" / "0123456789abcdef.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left by a run that died")
    os.utime(left, (0, 0))
    policy = Policy(safe_hours=1)
    seen = vacuum(settings, policy, dry_run=True)
    assert (seen.n_planned, seen.n_removed) == (1, 0)
    assert left.exists()
    assert vacuum(settings, policy, dry_run=False).n_removed == 1
    assert not left.exists()
