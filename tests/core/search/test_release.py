"""Pictures, texts and items to hits: filters, several parts, near-identical pictures, many threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from retrieval_core.artifacts.manifests import content_id
from retrieval_core.artifacts.pictures import PictureWriter
from retrieval_core.artifacts.releases import get_release
from retrieval_core.errors import BadConfig, DimensionMismatch, ImageRefused, NotFound, ShardCorrupt
from retrieval_core.filters import parse_where
from retrieval_core.search import query_encoder
from retrieval_core.search.duplicates import COLLAPSE_SIMILARITY
from retrieval_core.search.query import Query
from retrieval_core.search.query_encoder import QueryEncoder
from retrieval_core.search.release import UNLIKE_WEIGHT, OpenRelease

ROWS = 36


@pytest.fixture(scope="module")
def shop(new_shop: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    shop = new_shop(tmp_path_factory.mktemp("shop"))
    shop.publish(classes=True)
    return shop


@pytest.fixture(scope="module")
def release(shop: Any) -> OpenRelease:
    return shop.open()


def names(hits: list[Any]) -> list[str]:
    return [hit.item_id for hit in hits]


def nearest(shop: Any, vector: np.ndarray, allowed: list[str] | None = None) -> list[str]:
    """The oracle: every item by its cosine, best first."""
    scores = {item: float(own @ vector) for item, own in shop.vectors.items() if allowed is None or item in allowed}
    return sorted(scores, key=lambda item: -scores[item])


def fitting(shop: Any, where: str) -> list[str]:
    return shop.items.filter(parse_where(where).mask(shop.items))["item_id"].to_list()


def test_a_picture_finds_itself_however_it_is_given(shop: Any, release: OpenRelease) -> None:
    path = shop.picture("item-5-2")
    for image in (path, str(path), path.read_bytes(), Query(images=(path,))):
        best = release.search(image, k=1)[0]
        assert (best.item_id, best.product_id, best.category) == ("item-5-2", "p5", "dress")
        assert best.score == pytest.approx(1, abs=1e-5)
        assert Path(best.image_uri) == path


def test_hits_stand_in_the_order_of_exact_search_and_end_with_the_index(shop: Any, release: OpenRelease) -> None:
    hits = release.search_vector(shop.vectors["item-3-0"], k=10_000)
    assert len(hits) == ROWS
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert names(hits)[:5] == nearest(shop, shop.vectors["item-3-0"])[:5]


def test_several_pictures_and_items_are_searched_by_the_mean_of_their_vectors(shop: Any, release: OpenRelease) -> None:
    one, two, three = (shop.vectors[item] for item in ("item-1-0", "item-2-2", "item-7-2"))
    query = Query(images=(shop.picture("item-1-0"), shop.picture("item-2-2")), item_ids=("item-7-2",))
    mean = (one + two + three) / 3
    hits = release.search(query, k=6)
    expected = [item for item in nearest(shop, mean) if item != "item-7-2"][:6]
    assert names(hits) == expected
    assert hits[0].score == pytest.approx(float(shop.vectors[expected[0]] @ mean / np.linalg.norm(mean)), abs=1e-5)


def test_an_unknown_id_is_answered_with_the_nearest(release: OpenRelease) -> None:
    with pytest.raises(NotFound, match=r"item 'ITEM_5_2' is not in release r1; did you mean 'item-5-2'\?"):
        release.search(Query(item_ids=("ITEM_5_2",)))
    assert release.search(Query(item_ids=(" item-\u200b5-2\ufeff",))) == release.search(Query(item_ids=("item-5-2",)))


def test_an_item_in_quarantine_is_not_answered_with_itself(shop: Any) -> None:
    broken = shop.items.head(1).with_columns(
        item_id=pl.lit("broken"), row_id=pl.lit(7, pl.Int64), status=pl.lit("quarantined")
    )
    catalog = shop._seal_catalog("quarantine", pl.concat([shop.items, broken]))
    changed = {"fingerprint": "quarantine", "catalog": catalog.ref}
    release = get_release(shop.store, "r1").model_copy(update=changed).seal(shop.store)
    with pytest.raises(NotFound, match="'broken' is not in release quarantine: its picture could not be used"):
        OpenRelease(shop.store, release, shop.settings).search(Query(item_ids=("broken",)))


def test_an_item_is_not_among_its_own_hits(release: OpenRelease) -> None:
    hits = release.search(Query(item_ids=("item-4-0",)), k=ROWS)
    assert len(hits) == ROWS - 1
    assert "item-4-0" not in names(hits)
    assert hits[0].item_id == "item-4-1"


def test_unlike_takes_half_of_a_mean_away(shop: Any, release: OpenRelease) -> None:
    query = Query(
        images=(shop.picture("item-1-0"),), unlike_images=(shop.picture("item-2-0"), shop.picture("item-3-0"))
    )
    away = (shop.vectors["item-2-0"] + shop.vectors["item-3-0"]) / 2
    vector = shop.vectors["item-1-0"] - UNLIKE_WEIGHT * away
    scores = {hit.item_id: hit.score for hit in release.search(query, k=ROWS)}
    assert scores["item-2-0"] < release.search(shop.picture("item-1-0"), k=ROWS)[-1].score + 1
    for item, own in shop.vectors.items():
        assert scores[item] == pytest.approx(float(own @ vector / np.linalg.norm(vector)), abs=1e-5)


def test_text_joins_pictures_where_the_backbone_reads_it(
    shop: Any, release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadConfig, match="reads no text"):
        release.search(Query(texts=("red dress",)))
    with pytest.raises(BadConfig, match="reads no text"):
        release.search(Query(item_ids=("item-1-0",), unlike_texts=("red dress",)))
    monkeypatch.setattr(QueryEncoder, "embed_text", lambda chain, text: shop.vectors[text])
    assert names(release.search(Query(texts=("item-6-2",)), k=1)) == ["item-6-2"]
    query = Query(images=(shop.picture("item-1-2"), shop.picture("item-4-2")), texts=("item-1-2",))
    assert (
        names(release.search(query, k=4)) == nearest(shop, 2 * shop.vectors["item-1-2"] + shop.vectors["item-4-2"])[:4]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Query(),
        lambda: Query(unlike_texts=("red",)),
        lambda: Query(texts="red dress"),  # type: ignore[arg-type]
        lambda: Query(images="a.jpg"),  # type: ignore[arg-type]
    ],
)
def test_a_query_of_nothing_or_of_a_bare_value_is_refused(wrong: Callable[[], Query]) -> None:
    with pytest.raises(BadConfig, match="a query"):
        wrong()


def test_parts_that_cancel_each_other_are_refused(
    shop: Any, release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QueryEncoder, "embed_text", lambda chain, text: -shop.vectors["item-1-0"])
    with pytest.raises(BadConfig, match="cancel each other"):
        release.search(Query(texts=("its opposite",), item_ids=("item-1-0",)))


def test_what_cannot_be_searched_is_said(shop: Any, release: OpenRelease) -> None:
    with pytest.raises(NotFound, match="nobody"):
        release.search(Query(item_ids=("item-1-0", "nobody")))
    with pytest.raises(NotFound):
        release.search(shop.folder / "absent.jpg")
    with pytest.raises(ImageRefused):
        release.search(b"not a picture")
    with pytest.raises(BadConfig, match="uint8"):
        release.search(np.zeros((8, 8, 3), np.float32))  # type: ignore[arg-type]
    for k in (0, -1):
        with pytest.raises(BadConfig, match="at least 1"):
            release.search(shop.picture("item-1-0"), k)
    with pytest.raises(DimensionMismatch):
        release.search_vector(np.ones(3, np.float32))
    with pytest.raises(BadConfig, match="NaN"):
        release.search_vector(np.full(128, np.nan, np.float32))
    with pytest.raises(BadConfig, match="nearest or classified"):
        release.search(shop.picture("item-1-0"), mode="best")  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="classes of a picture"):
        release.search(Query(item_ids=("item-1-0",)), mode="classified")


@pytest.mark.parametrize(
    "where",
    ["colour in (red, blue) and category=dress", "label=new", "not colour=red and year>=2006", "item_id='item-5-2'"],
)
def test_a_filter_keeps_what_fits_in_the_order_of_exact_search(shop: Any, release: OpenRelease, where: str) -> None:
    allowed, vector = fitting(shop, where), shop.vectors["item-0-2"]
    assert 0 < len(allowed) < ROWS
    found = release.search(shop.picture("item-0-2"), k=ROWS, where=where)
    assert sorted(names(found)) == sorted(allowed)
    few = release.search_vector(vector, 3, where=where)
    assert names(few) == nearest(shop, vector, allowed)[:3]
    scores, row_ids = release.search_vectors(vector[None], ROWS, where=where)
    assert np.count_nonzero(row_ids[0] >= 0) == len(allowed)
    assert np.isneginf(scores[0][len(allowed) :]).all()


def test_a_filter_that_nothing_fits_finds_nothing(shop: Any, release: OpenRelease) -> None:
    for _ in range(2):
        assert release.search(shop.picture("item-1-0"), where="category=hat") == []
    assert release.search(Query(item_ids=("item-5-2",)), where="item_id='item-5-2'") == []
    assert release.search_vectors(shop.vectors["item-1-0"][None], 2, where="category=hat")[1].tolist() == [[-1, -1]]


def test_a_filter_that_names_no_column_says_which_there_are(shop: Any, release: OpenRelease) -> None:
    with pytest.raises(BadConfig, match=r"'colr'.* item_id, .*label, colour, year; did you mean 'colour'"):
        release.search(shop.picture("item-1-0"), where="colr=red")
    with pytest.raises(BadConfig, match="character 10"):
        release.search(shop.picture("item-1-0"), where="category=")


def test_collapse_keeps_the_best_of_near_identical_pictures_of_one_product(shop: Any, release: OpenRelease) -> None:
    alike, other = (
        shop.vectors["item-5-0"] @ shop.vectors["item-5-1"],
        shop.vectors["item-5-0"] @ shop.vectors["item-5-2"],
    )
    assert other < COLLAPSE_SIMILARITY < alike
    query = shop.picture("item-5-1")
    everything = names(release.search(query, k=ROWS))
    shown: set[str] = set()
    expected = []
    for item in everything:
        product, view = item.split("-")[1], item.split("-")[2]
        near = product if view != "2" and product != "0" else item  # product 0 is no product: nothing of it collapses
        if near not in shown:
            expected.append(item)
        shown.add(near)
    assert len(expected) == ROWS - 11
    for k in (1, 2, 7, len(expected), ROWS, 1000):
        assert names(release.search(query, k=k, collapse=True)) == expected[:k]
    red = release.search(query, k=ROWS, where="colour=red", collapse=True)
    assert names(red) == [item for item in expected if int(item.split("-")[1]) % 3 == 0]


def test_by_product_keeps_the_best_of_each_product(shop: Any, release: OpenRelease) -> None:
    query = shop.picture("item-5-1")
    expected, products = [], set()
    for item in names(release.search(query, k=ROWS)):
        product = item.split("-")[1]
        if product not in products or product == "0":  # product 0 is no product
            expected.append(item)
        products.add(product)
    assert len(expected) < ROWS
    for k in (1, 2, len(expected), ROWS):
        assert names(release.search(query, k=k, by_product=True)) == expected[:k]


def test_a_classified_search_looks_within_the_filter(
    shop: Any, release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QueryEncoder, "classify", lambda chain, image: np.array([1, -1], np.int32))
    query = shop.picture("item-4-0")
    for where in ("", "colour=red"):
        by_distance = names(release.search(query, k=ROWS, where=where))
        expected = sorted(by_distance, key=lambda item: int(item.split("-")[1]) % 2 == 0)
        assert names(release.search(query, k=ROWS, mode="classified", where=where)) == expected
        assert names(release.search(query, k=2, mode="classified", where=where)) == expected[:2]
    assert release.search(query, mode="classified", where="category=hat") == []


def test_what_the_app_shows_is_what_the_release_holds(shop: Any, release: OpenRelease) -> None:
    columns = {name: [*counts] for name, counts in release.facets().items()}
    assert list(columns) == ["item_id", "product_id", "category", "split", "label", "colour", "year"]
    assert columns["item_id"] == columns["product_id"] == []
    assert columns["category"] == ["coat", "dress"]
    assert columns["label"] == ["new", "red", "blue", "green"]
    assert columns["colour"] == ["blue", "green", "red"]
    assert release.picture_bytes("item-3-1") == shop.picture("item-3-1").read_bytes()
    pixels = np.zeros((20, 30, 3), np.uint8)
    assert np.array_equal(release.apply_view(pixels), pixels)
    with pytest.raises(NotFound, match="nobody"):
        release.picture_bytes("nobody")


def test_a_picture_that_is_gone_is_not_found(new_shop: Callable[[Path], Any], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    shop.publish(products=[0, 1])
    shop.picture("item-1-1").unlink()
    release = shop.open()
    with pytest.raises(NotFound):
        release.picture_bytes("item-1-1")
    assert names(release.search(shop.picture("item-1-0"), k=2)) == ["item-1-0", "item-1-1"]


def test_a_release_of_nothing_or_of_one_item_is_searched_like_any_other(
    new_shop: Callable[[Path], Any], tmp_path: Path
) -> None:
    shop = new_shop(tmp_path)
    shop.publish("none", products=[])
    empty, query = shop.open(), shop.picture("item-1-0")
    assert empty.search(query) == empty.search(query, where="split=train", collapse=True) == []
    assert set(empty.facets()) == {"item_id", "product_id", "category", "split", "label"}
    with pytest.raises(NotFound):
        empty.search(Query(item_ids=("item-1-0",)))
    shop.publish("some", products=[3])
    some = shop.open()
    assert names(some.search(query, k=5, where="item_id='item-3-2'")) == ["item-3-2"]
    assert len(some.search(query, k=5, collapse=True)) == 2


def test_eight_threads_get_the_answers_of_one(
    shop: Any, in_threads: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    wheres = ["", "colour=red", "label=new", "year>=2006"]

    def ask(release: OpenRelease, number: int) -> list[Any]:
        image = shop.picture(f"item-{number}-2")
        return [release.search(image, 5, where=where, collapse=number % 2 == 0) for where in wheres]

    alone = shop.open()
    expected = [ask(alone, number) for number in range(8)]
    together = shop.open()  # its models are loaded by eight threads at once
    assert in_threads(8, lambda number: ask(together, number)) == expected
    assert in_threads(8, lambda number: together.facets()) == [alone.facets()] * 8


def test_models_are_loaded_once_however_many_threads_ask(
    shop: Any, in_threads: Callable[[int, Callable[[int], Any]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:

    opened: list[object] = []
    really = query_encoder.open_engine

    def counting(*arguments: Any) -> Any:
        opened.append(arguments)
        return really(*arguments)

    monkeypatch.setattr(query_encoder, "open_engine", counting)
    release = shop.open()
    in_threads(8, lambda number: release.search(shop.picture("item-1-0"), 1))
    assert len(opened) == 1


def test_a_release_whose_config_this_version_cannot_read_is_refused_by_name(
    new_shop: Callable[[Path], Any], tmp_path: Path
) -> None:
    shop = new_shop(tmp_path)
    release = shop.publish()
    unreadable = release.model_copy(update={"config": {**release.config, "renamed_stage": {}}})
    for refuse in (lambda: OpenRelease(shop.store, unreadable, shop.settings), unreadable.nightly_config):
        with pytest.raises(ShardCorrupt, match=r"(?s)the config of release r1 cannot be read.*renamed_stage"):
            refuse()


def test_a_picture_that_the_store_keeps_outlives_its_source(new_shop: Callable[[Path], Any], tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    shop.publish(products=[1, 2])
    data = shop.picture("item-1-0").read_bytes()
    with PictureWriter(shop.store, "shard") as writer:
        writer.add(content_id(data), data, ".jpg")
        writer.finish()
    for item_id in ("item-1-0", "item-2-0"):
        shop.picture(item_id).unlink()
    release = shop.open()
    assert release.picture_bytes("item-1-0") == data
    with pytest.raises(NotFound):
        release.picture_bytes("item-2-0")


@pytest.mark.parametrize("options", [{}, {"by_product": True}, {"collapse": True}], ids=str)
def test_pages_are_the_long_list_cut_and_repeat_nothing(release: OpenRelease, options: dict[str, bool]) -> None:
    query = Query(item_ids=("item-1-0",))
    seen: list[int] = []
    pages = []
    while len(page := release.rank(query, 4, seen=seen, **options).row_ids):
        pages += [hit.item_id for hit in release.describe(release.rank(query, 4, seen=seen, **options))]
        seen += page.tolist()
    assert pages == names(release.search(query, 100, **options))


def test_a_picture_that_is_embedded_already_is_searched_as_the_picture_is(shop: Any, release: OpenRelease) -> None:
    first, second, other = (shop.picture(f"item-{number}-2") for number in (3, 4, 5))
    pixels = np.stack([release.fit_picture(str(path)) for path in (first, second, other)])
    vectors = release.encoder.embed(pixels)
    alone = release.search(Query(images=(str(first), str(second)), unlike_images=(str(other),)), 5)
    together = release.search(Query(vectors=(vectors[0], vectors[1]), unlike_vectors=(vectors[2],)), 5)
    assert [hit.item_id for hit in together] == [hit.item_id for hit in alone]
    assert [hit.score for hit in together] == pytest.approx([hit.score for hit in alone], abs=1e-5)


def test_an_item_is_described_as_its_hit_is(release: OpenRelease) -> None:
    hit = release.search(Query(item_ids=("item-3-0",)), 1, where="item_id='item-3-1'")[0]
    assert release.item("item-3-1").model_dump() == hit.model_dump(exclude={"score", "confidence"})
    with pytest.raises(NotFound, match="'nobody'"):
        release.item("nobody")
