"""Do something in the middle of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_S = 0.02


@contextmanager
def once(is_due: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Call `act` once within the block, as soon as `is_due()`. Raises `RuntimeError` if that never happened."""
    over, acted = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            if is_due():
                act()
                acted.set()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    if not acted.is_set():
        raise RuntimeError("nothing was done in mid-run: the run was over too soon; give it more pictures")
