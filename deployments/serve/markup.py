"""The HTML of the search page; every text of a catalogue or a visitor is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import NamedTuple
from urllib.parse import urlencode

from deployments.serve.service import Answer, Example
from retrieval_core.artifacts import releases
from retrieval_core.artifacts.manifests import Release
from retrieval_core.fields.values import shown
from retrieval_core.filters import written
from retrieval_core.search.hits import Hit

MAX_LABELS = 4  # of an item
MAX_VALUES = 6  # of a column, offered as filters

# A click on an item or on a filter value reaches Python; with a modifier key an item's link opens like any other.
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


class ShownAnswer(NamedTuple):
    """An answer of the release `name`, with its pictures as `data:` URIs."""

    name: str
    answer: Answer
    thumbnails: Sequence[str]  # one for each hit, "" for one without a picture
    query_pictures: Sequence[tuple[str, str]]  # captions and pictures


def header(release: Release) -> str:
    """Return the title and which release is searched."""
    facts = [f"{release.counts['rows']:,} items", f"release {release.fingerprint[:8]}", created_text(release)]
    spans = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    spans += f'<span><a href="/reports/{escape(release.fingerprint)}">report</a></span>'
    return f'<header class="vi-head"><h1><a href="?">Vitrine</a></h1><p class="vi-facts">{spans}</p></header>'


def created_text(release: Release) -> str:
    """Return when a release was made, for example `21 Nov 2026, 11:51 UTC`."""
    return datetime.fromisoformat(release.created).strftime("%-d %b %Y, %H:%M UTC")


def greeting(examples: Sequence[Example], thumbnails: Sequence[str], release: str) -> str:
    """Return the page before a search: items to start from."""
    cards = "".join(_card(example, uri, release) for example, uri in zip(examples, thumbnails, strict=True))
    return (
        '<section class="vi-answer"><p class="vi-line">Drop a picture on the left, or start from one of these.</p>'
        f'<ol class="vi-grid">{cards}</ol></section>'
    )


def results(answers: Sequence[ShownAnswer], words: str) -> str:
    """Return one answer, or two side by side, where the second shows how its order differs from the first."""
    columns = [_answer(answers[0], words, {})]
    if len(answers) > 1:
        ranks = {hit.item_id: rank for rank, hit in enumerate(answers[0].answer.hits, 1)}
        columns.append(_answer(answers[1], words, ranks))
    beside = " vi-beside" if len(columns) > 1 else ""
    return f'<div class="vi-columns{beside}">{"".join(columns)}</div>'


def problem(message: str) -> str:
    """Return the message of an error as a paragraph."""
    return f'<p class="vi-problem" role="alert">{escape(message[:1].upper() + message[1:])}</p>'


def hints(columns: Mapping[str, Iterable[str]]) -> str:
    """Return the columns that a filter can name, with their commonest values as buttons."""
    offered = {name: list(values)[:MAX_VALUES] for name, values in columns.items()}
    rows = "".join(_column(name, values) for name, values in offered.items() if values)
    return f'<dl class="vi-hints">{rows}</dl>' if rows else ""


def _column(name: str, values: Sequence[str]) -> str:
    buttons = "".join(_filter_button(name, value) for value in values)
    return f'<div class="vi-column"><dt>{escape(name)}</dt><dd>{buttons}</dd></div>'


def _filter_button(name: str, value: str) -> str:
    where = f"{written(name)}={written(value)}"
    return f'<button type="button" data-where="{escape(where)}">{escape(value)}</button>'


def _query(pictures: Sequence[tuple[str, str]], words: str) -> str:
    figures = "".join(
        f'<figure><img src="{escape(uri)}" alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, uri in pictures
    )
    content = figures + (f'<p class="vi-words">{escape(words)}</p>' if words else "")
    return f'<section class="vi-searched" aria-label="Searched with">{content}</section>' if content else ""


def _answer(shown: ShownAnswer, words: str, ranks: Mapping[str, int]) -> str:
    """Return one answer; `ranks` are the item's ranks in the answer to the left, if there is one."""
    hits, release = shown.answer.hits, shown.answer.release.release
    name = f"{shown.name} " if shown.name == releases.PRODUCTION else ""
    line = (
        f"<b>{len(hits)}</b> of {release.counts['rows']:,} items · {name}{release.fingerprint[:8]} · "
        f"{shown.answer.seconds * 1000:.0f} ms"
    )
    cards = "".join(
        _card(hit, uri, shown.name, _score(hit), _rank_change(rank, ranks.get(hit.item_id)) if ranks else "")
        for rank, (hit, uri) in enumerate(zip(hits, shown.thumbnails, strict=True), 1)
    )
    body = f'<ol class="vi-grid">{cards}</ol>' if cards else '<p class="vi-none">No item fits.</p>'
    query = _query(shown.query_pictures, words)
    return f'<section class="vi-answer">{query}<p class="vi-line">{line}</p>{body}</section>'


def _card(item: Hit | Example, uri: str, release: str, score: str = "", rank_change: str = "") -> str:
    item_id, category = escape(item.item_id), escape(item.category or "")
    labels = [label for label in getattr(item, "labels", []) if label != item.category]
    chips = "".join(f"<li>{escape(label)}</li>" for label in labels[:MAX_LABELS])
    picture = f'<img src="{escape(uri)}" alt="{category or item_id}">' if uri else "<i>picture unavailable</i>"
    address = {"item": item.item_id} | ({} if release == releases.PRODUCTION else {"release": release})
    link = f'href="?{escape(urlencode(address))}" data-item="{item_id}"'
    return (
        f'<li class="vi-card"><a class="vi-picture" {link} tabindex="-1" aria-hidden="true">{picture}</a>{rank_change}'
        f'<div class="vi-about"><p class="vi-what"><b>{category or "item"}</b>{score}</p>{_offer(item)}'
        f'<p class="vi-id" title="{item_id}">{item_id}</p>'
        f'<ul class="vi-labels">{chips}</ul><a class="vi-more" {link}>More like this</a></div></li>'
    )


def _offer(item: Hit | Example) -> str:
    """Return the title of an item, as a link to its page in the shop if that is a web address, and its price."""
    fields = {name: escape(shown(value)) for name, value in getattr(item, "fields", {}).items()}
    title, price, address = fields.get("title", ""), fields.get("price", ""), fields.get("link", "")
    if re.match(r"(?i)https?://", address):
        title = f'<a href="{address}" target="_blank" rel="noopener noreferrer">{title or "in the shop"}</a>'
    spans = f"<span>{title}</span>" * bool(title) + f"<b>{price}</b>" * bool(price)
    return f'<p class="vi-offer">{spans}</p>' if spans else ""


def _score(hit: Hit) -> str:
    return f'<span class="vi-score">{hit.score:.3f}</span>'


def _rank_change(rank: int, left_rank: int | None) -> str:
    """Return a mark that compares an item's rank with its rank in the answer to the left."""
    if left_rank is None:
        return '<span class="vi-moved vi-new">only here</span>'
    arrow = "=" if left_rank == rank else f"{'↑' if rank < left_rank else '↓'}{abs(rank - left_rank)}"
    return f'<span class="vi-moved" title="number {left_rank} on the left">{arrow}</span>'
