"""The search app's page: answers to HTML. Everything that a catalogue or a visitor wrote is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import urlencode

from deployments.serve.desk import Answer, Example, published_at
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Hit, Release

MAX_LABELS = 4
MAX_VALUES = 6  # of a column, offered as filters
_BARE = re.compile(r"[\w\-./]+")
_KEYWORDS = ("and", "or", "not", "in")

# A click on an item or on a value reaches Python; with a modifier key an item's link opens like any other.
ON_LOAD = """
element.addEventListener("click", (event) => {
  const link = event.target.closest("[data-item]"), value = event.target.closest("[data-where]");
  if (link && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
    event.preventDefault();
    history.replaceState(null, "", link.getAttribute("href"));
    trigger("click", {item: link.dataset.item, where: ""});
  }
  if (value) trigger("click", {item: "", where: value.dataset.where});
});
"""


class Found(NamedTuple):
    """An answer with its pictures, as `data:` URIs, "" where a hit has none."""

    name: str
    answer: Answer
    thumbnails: Sequence[str]
    searched: Sequence[tuple[str, str]]  # what was searched with: captions and pictures


def header(release: Release) -> str:
    """The title, and which release this is."""
    facts = [f"{release.counts['rows']:,} items", f"release {release.fingerprint[:8]}", published_at(release)]
    listed = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    listed += f'<span><a href="/reports/{escape(release.fingerprint)}">report</a></span>'
    return f'<header class="vi-head"><h1><a href="?">Vitrine</a></h1><p class="vi-facts">{listed}</p></header>'


def greeting(examples: Sequence[Example], thumbnails: Sequence[str], release: str) -> str:
    """The page before anything was asked: some items to start from."""
    cards = "".join(_card(example, uri, release) for example, uri in zip(examples, thumbnails, strict=True))
    return (
        '<section class="vi-answer"><p class="vi-line">Drop a picture on the left, or start from one of these.</p>'
        f'<ol class="vi-grid">{cards}</ol></section>'
    )


def results(found: Sequence[Found], words: str) -> str:
    """One answer, or two side by side: the second says how its order differs from the first."""
    columns = [_answer(found[0], words, {})]
    if len(found) > 1:
        ranks = {hit.item_id: rank for rank, hit in enumerate(found[0].answer.hits, 1)}
        columns.append(_answer(found[1], words, ranks))
    beside = " vi-beside" if len(columns) > 1 else ""
    return f'<div class="vi-columns{beside}">{"".join(columns)}</div>'


def problem(message: str) -> str:
    """What went wrong, in the error's own words."""
    return f'<p class="vi-problem" role="alert">{escape(message[:1].upper() + message[1:])}</p>'


def hints(columns: Mapping[str, Sequence[str]]) -> str:
    """What a filter can name, with the commonest values to click on."""
    rows = "".join(_column(name, values[:MAX_VALUES]) for name, values in columns.items() if values)
    return f'<dl class="vi-hints">{rows}</dl>' if rows else ""


def quoted(text: str) -> str:
    """A name or a value as the language of filters writes it."""
    bare = _BARE.fullmatch(text) and text.lower() not in _KEYWORDS
    return text if bare else "'" + text.replace("'", "''") + "'"


def _column(name: str, values: Sequence[str]) -> str:
    buttons = "".join(_value(name, value) for value in values)
    return f'<div class="vi-column"><dt>{escape(name)}</dt><dd>{buttons}</dd></div>'


def _value(name: str, value: str) -> str:
    where = f"{quoted(name)}={quoted(value)}"
    return f'<button type="button" data-where="{escape(where)}">{escape(value)}</button>'


def _searched(searched: Sequence[tuple[str, str]], words: str) -> str:
    figures = "".join(
        f'<figure><img src="{escape(uri)}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, uri in searched
    )
    told = f'<p class="vi-words">{escape(words)}</p>' if words else ""
    return (
        f'<section class="vi-searched" aria-label="Searched with">{figures}{told}</section>' if figures or told else ""
    )


def _answer(found: Found, words: str, ranks: Mapping[str, int]) -> str:
    hits, release = found.answer.hits, found.answer.release.release
    name = f"{found.name} " if found.name == releases.PRODUCTION else ""
    line = (
        f"<b>{len(hits)}</b> of {release.counts['rows']:,} items · {name}{release.fingerprint[:8]} · "
        f"{found.answer.seconds * 1000:.0f} ms"
    )
    cards = "".join(
        _card(hit, uri, found.name, _score(hit), _moved(rank, ranks.get(hit.item_id)) if ranks else "")
        for rank, (hit, uri) in enumerate(zip(hits, found.thumbnails, strict=True), 1)
    )
    body = f'<ol class="vi-grid">{cards}</ol>' if cards else '<p class="vi-none">No item fits.</p>'
    searched = _searched(found.searched, words)
    return f'<section class="vi-answer">{searched}<p class="vi-line">{line}</p>{body}</section>'


def _card(item: Hit | Example, uri: str, release: str, score: str = "", moved: str = "") -> str:
    item_id, category = escape(item.item_id), escape(item.category or "")
    labels = [label for label in getattr(item, "labels", []) if label != item.category]
    chips = "".join(f"<li>{escape(label)}</li>" for label in labels[:MAX_LABELS])
    picture = f'<img src="{escape(uri)}" alt="{category or item_id}">' if uri else "<i>no picture now</i>"
    address = {"item": item.item_id} | ({} if release == releases.PRODUCTION else {"release": release})
    link = f'href="?{escape(urlencode(address))}" data-item="{item_id}"'
    return (
        f'<li class="vi-card"><a class="vi-picture" {link} tabindex="-1" aria-hidden="true">{picture}</a>{moved}'
        f'<div class="vi-about"><p class="vi-what"><b>{category or "item"}</b>{score}</p>'
        f'<p class="vi-id" title="{item_id}">{item_id}</p>'
        f'<ul class="vi-labels">{chips}</ul><a class="vi-more" {link}>More like this</a></div></li>'
    )


def _score(hit: Hit) -> str:
    return f'<span class="vi-score">{hit.score:.3f}</span>'


def _moved(rank: int, before: int | None) -> str:
    """Where the release on the left has this item."""
    if before is None:
        return '<span class="vi-moved vi-new">only here</span>'
    arrow = "=" if before == rank else f"{'↑' if rank < before else '↓'}{abs(rank - before)}"
    return f'<span class="vi-moved" title="number {before} on the left">{arrow}</span>'
