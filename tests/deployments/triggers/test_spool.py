"""Kept calls start each update once and in order, whatever write the process is killed at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest

from deployments.triggers import spool as spool_module
from deployments.triggers.server import main
from deployments.triggers.spool import BATCH, CALLS, Spool, default_folder
from deployments.triggers.updates import start_updates
from retrieval_core.errors import BadConfig, StoreUnavailable
from retrieval_core.ingest.change import Change
from retrieval_core.store.local import LocalStore
from tests.deployments.conftest import Prefect

NAMES = "abcdefg"


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(step: int) -> Iterator[Callable[[], None]]:
    """Let the process die at a step: before or after a write or a delete, or where the given function is called."""
    n_steps = 0

    def count() -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == step:
            raise Killed

    def dying(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object) -> object:
            count()
            result = change(*arguments)
            count()
            return result

        return changed

    put, delete = dying(LocalStore._put), dying(LocalStore._delete)
    with mock.patch.multiple(LocalStore, _put=put, _delete=delete), suppress(Killed):
        yield count


def send_all(spool: Spool, prefect: Prefect, count: Callable[[], None] = lambda: None) -> None:
    while batch := spool.next_batch():
        asyncio.run(start_updates(prefect, batch.changes, batch.key))
        count()
        spool.remove(batch)


def names_of(prefect: Prefect) -> list[str]:
    return [name for update in prefect.updates.values() for name in update.added]


def test_each_call_starts_its_update_once_wherever_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "MAX_BATCH", 3)
    n_interrupted = 0
    for step in range(1, 60):
        folder, prefect, kept = tmp_path / str(step), Prefect(), []
        spool = Spool(folder)
        with killed_at(step) as count:
            for name in NAMES:
                spool.add([Change(added=(name,))])
                kept.append(name)
            send_all(spool, prefect, count)
        n_interrupted += kept != list(NAMES) or len(names_of(prefect)) < len(NAMES)
        spool.close()
        spool = Spool(folder)
        send_all(spool, prefect)
        # A call whose writing was interrupted was not answered, so either is right.
        assert names_of(prefect)[: len(kept)] == kept
        assert len(names_of(prefect)) <= len(kept) + 1
        assert not list(folder.glob(f"{CALLS}*"))
        assert not (folder / BATCH).exists()
        spool.close()
    assert n_interrupted > 20


def test_a_damaged_batch_is_made_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.add([Change(added=("a",))])
    (tmp_path / BATCH).write_text("[")
    batch = spool.next_batch()
    assert batch is not None
    assert batch.changes == (Change(added=("a",)),)


def test_it_holds_so_many_calls_and_bytes_and_no_more(tmp_path: Path) -> None:
    for name, spool in {
        "calls": Spool(tmp_path / "calls", max_calls=2),
        "bytes": Spool(tmp_path / "bytes", max_bytes=150),
    }.items():
        for _ in range(2):
            spool.add([Change(added=("a",))])
        with pytest.raises(StoreUnavailable, match="no more can be kept"):
            spool.add([Change(added=("a",))])
        assert len(spool) == 2, name


def test_one_process_has_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="another process"):
        Spool(tmp_path), Spool(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot keep calls"):
        Spool(tmp_path / "file")


def test_each_shop_has_its_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_folder("acme") == Path("/home/anna/.local/state/vitrine/triggers/acme")


def test_a_user_without_a_home_folder_names_the_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert main([]) == 2
    assert "set VITRINE_SPOOL" in capsys.readouterr().err
