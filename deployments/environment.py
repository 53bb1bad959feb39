"""The environment that every program of Vitrine sets for the libraries it uses, before it imports them."""

from __future__ import annotations

import atexit
import os
import tempfile
import warnings
from pathlib import Path

from retrieval_core.store.s3 import LOOPBACK


def prepare_environment() -> None:
    """Keep connections to this machine off proxies, and give a user without a home folder a temporary one."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name) or os.environ.get(name.swapcase(), "")
        if hosts.strip() != "*":
            os.environ[name] = ",".join(dict.fromkeys([*filter(None, hosts.split(",")), *LOOPBACK]))
    # Prefect needs no home folder: its local server has a folder of its own.
    warnings.filterwarnings("ignore", "Failed to create the Prefect home directory")
    try:
        Path.home()
    except RuntimeError:
        home = tempfile.TemporaryDirectory(prefix="vitrine-home-")
        atexit.register(home.cleanup)
        os.environ["HOME"] = home.name
