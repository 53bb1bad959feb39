"""Pictures are read in shards, each once, whatever was killed; what was read is kept and read no more."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval_core.artifacts.catalog_rows import read_items
from retrieval_core.artifacts.manifests import Catalog, content_id
from retrieval_core.artifacts.pictures import PictureReader, kept_places, usable_pictures
from retrieval_core.config.stages import IngestConfig
from retrieval_core.images import decode
from retrieval_core.ingest import reading
from retrieval_core.ingest.catalog import IngestOutcome, plan_source, seal_ingest
from retrieval_core.ingest.shards import read_shard
from retrieval_core.ingest.snapshot import take_snapshot
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.settings import Settings
from tests.ingesting import ingest_source

CONFIG = IngestConfig(shard_rows=3, max_reject_fraction=1.0)
N_PICTURES = 10


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(store=str(tmp_path / "store"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for number in range(N_PICTURES):
        draw(tmp_path / "shop" / f"{number}.png", number)
    return tmp_path / "shop"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was read so far, by its name."""
    counts: Counter[str] = Counter()
    read_uri = reading.read_uri

    def counted(uri: str) -> bytes:
        counts[Path(uri).name] += 1
        return read_uri(uri)

    monkeypatch.setattr(reading, "read_uri", counted)
    return counts


def draw(path: Path, level: int, size: tuple[int, int] = (5, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


def ingest(settings: Settings, shop: Path, config: IngestConfig = CONFIG) -> IngestOutcome:
    return ingest_source(settings, f"folder:{shop}", config)


def objects(settings: Settings, prefix: str = "pictures/") -> dict[str, bytes]:
    store = settings.open_store()
    return {key: store.get(key) for key in store.list(prefix) if "/parts/" in key}


def test_shards_give_what_one_pass_gives_and_read_each_picture_once(
    settings: Settings, shop: Path, reads: Counter[str]
) -> None:
    (shop / "bad.png").write_bytes(b"no picture")
    sealed = ingest(settings, shop)
    assert set(reads.values()) == {1}
    assert len(reads) == sealed.n_read == N_PICTURES + 1
    store = settings.open_store()
    at_once = take_snapshot(open_source(f"folder:{shop}").rows(), None, CONFIG, "now")
    assert read_items(store, Catalog.open(store, sealed.catalog)).equals(at_once.items.drop("fields"))


def test_a_run_that_was_killed_reads_only_the_shards_that_it_had_not(
    settings: Settings, shop: Path, reads: Counter[str], tmp_path: Path
) -> None:
    whole = Settings.load(store=str(tmp_path / "whole"))
    expected = ingest(whole, shop)
    reads.clear()
    store, source = settings.open_store(), f"folder:{shop}"
    for shard in plan_source(store, source, CONFIG).split()[:2]:
        read_shard(settings, shard, CONFIG)
    resumed = plan_source(store, source, CONFIG)
    assert [shard.number for shard in resumed.split()] == [2, 3]
    for shard in resumed.split():
        read_shard(settings, shard, CONFIG)
    assert seal_ingest(store, resumed, CONFIG, resumed.fetched).catalog.key == expected.catalog.key
    assert set(reads.values()) == {1}
    assert objects(settings) == objects(whole)


def test_a_shard_with_a_bad_picture_is_read_again_by_the_run_that_resumes(settings: Settings, shop: Path) -> None:
    (shop / "bad.png").write_bytes(b"no picture")
    store, source = settings.open_store(), f"folder:{shop}"
    for shard in plan_source(store, source, CONFIG).split():
        read_shard(settings, shard, CONFIG)
    assert len(plan_source(store, source, CONFIG).split()) == 1


def test_a_bad_picture_is_tried_by_every_run_and_the_attempts_are_counted(settings: Settings, shop: Path) -> None:
    (shop / "bad.png").write_bytes(b"no picture")
    assert [ingest(settings, shop).n_read for _ in range(3)] == [N_PICTURES + 1, 1, 1]


def test_what_is_kept_is_read_no_more_and_what_is_lost_is_read_again(
    settings: Settings, shop: Path, reads: Counter[str]
) -> None:
    first = ingest(settings, shop)
    assert ingest(settings, shop).n_read == 0
    store = settings.open_store()
    places = kept_places(store)
    store.delete(places["file"][0])
    n_lost = places.filter(file=places["file"][0]).height
    again = ingest(settings, shop)
    assert (again.n_read, again.catalog) == (n_lost, first.catalog)
    assert len(kept_places(store)) == N_PICTURES


def test_a_picture_that_was_only_touched_is_not_kept_twice(settings: Settings, shop: Path) -> None:
    ingest(settings, shop)
    before = objects(settings)
    os.utime(shop / "3.png", ns=(1, 1))
    assert ingest(settings, shop).n_read == 1
    assert objects(settings) == before


def test_nothing_is_kept_where_the_config_says_so(settings: Settings, shop: Path) -> None:
    config = CONFIG.model_copy(update={"keep": "none"})
    ingest(settings, shop, config)
    assert objects(settings) == {}
    assert ingest(settings, shop, config).n_read == 0


def test_bounded_pictures_are_smaller_and_upright_and_small_ones_stay(settings: Settings, shop: Path) -> None:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8))
    exif = large.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    large.save(shop / "large.jpg", exif=exif)
    config = CONFIG.model_copy(update={"keep": "bounded", "keep_px": 64, "keep_quality": 80})
    sealed = ingest(settings, shop, config)
    store = settings.open_store()
    reader = PictureReader(store)
    rows = {Path(row["image_uri"]).name: row for row in usable_pictures(store, sealed.catalog).to_dicts()}

    assert reader.read(rows["3.png"]) == (shop / "3.png").read_bytes()
    kept = reader.read(rows["large.jpg"])
    assert content_id(kept) == rows["large.jpg"]["content_id"]
    assert decode(kept).shape == (64, 29, 3)
    assert Image.open(io.BytesIO(kept)).format == "JPEG"
    assert ingest(settings, shop, config).n_read == 0
    assert ingest(settings, shop).n_read == 0, "a picture that is kept stays as it is"
