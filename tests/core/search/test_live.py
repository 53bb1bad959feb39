"""A release that keeps up: what is whole takes over, what is broken does not, and nobody's search fails meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.artifacts import releases
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.search import live
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.release import open_release

CHECK_S = 0.02
PATIENCE_S = 60.0


@pytest.fixture
def shop(new_shop: Callable[[Path], Any], tmp_path: Path) -> Any:
    shop = new_shop(tmp_path)
    shop.publish("r1", range(6))
    return shop


def until(happened: Callable[[], bool]) -> None:
    given_up = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < given_up, "it never happened"
        time.sleep(CHECK_S / 2)


def serving(live: LiveRelease) -> str:
    return live.current.release.fingerprint


def damage(shop: Any, key: str) -> None:
    folder, _, name = key.rpartition("/")
    path = next((shop.folder / "store").glob(f"{folder}/**/{name}"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_alias_moves_while_threads_search(shop: Any) -> None:
    query, errors, stop = shop.picture("item-7-2"), [], threading.Event()
    seen: list[list[tuple[str, str]]] = [[] for _ in range(4)]
    with LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S) as live:

        def search(number: int) -> None:
            while not stop.is_set():
                try:
                    current = live.current
                    best = current.search(query, 1, where="category=dress")[0].item_id
                    seen[number].append((current.release.fingerprint, best))
                except Exception as error:
                    errors.append(error)

        threads = [threading.Thread(target=search, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: all(seen))
        shop.publish("r2", range(12))
        until(lambda: all(answers[-1][0] == "r2" for answers in seen))
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    for answers in seen:
        releases_seen = [name for name, _ in answers]
        assert releases_seen == sorted(releases_seen), "nobody goes back to the old release"
        assert {best for name, best in answers if name == "r2"} == {"item-7-2"}
        assert {best for name, best in answers if name == "r1"} & {"item-7-2"} == set()


def test_a_search_that_began_on_the_old_release_ends_on_it(shop: Any) -> None:
    with LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S) as live:
        old = live.current
        shop.publish("r2", range(6, 12))
        until(lambda: serving(live) == "r2")
        assert {hit.item_id.split("-")[1] for hit in old.search(shop.picture("item-1-0"), 100)} == set("012345")
        releases.rollback(shop.store)
        until(lambda: serving(live) == "r1")
        assert live.n_switches == 2


@pytest.mark.parametrize("broken", ["indexes/shards/r2-0/vectors.arrow", "indexes/shards/r2-1/index.faiss"])
def test_a_damaged_release_never_takes_over_and_is_told_once(
    shop: Any, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S) as live:
        shop.publish("r2", range(12), alias="elsewhere")
        damage(shop, broken)
        releases.point_alias(shop.store, "production", "r2")
        until(lambda: bool(caplog.records))
        assert serving(live) == "r1"
        assert len(live.current.search(shop.picture("item-1-0"), 3)) == 3
        shop.publish("r3", range(3))
        until(lambda: serving(live) == "r3")
    assert "r2 cannot be opened, r1 keeps serving" in caplog.text
    assert "sha256" in caplog.text
    with pytest.raises(ShardCorrupt):
        shop.open("r2")


def test_a_release_whose_model_is_gone_never_takes_over(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    with LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S) as live:
        shop.publish("r2", range(12), alias="elsewhere")
        next((shop.folder / "store" / "backbones" / "pixels").glob("*/model.onnx")).unlink()
        releases.point_alias(shop.store, "production", "r2")
        until(lambda: bool(caplog.records))
        assert serving(live) == "r1"
        assert len(live.current.search(shop.picture("item-1-0"), 3)) == 3


def test_an_alias_that_dangles_or_cannot_be_read_changes_nothing(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    with LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S) as live:
        releases.point_alias(shop.store, "production", "ghost")
        until(lambda: "ghost" in caplog.text)
        shop.store.put("aliases/production", b"not JSON")
        until(lambda: "cannot be read" in caplog.text)
        shop.store.delete("aliases/production")
        assert serving(live) == "r1"
        assert live.current.search(shop.picture("item-1-0"), 1)[0].item_id == "item-1-0"
        shop.publish("r2")
        until(lambda: serving(live) == "r2")


def test_without_an_old_release_what_is_wrong_is_raised(shop: Any) -> None:
    with pytest.raises(NotFound):
        LiveRelease(shop.store, "feed", shop.settings)
    damage(shop, "indexes/shards/r1-0/index.faiss")
    with pytest.raises(ShardCorrupt):
        LiveRelease(shop.store, settings=shop.settings)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch ")]


def test_a_closed_one_still_answers_and_looks_no_more(shop: Any) -> None:
    live = LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S)
    live.close()
    live.close()
    shop.publish("r2")
    assert serving(live) == "r1"
    assert live.current.search(shop.picture("item-1-0"), 1)[0].item_id == "item-1-0"


class Panic(BaseException):
    """Like pyo3's PanicException, which a Rust library raises."""


def test_a_panic_is_logged_and_the_release_tried_again(
    shop: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[BaseException] = [Panic("a panic"), SystemExit(1), MemoryError()]

    def open_after_failures(*arguments: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return open_release(*arguments)

    with LiveRelease(shop.store, settings=shop.settings, check_s=CHECK_S) as watcher:
        monkeypatch.setattr(live, "open_release", open_after_failures)
        shop.publish("r2")
        until(lambda: serving(watcher) == "r2")
    assert "a panic" in caplog.text
    assert failures == []
