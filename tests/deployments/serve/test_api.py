"""The JSON API: the document of the command line, and errors in words."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from deployments.cli.main import main
from tests.deployments.conftest import FIRST, SECOND

DOCS = (Path(__file__).parents[3] / "docs" / "app.md").read_text()


def test_the_api_gives_the_document_of_the_command_line(
    client: Client, shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, where = shop.picture("item-3-0"), "category=dress and colour in (red, blue)"
    store = shop.settings.store
    assert main(["search", "--store", store, "--image", str(picture), "-k=4", "--where", where, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    image = base64.b64encode(picture.read_bytes()).decode()
    answered = client.predict(image=image, k=4, where=where, api_name="/search")
    assert answered == printed
    assert answered["hits"][0]["item_id"] == "item-3-0"
    assert client.predict(image=f"data:image/jpeg;base64,{image}", k=4, where=where, api_name="/search") == printed


def test_the_api_searches_by_item_in_a_named_release(client: Client) -> None:
    answer = client.predict(item="item-1-0", k=100, release=FIRST[:8], all_items=True, api_name="/search")
    assert answer["release"] == FIRST
    assert len(answer["hits"]) == 17
    assert "item-1-0" not in {hit["item_id"] for hit in answer["hits"]}
    by_product = client.predict(item="item-1-0", k=100, release=FIRST[:8], api_name="/search")
    assert len(by_product["hits"]) == 8, "three items are of no product, the others of five"


def test_the_api_lists_releases_and_what_filters_can_name(client: Client) -> None:
    assert [row["release"] for row in client.predict(api_name="/releases")] == [SECOND, FIRST]
    assert set(client.predict(api_name="/releases")[0]) == {"release", "created", "gate", "rows"}
    assert set(client.predict(api_name="/columns")["category"]) == {"dress", "coat"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "nothing to look for"),
        ({"image": "not base64!"}, "not base64"),
        ({"image": "aGVsbG8="}, "not a JPEG"),
        ({"url": "http://127.0.0.1:1/a.jpg"}, "not on the public internet"),
        ({"url": "file:///etc/passwd"}, "only http"),
        ({"url": "http://a.example/", "image": "aGVsbG8="}, "one picture"),
        ({"text": "red dress"}, "reads no text"),
        ({"item": "nobody"}, "nobody"),
        ({"item": "Item 1 0"}, "did you mean 'item-1-0'?"),
        ({"item": "item-1-0", "where": "colur=red"}, "did you mean 'colour'"),
        ({"item": "item-1-0", "k": 0}, "k: "),
        ({"item": "item-1-0", "k": 10**9}, "k: "),
        ({"item": "item-1-0", "k": "many"}, "k: "),
        ({"item": ["item-1-0"]}, "item: "),
        ({"item": "item-1-0", "mode": "furthest"}, "nearest"),
        ({"item": "item-1-0", "release": "../x"}, "names no release"),
    ],
    ids=str,
)
def test_the_api_says_in_words_what_is_wrong(asked: dict[str, Any], says: str, client: Client) -> None:
    with pytest.raises(AppError, match=re.escape(says)):
        client.predict(**asked, api_name="/search")


def test_the_python_of_the_docs_runs(url: str, shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "query.jpg").write_bytes(shop.picture("item-3-0").read_bytes())
    monkeypatch.chdir(tmp_path)
    code = DOCS.split("```python\n")[1].split("```")[0].replace("http://127.0.0.1:7860", url)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["answer"]["hits"][0]["item_id"] == "item-3-0"


def test_the_curl_of_the_docs_is_a_request_that_is_answered(url: str) -> None:
    """Its lines are read here, as curl is not everywhere."""
    asked, answered = re.findall(r"curl .*?(/gradio_api/\S+)", DOCS)
    (body,) = re.findall(r"-d '(\{.*?\})'", DOCS)
    body = body.replace("p0003-v1", "item-3-0").replace("category=sweater", "category=dress")
    event = httpx.post(url + asked, json=json.loads(body)).json()["event_id"]
    lines = httpx.get(url + answered.replace("$EVENT", event)).text.splitlines()
    assert lines[0] == "event: complete"
    (document,) = json.loads(lines[1].removeprefix("data: "))
    assert document["release"] == SECOND
