"""Pictures that did not change: what tells that, and which requests it saves."""

from __future__ import annotations

from typing import Any

import pytest

from retrieval_core.config.stages import IngestConfig
from retrieval_core.ingest.snapshot import Snapshot, take_snapshot
from retrieval_core.ingest.sources.tables.table import TableSource
from tests.web_server import WebServer, etag
from tests.web_shop import N_PICTURES, drawn, methods, open_shop


@pytest.fixture
def shop(web_server: WebServer) -> WebServer:
    return open_shop(web_server)


def snapshot(shop: WebServer, previous: Snapshot | None = None, columns: str = "") -> Snapshot:
    rows = TableSource(f"{shop.url}/feeds/shop.csv?item_id=sku&image_uri=picture{columns}").rows()
    shop.clear()
    return take_snapshot(rows, previous, IngestConfig(), "2026-11-21T03:00:00+00:00")


class TestFreshness:
    """The server lets its pictures count as current for an hour."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The time in seconds since 1970, which the test sets."""
        now_s = [1_800_000_000.0]
        monkeypatch.setattr("retrieval_core.store.http.time.time", lambda: now_s[0])
        return now_s

    def serve_with(self, shop: WebServer, cache_control: str, **headers: str) -> None:
        shop.validators = lambda data: {**etag(data), "Cache-Control": cache_control, **headers}

    @pytest.mark.parametrize("directive", ["public, max-age=3600", 'max-age="3600", immutable', "immutable"])
    def test_a_fresh_picture_is_not_asked_for_where_the_operator_agrees(
        self, shop: WebServer, clock: list[float], directive: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VITRINE_FETCH_MAX_AGE", "3600")
        self.serve_with(shop, directive)
        first = snapshot(shop)
        clock[0] += 3599
        second = snapshot(shop, first)
        assert not shop.requests
        assert second.items.equals(first.items)
        clock[0] += 2
        third = snapshot(shop, second)
        assert methods(shop) == {"HEAD": N_PICTURES}
        assert third.n_read == 0
        clock[0] += 3500
        snapshot(shop, third)
        assert not shop.requests

    @pytest.mark.parametrize(
        ("limit", "directive", "age"),
        [
            ("", "max-age=3600", ""),
            ("0", "max-age=3600", ""),
            ("60", "max-age=3600", ""),
            ("3600", "max-age=60", ""),
            ("3600", "max-age=3600", "3540"),
            ("3600", "max-age=3600, no-cache", ""),
            ("3600", "no-store, immutable", ""),
            ("3600", "max-age=never", ""),
        ],
    )
    def test_any_other_picture_is_asked_for(
        self,
        shop: WebServer,
        clock: list[float],
        limit: str,
        directive: str,
        age: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("VITRINE_FETCH_MAX_AGE", limit)
        self.serve_with(shop, directive, Age=age)
        first = snapshot(shop)
        clock[0] += 61
        assert snapshot(shop, first).n_read == 0
        assert methods(shop) == {"HEAD": N_PICTURES}

    def test_an_operator_who_no_longer_agrees_is_obeyed(
        self, shop: WebServer, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VITRINE_FETCH_MAX_AGE", "3600")
        self.serve_with(shop, "max-age=3600")
        first = snapshot(shop)
        monkeypatch.setenv("VITRINE_FETCH_MAX_AGE", "0")
        snapshot(shop, first)
        assert methods(shop) == {"HEAD": N_PICTURES}


class TestRowVersions:
    """The feed has a column that says when a row was last changed."""

    def write(self, shop: WebServer, versions: list[str]) -> None:
        rows = "".join(f"item-{number:02},p/{number}.png,{version}\n" for number, version in enumerate(versions))
        shop.files["/feeds/shop.csv"] = f"sku,picture,updated_at\n{rows}".encode()

    def snapshot(self, shop: WebServer, previous: Snapshot | None = None) -> Snapshot:
        return snapshot(shop, previous, "&version=updated_at")

    @pytest.mark.parametrize("validators", [etag, lambda _: {}])
    def test_a_row_that_did_not_change_costs_no_request(self, shop: WebServer, validators: Any) -> None:
        shop.validators = validators
        self.write(shop, ["2026-11-01"] * N_PICTURES)
        first = self.snapshot(shop)
        assert methods(shop) == {"GET": N_PICTURES}
        second = self.snapshot(shop, first)
        assert not shop.requests
        assert second.items.equals(first.items)

    def test_a_row_that_changed_costs_a_request_and_its_picture_only_if_that_changed(self, shop: WebServer) -> None:
        self.write(shop, ["2026-11-01"] * N_PICTURES)
        first = self.snapshot(shop)
        self.write(shop, ["2026-11-02"] * 3 + ["2026-11-01"] * (N_PICTURES - 3))
        shop.files["/feeds/p/1.png"] = drawn(77)
        second = self.snapshot(shop, first)
        assert methods(shop) == {"HEAD": 3, "GET": 1}
        is_same = second.items["content_id"] == first.items["content_id"]
        assert second.items.filter(~is_same)["item_id"].to_list() == ["item-01"]
        third = self.snapshot(shop, second)
        assert not shop.requests
        assert third.items.equals(second.items)

    def test_another_address_in_a_row_is_read(self, shop: WebServer) -> None:
        self.write(shop, ["1"] * N_PICTURES)
        first = self.snapshot(shop)
        shop.files["/feeds/shop.csv"] = shop.files["/feeds/shop.csv"].replace(b"p/4.png", b"p/q.png")
        shop.files["/feeds/p/q.png"] = drawn(88)
        assert self.snapshot(shop, first).n_read == 1
        assert shop.requests == [("GET", "/feeds/p/q.png")]

    def test_a_picture_of_two_rows_is_as_new_as_both(self, shop: WebServer) -> None:
        self.write(shop, ["1"] * N_PICTURES)
        shop.files["/feeds/shop.csv"] += b"item-50,p/3.png,7\n"
        first = self.snapshot(shop)
        assert methods(shop) == {"GET": N_PICTURES}
        self.snapshot(shop, first)
        assert not shop.requests
        shop.files["/feeds/shop.csv"] = shop.files["/feeds/shop.csv"].replace(b",7\n", b",8\n")
        self.snapshot(shop, first)
        assert shop.requests == [("HEAD", "/feeds/p/3.png")]

    def test_a_column_called_version_is_one_only_where_the_query_says_so(self, shop: WebServer) -> None:
        self.write(shop, ["1"] * N_PICTURES)
        shop.files["/feeds/shop.csv"] = shop.files["/feeds/shop.csv"].replace(b"updated_at", b"version")
        first = snapshot(shop)
        snapshot(shop, first)
        assert methods(shop) == {"HEAD": N_PICTURES}
