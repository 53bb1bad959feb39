"""A snapshot of pictures on a web server: what each run requests, and what becomes of pictures that fail."""

from __future__ import annotations

from itertools import repeat

import polars as pl
import pytest

from retrieval_core.config.stages import IngestConfig
from retrieval_core.errors import CatalogInvalid, Permanent, SourceMissing, StoreUnavailable
from retrieval_core.ingest.change import read_item_ids
from retrieval_core.ingest.snapshot import Snapshot, plan_snapshot, take_snapshot, unread
from retrieval_core.ingest.sources.tables.table import TableSource
from retrieval_core.store import http
from tests.web_server import WebServer, serve
from tests.web_shop import N_PICTURES, drawn, methods, open_shop

TOLERANT = IngestConfig(max_reject_fraction=1.0)


@pytest.fixture
def shop(web_server: WebServer) -> WebServer:
    return open_shop(web_server)


def snapshot(server: WebServer, previous: Snapshot | None = None, config: IngestConfig = TOLERANT) -> Snapshot:
    rows = TableSource(f"{server.url}/feeds/shop.csv?item_id=sku&image_uri=picture").rows()
    server.clear()
    return take_snapshot(rows, previous, config, "2026-11-21T03:00:00+00:00")


def reasons(taken: Snapshot) -> dict[str, str]:
    return dict(taken.quarantine.select("item_id", "reason").rows())


def test_each_picture_is_requested_once_at_first_and_asked_for_its_version_later(shop: WebServer) -> None:
    first = snapshot(shop)
    assert methods(shop) == {"GET": N_PICTURES}
    assert first.quarantine.is_empty()
    assert first.items["image_uri"][3] == f"{shop.url}/feeds/p/3.png"

    second = snapshot(shop, first)
    assert methods(shop) == {"HEAD": N_PICTURES}
    assert shop.n_sent_bytes == second.n_read == 0
    assert second.items.equals(first.items)

    shop.files["/feeds/p/3.png"] = drawn(77)
    del shop.files["/feeds/p/5.png"]
    third = snapshot(shop, second)
    assert methods(shop) == {"HEAD": N_PICTURES, "GET": 1}
    assert third.n_read == 1
    assert reasons(third) == {"item-05": "file is missing"}
    is_same = third.items["content_id"].eq_missing(second.items["content_id"])
    assert third.items.filter(~is_same)["item_id"].to_list() == ["item-03", "item-05"]
    assert snapshot(shop, third).quarantine["attempts"].to_list() == [2]


def test_a_plan_knows_what_would_be_read_without_reading_it(shop: WebServer) -> None:
    rows = TableSource(f"{shop.url}/feeds/shop.csv?item_id=sku&image_uri=picture").rows()
    assert len(unread(plan_snapshot(rows, None))) == N_PICTURES
    taken = snapshot(shop)
    shop.files["/feeds/p/3.png"] = drawn(77)
    shop.clear()
    assert unread(plan_snapshot(rows, taken.items))["item_id"].to_list() == ["item-03"]
    assert shop.n_sent_bytes == 0


def test_pictures_without_a_version_are_read_each_time(shop: WebServer) -> None:
    shop.validators = lambda _: {}
    first = snapshot(shop)
    second = snapshot(shop, first)
    assert methods(shop) == {"GET": N_PICTURES}
    assert second.items.equals(first.items)


def test_what_is_no_picture_stands_in_the_ledger_with_what_the_server_calls_it(shop: WebServer) -> None:
    page = b"<!DOCTYPE html><title>Please log in</title>"
    shop.answers = {
        "/feeds/p/1.png": repeat((200, {"Content-Type": "text/html", "Content-Length": str(len(page))}, page)),
        "/feeds/p/2.png": repeat((302, {"Location": "http://10.0.0.1/login", "Content-Length": "0"}, b"")),
        "/feeds/p/3.png": repeat((403, {"Content-Length": "0"}, b"")),
        "/feeds/p/4.png": repeat((200, {"Content-Length": "900"}, drawn(4))),
        "/feeds/p/5.png": repeat((500, {"Content-Length": "0"}, b"")),
    }
    found = reasons(snapshot(shop))
    assert [*found] == [f"item-0{number}" for number in range(1, 6)]
    for (_, reason), expected in zip(
        found.items(), ("HTML.*text/html", "not on the public internet", "403", "cut off", "500"), strict=True
    ):
        with pytest.raises(ValueError, match=expected):
            raise ValueError(reason)


OVERLOADED = (503, {"Content-Length": "0"}, b"")


@pytest.mark.parametrize("is_first", [True, False])
def test_a_picture_on_a_dead_host_is_quarantined_like_any_other_bad_one(shop: WebServer, is_first: bool) -> None:
    with serve() as other:
        other.files = {"/x.png": drawn(99)}
        shop.files["/feeds/shop.csv"] += f"item-99,{other.url}/x.png\n".encode()
        previous = None if is_first else snapshot(shop)
    http._make_fetcher.cache_clear()  # with its open connections
    taken = snapshot(shop, previous)
    assert taken.items["status"].value_counts(name="n").sort("n").rows() == [("quarantined", 1), ("ok", N_PICTURES)]
    assert "127.0.0.1 does not answer" in reasons(taken)["item-99"]
    assert snapshot(shop, taken).quarantine["attempts"].to_list() == [2]


@pytest.mark.parametrize("config", [TOLERANT, IngestConfig(max_reject_fraction=0.2)])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_outage_quarantines_nothing(shop: WebServer, is_first: bool, config: IngestConfig) -> None:
    previous = None if is_first else snapshot(shop)
    n_lost = int(min(config.max_reject_fraction, 0.5) * N_PICTURES) + 1
    for number in range(N_PICTURES):
        shop.answers[f"/feeds/p/{number}.png"] = repeat(OVERLOADED) if number < n_lost else iter(())
    with pytest.raises(StoreUnavailable, match=rf"\d+ of {N_PICTURES} pictures cannot be fetched now.* 503"):
        snapshot(shop, previous, config)


def test_a_picture_that_several_items_show_is_requested_once(shop: WebServer) -> None:
    shop.files["/feeds/shop.csv"] += b"item-50,p/3.png\nitem-51,p/3.png\n"
    first = snapshot(shop)
    assert methods(shop) == {"GET": N_PICTURES}
    shown = first.items.filter(pl.col("item_id").is_in(["item-03", "item-50", "item-51"]))
    assert shown["content_id"].n_unique() == shown["version"].n_unique() == 1
    second = snapshot(shop, first)
    assert methods(shop) == {"HEAD": N_PICTURES}
    assert second.items.equals(first.items)


def test_addresses_of_several_servers_stand_in_a_local_table(shop: WebServer, tmp_path: object) -> None:
    with serve() as other:
        other.files = {"/b c.png": drawn(9)}
        table = f"{tmp_path}/shop.csv"
        with open(table, "w") as file:
            file.write(f"item_id,image_uri\na,{shop.url}/feeds/p/1.png?v=2\nb,{other.url}/b c.png\n")
        taken = take_snapshot(TableSource(table).rows(), None, TOLERANT, "now")
    assert taken.items["status"].to_list() == ["ok", "ok"]


class TestTable:
    def test_a_query_of_the_address_is_kept_and_not_shown(self, shop: WebServer) -> None:
        shop.files["/export"] = b"sku\tpicture\na\tp/1.png\n"
        shop.validators = lambda _: {"Content-Type": "text/tab-separated-values; charset=utf-8"}
        source = TableSource(f"{shop.url}/export?token=secret&item_id=sku&lang=de&image_uri=picture")
        assert source.rows()["image_uri"].to_list() == [f"{shop.url}/p/1.png"]
        assert shop.requests == [("GET", "/export?token=secret&lang=de")]
        assert "secret" not in source.spec
        assert read_item_ids(f"{shop.url}/export?token=secret&item_id=sku") == ["a"]

    def test_a_local_file_is_refused(self, shop: WebServer) -> None:
        shop.files["/feeds/shop.csv"] = b"item_id,image_uri\na,/etc/passwd\n"
        with pytest.raises(CatalogInvalid, match="lies on a web server"):
            TableSource(f"{shop.url}/feeds/shop.csv").rows()

    def test_a_login_page_or_a_part_of_a_feed_is_an_error(self, shop: WebServer) -> None:
        uri = f"{shop.url}/feeds/shop.csv"
        page = b"\n<!DOCTYPE html>"
        shop.answers["/feeds/shop.csv"] = repeat((200, {"Content-Length": str(len(page))}, page))
        with pytest.raises(CatalogInvalid, match="is a web page"):
            TableSource(uri)
        feed = b"item_id,image_uri\na,a.png\n"
        shop.answers["/feeds/shop.csv"] = repeat((200, {"Content-Length": str(len(feed) + 9)}, feed))
        with pytest.raises(Permanent, match="cut off"):
            TableSource(uri)
        with pytest.raises(SourceMissing, match="there is no file"):
            TableSource(f"{shop.url}/feeds/absent.csv?token=secret")
