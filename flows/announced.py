"""A run that says of itself that it goes on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from retrieval_core.leases import at_work

P = ParamSpec("P")
R = TypeVar("R")


def announced(run: Callable[P, R]) -> Callable[P, R]:
    """Say in the store of the run's `settings` that it goes on, so that no vacuum or repair gets in its way."""
    signature, what = inspect.signature(run), f"the run {run.__name__}"

    @wraps(run)
    def announcing(*args: P.args, **kwargs: P.kwargs) -> R:
        settings = signature.bind(*args, **kwargs).arguments["settings"]
        with at_work(settings.open_store(), what):
            return run(*args, **kwargs)

    # Prefect would look for the types that annotations name in this module instead of the run's.
    announcing.__signature__ = inspect.signature(run, eval_str=True)  # type: ignore[attr-defined]
    return announcing
