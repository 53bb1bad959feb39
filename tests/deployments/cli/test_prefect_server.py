"""A Prefect server that is named and not there, and a local one that cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_DATABASE_CONNECTION_URL, temporary_settings

from deployments.cli.prefect_server import start_prefect
from retrieval_core.errors import ServerUnavailable
from retrieval_core.settings import Settings
from tests.faults.servers import free_port


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/api", "nonsense", "ftp://host/api"])
def test_a_server_that_does_not_answer_is_one_line_with_the_remedy(url: str, tmp_path: Path) -> None:
    settings = Settings.load(cache_dir=tmp_path)
    with (
        temporary_settings({PREFECT_API_URL: url.format(port=free_port())}),
        pytest.raises(ServerUnavailable, match=r"no Prefect server answers at PREFECT_API_URL=.*unset PREFECT_API_URL"),
    ):
        start_prefect(settings, is_verbose=False)


def test_a_local_server_that_cannot_start_says_why_at_once(tmp_path: Path) -> None:
    database = {PREFECT_API_URL: None, PREFECT_SERVER_DATABASE_CONNECTION_URL: "sqlite+aiosqlite:////absent/p.db"}
    with (
        temporary_settings(database),
        pytest.raises(ServerUnavailable, match=r"does not start: .*and try again"),
    ):
        start_prefect(Settings.load(cache_dir=tmp_path), is_verbose=False)
