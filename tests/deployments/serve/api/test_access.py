"""Tokens are known by their hashes, each with its scopes and its rate."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from deployments.serve.api.access import Rates, TokenFile, read_tokens
from deployments.serve.app import ServeOptions, build_app
from retrieval_core.errors import BadConfig

DOCS = Path(__file__).parents[4] / "docs" / "serving.md"
SEARCH = {"item_ids": ["item-1-0"], "k": 1}


def line(name: str, scopes: str, token: str) -> str:
    return f"{name} {scopes} {hashlib.sha256(token.encode()).hexdigest()}\n"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# of the shop\n" + line("shop", "read", "s3cret") + "\n" + line("prometheus", "metrics", "m"))
    return path


@pytest.fixture
def serving(shop: Any) -> Callable[..., Any]:
    @contextmanager
    def serve(**options: Any) -> Iterator[TestClient]:
        with TestClient(build_app(shop.settings, ServeOptions(**options)), base_url="http://localhost") as client:
            yield client

    return serve


def test_a_token_opens_what_its_scope_says(file: Path, serving: Callable[..., Any]) -> None:
    with serving(token_file=file) as client:
        for headers in ({}, bearer("wrong"), bearer(""), {"Authorization": "Basic czNjcmV0"}):
            refused = client.post("/v1/search", json=SEARCH, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v1/search", json=SEARCH, headers=bearer("s3cret")).status_code == 200
        assert client.post("/v1/search", json=SEARCH, auth=("anyone", "s3cret")).status_code == 200
        assert client.post("/v1/search", json=SEARCH, headers=bearer("m")).status_code == 403
        assert client.get("/metrics", headers=bearer("s3cret")).status_code == 403
        assert client.get("/metrics", headers=bearer("m")).status_code == 200
        assert client.get("/readyz").status_code == client.get("/livez").status_code == 200
        assert client.get("/v1/openapi.json").status_code == client.get("/nothing").status_code == 401


def test_a_browser_asks_for_a_token_before_it_shows_the_page_or_a_report(
    file: Path, serving: Callable[..., Any]
) -> None:
    with serving(token_file=file, has_page=True) as client:
        for path in ("/", "/page.js", "/reports/production"):
            refused = client.get(path)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="Vitrine"')
            assert client.get(path, auth=("anyone", "wrong")).status_code == 401
            assert client.get(path, auth=("anyone", "s3cret")).status_code == 200


def test_a_changed_file_counts_at_once_and_a_broken_one_changes_nothing(file: Path) -> None:
    tokens = TokenFile(file)
    file.write_text(line("shop", "read,metrics", "new"))
    os.utime(file, (1, 1))
    found = tokens.find("new")
    assert found is not None
    assert found.scopes == {"read", "metrics"}
    assert tokens.find("s3cret") is None
    file.write_text("broken")
    os.utime(file, (2, 2))
    assert tokens.find("new") is not None
    file.unlink()
    assert tokens.find("new") is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no token"),
        ("# nothing\n", "has no token"),
        ("shop read abc", "line 1"),
        (line("a", "read", "x") + line("b", "write", "y"), "line 2"),
        (line("a b", "read", "x"), "line 1"),
    ],
)
def test_a_line_that_is_no_token_is_named(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(BadConfig, match=says):
        read_tokens(tmp_path / "tokens")
    with pytest.raises(BadConfig, match="cannot be read"):
        read_tokens(tmp_path / "absent")


def test_the_commands_of_the_docs_make_a_token(tmp_path: Path) -> None:
    (command,) = (
        block for block in re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL) if "sha256sum" in block
    )
    made = subprocess.run(["bash", "-euc", f"{command}\necho $TOKEN"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    token = made.stdout.split()[-1]
    (file,) = tmp_path.iterdir()
    found = TokenFile(file).find(token)
    assert found is not None
    assert "read" in found.scopes


def test_too_many_requests_wait_and_others_do_not(file: Path, serving: Callable[..., Any]) -> None:
    file.write_text(line("a", "read", "a") + line("b", "read", "b"))
    with serving(token_file=file, rate=0.5) as client:
        statuses = [client.post("/v1/search", json=SEARCH, headers=bearer("a")).status_code for _ in range(2)]
        assert statuses == [200, 429]
        refused = client.get("/v1/releases", headers=bearer("a"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert client.post("/v1/search", json=SEARCH, headers=bearer("b")).status_code == 200
        assert client.get("/readyz").status_code == 200


@given(st.lists(st.floats(0, 3), max_size=50), st.sampled_from([0.5, 1.0, 4.0]))
def test_no_client_gets_more_than_its_rate(pauses: list[float], per_s: float) -> None:
    rates, now, n_answered = Rates(per_s), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = rates.wait_s("a", now)
        n_answered += not wait_s
        assert n_answered <= max(1.0, 2 * per_s) + now * per_s + 1e-6
        if wait_s:
            now += wait_s + 1e-6
            assert rates.wait_s("a", now) == 0.0, "after the wait there is room"
            n_answered += 1


def test_pages_of_allowed_origins_may_call_and_others_not(serving: Callable[..., Any]) -> None:
    shop, other = "https://shop.example", "https://attacker.example"
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with serving(origins=(shop,)) as client:
        preflight = client.options("/v1/search", headers={"Origin": shop, **asks})
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, shop)
        answer = client.post("/v1/search", json=SEARCH, headers={"Origin": shop})
        assert answer.headers["access-control-allow-origin"] == shop
        problem = client.post("/v1/search", json={}, headers={"Origin": shop})
        assert problem.headers["access-control-allow-origin"] == shop, "a page can read what is wrong"
        for response in (
            client.options("/v1/search", headers={"Origin": other, **asks}),
            client.post("/v1/search", json=SEARCH, headers={"Origin": other}),
        ):
            assert response.status_code == 403
            assert "access-control-allow-origin" not in response.headers
