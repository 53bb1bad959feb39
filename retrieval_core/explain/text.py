"""An explanation as text, for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from retrieval_core.evaluate.analysis.release_diff import SHORT
from retrieval_core.explain.explanation import Explanation, MaskUse, SelfSearch
from retrieval_core.explain.history import ItemEvent

STATES = {
    "indexed": "in the index",
    "quarantined": "in quarantine",
    "unindexed": "in the catalogue, but not in the index",
    "absent": "not in this release",
}
NONE = "none"
NEAREST = "of all pictures, those of its own product included"


def text_lines(explanation: Explanation) -> list[str]:
    """Return the explanation line by line; control characters in catalogue values are not escaped."""
    state = f"release {explanation.release[:SHORT]} of {explanation.created}"
    lines = [_line("item", f"{explanation.item_id}: {STATES[explanation.state]}, {state}")]
    lines += [_line(name, value) for name, value in item_facts(explanation)]
    lines += [
        _line(step.role, " ".join(filter(None, [step.what, step.fingerprint[:SHORT]]))) for step in explanation.lineage
    ]
    if explanation.itself:
        lines.append(_line("itself", describe_self_search(explanation.itself)))
    if explanation.neighbours:
        lines.append(_line("nearest", NEAREST))
    for hit in explanation.neighbours:
        words = ", ".join(filter(None, [hit.category, *hit.labels]))
        lines.append(_line("", f"{hit.score:6.3f}  {hit.item_id:<24} {words}".rstrip()))
    lines += [
        _line("to fix", f"{problem.problem}: {problem.evidence}. {problem.suggestion}")
        for problem in explanation.problems
    ]
    lines += [
        _line("history", f"{event.created}  {event.release[:SHORT]}  {describe_event(event)}")
        for event in explanation.history.events
    ]
    return lines


def item_facts(explanation: Explanation) -> list[tuple[str, str]]:
    """Return what the store holds of the item itself, as names and values."""
    return list(_facts(explanation))


def describe_self_search(search: SelfSearch) -> str:
    """Describe where a search with the item's own picture finds it."""
    if search.problem:
        return f"not searched with its picture: {search.problem}"
    if search.place is None or search.score is None:
        return f"not among the first ten by its own picture; the first is {search.first or NONE}"
    rank = f"found at place {search.place} by its own picture, score {search.score:.3f}"
    return rank if search.place == 1 else f"{rank}; the first is {search.first}"


def describe_event(event: ItemEvent) -> str:
    """Describe how a release differs from the one before in an item."""
    held = ", in a release that was held" if event.gate == "held" else ""
    return f"{event.what}{f': {event.detail}' if event.detail else ''}{held}"


def _facts(explanation: Explanation) -> Iterator[tuple[str, str]]:
    row = explanation.row
    if row:
        if explanation.state == "absent":
            yield "was", "the values below are those of the last release that had it"
        yield "category", row.category or NONE
        yield "labels", ", ".join(row.labels) or NONE
        if row.attributes:
            yield "attributes", ", ".join(f"{attribute['name']} {attribute['value']}" for attribute in row.attributes)
        yield "product", f"{row.product_id or NONE}, split {row.split or NONE}"
        yield "picture", row.image_uri
        size = f"{row.width} x {row.height} px, " if row.width and row.height else ""
        n_bytes = f"{row.size_bytes:,} bytes, " if row.size_bytes is not None else ""
        yield "file", f"{size}{n_bytes}content id {row.content_id or NONE}"
        if explanation.picture:
            yield "file now", explanation.picture
    if explanation.mask:
        yield "mask", _mask_text(explanation.mask)
    for reject in explanation.quarantine:
        tries = f"{reject.attempts} tries" if reject.attempts > 1 else "one try"
        yield "quarantine", f"{reject.reason} ({tries}, last seen {reject.last_seen})"
    if explanation.shard:
        yield "shard", f"{explanation.shard}, one of {explanation.n_shards}"
    history = explanation.history
    if history.n_gone:
        yield "releases", f"{history.n_releases}, of which {history.n_gone} have no catalogue any more"


def _mask_text(mask: MaskUse) -> str:
    trust = f"fallback to the whole picture: {mask.reason}" if mask.reason else f"trusted, keeps {mask.area:.1%}"
    return f"{trust}{'' if mask.shown else '; the release embeds whole pictures'}"


def _line(name: str, value: str) -> str:
    return f"{name:<11} {value}"
