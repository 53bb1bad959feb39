"""What the service tells browsers, and how it starts."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from deployments.cli.main import main


def test_every_answer_tells_the_browser_to_run_no_other_script_and_to_ask_nobody_else(url: str) -> None:
    for path in ("/", "/page.js", "/v1/releases", "/nothing"):
        headers = httpx.get(url + path).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_only_the_files_of_the_page_are_served(url: str) -> None:
    assert httpx.get(url).headers["cache-control"] == "no-cache", "a new version is seen at once"
    for path in ("/page.py", "/..%2fpage.py", "/%2e%2e/page.py", "//etc/passwd", "/static/page.js"):
        assert httpx.get(url + path).status_code == 404


@pytest.mark.parametrize("port", ["taken", "99999", "-1"])
def test_a_port_that_cannot_be_had_is_one_clear_line(
    port: str, url: str, shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    number = url.rpartition(":")[2] if port == "taken" else port
    assert main(["serve", "--store", shop.settings.store, f"--port={number}"]) == 2
    assert f"cannot listen on 127.0.0.1:{number}" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_an_app_with_a_release_is_ready(path: str, url: str) -> None:
    assert httpx.get(url + path).status_code == 200
