"""The name of the shop that a process works for; several shops may share one Prefect server."""

from __future__ import annotations

import os
import re

from retrieval_core.errors import BadConfig

VARIABLE = "VITRINE_SHOP"
DEFAULT = "vitrine"
TRAINING = "training"  # a tag that deployments of every shop have
MAX_CHARS = 40


def shop_name() -> str:
    """Return `VITRINE_SHOP`, by default `vitrine`. Raises `BadConfig` if it is no name.

    It is the name of the work pool, the tag of the deployments, and the prefix of automations and of events.
    """
    name = os.environ.get(VARIABLE) or DEFAULT
    if not re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) or len(name) > MAX_CHARS or name == TRAINING:
        raise BadConfig(
            f"{VARIABLE} is {name!r}; expected 1 to {MAX_CHARS} lower-case letters, digits and single hyphens between "
            f"them, and not {TRAINING!r}"
        )
    return name


def deployment_name(shop: str, name: str) -> str:
    """Return the name of a shop's deployment: `nightly` of the default shop, `acme-nightly` of the shop acme."""
    return name if shop == DEFAULT else f"{shop}-{name}"


def shards_tag(shop: str) -> str:
    """Return the tag of the deployments that make shards for a shop's runs, of whose end these runs tell."""
    return f"{shop}-shards"
