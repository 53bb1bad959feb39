"""Ends the program at once on Ctrl-C, SIGTERM or the end of its terminal, whatever its threads are doing.

A thread of its own learns of the signal from a pipe, because Python runs signal handlers on the main thread alone, and
not while that is inside a library. It ends the leases and the process; the rest needs no care, as the store survives a
SIGKILL at any moment.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress

END_S = 1.5  # for a store to delete the leases; one that does not answer lets them expire
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


def end_on_signals() -> None:
    """From now on end the process on a signal, with exit code 128 + its number; ignored signals stay ignored."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: _reset(handled))
    threading.Thread(target=_end_on_signal, args=(reader, handled), name="signals", daemon=True).start()


def _end_on_signal(reader: int, handled: list[signal.Signals]) -> None:
    number = 0
    while number not in handled:  # others, such as SIGCHLD, come through the same pipe
        number = os.read(reader, 1)[0]
    logging.disable(logging.CRITICAL)
    ending = threading.Thread(target=_end_leases, daemon=True)
    ending.start()
    ending.join(END_S)
    with suppress(OSError, ValueError):
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(2, f"{cursor}\nvitrine: interrupted; run the same command again to resume\n".encode())
    os._exit(128 + number)


def _end_leases() -> None:
    leases = sys.modules.get("retrieval_core.store.leases")
    if leases is not None:
        leases.end_all()


def _reset(handled: list[signal.Signals]) -> None:
    """Let a forked process be ended by signals of its own without telling this one."""
    signal.set_wakeup_fd(-1)
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
