"""Nights in a row over a drawn catalogue: what is new is done, what is done stays, what is broken is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from flows.nightly import RunSummary, nightly
from retrieval_core.artifacts import releases
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig, NotFound, TooManyRejects
from retrieval_core.ingest.sources.registry import open_source
from retrieval_core.maintenance.plan import forecast
from retrieval_core.maintenance.status import status
from retrieval_core.maintenance.verify import verify
from retrieval_core.metrics.registry import find_metric
from retrieval_core.search.query import Query
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings

PRODUCTS, VIEWS = 16, 4
ROWS = PRODUCTS * VIEWS
CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=resnet18",
        "embed.weights=random:0",
        "embed.size_px=64",
        "embed.shard_rows=40",
        "mask.encoder=resnet18",
        "mask.weights=random:0",
        "mask.size_px=64",
        "mask.max_epochs=1",
        "mask.shard_rows=60",
        "head.max_epochs=5",
        "head.min_count=2",
        "reduce.dims=[16, 8]",
        "index.shards=2",
        "evaluate.queries=20",
        "evaluate.synthetic_queries=4",
        "ingest.max_reject_fraction=0.2",
        "gate.mode=warn",
    ],
)


pytestmark = pytest.mark.usefixtures("prefect_server")


class Shop:
    """A drawn catalogue, its store, and the nights that were run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = f"synthetic:{folder / 'catalog'}?products={PRODUCTS}&views={VIEWS}&size_px=96"
        self.settings = Settings.load(store=str(folder / "store"), threads=2)
        self.store = self.settings.open_store()

    def night(self, config: NightlyConfig = CONFIG) -> RunSummary:
        return nightly(self.source, self.settings, config)

    @property
    def pictures(self) -> list[Path]:
        return sorted((self.folder / "catalog" / "images").iterdir())


@pytest.fixture(scope="module")
def first(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, RunSummary]:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    return shop, shop.night()


@pytest.fixture
def moved(first: tuple[Shop, RunSummary], tmp_path: Path) -> Shop:
    """The shop after its first night, with catalogue and store in another folder, to be changed by one test."""
    shutil.copytree(first[0].folder, tmp_path, dirs_exist_ok=True)
    return Shop(tmp_path)


def test_the_first_night_publishes_everything(first: tuple[Shop, RunSummary]) -> None:
    shop, run = first
    assert run.gate == "published"
    assert run.catalog.model_dump() == {
        "rows": ROWS,
        "added": ROWS,
        "changed": 0,
        "removed": 0,
        "unchanged": 0,
        "quarantined": 0,
        "moved": 0,
        "refreshed": 0,
        "passed_over": 0,
    }
    assert (run.masked, run.embedded) == (ROWS, PRODUCTS * VIEWS)
    assert run.trained == ["segmenter", "reducer", "head/raw", "head/masked"]
    assert {"raw/recall@1", "masked/recall@1", "boosted/map@10", "pca16/recall@1", "pca8/recall@1"} <= set(run.metrics)
    assert {"recall@1", "recall@10", "map@5", "precision@5", "label_iou@5_random", "ann_recall@10", "mask_iou"} <= set(
        run.metrics
    )
    assert run.metrics["ann_recall@10"] > 0.95
    assert all(find_metric(name) for name in run.metrics)
    assert "<html" in Path(run.report).read_text()
    assert status(shop.store).production == run.release
    assert verify(shop.store).ok


def test_a_picture_of_the_catalogue_finds_itself(first: tuple[Shop, RunSummary]) -> None:
    shop, _ = first
    release = open_release(shop.store, settings=shop.settings)
    for path in shop.pictures[::17]:
        best = release.search(path, k=3)[0]
        assert Path(best.image_uri) == path
        assert best.score == pytest.approx(1, abs=1e-4)
    item = release.search(shop.pictures[0], k=1)[0].item_id
    assert item not in {hit.item_id for hit in release.search(Query(item_ids=(item,)), k=5)}
    assert len(release.search(shop.pictures[0], k=10_000)) == ROWS


def test_search_says_what_it_cannot_do(first: tuple[Shop, RunSummary]) -> None:
    shop, _ = first
    release = open_release(shop.store, settings=shop.settings)
    with pytest.raises(BadConfig, match="reads no text"):
        release.search(Query(texts=("red dress",)))
    with pytest.raises(NotFound, match="nobody"):
        release.search(Query(item_ids=("nobody",)))
    with pytest.raises(NotFound):
        release.search(shop.folder / "absent.jpg")
    with pytest.raises(NotFound, match="no release"):
        open_release(shop.store, "feed", settings=shop.settings)


def test_the_same_night_again_does_nothing(first: tuple[Shop, RunSummary], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("measured again")

    monkeypatch.setattr("retrieval_core.index.versions.choose_candidate_dim", refuse)
    shop, before = first
    run = shop.night()
    assert (run.masked, run.embedded, run.trained) == (0, 0, [])
    assert run.release == before.release
    assert run.catalog.unchanged == ROWS
    assert run.metrics == before.metrics


def test_a_catalogue_that_moved_is_found_there_and_nothing_is_done_again(moved: Shop) -> None:
    plan = forecast(moved.source, moved.store, CONFIG)
    assert (plan.to_read, plan.moved, plan.gone, plan.refit) == (ROWS, ROWS, 0, False)
    run = moved.night()
    assert (run.catalog.changed, run.catalog.unchanged, run.catalog.moved) == (0, ROWS, ROWS)
    assert (run.masked, run.embedded, run.trained) == (0, 0, [])
    here = str(moved.folder)
    assert all(hit.image_uri.startswith(here) for hit in open_release(moved.store).search(moved.pictures[5]))


def test_what_changed_and_nothing_else_is_done(moved: Shop) -> None:
    shop = moved
    shop.night()
    pictures = shop.pictures
    removed, replaced, broken = pictures[:4], pictures[10:12], pictures[20:23]
    for path in removed:
        path.unlink()
    for path, other in zip(replaced, pictures[30:32], strict=True):
        path.write_bytes(other.read_bytes()[:-2] + b"\x00\x00\xff\xd9")
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    run = shop.night()
    assert (run.embedded, run.trained) == (2, [])
    rows = ROWS - 4
    assert run.catalog.model_dump() == {
        "rows": rows,
        "added": 0,
        "changed": 5,
        "removed": 4,
        "unchanged": rows - 5,
        "quarantined": 3,
        "moved": 0,
        "refreshed": 0,
        "passed_over": 0,
    }
    ledger = pl.read_parquet(shop.store.get("ingest/quarantine.parquet"))
    assert [Path(uri) for uri in ledger["image_uri"]] == broken
    assert ledger["reason"].str.len_chars().min() > 5
    found = {Path(hit.image_uri) for hit in open_release(shop.store).search(pictures[5], k=1000)}
    assert found == set(shop.pictures) - set(broken)
    assert verify(shop.store).ok


def test_too_many_bad_pictures_stop_the_night_and_leave_production_alone(
    first: tuple[Shop, RunSummary], moved: Shop
) -> None:
    for path in moved.pictures[:30]:
        path.write_bytes(b"not a picture")
    with pytest.raises(TooManyRejects, match=f"30 of {ROWS}"):
        moved.night()
    assert status(moved.store).production == first[1].release


def test_a_worse_night_is_held_and_production_stays(first: tuple[Shop, RunSummary], moved: Shop) -> None:
    shop, before = moved, first[1]
    worse = CONFIG.model_copy(
        update={
            # Two components cannot tell 64 pictures apart, and without depth nothing reranks them.
            "index": CONFIG.index.model_copy(update={"candidate_dim": 2, "rerank_depth": 1}),
            "reduce": CONFIG.reduce.model_copy(update={"dims": (2,)}),
            # So few queries would hold any release.
            "gate": CONFIG.gate.model_copy(update={"mode": "block", "min_queries": 2, "max_unseen_loss": 1.0}),
        }
    )
    run = shop.night(worse)
    assert run.gate == "held"
    assert run.reason
    assert status(shop.store).production == before.release
    assert len(status(shop.store).releases) == 2
    word = releases.Promotion(release=run.release, by="anna", at="2026-11-21T07:04:49+00:00", why="it was made so")
    with pytest.raises(BadConfig, match=r"ann_recall@10.*--anyway"):
        releases.promote_by_hand(shop.store, word)
    releases.promote_by_hand(shop.store, word, anyway=True)
    assert status(shop.store).production == run.release
    assert "ann_recall@10" in status(shop.store).promotions[-1].overruled[0]
    once_more = shop.night(worse)
    assert (once_more.release, once_more.gate) == (run.release, "published")
    assert once_more.reason.startswith("Promoted by anna, against the gate")
    assert releases.rollback(shop.store).release == before.release
    again = shop.night(worse.model_copy(update={"gate": CONFIG.gate.model_copy(update={"mode": "off"})}))
    assert again.gate == "published", "another question to the gate makes another release"


def test_what_was_rolled_back_is_not_published_again_by_the_next_night(moved: Shop) -> None:
    shop = moved
    config = CONFIG.model_copy(update={"embed": CONFIG.embed.model_copy(update={"background": "raw"})})
    before = shop.night(config)
    other = config.model_copy(update={"reduce": CONFIG.reduce.model_copy(update={"dims": (12,)})})
    after = shop.night(other)
    assert status(shop.store).production == after.release
    releases.rollback(shop.store)
    held = shop.night(other)
    assert (held.release, held.gate) == (after.release, "held")
    assert "rolled back" in held.reason
    assert status(shop.store).production == before.release


def test_a_masked_or_cropped_release_shows_its_queries_as_its_pictures(moved: Shop) -> None:
    shop = moved
    for background, n_embedded in (("masked", 0), ("crop", ROWS)):
        embed = CONFIG.embed.model_copy(update={"background": background})
        index = CONFIG.index.model_copy(update={"variant": f"{background}_boosted"})
        run = shop.night(CONFIG.model_copy(update={"embed": embed, "index": index}))
        assert (run.masked, run.embedded) == (0, n_embedded), "the same masks serve both, and the night before"
        assert not any(name.startswith(("raw/", "boosted/")) for name in run.metrics)
        release = open_release(shop.store)
        assert str(release.release.variant) == f"{background}_boosted"
        for path in shop.pictures[::29]:
            best = release.search(path, k=1)[0]
            assert Path(best.image_uri) == path
            assert best.score == pytest.approx(1, abs=0.01)


def test_a_catalogue_without_masks_or_labels_is_still_published(first: tuple[Shop, RunSummary], tmp_path: Path) -> None:
    shop, pictures = Shop(tmp_path), first[0].pictures[:20]
    (tmp_path / "photos").mkdir()
    for path in pictures:
        shutil.copy(path, tmp_path / "photos")
    shop.source = f"folder:{tmp_path / 'photos'}"
    run = shop.night()
    assert (run.gate, run.masked, run.trained) == ("published", 0, ["reducer"])
    assert len(open_release(shop.store).search(pictures[0], k=5)) == 5


def test_what_is_new_on_sale_does_not_make_the_search_worse(tmp_path: Path) -> None:
    """Each query's own picture comes in as another product and file, and stands before what the query is to find."""
    drawn = open_source(f"synthetic:{tmp_path / 'drawn'}?products=30&views=3&size_px=64").rows()
    view = pl.int_range(pl.len()).over("product_id")
    split = pl.when(view == 0).then(pl.lit("query")).otherwise(pl.lit("gallery"))
    items = drawn.select("item_id", "image_uri", "product_id", split.alias("split"))
    twins = items.filter(pl.col("split") == "query").with_columns(
        pl.lit("gallery").alias("split"),
        pl.format("{}.png", "image_uri").alias("image_uri"),
        *(pl.format("twin-{}", name).alias(name) for name in ("item_id", "product_id")),
    )
    for uri in twins["image_uri"]:
        Image.open(uri.removesuffix(".png")).save(uri)  # the same pixels; a query never finds its own file
    table, settings = tmp_path / "items.csv", Settings.load(store=str(tmp_path / "store"), threads=2)
    small = [
        "embed.backbone=resnet18",
        "embed.weights=random:0",
        "embed.size_px=64",
        "reduce.dims=[8]",
        "evaluate.synthetic_queries=4",
    ]
    config = NightlyConfig.load(None, small)

    items.write_csv(table)
    before = nightly(f"table:{table}", settings, config)
    pl.concat([items, twins]).write_csv(table)
    after = nightly(f"table:{table}", settings, config)

    assert before.metrics["recall@1"] > 0.3
    assert after.metrics["recall@1"] == 0
    assert (after.gate, after.catalog.added) == ("published", 30)
    assert "on 30 queries shared with production among the 60 items that both hold" in after.reason
