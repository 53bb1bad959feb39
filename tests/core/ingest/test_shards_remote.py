"""Reading the pictures of web servers and S3 in shards: what each run requests and counts."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.config.stages import IngestConfig
from retrieval_core.ingest.catalog import IngestOutcome
from retrieval_core.settings import Settings
from retrieval_core.store.traffic import Traffic
from tests.ingesting import ingest_source
from tests.web_server import WebServer
from tests.web_shop import drawn

CONFIG = IngestConfig(shard_rows=4, max_reject_fraction=1.0)
N_PICTURES = 10

RequestsSince = Callable[[], dict[str, int]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"))


@pytest.fixture
def shop(web_server: WebServer) -> WebServer:
    """A shop's server with a feed of ten pictures."""
    web_server.files = {f"/p/{number}.png": drawn(number) for number in range(N_PICTURES)}
    web_server.files["/shop.csv"] = table_of({f"item-{number}": f"p/{number}.png" for number in range(N_PICTURES)})
    return web_server


def table_of(pictures: dict[str, str]) -> bytes:
    rows = "".join(f"{item_id},{picture}\n" for item_id, picture in pictures.items())
    return f"item_id,image_uri\n{rows}".encode()


def run(settings: Settings, shop: WebServer) -> IngestOutcome:
    shop.clear()
    return ingest_source(settings, f"table:{shop.url}/shop.csv", CONFIG)


def test_what_was_fetched_is_counted_by_every_run(settings: Settings, shop: WebServer) -> None:
    n_bytes = sum(len(data) for data in shop.files.values())
    assert run(settings, shop).fetched == Traffic(requests=N_PICTURES + 1, bytes=n_bytes)
    assert len(shop.requests) == N_PICTURES + 1
    shop.files["/p/3.png"] = drawn(200)
    n_changed = len(shop.files["/shop.csv"]) + len(shop.files["/p/3.png"])
    assert run(settings, shop).fetched == Traffic(N_PICTURES + 2, n_changed, N_PICTURES - 1)
    assert len(shop.requests) == N_PICTURES + 2


def test_pictures_without_a_version_are_read_by_every_run(settings: Settings, shop: WebServer) -> None:
    shop.validators = lambda _: {}
    run(settings, shop)
    before = run(settings, shop)
    shop.files["/p/3.png"] = drawn(200)
    outcome = run(settings, shop)
    assert outcome.n_read == N_PICTURES
    assert outcome.catalog != before.catalog


def test_a_picture_of_many_items_is_requested_once_whatever_their_shards(settings: Settings, shop: WebServer) -> None:
    shop.files["/shop.csv"] = table_of({f"item-{number:02}": f"p/{number % 2}.png" for number in range(20)})
    run(settings, shop)
    assert Counter(path for _, path in shop.requests) == {"/shop.csv": 1, "/p/0.png": 1, "/p/1.png": 1}


def test_a_placeholder_is_reported(settings: Settings, shop: WebServer) -> None:
    shop.files |= {f"/none/{number}.png": drawn(99) for number in range(21)}
    pictures = {f"item-{number}": f"p/{number}.png" for number in range(N_PICTURES)}
    pictures |= {f"none-{number:02}": f"none/{number}.png?token=7" for number in range(21)}
    shop.files["/shop.csv"] = table_of(pictures)
    assert run(settings, shop).notes[-1] == (
        "21 items of 21 products show the same picture, perhaps a placeholder: none-00, none-01, none-02 and 18 more, "
        f"for example {shop.url}/none/0.png"
    )
    shop.files["/none/1.png"], shop.files["/none/2.png"] = drawn(100), drawn(101)
    assert "placeholder" not in run(settings, shop).notes[-1]


def test_many_pictures_of_one_product_are_no_placeholder(settings: Settings, shop: WebServer) -> None:
    rows = "".join(f"item-{number},one,p/1.png\n" for number in range(40))
    shop.files["/shop.csv"] = f"item_id,product_id,image_uri\n{rows}".encode()
    assert "placeholder" not in run(settings, shop).notes[-1]


@pytest.fixture
def served(caplog: pytest.LogCaptureFixture) -> RequestsSince:
    """A function that returns how often each kind of request reached the S3 server since its last call."""
    caplog.set_level(logging.INFO, "werkzeug")

    def since() -> dict[str, int]:
        lines = [re.search(r"(GET|HEAD) /([^ ]*) HTTP", record.getMessage()) for record in caplog.records]
        caplog.clear()
        return Counter("LIST" if "list-type" in line[2] else line[1] for line in lines if line)

    return since


class TestS3:
    @pytest.fixture(autouse=True)
    def pictures(
        self, aws_environment: None, bucket: str, s3_client: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", s3_endpoint)
        self.client, self.bucket = s3_client, bucket
        for number in range(N_PICTURES):
            self.put(f"pictures/{number}.png", drawn(number))

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def test_a_folder_costs_one_request_a_picture_and_nothing_but_the_listing_later(
        self, settings: Settings, served: RequestsSince
    ) -> None:
        served()
        source = f"folder:s3://{self.bucket}/pictures"
        first = ingest_source(settings, source, CONFIG)
        assert served() == {"LIST": 1, "GET": N_PICTURES}
        assert first.fetched.requests == N_PICTURES + 1
        assert ingest_source(settings, source, CONFIG).catalog == first.catalog
        assert served() == {"LIST": 1}
        self.put("pictures/3.png", drawn(200))
        assert ingest_source(settings, source, CONFIG).n_read == 1
        assert served() == {"LIST": 1, "GET": 1}

    def test_a_table_costs_one_request_a_picture_and_one_for_its_version_later(
        self, settings: Settings, served: RequestsSince
    ) -> None:
        self.put("shop.csv", table_of({f"item-{number}": f"pictures/{number}.png" for number in range(N_PICTURES)}))
        served()
        source = f"table:s3://{self.bucket}/shop.csv"
        first = ingest_source(settings, source, CONFIG)
        assert served() == {"GET": N_PICTURES + 1}
        second = ingest_source(settings, source, CONFIG)
        assert served() == {"GET": 1, "HEAD": N_PICTURES}
        assert second.fetched.not_modified == N_PICTURES
        assert second.catalog == first.catalog
