"""When a flow checks what it needs: before it reads anything, unless the command line did so before it started Prefect.

A check on the command line fails in one line and starts no server; a scheduled run has no command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Concatenate, ParamSpec

from prefect import Task

from flows.shards.engines import check_runner
from retrieval_core.config.stages import NightlyConfig
from retrieval_core.embed.auto import decide_backbone
from retrieval_core.settings import Settings

P = ParamSpec("P")
Check = Task[Concatenate[Settings, P], None]  # one of tasks.preflight

_IS_CHECKED: ContextVar[bool] = ContextVar("is checked", default=False)


def preflight(check: Check[P], settings: Settings, *args: P.args, **kwargs: P.kwargs) -> None:
    """Check the runner and run `check(settings, ...)`; do nothing within `checked_ahead`. Raises what they raise."""
    if not _IS_CHECKED.get():
        check_runner(settings)
        check(settings, *args, **kwargs)


def with_backbone(settings: Settings, config: NightlyConfig) -> NightlyConfig:
    """Return the config with the backbone that `embed.backbone = auto` means in the store of `settings`."""
    return config.model_copy(update={"embed": decide_backbone(settings.open_store(), config.embed)})


@contextmanager
def checked_ahead(check: Check[P], settings: Settings, *args: P.args, **kwargs: P.kwargs) -> Iterator[None]:
    """Check without Prefect; flows within the block do not check again. Raises what the checks raise."""
    check_runner(settings)
    check.fn(settings, *args, **kwargs)
    token = _IS_CHECKED.set(True)
    try:
        yield
    finally:
        _IS_CHECKED.reset(token)
