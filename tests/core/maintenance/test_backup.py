"""A backup opens, whatever happened while it was made: runs that publish, a kill, damage in the store or in itself."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import MANIFEST
from retrieval_core.errors import BadConfig, NotFound, ShardCorrupt, StoreBusy, StoreNotWritable, TooNew
from retrieval_core.feedback.log import Event, kept_pictures, put_events, put_picture, read_log
from retrieval_core.maintenance import backup
from retrieval_core.maintenance.backup import Copied, back_up, restore
from retrieval_core.maintenance.damage import damage_to_search
from retrieval_core.maintenance.inventory import open_artifact, release_refs
from retrieval_core.maintenance.migrate import migrate
from retrieval_core.maintenance.vacuum import DAY_S, Policy, vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.store import leases
from retrieval_core.store.base import Entry, Store
from retrieval_core.store.format import FIRST_FORMAT, FORMAT, MARKER
from retrieval_core.store.local import LocalStore
from retrieval_core.store.uris import open_store
from tests.core.damage import ITEMS, contents, flip, lose, parts_of
from tests.core.maintenance.test_migrate import unpack
from tests.core.sealed_runs import SealedRuns

pytestmark = pytest.mark.usefixtures("aws_environment")

PRODUCTION = releases.alias_key(releases.PRODUCTION)
CHECKPOINT = f"backbones/{'c' * 32}/checkpoint/last.ckpt"


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "SETTLE_S", 0.0)


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "backup"))


def objects(store: Store) -> dict[str, bytes]:
    """Return everything that a backup holds of a store."""
    return {key: data for key, data in contents(store).items() if "/plans/" not in key}


def opened(store: Store) -> str:
    """Return production's release, having compared every part of it with its checksum."""
    release = releases.read_release(store, releases.PRODUCTION)
    assert release is not None
    for ref in release_refs(release):
        for part in open_artifact(store, ref.key, ref.sha256).parts:
            assert hashlib.sha256(store.get(part.key)).hexdigest() == part.sha256
    return release.fingerprint


class BusyStore(LocalStore):
    """A store that does something before each step of reading it."""

    step: Callable[[], object] = staticmethod(lambda: None)

    def get(self, key: str) -> bytes:
        self.step()
        return super().get(key)

    def chunks(self, key: str) -> Iterator[bytes]:
        self.step()
        return super().chunks(key)

    def entries(self, prefix: str) -> Iterator[Entry]:
        for entry in super().entries(prefix):
            self.step()
            yield entry


class Killed(Exception):
    """Ends a backup in the middle."""


@pytest.mark.parametrize("kinds", ["local-local", "local-s3", "s3-local", "s3-s3"])
def test_a_backup_is_restored_byte_by_byte_between_folders_and_s3(
    kinds: str, request: pytest.FixtureRequest, tmp_path: Path, s3_endpoint: str, bucket: str
) -> None:
    def place(kind: str, name: str) -> Store:
        url = f"s3://{bucket}/{name}" if kind == "s3" else str(tmp_path / name)
        return open_store(url, s3_endpoint_url=s3_endpoint, cache_dir=tmp_path / "cache")

    first, second = kinds.split("-")
    source, target, restored = place(first, "shop"), place(second, "backup"), place(first, "restored")
    release = SealedRuns(source).seal(ITEMS)
    source.put("runs/2026-01-01T000000.json", b"{}")
    source.put(CHECKPOINT, b"days of training")

    copied = back_up(source, target)
    assert (copied.ok, copied.release) == (True, release.fingerprint)
    assert restore(target, restored).n_copied == copied.n_copied == len(objects(source))

    assert objects(source) == contents(target) == contents(restored)
    assert verify(restored).ok


def test_a_second_backup_copies_only_what_is_new(local_store: Store, target: Store) -> None:
    runs = SealedRuns(local_store)
    runs.seal(ITEMS)
    local_store.put(CHECKPOINT, b"epoch 1")
    back_up(local_store, target)
    before = objects(local_store)
    runs.seal([*ITEMS[2:], "new"])
    local_store.put(CHECKPOINT, b"epoch 2")
    after = objects(local_store)
    changed = [key for key in after if before.get(key) != after[key]]

    copied = back_up(local_store, target)

    assert copied.n_copied == len(changed)
    assert copied.n_bytes == sum(len(after[key]) for key in changed)
    assert contents(target) == after
    assert back_up(local_store, target).n_copied == 0


@given(st.data())
@settings(max_examples=8, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck))
def test_a_backup_beside_runs_that_publish_opens_as_production_then_or_later_even_if_it_was_killed(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup, "COPY_THREADS", 1)
        store, target = LocalStore(Path(folder, "shop")), LocalStore(Path(folder, "backup"))
        runs, busy = SealedRuns(store), BusyStore(Path(folder, "shop"))
        published = [runs.seal(ITEMS[:5]).fingerprint]
        saved = ""
        for _ in range(3):
            began, n_step = len(published) - 1, 0
            publish_at = data.draw(st.sets(st.integers(0, 120), max_size=2))
            kill_at = data.draw(st.none() | st.integers(0, 120))

            def step(publish_at: set[int] = publish_at, kill_at: int | None = kill_at) -> None:
                nonlocal n_step
                n_step += 1
                if n_step in publish_at:
                    published.append(runs.seal(ITEMS[: 5 + len(published)]).fingerprint)
                    store.put("ingest/items.parquet", store.get("ingest/items.parquet"))
                if n_step == kill_at:
                    raise Killed

            busy.step = step  # type: ignore[method-assign]
            try:
                assert back_up(busy, target).ok
                saved = opened(target)
                assert saved in published[began:]
            except Killed:
                assert not target.exists(PRODUCTION) or opened(target) in {saved, *published[began:]}
        busy.step = lambda: None  # type: ignore[method-assign]
        assert back_up(busy, target).ok
        assert opened(target) == published[-1]
        assert objects(store) == contents(target)


def test_a_killed_backup_opens_at_every_object_as_before_or_after(
    local_store: Store, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = SealedRuns(local_store)
    names = [runs.seal(ITEMS[:4]).fingerprint]
    back_up(local_store, target)
    names.append(runs.seal(ITEMS[:5]).fingerprint)
    allowed = 0

    def dying(write: Callable[..., None]) -> Callable[..., None]:
        def put(store: Store, key: str, *data: object) -> None:
            nonlocal allowed
            if store == target and not key.startswith(leases.FOLDER):
                allowed -= 1
                if allowed < 0:
                    raise Killed
            write(store, key, *data)

        return put

    monkeypatch.setattr(backup, "COPY_THREADS", 1)
    for method in ("put", "put_chunks"):
        monkeypatch.setattr(LocalStore, method, dying(getattr(LocalStore, method)))
    n_kills = 0
    while not n_kills or opened(target) != names[1]:
        allowed = 1  # each resumed backup copies one object
        n_kills += 1
        with suppress(Killed):
            back_up(local_store, target)
        assert opened(target) in names
    allowed = 99
    back_up(local_store, target)
    assert n_kills > 10
    assert objects(local_store) == contents(target)


@pytest.mark.parametrize("harm", [flip, lose])
@pytest.mark.parametrize("role", ["catalogue", "boosted", "report"])
def test_damage_of_what_an_alias_needs_is_named_and_moves_no_alias(
    harm: Callable[[Store, str], None], role: str, local_store: Store, target: Store
) -> None:
    runs = SealedRuns(local_store)
    saved = runs.seal(ITEMS)
    back_up(local_store, target)
    runs.seal([*ITEMS, "new"], backbone="other")
    victim = next(key for key in parts_of(local_store, role) if not target.exists(key))
    harm(local_store, victim)

    with pytest.raises(ShardCorrupt, match=victim):
        back_up(local_store, target)

    assert opened(target) == saved.fingerprint


@pytest.mark.parametrize("role", ["alias", "catalogs", "indexes", "releases"])
def test_a_damaged_document_of_production_is_named_and_moves_no_alias(
    role: str, local_store: Store, target: Store
) -> None:
    runs = SealedRuns(local_store)
    saved = runs.seal(ITEMS)
    back_up(local_store, target)
    runs.seal([*ITEMS, "new"])
    new = [key for key in local_store.list(f"{role}/") if key.endswith(MANIFEST) and not target.exists(key)]
    victim = new[0] if new else PRODUCTION
    flip(local_store, victim)

    with pytest.raises(ShardCorrupt, match="production" if role == "alias" else victim):
        back_up(local_store, target)

    assert opened(target) == saved.fingerprint


def test_damage_that_no_alias_needs_is_named_left_out_and_does_not_end_the_backups(
    local_store: Store, target: Store
) -> None:
    runs = SealedRuns(local_store)
    earlier = runs.seal(ITEMS)
    victim = parts_of(local_store, "report")[0]
    current = runs.seal(ITEMS[2:])
    flip(local_store, victim)
    flip(local_store, "ingest/items.parquet")

    copied = back_up(local_store, target, prune=True)

    assert not copied.ok
    left_out = {victim, f"{earlier.report.key}/{MANIFEST}", f"{earlier.key}/{MANIFEST}", "ingest/items.parquet"}
    assert set(copied.damaged) == left_out
    assert not left_out & set(target.list(""))
    assert opened(target) == current.fingerprint


def test_production_is_backed_up_without_the_report_that_was_lost(local_store: Store, target: Store) -> None:
    release = SealedRuns(local_store).seal(ITEMS)
    lost = f"{release.report.key}/{MANIFEST}"
    local_store.delete(lost)

    copied = back_up(local_store, target)

    assert set(copied.damaged) == {lost}
    assert releases.read_release(target, releases.PRODUCTION) == release
    assert damage_to_search(target, release) == ""


def test_a_damaged_object_of_the_backup_is_replaced_where_everything_is_compared(
    local_store: Store, target: Store
) -> None:
    SealedRuns(local_store).seal(ITEMS)
    back_up(local_store, target)
    flip(target, parts_of(target, "index")[0])
    assert back_up(local_store, target).n_copied == 0

    assert back_up(local_store, target, verify=True).n_copied == 1
    assert objects(local_store) == contents(target)


def test_a_backup_keeps_what_a_vacuum_removed_until_it_is_pruned(local_store: Store, target: Store) -> None:
    runs = SealedRuns(local_store)
    runs.seal(ITEMS)
    back_up(local_store, target)
    runs.seal(ITEMS[5:])
    vacuum(local_store, Policy(keep=0, older_than_days=0), time.time() + 30 * DAY_S)
    target.put("notes/of-the-team.txt", b"not ours")

    assert back_up(local_store, target).n_removed == 0
    assert len(releases.release_names(target)) == 2
    assert back_up(local_store, target, prune=True).n_removed > 0

    assert contents(target) == objects(local_store) | {"notes/of-the-team.txt": b"not ours"}
    opened(target)


def test_a_picture_of_a_query_goes_from_the_store_after_its_days_and_from_the_backup_when_pruned(
    local_store: Store, target: Store
) -> None:
    SealedRuns(local_store).seal(ITEMS)
    now = datetime.now(UTC)
    put_picture(local_store, b"jpeg", 3, now)
    put_events(local_store, [Event("0" * 32, now, "item-1", "click")])
    copied = back_up(local_store, target)
    (kept,) = kept_pictures(target).values()
    assert (copied.ok, target.get(kept)) == (True, b"jpeg")
    vacuum(local_store, Policy(), time.time() + 2 * DAY_S)
    assert kept_pictures(local_store)
    vacuum(local_store, Policy(), time.time() + 6 * DAY_S)
    assert not kept_pictures(local_store)
    back_up(local_store, target, prune=True)
    assert not kept_pictures(target)
    assert len(read_log(target, now - timedelta(days=1)).events) == 1


def test_no_vacuum_runs_beside_a_backup(tmp_path: Path, target: Store) -> None:
    SealedRuns(LocalStore(tmp_path / "store")).seal(ITEMS)
    store = BusyStore(tmp_path / "store")
    refused = []

    def try_to_vacuum() -> None:
        if target.exists(MARKER) and not refused:
            refused.append(True)
            with pytest.raises(StoreBusy, match="a backup"):
                vacuum(open_store(store.url), Policy(keep=0), time.time())

    store.step = try_to_vacuum  # type: ignore[method-assign]
    back_up(store, target)
    assert refused


def test_a_store_that_may_only_be_read_is_backed_up_without_a_lease(
    local_store: Store, target: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release = SealedRuns(local_store).seal(ITEMS)
    back_up(local_store, target)
    put, restored = LocalStore._put, open_store(f"{target.url}-restored")

    def refuse(store: LocalStore, key: str, data: bytes) -> None:
        if store == target:
            raise StoreNotWritable("mounted read-only")
        put(store, key, data)

    monkeypatch.setattr(LocalStore, "_put", refuse)
    assert restore(target, restored).ok
    assert "mounted read-only" in caplog.text
    assert opened(restored) == release.fingerprint


def test_a_place_that_holds_something_else_is_refused(local_store: Store, target: Store, tmp_path: Path) -> None:
    SealedRuns(local_store).seal(ITEMS)
    other = open_store(str(tmp_path / "other"))
    SealedRuns(other).seal(ITEMS[:3], backbone="other")
    before = contents(other)
    for copy in (back_up, restore):
        with pytest.raises(BadConfig, match="empty place"):
            copy(local_store, other)
    assert contents(other) == before
    for place in (local_store, open_store(f"{local_store.url}/backup"), open_store(str(tmp_path))):
        with pytest.raises(BadConfig, match="within each other"):
            back_up(local_store, place)
    with pytest.raises(NotFound, match="nothing is published"):
        back_up(target, open_store(str(tmp_path / "empty")))


def test_a_restore_is_repeated_but_replaces_no_later_release(local_store: Store, target: Store) -> None:
    runs = SealedRuns(local_store)
    runs.seal(ITEMS)
    back_up(local_store, target)
    restored = open_store(f"{target.url}-restored")
    restore(target, restored)
    for key in [key for key in restored.list("") if "vectors" in key or key.startswith("aliases/")]:
        restored.delete(key)  # as if it had been killed
    assert restore(target, restored).ok
    assert contents(restored) == contents(target)

    later = SealedRuns(restored).seal(ITEMS[2:])
    with pytest.raises(BadConfig, match="which the backup does not"):
        restore(target, restored)
    assert opened(restored) == later.fingerprint


@pytest.mark.parametrize("copy", [back_up, restore])
@pytest.mark.parametrize("is_source", [True, False])
def test_a_newer_format_is_refused_on_both_sides(
    copy: Callable[[Store, Store], Copied], is_source: bool, local_store: Store, target: Store
) -> None:
    SealedRuns(local_store).seal(ITEMS[:3])
    (local_store if is_source else target).put(MARKER, json.dumps({"format": FORMAT + 1}).encode())
    before = contents(target)
    with pytest.raises(TooNew):
        copy(local_store, target)
    assert contents(target) == before


def test_a_store_of_an_older_format_is_backed_up_before_it_is_migrated_and_that_backup_is_kept(
    target: Store, tmp_path: Path
) -> None:
    store = unpack(FIRST_FORMAT, tmp_path / "old")
    before = objects(store)
    assert back_up(store, target).ok
    assert restore(target, open_store(str(tmp_path / "restored"))).ok
    migrate(store)
    with pytest.raises(BadConfig, match=f"has format {FORMAT} and .* has {FIRST_FORMAT}"):
        back_up(store, target)
    assert contents(target) == before
    assert verify(target).ok
