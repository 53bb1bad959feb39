"""An item's story in words, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator

from retrieval_core.explain.history import Event
from retrieval_core.explain.story import Itself, MaskStory, Story

STATES = {
    "indexed": "in the index",
    "quarantined": "in quarantine",
    "unindexed": "in the catalogue, but not in the index",
    "absent": "not in this release",
}
NONE = "none"
SHORT = 12  # digits of a fingerprint, as everywhere for people


def story_lines(story: Story) -> list[str]:
    """The story line by line; nothing is made safe for a terminal here."""
    state = f"release {story.release[:SHORT]} of {story.created}"
    lines = [_line("item", f"{story.item_id}: {STATES[story.state]}, {state}")]
    lines += [_line(name, value) for name, value in facts_of(story)]
    lines += [_line(step.role, " ".join(filter(None, [step.what, step.fingerprint[:SHORT]]))) for step in story.lineage]
    if story.itself:
        lines.append(_line("itself", itself_words(story.itself)))
    for place, hit in enumerate(story.neighbours, 1):
        said = ", ".join(filter(None, [hit.category, *hit.labels]))
        lines.append(_line("nearest" if place == 1 else "", f"{hit.score:6.3f}  {hit.item_id:<24} {said}".rstrip()))
    lines += [_line("to fix", f"{one.problem}: {one.evidence}. {one.suggestion}") for one in story.problems]
    lines += [
        _line("history", f"{event.created}  {event.release[:SHORT]}  {event_words(event)}")
        for event in story.history.events
    ]
    return lines


def facts_of(story: Story) -> list[tuple[str, str]]:
    """What is known of the item itself, as names and values."""
    return list(_facts(story))


def itself_words(itself: Itself) -> str:
    """Where a search by its own picture finds an item."""
    if itself.problem:
        return f"not searched for by its picture: {itself.problem}"
    if itself.place is None or itself.score is None:
        return f"not among the first ten by its own picture; the first is {itself.first or NONE}"
    found = f"found at place {itself.place} by its own picture, score {itself.score:.3f}"
    return found if itself.place == 1 else f"{found}; the first is {itself.first}"


def event_words(event: Event) -> str:
    """What a release says of an item that the one before did not."""
    held = ", in a release that was held" if event.gate == "held" else ""
    return f"{event.what}{f': {event.detail}' if event.detail else ''}{held}"


def _facts(story: Story) -> Iterator[tuple[str, str]]:
    row = story.row
    if row:
        if story.state == "absent":
            yield "was", "what follows is of the last release that had it"
        yield "category", row.category or NONE
        yield "labels", ", ".join(row.labels) or NONE
        if row.attributes:
            yield "attributes", ", ".join(f"{one['name']} {one['value']}" for one in row.attributes)
        yield "product", f"{row.product_id or NONE}, split {row.split or NONE}"
        yield "picture", row.image_uri
        size = f"{row.width} x {row.height} px, " if row.width and row.height else ""
        n_bytes = f"{row.size_bytes:,} bytes, " if row.size_bytes is not None else ""
        yield "file", f"{size}{n_bytes}content id {row.content_id or NONE}"
        if story.picture:
            yield "file now", story.picture
    if story.mask:
        yield "mask", _mask_words(story.mask)
    for reject in story.quarantine:
        tries = f"{reject.attempts} tries" if reject.attempts > 1 else "one try"
        yield "quarantine", f"{reject.reason} ({tries}, last seen {reject.last_seen})"
    if story.shard:
        yield "shard", f"{story.shard}, one of {story.n_shards}"
    if story.history.n_gone:
        yield "releases", f"{story.history.n_releases}, of which {story.history.n_gone} without a catalogue by now"


def _mask_words(mask: MaskStory) -> str:
    trust = f"fallback to the whole picture: {mask.reason}" if mask.reason else f"trusted, keeps {mask.area:.1%}"
    return f"{trust}{'' if mask.shown else '; the release shows pictures whole'}"


def _line(name: str, value: str) -> str:
    return f"{name:<11} {value}"
