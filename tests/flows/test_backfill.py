"""A representation filled in beside the live one: a part, then all, and never promoted by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from flows import backfill as module
from flows.backfill import backfill, paced
from flows.nightly import nightly
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Catalog
from retrieval_core.artifacts.shards import Target, WorkPlan, WorkShard
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.errors import BadConfig, NotFound
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings

CONFIG = NightlyConfig.load(
    None,
    [
        "embed.backbone=pca_pixels",
        "embed.weights=fit:0",
        "embed.size_px=16",
        "embed.background=raw",
        "embed.shard_rows=4",
        "head.enabled=false",
        "reduce.dims=[8]",
        "evaluate.queries=4",
        "evaluate.synthetic_queries=4",
        "gate.mode=off",
        "gate.min_queries=2",
        "gate.max_unseen_loss=1",
    ],
)
OTHER = CONFIG.model_copy(update={"embed": CONFIG.embed.model_copy(update={"weights": "fit:1"})})

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_part_then_the_whole_and_production_stays(tmp_path: Path) -> None:
    source = f"synthetic:{tmp_path / 'catalog'}?products=6&views=2&size_px=64"
    settings = Settings.load(store=str(tmp_path / "store"), threads=1)
    store = settings.open_store()
    live = nightly(source, settings, CONFIG)

    part = backfill(source, settings, OTHER, item_ids=("p0000-v0", "p0001-v1", "p0002-v0"), where="item_id < p0002")
    assert (part.embedded, part.items, part.rows, part.through, part.release) == (2, 2, 12, "embed", None)
    assert part.outcome.startswith("No release: 2 of 12 items were filled in")

    whole = backfill(source, settings, OTHER, pictures_per_second=1_000)
    assert whole.embedded == 10, "two were there"
    assert whole.release is not None
    assert (whole.release.gate, whole.release.embedded) == ("held", 0)
    assert whole.outcome.startswith("Waits to be promoted")
    assert whole.outcome.endswith(f"`vitrine promote {whole.release.release[:12]}` publishes it.")
    production = releases.read_alias(store, releases.PRODUCTION)
    assert production is not None
    assert production.release == live.release

    releases.promote(store, whole.release.release, live.release)
    assert verify(store).ok
    picture = next((tmp_path / "catalog" / "images").iterdir())
    assert Path(open_release(store).search(picture, k=1)[0].image_uri) == picture

    for wrong, error, message in (
        ({"item_ids": ("nobody",)}, NotFound, "'nobody'"),
        ({"where": "item_id = nobody"}, NotFound, "no item"),
        ({"where": "item_id ="}, BadConfig, "cannot read the filter"),
        ({"pictures_per_second": -1}, BadConfig, "expected 0"),
    ):
        with pytest.raises(error, match=message):
            backfill(source, settings, OTHER, **wrong)


def test_a_killed_backfill_is_gone_on_with_and_nothing_is_computed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"synthetic:{tmp_path / 'catalog'}?products=6&views=2&size_px=64"
    settings = Settings.load(store=str(tmp_path / "store"), threads=1)
    make, n_made = module.in_shards, 0

    def make_two(*call: Any) -> list[Any]:
        nonlocal n_made
        n_made += 1
        if n_made > 2:
            raise Killed
        return make(*call)

    with monkeypatch.context() as patched:
        patched.setattr(module, "in_shards", make_two)
        with pytest.raises(Killed):
            backfill(source, settings, CONFIG, through="embed", pictures_per_second=1_000)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("vectors/*/parts/*")}
    assert len(made) == 2, "two of three shards were done"
    again = backfill(source, settings, CONFIG, through="embed")
    assert again.embedded == 4
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert backfill(source, settings, CONFIG, through="embed").embedded == 0
    assert releases.read_alias(settings.open_store(), releases.LATEST) is None


def test_dates_choose_what_moved_and_stages_end_where_they_are_told_to(tmp_path: Path) -> None:
    source = f"synthetic:{tmp_path / 'catalog'}?products=6&views=2&size_px=64"
    settings = Settings.load(store=str(tmp_path / "store"), threads=1)
    first = backfill(source, settings, CONFIG, through="embed")
    assert (first.rows, first.items, first.through, first.release) == (12, 12, "embed", None)
    assert "ends with stage embed" in first.outcome
    (sealed,) = (tmp_path / "store" / "catalogs").glob("*/manifest.json")
    catalog = Catalog.from_sealed(sealed.read_bytes(), "the catalogue")
    sealed.write_bytes(catalog.model_copy(update={"created": "2026-03-01T05:00:00+00:00"}).to_sealed()[1])
    changed, other = sorted((tmp_path / "catalog" / "images").iterdir())[:2]
    changed.write_bytes(other.read_bytes()[:-2] + b"\x00\x00\xff\xd9")

    moved = backfill(source, settings, OTHER, since="2026-03-02")
    assert (moved.rows, moved.items, moved.embedded, moved.through, moved.release) == (12, 1, 1, "embed", None)
    assert moved.outcome.startswith("No release: 1 of 12 items")
    both = backfill(source, settings, OTHER, since="2026-03-01", until="2026-03-01", item_ids=("p0002-v0",))
    assert (both.items, both.embedded) == (1, 1)
    for wrong, error, message in (
        ({"until": "2026-02-28"}, NotFound, "no snapshot"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, BadConfig, "before since"),
        ({"through": "mask"}, BadConfig, "masks nothing"),
    ):
        with pytest.raises(error, match=message):
            backfill(source, settings, OTHER, **wrong)


class Killed(Exception):
    """In the place of a signal."""


def test_pauses_keep_the_pace_and_tell_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = WorkPlan(
        targets=(Target(folder="vectors", family="f"),), key="k", shards=tuple((name,) for name in "abcd"), n_missing=40
    )
    clock = [0.0]
    took = {0: 0.5, 1: 0.5, 2: 3.0, 3: 0.5}
    steps: list[tuple[int, float]] = []

    def work(shards: list[WorkShard]) -> list[int]:
        clock[0] += took[shards[0].number]
        return [shards[0].number]

    class Told:
        def __init__(self, total: int) -> None:
            self.total = total

        def advance(self) -> None:
            steps.append((self.total, clock[0]))

    monkeypatch.setattr(module, "in_shards", lambda _work, _settings, shards: work(shards))
    monkeypatch.setattr(module, "shard_progress", lambda _, calls: Told(len(calls)))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    each: Any = paced(5.0)
    assert each(None, None, plan) == [0, 1, 2, 3]
    assert steps == [(4, 0.5), (4, 2.5), (4, 7.0), (4, 7.5)]
    assert clock[0] == 2.0 + 2.0 + 3.0 + 2.0
