"""Calls that have not started an update yet: a folder that holds each in a file of its own, in their order."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TextIO
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from retrieval_core.errors import BadConfig, NotFound, StoreUnavailable, VitrineError
from retrieval_core.ingest.change import Change
from retrieval_core.store.uris import open_store

MAX_CALLS = 100_000
MAX_BYTES = 2**28
MAX_BATCH, MAX_BATCH_BYTES = 1_000, 2**22  # calls that start an update together
CALLS, DAMAGED, BATCH, LOCK = "calls/", "damaged/", "batch.json", "in-use"

_CALL = re.compile(rf"{CALLS}\d{{12}}\.json")
_CHANGES = TypeAdapter(tuple[Change, ...])


class Batch(NamedTuple):
    """Calls that start an update together; a batch that is interrupted is the same one again, also in another process.

    `damaged` are calls that cannot be read, with their bytes.
    """

    key: str
    calls: tuple[str, ...]
    changes: tuple[Change, ...]
    damaged: dict[str, bytes]


class Spool:
    """The calls that wait in a folder, which belongs to one process.

    Raises `BadConfig` if another process has the folder, or `StoreUnavailable` if it cannot be written.
    """

    def __init__(self, folder: Path, max_calls: int = MAX_CALLS, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_calls, self._max_bytes = folder, max_calls, max_bytes
        self._mutex = threading.Lock()
        self._file = self._lock(folder)
        self._store = open_store(str(folder))
        entries = self._store.entries(CALLS)
        self._sizes = {entry.key: entry.size_bytes for entry in entries if _CALL.fullmatch(entry.key)}
        self._last = max((int(Path(call).stem) for call in self._sizes), default=0)

    def close(self) -> None:
        """Let another process have the folder."""
        self._file.close()

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._sizes)

    def add(self, changes: Sequence[Change]) -> None:
        """Keep a call; it is on the disk when this returns. Raises `StoreUnavailable` if it is full."""
        data = _CHANGES.dump_json(tuple(changes))
        with self._mutex:
            if len(self) >= self._max_calls or sum(self._sizes.values()) + len(data) > self._max_bytes:
                raise StoreUnavailable(f"{len(self):,} calls wait for Prefect's server, and no more can be kept")
            self._last += 1
            call = f"{CALLS}{self._last:012d}.json"
            self._store.put(call, data)
            self._sizes[call] = len(data)

    def next_batch(self) -> Batch | None:
        """Return the batch that was interrupted, or one of the oldest calls; None if no call waits."""
        interrupted = self._interrupted()
        key, calls = interrupted or (uuid4().hex, self._oldest())
        if not (interrupted or calls):
            return None
        changes, damaged = list[Change](), dict[str, bytes]()
        for call in calls:
            data = b""
            try:
                data = self._store.get(call)
                changes.extend(_CHANGES.validate_json(data))
            except NotFound:
                pass  # it has started its update, or was set aside
            except (VitrineError, ValidationError):
                damaged[call] = data
        if not interrupted:
            self._store.put(BATCH, json.dumps([key, calls]).encode())
        return Batch(key, tuple(calls), tuple(changes), damaged)

    def remove(self, batch: Batch) -> None:
        """Forget the calls of a batch that has started its update."""
        for call in batch.calls:
            self._store.delete(call)
        self._store.delete(BATCH)
        with self._mutex:
            for call in batch.calls:
                self._sizes.pop(call, None)

    def set_aside(self, call: str) -> None:
        """Move the file of a call to where it is not read again."""
        (self._folder / DAMAGED).mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            (self._folder / call).rename(self._folder / DAMAGED / Path(call).name)

    def _oldest(self) -> list[str]:
        with self._mutex:
            calls = sorted(self._sizes)[:MAX_BATCH]
            sizes = accumulate(self._sizes[call] for call in calls)
        return calls[: 1 + sum(size <= MAX_BATCH_BYTES for size in sizes)]

    def _interrupted(self) -> tuple[str, list[str]] | None:
        """Return the key and the calls of the batch that was begun, None if there is none that can be read."""
        with suppress(VitrineError, ValueError, TypeError):
            key, calls = json.loads(self._store.get(BATCH))
            return str(key), [call for call in calls if _CALL.fullmatch(call)]
        return None

    def _lock(self, folder: Path) -> TextIO:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = (folder / LOCK).open("w")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadConfig(f"another process keeps its calls in {folder}; name another folder by --spool") from error
        except OSError as error:
            raise StoreUnavailable(f"cannot keep calls in {folder}: {error.strerror}") from error
        return file


def default_folder(shop: str) -> Path:
    """Return the folder of a shop's calls in the user's folder for state. Raises `BadConfig` for a user without one."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise BadConfig("no folder to keep calls in: set VITRINE_SPOOL, as this user has no home folder") from error
    return Path(state) / "vitrine" / "triggers" / shop
