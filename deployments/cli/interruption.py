"""Ends the program at once on Ctrl-C, SIGTERM or the end of its terminal, whatever its threads are doing.

A separate thread reads the signal from a pipe, because Python runs signal handlers on the main thread alone, and not
while that is inside a library. It ends the leases, tells Prefect what happened to the run, removes temporary folders
and ends the process; the store needs no more care, as it survives a SIGKILL at any moment.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress

END_S = 1.5  # for a store to delete the leases, which otherwise expire, and for Prefect's server to answer
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


def end_on_signals(advice: str = "run the same command again to resume") -> None:
    """From now on end the process on a signal, with exit code 128 + its number; ignored signals stay ignored.

    The last line on stderr says that it was interrupted, and the `advice`.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: _reset(handled))
    threading.Thread(target=_end_on_signal, args=(reader, handled, advice), name="signals", daemon=True).start()


def _end_on_signal(reader: int, handled: list[signal.Signals], advice: str) -> None:
    number = 0
    while number not in handled:  # others, such as SIGCHLD, come through the same pipe
        number = os.read(reader, 1)[0]
    logging.disable(logging.CRITICAL)
    end_s = time.monotonic() + END_S
    calls = [
        ("flows.run", "report_interruption", signal.Signals(number)),
        ("retrieval_core.store.leases", "end_all"),
        (__name__, "_remove_temporary_folders"),
    ]
    threads = [threading.Thread(target=_call_if_loaded, args=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    with suppress(OSError, ValueError):
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
        os.write(2, f"{cursor}\nvitrine: interrupted; {advice}\n".encode())
    os._exit(128 + number)


def _call_if_loaded(module: str, function: str, *arguments: object) -> None:
    """Call a function of a module that has been imported as a whole; its failure keeps nothing from ending."""
    with suppress(Exception):
        getattr(sys.modules[module], function)(*arguments)


def _remove_temporary_folders() -> None:
    weakref.finalize._exitfunc()  # type: ignore[attr-defined] # calls those of tempfile.TemporaryDirectory


def _reset(handled: list[signal.Signals]) -> None:
    """Let a forked process be ended by signals of its own without telling this one."""
    signal.set_wakeup_fd(-1)
    for number in handled:
        signal.signal(number, signal.SIG_DFL)
