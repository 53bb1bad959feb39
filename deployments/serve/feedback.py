"""Records what is asked, what is shown and what shoppers choose: rows wait in memory and are written as parts.

A part is written every few seconds, or sooner once many rows wait, and when the service ends; a process that is killed
loses what it had not written. While the store does not answer, rows wait and the write is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from deployments.serve.api.answers import SearchAnswer
from deployments.serve.api.problems import Refused, TooBusy
from deployments.serve.api.requests import SearchRequest
from deployments.serve.metrics import Measurements
from retrieval_core.errors import ImageRefused, Transient
from retrieval_core.feedback.log import Event, Search, put_events, put_picture, put_searches
from retrieval_core.images import decode, thumbnail
from retrieval_core.store.base import Store

FLUSH_S, FLUSH_ROWS = 10.0, 2_000
MAX_ROWS = 20_000  # that wait; beyond it searches are not recorded and events are refused
MAX_PICTURES_BYTES = 64_000_000  # of pictures that wait
PICTURE_PX = 640  # longest side of a kept picture: more than backbones see
RETRY_S = 1.0
LAST_TRIES = 3  # when the service ends

log = logging.getLogger("vitrine.serve")


class _Waiting(NamedTuple):
    """A search that is not written yet, with the files of its pictures where these are kept."""

    search: Search
    pictures: tuple[bytes, ...] = ()


class Recorder:
    """Writes searches and events to the store in a thread of its own; may be used from many threads.

    Pictures of queries are kept for `picture_days`, shrunk and without metadata; 0: not at all.
    """

    def __init__(self, store: Store, measurements: Measurements, picture_days: float = 0.0) -> None:
        self._store, self._measurements, self._picture_days = store, measurements, picture_days
        self._searches: list[_Waiting] = []
        self._events: list[Event] = []
        self._n_picture_bytes = 0
        self._is_off = self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def add_search(
        self, request: SearchRequest, answer: SearchAnswer, where: str, n_before: int, pictures: Sequence[bytes]
    ) -> None:
        """Record a search that was answered; `n_before` hits were on the pages before."""
        unlike = request.unlike
        search = Search(
            query_id=answer.query_id,
            at=datetime.now(UTC),
            release=answer.release,
            item_ids=request.item_ids,
            texts=request.texts,
            n_pictures=len(request.images) + len(request.image_urls),
            pictures=(),
            is_unlike=bool(unlike.texts or unlike.images or unlike.image_urls),
            where=where,
            n_before=n_before,
            shown=tuple(hit.item_id for hit in answer.hits),
        )
        waiting = _Waiting(search, tuple(pictures) if self._picture_days else ())
        with self._changed:
            if self._is_off or len(self._searches) >= MAX_ROWS:
                self._measurements.unrecorded.inc()
                return
            if self._n_picture_bytes + _n_bytes(waiting) > MAX_PICTURES_BYTES:
                waiting = _Waiting(search)
            self._searches.append(waiting)
            self._n_picture_bytes += _n_bytes(waiting)
            self._notify()

    def add_events(self, events: Sequence[Event]) -> None:
        """Record what shoppers did. Raises `Refused` where the store takes none, `TooBusy` where too many wait."""
        with self._changed:
            if self._is_off:
                raise Refused(503, "events cannot be recorded; the log of the service says why")
            if len(self._events) + len(events) > MAX_ROWS:
                raise TooBusy("too many events are waiting for the store; try again later")
            self._events += events
            self._notify()
        for event in events:
            self._measurements.events.labels(event.event).inc()

    def _notify(self) -> None:
        self._measurements.waiting_rows.set(len(self._searches) + len(self._events))
        if self._is_due():
            self._changed.notify()

    def _is_due(self) -> bool:
        return self._is_closing or max(len(self._searches), len(self._events)) >= FLUSH_ROWS

    def _run(self) -> None:
        is_last = False
        while not is_last:
            with self._changed:
                self._changed.wait_for(self._is_due, FLUSH_S)
                is_last = self._is_closing
            if not self._flush() and not is_last:
                time.sleep(RETRY_S)
        for _ in range(LAST_TRIES):
            if self._flush():
                return
            time.sleep(RETRY_S)
        log.error(
            "%d searches and events are lost, as the store did not answer", len(self._searches) + len(self._events)
        )

    def _flush(self) -> bool:
        """Write what waits, and return whether nothing waits on, as it does while the store does not answer."""
        with self._changed:
            searches, events = self._searches, self._events
            self._searches, self._events, self._n_picture_bytes = [], [], 0
        try:
            if searches:
                put_searches(self._store, [self._keep_pictures(waiting) for waiting in searches])
                searches = []
            if events:
                put_events(self._store, events)
                events = []
        except Transient as error:
            log.warning("searches and events wait to be recorded: %s", error)
        except Exception as error:
            self._is_off, searches, events = True, [], []
            log.exception("searches and events are no longer recorded: %s", error)
        with self._changed:
            self._searches, self._events = searches + self._searches, events + self._events
            self._n_picture_bytes += sum(map(_n_bytes, searches))
            self._measurements.waiting_rows.set(len(self._searches) + len(self._events))
        return not (searches or events)

    def _keep_pictures(self, waiting: _Waiting) -> Search:
        """Store the pictures of a search and return it with their names; those that cannot be read are left out."""
        search = waiting.search
        kept = []
        for data in waiting.pictures:
            with suppress(ImageRefused):
                jpeg = thumbnail(decode(data), PICTURE_PX)
                kept.append(put_picture(self._store, jpeg, self._picture_days, search.at))
        return search._replace(pictures=tuple(kept))


def _n_bytes(waiting: _Waiting) -> int:
    return sum(map(len, waiting.pictures))
