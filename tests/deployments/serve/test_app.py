"""What the search app does not do for a stranger, and how it starts."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.cli.main import main
from retrieval_core.artifacts import releases


@pytest.mark.parametrize("path", ["http://127.0.0.1:1/a.jpg", "HTTPS://a.example/a.jpg", "/etc/passwd", "picture"])
def test_a_field_for_an_upload_takes_no_address_and_no_file_of_the_machine(path: str, url: str, shop: Any) -> None:
    search = search_of(httpx.get(f"{url}/config").json())
    path = str(shop.picture("item-1-0")) if path == "picture" else path
    told = asked(url, search, {"path": path, "meta": {"_type": "gradio.FileData"}}, "")
    assert told["success"] is False
    assert "uploaded" in told["output"]["error"]


def test_a_picture_that_was_uploaded_is_searched(url: str, shop: Any) -> None:
    search = search_of(httpx.get(f"{url}/config").json())
    upload = httpx.post(f"{url}/gradio_api/upload", files={"files": shop.picture("item-1-0").read_bytes()})
    told = asked(url, search, {"path": upload.json()[0], "meta": {"_type": "gradio.FileData"}}, "")
    assert told["success"] is True
    assert "item-1-0" in told["output"]["data"][1]


def asked(url: str, search: int, picture: Any, words: Any) -> dict[str, Any]:
    """What the search with the fields of the markup ends with."""
    data = [picture, words, "", None, "", "", 3, False, False, False, "nearest", releases.PRODUCTION, "none"]
    body = {"data": data, "fn_index": search, "session_hash": uuid.uuid4().hex}
    httpx.post(f"{url}/gradio_api/queue/join", json=body).raise_for_status()
    return last_message(url, str(body["session_hash"]))


def test_a_field_for_words_fetches_nothing_either(url: str) -> None:
    search = search_of(httpx.get(f"{url}/config").json())
    file = {"path": "http://127.0.0.1:1/a.jpg", "meta": {"_type": "gradio.FileData"}}
    assert "uploaded" in asked(url, search, None, file)["output"]["error"]


def test_the_page_has_no_api_of_its_own(url: str) -> None:
    info = httpx.get(f"{url}/gradio_api/info").json()
    assert info["named_endpoints"] == {}
    assert httpx.post(f"{url}/v1/search", json={"item_ids": ["item-1-0"], "k": 2}).json()["hits"]


def test_no_file_of_the_machine_is_served_and_no_other_server_is_asked(url: str, shop: Any) -> None:
    for path in (str(shop.picture("item-1-0")), "/etc/passwd", str(Path(__file__))):
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404)
    for path in ("file=http://127.0.0.1:1/a", "proxy=http://127.0.0.1:1/a", "file=https:%2f%2fa.example/a"):
        assert httpx.get(f"{url}/gradio_api/{path}").status_code == 404


def test_every_answer_tells_the_browser_to_ask_nobody_else(url: str) -> None:
    headers = httpx.get(url).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def search_of(config: dict[str, Any]) -> int:
    """The number of the event that searches with the fields of the markup."""
    (picture,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == "picture")
    return next(one["id"] for one in config["dependencies"] if one["inputs"][:1] == [picture])


def last_message(url: str, session: str) -> dict[str, Any]:
    with httpx.stream("GET", f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=60) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


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
