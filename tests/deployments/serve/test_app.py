"""The search app without a browser: what its page says, what its API answers, what it will not do for a stranger."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from deployments.cli.main import main
from deployments.serve import page as page
from deployments.serve.app import build_app, launch
from deployments.serve.desk import Answer, Asked, Desk, Example
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Hit, Report
from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.filters import parse_where
from tests.deployments.conftest import FIRST, SECOND

HOSTILE = """"><script>window.hacked=1</script><img src=x onerror=window.hacked=1>' ${window.hacked=1} {{hacked}} `"""
DOCS = (Path(__file__).parents[3] / "docs" / "app.md").read_text()


class Elements(HTMLParser):
    """Every tag of a page, with its attributes, and all its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str | None]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def desk(shop: Any) -> Iterator[Desk]:
    with closing(Desk(shop.store, shop.settings)) as desk:
        yield desk


@pytest.fixture(scope="module")
def url(desk: Desk, shop: Any) -> Iterator[str]:
    """Where the app answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = build_app(desk)
    launch(app, shop.store, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    app.close()


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def hit(item_id: str, score: float = 0.5, **more: Any) -> Hit:
    return Hit(item_id=item_id, score=score, image_uri="a.jpg", **more)


def found(release: Any, *hits: Hit, name: str = FIRST) -> page.Found:
    return page.Found(name, Answer(release, list(hits), 0.01), [""] * len(hits), [])


# What the page says


def test_nothing_a_catalogue_says_becomes_a_tag_or_a_script(desk: Desk) -> None:
    evil = hit(HOSTILE, product_id=HOSTILE, category=HOSTILE, labels=[HOSTILE, "plain"])
    answer = found(desk.open(), evil)._replace(searched=[(HOSTILE, "data:image/jpeg;base64,")])
    html = "".join(
        [
            page.results([answer, answer], HOSTILE),
            page.hints({HOSTILE: [HOSTILE], "empty": []}),
            page.problem(HOSTILE),
            page.greeting([Example(HOSTILE, HOSTILE, HOSTILE)], [""], HOSTILE),
        ]
    )
    elements = Elements(html)
    assert {tag for tag, _ in elements.tags} <= set(
        "div section figure img figcaption p b ol ul li a span i dl dt dd button".split()  # noqa: SIM905
    )
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert set(elements.values("data-item")) == {HOSTILE}
    assert all(str(href).startswith("?item=%22%3E%3Cscript") for href in elements.values("href"))


def test_a_value_to_filter_by_is_written_in_the_language_of_filters() -> None:
    names = ["category", "and", "it's", HOSTILE, "two words", "ümlaut"]
    html = page.hints({name: ["dress", "in", "o'clock", HOSTILE] for name in names})
    for where in Elements(html).values("data-where"):
        parse_where(str(where))
    assert "category=dress" in Elements(html).values("data-where")


def test_the_second_answer_says_how_its_order_differs(desk: Desk) -> None:
    left = found(desk.open(), hit("a"), hit("b"), hit("c"))
    right = found(desk.open(SECOND), hit("c"), hit("b"), hit("d"))
    html = page.results([left, right], "")
    marks = re.findall(r'<span class="vi-moved[^>]*>([^<]*)</span>', html)
    assert marks == ["↑2", "=", "only here"]
    assert "vi-moved" not in page.results([left], "")


def test_an_empty_answer_is_told_as_such(desk: Desk) -> None:
    assert "No item fits" in page.results([found(desk.open())], "")


# What is asked of releases


def test_releases_are_opened_by_name_and_by_nothing_else(desk: Desk) -> None:
    assert desk.open().release.fingerprint == SECOND
    assert desk.open(FIRST[:8]).release.fingerprint == FIRST
    assert desk.open(FIRST) is desk.open(FIRST[:6]), "a release is opened once"
    with pytest.raises(NotFound, match="no release"):
        desk.open("c" * 32)
    for name in ("../../etc/passwd", "", "latest", "artifact:x", "A" * 32):
        with pytest.raises(BadConfig, match="names no release"):
            desk.open(name)


def test_the_page_of_a_release_starts_with_items_of_every_category(desk: Desk) -> None:
    examples = desk.examples(desk.open())
    assert {example.category for example in examples} == {"coat", "dress"}
    assert len({example.item_id for example in examples}) == len(examples) >= 10
    assert desk.thumbnails(desk.open(), [example.image_uri for example in examples])[0].startswith("data:image/jpeg")


def test_a_picture_that_is_gone_leaves_a_gap_and_no_error(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert desk.thumbnails(desk.open(), [str(tmp_path / "gone.jpg"), str(tmp_path / "broken.jpg")]) == ["", ""]


def test_what_was_searched_is_shown_where_it_differs_from_the_picture(desk: Desk, shop: Any) -> None:
    data = shop.picture("item-1-0").read_bytes()
    masked: Any = SimpleNamespace(shown=lambda picture: np.zeros_like(picture), picture=lambda item_id: data)
    captions = [caption for caption, _ in desk.pictures(masked, Asked(picture=data))]
    assert captions == ["your picture", "as it was searched"]
    assert len(desk.pictures(masked, Asked(picture=data, whole=True))) == 1
    assert desk.pictures(masked, Asked(item="item-1-0"))[0][0] == "item item-1-0"
    assert desk.pictures(masked, Asked(text="red")) == []
    assert len(desk.pictures(desk.open(), Asked(picture=data))) == 1, "a raw release shows the picture itself"


# The API


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
    answer = client.predict(item="item-1-0", k=100, release=FIRST[:8], api_name="/search")
    assert answer["release"] == FIRST
    assert len(answer["hits"]) == 17
    assert "item-1-0" not in {hit["item_id"] for hit in answer["hits"]}


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


# What it will not do


@pytest.mark.parametrize(
    ("path", "says"),
    [("http://127.0.0.1:1/a.jpg", "uploaded"), ("HTTPS://a.example/a.jpg", "uploaded"), ("/etc/passwd", None)],
)
def test_a_field_for_an_upload_takes_no_address_and_no_file_of_the_machine(
    path: str, says: str | None, url: str
) -> None:
    search = search_of(httpx.get(f"{url}/config").json())
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file, "", None, None, "", "", 3, False, False, "nearest", releases.PRODUCTION, "none"]
    body = {"data": data, "fn_index": search, "session_hash": f"s{len(path)}"}
    httpx.post(f"{url}/gradio_api/queue/join", json=body).raise_for_status()
    told = last_message(url, str(body["session_hash"]))
    assert told["success"] is False
    assert says is None or says in told["output"]["error"]


def test_a_field_for_words_fetches_nothing_either(client: Client) -> None:
    file: Any = {"path": "http://127.0.0.1:1/a.jpg", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="uploaded"):
        client.predict(text=file, api_name="/search")


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


def test_a_release_s_report_is_a_page_that_may_fetch_nothing(url: str, shop: Any) -> None:
    answer = httpx.get(f"{url}/reports/production")
    assert (answer.status_code, answer.text) == (200, f"<p>the report of {SECOND}</p>")
    assert httpx.get(f"{url}/reports/{FIRST[:8]}").text == f"<p>the report of {FIRST}</p>"
    assert any(policy.startswith("default-src 'none'") for policy in answer.headers.get_list("content-security-policy"))
    alone = Report(fingerprint="c" * 32, gate="held", gate_reason="", parts=reported(shop, FIRST).parts).seal(
        shop.store
    )
    assert httpx.get(f"{url}/reports/{alone.fingerprint}").text == f"<p>the report of {FIRST}</p>"
    assert f'href="/reports/{SECOND}"' in page.header(shop.open().release)
    for name in ("nobody", "..%2f..%2fcatalogs", "f" * 32, "", "production/../../aliases/production"):
        answer = httpx.get(f"{url}/reports/{name}")
        assert answer.status_code == 404
        assert "<" not in answer.text


def reported(shop: Any, release: str) -> Report:
    return Report.open(shop.store, releases.get_release(shop.store, release).report)


def test_a_damaged_report_is_told_and_not_shown(url: str, shop: Any) -> None:
    key = reported(shop, FIRST).part("report.html").key
    sealed = shop.store.get(key)
    shop.store.put(key, b"<p>another</p>")
    answer = httpx.get(f"{url}/reports/{FIRST}")
    shop.store.put(key, sealed)
    assert answer.status_code == 503
    assert "another" not in answer.text


def search_of(config: dict[str, Any]) -> int:
    """The number of the event that searches with the fields of the page."""
    (picture,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == "picture")
    return next(one["id"] for one in config["dependencies"] if one["inputs"][:1] == [picture])


def last_message(url: str, session: str) -> dict[str, Any]:
    with httpx.stream("GET", f"{url}/gradio_api/queue/data", params={"session_hash": session}, timeout=60) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


# How it starts


@pytest.mark.parametrize("port", ["taken", "99999", "-1"])
def test_a_port_that_cannot_be_had_is_one_clear_line(
    port: str, url: str, shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    number = url.rpartition(":")[2] if port == "taken" else port
    assert main(["app", "--store", shop.settings.store, f"--port={number}"]) == 2
    assert f"cannot listen on 127.0.0.1:{number}" in capsys.readouterr().err


def test_a_store_without_a_release_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--store", str(tmp_path)]) == 1
    assert "nothing is published" in capsys.readouterr().err
