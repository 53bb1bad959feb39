"""Damage to a store in use is named and repaired where possible, and no running search fails because of it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from deployments.cli.main import main
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Head, IndexSet, Release, VectorSet
from retrieval_core.config.stages import IndexConfig
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.maintenance.inventory import Inventory
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.status import status
from retrieval_core.maintenance.vacuum import DAY_S, Policy, plan_vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.search.live import LiveRelease
from retrieval_core.search.release import open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store
from retrieval_core.store.uris import open_store
from tasks.index import plan_index, seal_index
from tests.core.damage import actions
from tests.core.sealed_runs import REDUCED_DIM, SHARDS, SealedRuns

ROOT = Path(__file__).parents[2]
ITEMS = [f"item-{number}" for number in range(14)]


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


def failed(store: Store) -> dict[str, str]:
    """Return the detail of each failed check of `verify`."""
    return {check.name: check.detail for check in verify(store).checks if not check.ok}


def shard_file(store: Store, release: Release) -> str:
    return IndexSet.open(store, release.index).parts[0].key


def replace(store: Store, key: str, data: bytes) -> None:
    """Write past the store, as a failing disk, a bad copy or a person would."""
    path = Path(store.url, key)
    path.unlink()
    path.write_bytes(data)


@pytest.fixture
def shop(new_shop: Callable[[Path], Any], tmp_path: Path) -> Any:
    """Two releases of pictures, the second in production."""
    made = new_shop(tmp_path)
    made.publish("r1", range(6))
    made.publish("r2")
    return made


# A search keeps running


def test_a_flipped_bit_in_a_shard_is_named_and_the_running_search_continues(shop: Any) -> None:
    running, picture = shop.open(), shop.picture("item-3-0")
    hits = running.search(picture, 4)
    key = shard_file(shop.store, running.release)
    data = bytearray(shop.store.get(key))
    data[len(data) // 2] ^= 4
    replace(shop.store, key, bytes(data))

    assert running.search(picture, 4) == hits
    assert key in failed(shop.store)["shards"]
    with pytest.raises(ShardCorrupt, match="sealed as"):
        shop.open()


def test_what_cannot_be_rebuilt_moves_production_to_the_previous_release(shop: Any) -> None:
    """The shop keeps no vectors to build a shard from."""
    before = shop.open("r1").search(shop.picture("item-3-0"), 4)
    index = IndexSet.open(shop.store, shop.open().release.index)
    shop.store.delete(index.parts[0].key)

    found = repair(shop.store)

    assert not found.ok
    alias = releases.read_alias(shop.store, "production")
    assert alias is not None
    assert alias.release == "r1"
    assert shop.open().search(shop.picture("item-3-0"), 4) == before


def test_a_dangling_alias_is_named_while_the_previous_release_serves_and_then_repaired(
    shop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    picture = shop.picture("item-3-0")
    with caplog.at_level(logging.ERROR), LiveRelease(shop.store, settings=shop.settings, check_s=0.01) as live:
        hits = live.current.search(picture, 4)
        releases.point_alias(shop.store, "production", "never-sealed")
        while "never-sealed" not in caplog.text:
            time.sleep(0.01)

        assert live.current.search(picture, 4) == hits
        with pytest.raises(NotFound, match="never-sealed"):
            verify(shop.store)
        assert {"aliases/production": "moved"}.items() <= actions(repair(shop.store)).items()
        assert open_release(shop.store, settings=shop.settings).search(picture, 4) == hits


# The store


@pytest.fixture
def runs(tmp_path: Path) -> SealedRuns:
    made = SealedRuns(open_store(str(tmp_path / "store")))
    made.seal(ITEMS)
    return made


@pytest.mark.parametrize("n_bytes", [0, 100, -8])
def test_a_truncated_part_is_named_and_repaired(runs: SealedRuns, n_bytes: int) -> None:
    store = runs.store
    before = contents(store)
    for release in releases.list_releases(store):
        for part in VectorSet.open(store, release.vectors).parts:
            replace(store, part.key, before[part.key][:n_bytes])

    assert "vectors/" in failed(store)["checksums"]
    assert main(["repair", "--store", store.url]) == 0
    assert contents(store) == before
    assert failed(store) == {}


def test_a_manifest_missing_its_part_is_named_and_repaired(
    runs: SealedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    store = runs.store
    before = contents(store)
    key = shard_file(store, releases.list_releases(store)[0])
    Path(store.url, key).unlink()

    assert key in failed(store)["checksums"]
    assert main(["repair", "--store", store.url]) == 0
    assert f"repaired  {key}" in capsys.readouterr().out
    assert contents(store) == before


def test_a_shard_damaged_since_production_was_sealed_is_not_sealed_as_it_is(runs: SealedRuns) -> None:
    """The next index reuses it, as its rows did not change."""
    store, release = runs.store, releases.list_releases(runs.store)[0]
    index = IndexSet.open(store, release.index)
    settings = Settings.load(store=store.url, threads=1, device="cpu")
    config = IndexConfig(shards=SHARDS, recipe="Flat", candidate_dim=REDUCED_DIM)
    reduced = Inventory(store).vector_set(index.parents["candidates"])
    with disable_run_logger():
        plan = plan_index.fn(settings, release.catalog, release.vectors, [reduced.ref], config)
        assert (plan.missing, plan.previous) == ((), release.index)
        key = shard_file(store, release)
        data = bytearray(store.get(key))
        data[len(data) // 2] ^= 4
        replace(store, key, bytes(data))

        with pytest.raises(NotFound, match=rf"{key.rsplit('/', 2)[0]} holds no intact shard.*run again"):
            seal_index.fn(settings, plan, config.model_copy(update={"tune_queries": 101}))


def test_a_lost_model_is_refused_with_a_message_and_exit_code_1(
    runs: SealedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    store = runs.store
    head = releases.list_releases(store)[0].heads[0]
    store.delete(Head.open(store, head).part("weights.safetensors").key)

    assert main(["repair", "--store", store.url]) == 1
    assert f"refused   {head.key}" in capsys.readouterr().out


_RUN_LIMITED = """
import resource, sys
import faiss
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
SealedRuns(store).seal([f"other-{number}" for number in range(60)])
"""


@pytest.mark.parametrize("limit_bytes", [600, 4_000])
def test_a_full_disk_fails_the_run_with_a_message_and_loses_nothing(runs: SealedRuns, limit_bytes: int) -> None:
    """The kernel refuses every file that grows beyond the limit, while it is being written."""
    store = runs.store
    before, serving = contents(store), releases.read_alias(store, "production")

    done = _python(_RUN_LIMITED, store.url, str(limit_bytes))

    assert done.returncode == 1
    assert "StoreNotWritable: cannot write" in done.stderr
    after = contents(store)
    assert {key: after[key] for key in before} == before
    assert releases.read_alias(store, "production") == serving
    assert failed(store) == {}
    assert list(Path(store.url, ".tmp").iterdir()) == []
    runs.seal([f"other-{number}" for number in range(60)])
    assert failed(store) == {}


_AS_NOBODY = """
import os, sys, time
import faiss
from retrieval_core.errors import StoreNotWritable
from retrieval_core.maintenance.repair import repair
from retrieval_core.maintenance.vacuum import Policy, apply, plan_vacuum
from retrieval_core.maintenance.verify import verify
from retrieval_core.store.uris import open_store
from tests.core.sealed_runs import SealedRuns
store = open_store(sys.argv[1])
assert verify(store).ok  # imports everything while the files can be read
if os.geteuid() == 0:  # permissions do not bind root
    os.setresuid(65534, 65534, 65534)
def run():
    SealedRuns(store).seal(["one", "two", "three", "four", "five", "six"])
def vacuum():
    plan = plan_vacuum(store, Policy(keep=0), time.time() + 1e7)
    assert plan.keys
    apply(store, plan)
for change in (run, vacuum, lambda: repair(store)):
    try:
        change()
    except StoreNotWritable as error:
        print("refused", error)
print(verify(store).checks[0])
"""


@pytest.fixture
def read_only_store() -> Iterator[Store]:
    """Two runs in a folder that its user may only read; a part of the first release is cut off."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        store = open_store(name)
        SealedRuns(store).seal(ITEMS)
        SealedRuns(store).seal(ITEMS[4:])
        release = releases.read_release(store, "production")
        assert release is not None
        masked = next(key for key in store.list("masks/") if "/parts/" in key)
        replace(store, masked, b"cut off")
        every = [folder, *folder.rglob("*")]
        for path in every:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield store
        for path in every:
            path.chmod(0o755)


def test_a_read_only_store_refuses_writes_with_a_message_and_still_serves(read_only_store: Store) -> None:
    before = contents(read_only_store)

    done = _python(_AS_NOBODY, read_only_store.url)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused cannot write") == 3
    assert "can be read" in done.stdout
    assert contents(read_only_store) == before


def test_a_dry_run_of_a_vacuum_says_what_the_vacuum_then_does(
    runs: SealedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    store = runs.store
    runs.seal(ITEMS[5:])
    before = contents(store)
    command = ["vacuum", "--store", store.url, "--keep=0", "--older-than-days=0", "--safe-hours=0", "--json"]

    assert main([*command, "--dry-run"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert contents(store) == before
    assert main(command) == 0
    did = json.loads(capsys.readouterr().out)

    assert (len(said["keys"]), said["n_removed"]) == (did["n_removed"], 0)
    assert did["n_bytes"] == sum(len(data) for key, data in before.items() if key in said["keys"])
    assert set(contents(store)) == set(before) - set(said["keys"])
    assert failed(store) == {}
    assert main(["vacuum", "--store", store.url, "--keep=-1"]) == 2


def test_a_clock_that_jumps_back_loses_nothing(runs: SealedRuns) -> None:
    """Everything was written ten days in the future."""
    store = runs.store
    then = time.time() + 10 * DAY_S
    for path in Path(store.url).rglob("*"):
        os.utime(path, (then, then))
    before = contents(store)

    plan = plan_vacuum(store, Policy(keep=0, older_than_days=0, safe_hours=0), time.time())
    made = runs.seal(ITEMS[3:])

    assert plan.keys == ()
    assert status(store).production == made.fingerprint
    assert failed(store) == {}
    assert {key: data for key, data in before.items() if key.startswith(("vectors/", "releases/"))}.items() <= (
        contents(store).items()
    )
    releases.rollback(store)
    assert failed(store) == {}


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
