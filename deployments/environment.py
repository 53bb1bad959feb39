"""The environment that every program of Vitrine sets for the libraries it uses, before it imports them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prepare_environment() -> None:
    """Keep connections to this machine off proxies, and give a user without a home folder a temporary one."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name) or os.environ.get(name.swapcase(), "")
        if hosts.strip() != "*":
            os.environ[name] = ",".join(dict.fromkeys([*filter(None, hosts.split(",")), *LOOPBACK]))
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="vitrine-home-")
