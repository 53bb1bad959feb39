"""The HTML of the page: everything escaped, filters as the language of filters writes them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from deployments.serve import markup
from deployments.serve.service import Answer, Example, SearchService
from retrieval_core.filters import parse_where
from retrieval_core.search.hits import Hit
from tests.deployments.conftest import FIRST, SECOND

HOSTILE = """"><script>window.hacked=1</script><img src=x onerror=window.hacked=1>' ${window.hacked=1} {{hacked}} `"""


class Elements(HTMLParser):
    """Every tag of a page, with its attributes, and all its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str | None]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


def hit(item_id: str, score: float = 0.5, **more: Any) -> Hit:
    return Hit(item_id=item_id, score=score, image_uri="a.jpg", **more)


def found(release: Any, *hits: Hit, name: str = FIRST) -> markup.ShownAnswer:
    return markup.ShownAnswer(name, Answer(release, list(hits), 0.01), [""] * len(hits), [])


def test_nothing_a_catalogue_says_becomes_a_tag_or_a_script(service: SearchService) -> None:
    evil = hit(HOSTILE, product_id=HOSTILE, category=HOSTILE, labels=[HOSTILE, "plain"])
    answer = found(service.open(), evil)._replace(query_pictures=[(HOSTILE, "data:image/jpeg;base64,")])
    html = "".join(
        [
            markup.results([answer, answer], HOSTILE),
            markup.hints({HOSTILE: [HOSTILE], "empty": []}),
            markup.problem(HOSTILE),
            markup.greeting([Example(HOSTILE, HOSTILE, HOSTILE)], [""], HOSTILE),
        ]
    )
    elements = Elements(html)
    assert {tag for tag, _ in elements.tags} <= set(
        "div section figure img figcaption p b ol ul li a span i dl dt dd button".split()  # noqa: SIM905
    )
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert set(elements.values("data-item")) == {HOSTILE}
    assert all(str(href).startswith("?item=%22%3E%3Cscript") for href in elements.values("href"))


def test_a_value_to_filter_by_is_written_in_the_language_of_filters() -> None:
    names = ["category", "and", "it's", HOSTILE, "two words", "ümlaut"]
    html = markup.hints({name: ["dress", "in", "o'clock", HOSTILE] for name in names})
    for where in Elements(html).values("data-where"):
        parse_where(str(where))
    assert "category=dress" in Elements(html).values("data-where")


def test_the_second_answer_says_how_its_order_differs(service: SearchService) -> None:
    left = found(service.open(), hit("a"), hit("b"), hit("c"))
    right = found(service.open(SECOND), hit("c"), hit("b"), hit("d"))
    html = markup.results([left, right], "")
    marks = re.findall(r'<span class="vi-moved[^>]*>([^<]*)</span>', html)
    assert marks == ["↑2", "=", "only here"]
    assert "vi-moved" not in markup.results([left], "")


def test_an_empty_answer_is_told_as_such(service: SearchService) -> None:
    assert "No item fits" in markup.results([found(service.open())], "")


def test_a_card_shows_title_and_price_and_links_to_the_shop_only(service: SearchService) -> None:
    price = {"amount": 4.5, "currency": "EUR", "text": "4,50 €"}
    sold = hit("a", fields={"title": HOSTILE, "price": price, "link": 'https://shop.example/a?b="c"', "stock": 3})
    odd = hit("b", fields={"title": "Hat", "link": "javascript:alert(1)"})
    page = Elements(markup.results([found(service.open(), sold, odd, hit("c"))], ""))
    addresses = [str(address) for address in page.values("href") if not str(address).startswith("?")]
    assert addresses == ['https://shop.example/a?b="c"']
    assert HOSTILE in page.text
    assert "4,50 €" in page.text
    assert "Hat" in page.text
