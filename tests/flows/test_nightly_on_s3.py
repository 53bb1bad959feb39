"""A catalogue on S3 or on a web server, a store on S3: the same night, the same search, each picture read once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.nightly import nightly
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.images import thumbnail
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from tests.web_server import WebServer

CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=pca_pixels",
        "embed.weights=fit:0",
        "embed.size_px=16",
        "embed.background=raw",
        "reduce.dims=[4]",
        "evaluate.queries=4",
    ],
)


def drawn_pictures() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {f"{n}.jpg": thumbnail(rng.integers(0, 255, (48, 48, 3), np.uint8), 48) for n in range(10)}


@pytest.fixture
def pictures(bucket: str, s3_client: Any) -> dict[str, bytes]:
    """Ten noise pictures and their table in the bucket."""
    drawn = drawn_pictures()
    for name, data in drawn.items():
        s3_client.put_object(Bucket=bucket, Key=f"shop/{name}", Body=data)
    rows = "\n".join(f"item-{name},{name}" for name in drawn)
    s3_client.put_object(Bucket=bucket, Key="shop/items.csv", Body=f"item_id,image_uri\n{rows}\n".encode())
    return drawn


@pytest.mark.usefixtures("prefect_server", "aws_environment")
def test_a_night_on_s3(
    bucket: str, s3_endpoint: str, pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_S3_ENDPOINT_URL", s3_endpoint)
    settings = Settings.load(store=f"s3://{bucket}/store", cache_dir=tmp_path / "cache")
    source = f"table:s3://{bucket}/shop/items.csv"
    first = nightly(source, settings, CONFIG)
    assert (first.gate, first.embedded, first.catalog.added) == ("published", 10, 10)
    again = nightly(source, settings, CONFIG)
    assert (again.release, again.embedded, again.trained) == (first.release, 0, [])
    assert verify(settings.open_store()).ok
    elsewhere = Settings.load(store=f"s3://{bucket}/store", cache_dir=tmp_path / "another machine")
    hit = open_release(elsewhere.open_store(), settings=elsewhere).search(pictures["7.jpg"], k=1)[0]
    assert (hit.item_id, hit.image_uri) == ("item-7.jpg", f"s3://{bucket}/shop/7.jpg")


@pytest.mark.usefixtures("prefect_server")
def test_a_night_requests_each_picture_of_a_web_server_once_and_the_next_only_asks(
    web_server: WebServer, tmp_path: Path
) -> None:
    """All that a night shows and measures is made of the kept pictures; so a backfill needs no server at all."""
    pictures = drawn_pictures()
    web_server.files = {f"/shop/{name}": data for name, data in pictures.items()}
    rows = "\n".join(f"item-{name},{name}" for name in pictures)
    web_server.files["/shop/items.csv"] = f"item_id,image_uri\n{rows}\n".encode()
    settings, source = Settings.load(store=str(tmp_path / "store")), f"table:{web_server.url}/shop/items.csv"

    def requests() -> Counter[tuple[str, str]]:
        counts = Counter((method, path) for method, path in web_server.requests if path.endswith(".jpg"))
        web_server.clear()
        return counts

    first = nightly(source, settings, CONFIG)
    assert (first.gate, first.embedded, first.catalog.added) == ("published", 10, 10)
    assert requests() == {("GET", f"/shop/{name}"): 1 for name in pictures}
    assert nightly(source, settings, CONFIG).embedded == 0
    assert requests() == {("HEAD", f"/shop/{name}"): 1 for name in pictures}
