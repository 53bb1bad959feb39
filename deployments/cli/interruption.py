"""Ends the program at once on Ctrl-C, SIGTERM or the end of its terminal, whatever its threads are doing.

A separate thread ends the leases, tells Prefect what happened to the run, removes temporary folders and ends the
process; the store needs no more care, as it survives a SIGKILL at any moment.
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
from functools import partial

from retrieval_core.store.signals import call_on_signal

END_S = 1.5  # for a store to delete the leases, which otherwise expire, and for Prefect's server to answer
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"


def end_on_signals(advice: str = "run the same command again to resume") -> None:
    """From now on end the process on a signal, with exit code 128 + its number; ignored signals stay ignored.

    The last line on stderr says that it was interrupted, and the `advice`.
    """
    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    call_on_signal(handled, partial(_end, advice))


def _end(advice: str, number: signal.Signals) -> None:
    logging.disable(logging.CRITICAL)
    end_s = time.monotonic() + END_S
    calls = [
        ("flows.run", "report_interruption", number),
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
