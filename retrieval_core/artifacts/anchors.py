"""The anchor of a release: the one against which the losses of many runs add up.

Production follows every small loss that the gate tolerates, so a bound on the loss against production alone lets a
search erode. The anchor stays: it is the last release that a person promoted, or that was clearly better than the
anchor before it, else the first. It is not stored: the report of a release names the anchor that it was compared with.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrieval_core.artifacts.manifests import Release, Report, Value
from retrieval_core.artifacts.releases import PRODUCTION, Promotion, get_release, read_alias
from retrieval_core.errors import NotFound, ShardCorrupt
from retrieval_core.store.base import Store

FIRST = "The first release that was published."
BETTER = "Better than the anchor before it, by more than the tolerated drift."
LOST = "Its report was lost, and with it the name of an earlier anchor."


class Anchor(Value):
    """The anchor of production: its fingerprint, since when it is the anchor (ISO 8601), and why, in a sentence."""

    release: str
    since: str
    why: str


def anchor_of(store: Store, release: Release) -> str:
    """Return the fingerprint of a release's anchor: itself where it was promoted, or its report was lost."""
    report = None if _promotion(store, release) else find_report(store, release)
    return report.anchor if report and report.anchor else release.fingerprint


def find_report(store: Store, release: Release) -> Report | None:
    """Return the report of a release, None where it is missing or damaged. Raises `TooNew`."""
    try:
        return Report.open(store, release.report)
    except (NotFound, ShardCorrupt):
        return None


def find_anchors(store: Store, release: Release) -> Iterator[Release]:
    """Yield the anchor of a release, then the later releases of production that may replace it, at last `release`.

    Those that were removed or cannot be read are left out.
    """
    name, alias = anchor_of(store, release), read_alias(store, PRODUCTION)
    history = alias.history if alias else ()
    later = history[history.index(name) :] if name in history else history
    for candidate in dict.fromkeys((name, *later)):
        if candidate == release.fingerprint:
            break
        try:
            yield get_release(store, candidate)
        except (NotFound, ShardCorrupt):
            continue
    yield release


def describe_anchor(store: Store, anchor: Release) -> Anchor:
    """Say since when and why a release is an anchor."""
    promotion = _promotion(store, anchor)
    if promotion:
        return Anchor(release=anchor.fingerprint, since=promotion.at, why=promotion.as_sentence())
    report = find_report(store, anchor)
    if report is None:
        why = LOST
    elif report.anchor:
        why = f"The oldest release that can be compared with, in place of {report.anchor[:12]}."
    else:
        why = BETTER if report.config.get("anchor") else FIRST
    return Anchor(release=anchor.fingerprint, since=anchor.created, why=why)


def _promotion(store: Store, release: Release) -> Promotion | None:
    """Return the latest promotion of a release by a person, if there was one."""
    alias = read_alias(store, PRODUCTION)
    promotions = alias.promotions if alias else ()
    return next((step for step in reversed(promotions) if step.release == release.fingerprint), None)
