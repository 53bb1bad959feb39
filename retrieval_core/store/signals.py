"""Signals that reach the holder of a lease whatever its threads are doing.

Python runs signal handlers on the main thread alone, and not while that is inside a library, so a separate thread reads
the signals from a pipe.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence


def call_on_signal(numbers: Sequence[signal.Signals], act: Callable[[signal.Signals], None]) -> None:
    """Call `act` on a thread of its own when the first of the signals arrives; call this on the main thread."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: _reset(numbers))
    threading.Thread(target=_wait, args=(reader, numbers, act), name="signals", daemon=True).start()


def _wait(reader: int, numbers: Sequence[signal.Signals], act: Callable[[signal.Signals], None]) -> None:
    number = 0
    while number not in numbers:  # others, such as SIGCHLD, come through the same pipe
        number = os.read(reader, 1)[0]
    act(signal.Signals(number))


def _reset(numbers: Sequence[signal.Signals]) -> None:
    """Let a forked process be ended by signals of its own without telling this one."""
    signal.set_wakeup_fd(-1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
