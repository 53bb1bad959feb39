"""The Prefect server of a program: one that `PREFECT_API_URL` names, or a local one that ends with the program."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.cli.stage_bars import HEARTBEAT, show_stage_bars
from retrieval_core.errors import BadConfig, ServerUnavailable, VitrineError

if TYPE_CHECKING:
    from retrieval_core.settings import Settings

ANSWER_S = 5.0


def check_server_is_named() -> None:
    """Raise `BadConfig` if `PREFECT_API_URL` is not set: a local server has no deployments."""
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise BadConfig("no Prefect server named: set PREFECT_API_URL, for example http://127.0.0.1:4200/api")


def start_prefect(settings: Settings, is_verbose: bool) -> None:
    """Check the server that `PREFECT_API_URL` names, or start a local one. Raises `ServerUnavailable`.

    The terminal shows what Prefect logs of its runs only if `is_verbose`; errors raised on purpose have no traceback.
    """
    from prefect.settings import get_current_settings

    if url := get_current_settings().api.url:
        _check_answer(url)
    else:
        from deployments.cli.local_server import LocalServer

        LocalServer.start_in(settings.cache_dir)
    logging.getLogger("prefect.flow_runs").addFilter(_without_traceback)
    logging.root.addHandler(HEARTBEAT)
    if not is_verbose:
        _hide_log_of_prefect()


def _check_answer(url: str) -> None:
    import httpx

    try:
        answer = httpx.get(f"{url}/health", timeout=ANSWER_S)
        is_page = "html" in answer.headers.get("content-type", "")
        problem = f"HTTP {answer.status_code}" if is_page or answer.is_error else ""
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = str(error)
    if problem:
        raise ServerUnavailable(
            f"no Prefect server answers at PREFECT_API_URL={url}: {problem}; start it, correct its address, which ends "
            "in /api, or unset PREFECT_API_URL to run without one"
        )


def _hide_log_of_prefect() -> None:
    for handler in [handler for handler in logging.root.handlers if handler.name == "console"]:  # Prefect's
        handler.addFilter(_is_for_user)
        HEARTBEAT.addFilter(_is_for_user)
        handler.setFormatter(logging.Formatter("%(asctime)s | %(levelname)-7s | %(message)s", "%H:%M:%S"))
        show_stage_bars(handler)


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], VitrineError):
        record.exc_info = None
    return True


def _is_for_user(record: logging.LogRecord) -> bool:
    """Return whether a record is Vitrine's, tells of a retry, or warns outside of runs; the command prints failures."""
    import prefect

    if not Path(record.pathname).is_relative_to(prefect.__module_path__):
        return True
    if record.name in ("prefect.flow_runs", "prefect.task_runs"):
        return "Retry" in record.getMessage()
    return record.levelno >= logging.WARNING
