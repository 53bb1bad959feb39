"""A release that keeps up: reopened when its alias moves, while the old one goes on serving."""

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

MAX_WAIT_S = 300.0  # between tries to open a release that could not be opened

_log = logging.getLogger(__name__)


class LiveRelease:
    """The release that `name` points at, looked for every `check_s` seconds by a thread of its own until `close`.

    `current` is the one to search with now; a search that has begun ends on the release it began with. A new release
    takes over once it is open, checked and has answered a search; one that cannot do that is logged, tried again ever
    more rarely, and never takes the old one's place. Raises what opening raises while there is no old one.
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
        self._closed = Event()
        self._thread = Thread(target=self._watch, name=f"watch {name}", daemon=True)
        self._thread.start()

    @property
    def current(self) -> OpenRelease:
        """The release to search with; keep it for as long as one answer takes."""
        return self._current

    def close(self) -> None:
        """Look no more for new releases; the current one can still be searched."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        broken, wait_s, again_at = "", 0.0, 0.0
        while not self._closed.wait(self._check_s):
            wanted, waiting = "", time.monotonic() < again_at
            try:
                wanted = self._wanted()
                if wanted == self._current.release.fingerprint or (wanted == broken and waiting):
                    continue
                self._current = self._open(wanted)
            except Exception as error:  # whatever is wrong with what is new, the old one serves
                if wanted == broken and waiting:
                    continue
                wait_s = min(2 * wait_s, MAX_WAIT_S) if wanted == broken else self._check_s
                broken, again_at = wanted, time.monotonic() + wait_s
                self._complain(wanted or self._name, error)

    def _wanted(self) -> str:
        alias = releases.read_alias(self._store, self._name)
        return alias.release if alias else self._current.release.fingerprint

    def _complain(self, name: str, error: Exception) -> None:
        serving = self._current.release.fingerprint[:12]
        unforeseen = None if isinstance(error, VitrineError) else error
        _log.error("%s cannot be opened, %s goes on serving: %s", name[:12], serving, error, exc_info=unforeseen)

    def _open(self, name: str) -> OpenRelease:
        opened = open_release(self._store, name, self._settings)
        opened.prepare()
        return opened
