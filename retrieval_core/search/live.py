"""A release that follows its alias: a new one is opened while the current one answers searches."""

from __future__ import annotations

import logging
import time
from threading import Event, Thread
from types import TracebackType
from typing import Self

from retrieval_core.artifacts import releases
from retrieval_core.errors import VitrineError
from retrieval_core.search.release import OpenRelease, open_release
from retrieval_core.settings import Settings
from retrieval_core.store.base import Store

MAX_WAIT_S = 300.0  # between attempts to open a release that failed to open

_log = logging.getLogger(__name__)


class LiveRelease:
    """The release that the alias `name` points at; a thread checks the alias every `check_s` seconds until `close`.

    `current` is the release to search with; a search ends on the release it began with. A new release becomes current
    once it is open, checked and has answered a search. One that fails is logged and tried again at growing intervals,
    while the current one keeps serving. The constructor raises what `open_release` raises.
    """

    def __init__(
        self,
        store: Store,
        name: str = releases.PRODUCTION,
        settings: Settings | None = None,
        check_s: float = 5.0,
    ) -> None:
        self._store, self._name, self._settings, self._check_s = store, name, settings, check_s
        self._current = self._open(name)
        self.n_switches = 0  # how often another release became current
        self._closed = Event()
        self._thread = Thread(target=self._watch, name=f"watch {name}", daemon=True)
        self._thread.start()

    @property
    def current(self) -> OpenRelease:
        """The release to search with; use the same one for the whole of an answer."""
        return self._current

    def close(self) -> None:
        """Stop following the alias; the current release can still be searched."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        broken, wait_s, retry_at = "", 0.0, 0.0
        while not self._closed.wait(self._check_s):
            target, is_waiting = "", time.monotonic() < retry_at
            try:
                target = self._target()
                if target == self._current.release.fingerprint or (target == broken and is_waiting):
                    continue
                opened = self._open(target)
                self.n_switches += 1
                self._current = opened
            except BaseException as error:  # of Rust libraries, too, whose panics are no `Exception`
                if target == broken and is_waiting:
                    continue
                wait_s = min(2 * wait_s, MAX_WAIT_S) if target == broken else self._check_s
                broken, retry_at = target, time.monotonic() + wait_s
                self._log_failure(target or self._name, error)

    def _target(self) -> str:
        """Return the fingerprint that the alias points at, the current release's where there is no alias."""
        alias = releases.read_alias(self._store, self._name)
        return alias.release if alias else self._current.release.fingerprint

    def _log_failure(self, name: str, error: BaseException) -> None:
        current = self._current.release.fingerprint[:12]
        unexpected = None if isinstance(error, VitrineError) else error
        _log.error("%s cannot be opened, %s keeps serving: %s", name[:12], current, error, exc_info=unexpected)

    def _open(self, name: str) -> OpenRelease:
        opened = open_release(self._store, name, self._settings)
        opened.prepare()
        return opened
