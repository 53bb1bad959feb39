"""A store that ignores the conditions of writes is refused before a run begins, and the message names them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval_core.errors import BadConfig, Permanent, StoreNotWritable, StoreUnavailable
from retrieval_core.store import local
from retrieval_core.store.base import Store, check_conditions
from retrieval_core.store.leases import exclusive_lease, shared_lease
from retrieval_core.store.uris import open_store
from tests.faults.s3_proxy import Fault, Proxy, running_proxy

pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[Proxy]:
    with running_proxy(s3_endpoint) as running:
        yield running


@pytest.fixture
def proxied_store(bucket: str, proxy: Proxy, tmp_path: Path) -> Store:
    return open_store(f"s3://{bucket}/house", s3_endpoint_url=proxy.url, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("kind", ["local_store", "s3_store"])
def test_a_store_that_keeps_its_promises_passes_and_holds_nothing_of_the_check(
    kind: str, request: pytest.FixtureRequest, in_threads: Callable[..., list[Any]]
) -> None:
    store: Store = request.getfixturevalue(kind)
    in_threads(4, lambda _: check_conditions.__wrapped__(store))
    assert list(store.list("")) == []


@pytest.mark.parametrize("ignored", [("If-None-Match",), ("If-Match",), ("If-None-Match", "If-Match")])
def test_a_server_that_ignores_conditions_is_refused_by_every_holder(
    proxy: Proxy, proxied_store: Store, ignored: tuple[str, ...]
) -> None:
    proxy.ignored = ignored
    for lease in (shared_lease, exclusive_lease):
        with pytest.raises(BadConfig) as caught, lease(proxied_store, "a run"):
            pytest.fail("it began")
        assert f"ignores {' and '.join(ignored)}: of several writers" in str(caught.value)
    assert list(proxied_store.list("")) == []


def test_a_server_without_conditional_puts_is_not_tried_again(proxy: Proxy, proxied_store: Store) -> None:
    proxy.fault = Fault("PUT", "refuse 501 NotImplemented", times=10, after=2)
    with pytest.raises(Permanent, match=r"501 NotImplemented: the server lacks .* conditional puts"):
        check_conditions(proxied_store)


def test_a_store_is_checked_once_per_process(proxy: Proxy, proxied_store: Store, bucket: str) -> None:
    check_conditions(proxied_store)
    proxy.fault = Fault("", "refuse 403 AccessDenied", times=10)
    check_conditions(open_store(f"s3://{bucket}/house", s3_endpoint_url=proxy.url))
    with pytest.raises(StoreNotWritable):
        check_conditions(open_store(f"s3://{bucket}/another", s3_endpoint_url=proxy.url))


def test_a_folder_whose_links_replace_files_is_refused(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", shutil.copyfile)
    with pytest.raises(BadConfig, match="ignores the absence of a file"):
        check_conditions(local_store)
    assert list(local_store.list("")) == []


def test_a_folder_without_locks_is_refused(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with pytest.raises(BadConfig, match="ignores the lock of another process"):
        check_conditions(local_store)
    assert list(local_store.list("")) == []


def test_a_folder_on_which_locks_fail_is_refused(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StoreNotWritable, match="No locks available"):
        check_conditions(local_store)


def test_a_lock_that_a_suspended_process_holds_is_named(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "LOCK_TIMEOUT_S", 0.05)
    local_store.put("alias", b"1")
    with Path(local_store.url, ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="held by another process, which may be suspended"):
            local_store.compare_and_swap("alias", b"2", b"1")
    assert local_store.compare_and_swap("alias", b"2", b"1")
