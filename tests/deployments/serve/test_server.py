"""`vitrine serve` as a process: it names mistakes, drains on SIGTERM, answers in several processes, as documented."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.cli.main import main
from retrieval_core.feedback.log import read_log
from tests.deployments.conftest import FIRST, SECOND
from tests.faults.servers import until

DOCS = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
CHROMIUM = shutil.which("chromium")
ITEM: dict[str, Any] = {"item_ids": ["item-1-0"], "k": 3}


def test_a_signal_lets_the_searches_in_progress_end(serve: Callable[..., Any], shop: Any) -> None:
    picture = shop.picture("item-1-0").read_bytes()
    boundary = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = boundary + picture + b"\r\n--b--\r\n"
    head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with serve() as served, socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2]))) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-5])
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        until(lambda: not _listens(served.url), "the end of listening")
        assert served.process.poll() is None, "it waits for the request that has begun"
        client.sendall(body[-5:])
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert served.process.wait(60) == 128 + signal.SIGTERM
    assert "traceback" not in served.log.read_text().lower()


def test_a_signal_loses_no_feedback(serve: Callable[..., Any], shop: Any) -> None:
    with serve("--workers=2") as served:
        answers = [httpx.post(f"{served.url}/v1/search", json=ITEM).json() for _ in range(20)]
        for answer in answers:
            event = {"event": "click", "query_id": answer["query_id"], "item_id": answer["hits"][0]["item_id"]}
            assert httpx.post(f"{served.url}/v1/events", json=event).status_code == 202
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(60)
    log = read_log(shop.store, datetime.now(UTC) - timedelta(days=1))
    asked = {answer["query_id"] for answer in answers}
    assert asked <= set(log.searches["query_id"])
    assert asked <= set(log.events["query_id"])


def _listens(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1).close()
        return True
    except OSError:
        return False


def test_a_release_is_switched_while_many_search_and_none_fails(serve: Callable[..., Any], shop: Any) -> None:
    from retrieval_core.artifacts import releases

    seen: list[tuple[int, str]] = []
    ended = threading.Event()

    def search(url: str) -> None:
        with httpx.Client(timeout=60) as client:
            while not ended.is_set():
                response = client.post(f"{url}/v1/search", json=ITEM)
                seen.append((response.status_code, response.json().get("release", "")))

    with serve() as served:
        callers = [threading.Thread(target=search, args=(served.url,)) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            releases.point_alias(shop.store, releases.PRODUCTION, FIRST)
            until(lambda: (200, FIRST) in seen, "the switch")
            page = httpx.post(f"{served.url}/v1/search", json=ITEM).json()["next_cursor"]
            releases.point_alias(shop.store, releases.PRODUCTION, SECOND)
            until(lambda: seen[-1] == (200, SECOND), "the switch back")
        finally:
            ended.set()
            for caller in callers:
                caller.join()
            releases.point_alias(shop.store, releases.PRODUCTION, SECOND)
        following = httpx.post(f"{served.url}/v1/search", json=ITEM | {"cursor": page})
        assert following.json()["release"] == FIRST, "pages stay in their release"
    assert {status for status, _ in seen} == {200}


def test_several_processes_answer_and_are_counted_together(serve: Callable[..., Any]) -> None:
    with serve("--workers=2") as served:
        for _ in range(40):
            assert httpx.post(f"{served.url}/v1/search", json=ITEM).status_code == 200
        text = httpx.get(f"{served.url}/metrics").text
        assert 'vitrine_requests_total{route="/v1/search",status="200"} 40.0' in text
        assert "vitrine_store_up 1.0" in text
        listed = subprocess.run(["ps", "--ppid", str(served.process.pid), "-o", "pid="], capture_output=True)
        children = [int(pid) for pid in listed.stdout.split()]
        assert len(children) >= 2
    until(lambda: not any(map(_runs, children)), "the end of the workers")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--token-file=absent"], "absent cannot be read"),
        (["--allow-origin=shop.example"], "is no origin"),
        (["--allow-origin=https://shop.example/"], "is no origin"),
        (["--workers=0"], "--workers is at least 1"),
        (["--rate=-1"], "--rate at least 0"),
        (["--keep-query-pictures=3", "--no-feedback"], "goes without --no-feedback"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_clear_line(
    options: list[str], says: str, shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--store", shop.settings.store, *options]) == 2
    assert says in capsys.readouterr().err


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on the path")
def test_the_commands_of_the_docs_are_answered(serve: Callable[..., Any], shop: Any, tmp_path: Path) -> None:
    (tmp_path / "query.jpg").write_bytes(shop.picture("item-3-0").read_bytes())
    token = "t0ken"
    (tmp_path / "tokens").write_text(f"shop read,events,metrics {hashlib.sha256(token.encode()).hexdigest()}\n")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) == 5
    with serve(f"--token-file={tmp_path / 'tokens'}") as served:
        for line in lines:
            command = line.replace("http://127.0.0.1:7860", served.url)
            command = command.replace("p0003-v1", "item-3-0").replace("category=sweater", "category=dress")
            command += ' --silent --header "Authorization: Bearer $TOKEN"' if "Bearer" not in command else " --silent"
            environment = os.environ | {"TOKEN": token}
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, done.stderr
            answers = {"colour": '"status":422', "releases": '"releases":', "events": '"accepted":1'}
            expected = next((answers[name] for name in answers if name in line), '"hits":[{')
            assert expected in done.stdout, done.stdout


def test_the_python_of_the_docs_runs(
    serve: Callable[..., Any], shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "query.jpg").write_bytes(shop.picture("item-3-0").read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with serve() as served:
        exec(blocks("python")[0].replace("http://127.0.0.1:7860", served.url), names)
    assert names["answer"].hits[0].item_id == "item-3-0"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; on Debian: make debian")
def test_the_page_of_the_docs_searches_from_another_origin(
    serve: Callable[..., Any], shop: Any, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    folder = tmp_path / "page"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    token = "t0ken-of-the-page"
    (tmp_path / "tokens").write_text(f"page read {hashlib.sha256(token.encode()).hexdigest()}\n")
    options = [f"--allow-origin={origin}", f"--token-file={tmp_path / 'tokens'}"]
    try:
        with serve(*options) as served, sync_playwright() as playwright:
            page = blocks("html")[0].replace("http://127.0.0.1:7860", served.url)
            (folder / "index.html").write_text(page.replace('token = ""', f'token = "{token}"'))
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page()
            tab.goto(origin)
            tab.get_by_label("A picture").set_input_files(shop.picture("item-3-0"))
            expect(tab.get_by_role("listitem").first).to_have_text(
                re.compile(r"item-3-0 1\.000|item-3-0 0\.99"), timeout=60_000
            )
            tab.get_by_label("A picture").set_input_files(tmp_path / "tokens")
            expect(tab.get_by_role("listitem").first).to_contain_text("not a JPEG", timeout=60_000)
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
