"""The search page as a person meets it: in Debian's Chromium, started from the command line."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from retrieval_core.images import decode, thumbnail
from tests.core.conftest import Shop
from tests.deployments.conftest import FIRST, SECOND

CHROMIUM = shutil.which("chromium")
PATIENCE_S = 120
FIRST_HIT_S = 1.0
PHONE = {"width": 390, "height": 844}
MAX_TABS = 13  # from the top of the page to the first hit
THIRD = "c" * 32
HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>${window.hacked=1}{{hacked}}\"'>"
PASTE = """async ([name, bytes]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files, bubbles: true}));
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; on Debian: make debian")


class HostileShop(Shop):
    """Every item is called by the name of an attack."""

    def _item(self, product: int, view: int) -> dict[str, object]:
        said = {"category": HOSTILE, "labels": [HOSTILE], "product_id": HOSTILE}
        return super()._item(product, view) | said | {"attributes": [{"name": HOSTILE, "value": HOSTILE}]}


@pytest.fixture(scope="module")
def url(shop: Shop) -> Iterator[str]:
    """Start `vitrine app` over the shop's store; the address where it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "deployments.cli.main", "app", f"--store={shop.settings.store}", f"--port={port}"]
    process = subprocess.Popen(command)
    url, given_up = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    while not _answers(url):
        assert process.poll() is None, "the app ended"
        assert time.monotonic() < given_up, "the app does not answer"
        time.sleep(0.2)
    yield url
    process.terminate()
    process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def _is_complaint(message: ConsoleMessage) -> bool:
    """Whether the browser complains; it does so of every answer that is a problem, too."""
    return message.type == "error" and "the server responded with a status of 4" not in message.text


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A page that can reach this machine alone; what it asked of others, and its errors, fail the test."""
    complaints: list[str] = []

    def only_loopback(route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE_S * 1000)
    context.route("**/*", only_loopback)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if _is_complaint(message) else None)
    yield page
    context.close()
    assert complaints == []


def ids(page: Page) -> list[str]:
    return page.locator(".card .id").all_text_contents()


def search_with(page: Page, picture: Path) -> None:
    """Choose a picture and wait until what is found with it is shown."""
    page.set_input_files("#picture", picture)
    expect(page.locator("#query-name")).to_have_text(picture.name)
    shown(page)


def shown(page: Page) -> None:
    """Wait until the page shows the answer to what was last asked."""
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


def open_options(page: Page) -> None:
    page.locator("#options > summary").click()


def test_a_picture_is_uploaded_and_its_like_are_found_and_followed_and_back_returns(
    tab: Page, url: str, shop: Shop
) -> None:
    tab.goto(url)
    expect(tab.locator("#release")).to_contain_text(f"release {SECOND[:8]}")
    assert len(ids(tab)) == 12, "items to start from"
    search_with(tab, shop.picture("item-5-0"))
    assert ids(tab)[0] == "item-5-0"
    assert "item-5-1" not in ids(tab), "one hit a product"
    first = tab.locator(".card").first
    assert float(first.locator(".score").inner_text().split()[-1]) == pytest.approx(1, abs=1e-3)
    assert first.locator(".name b").inner_text() == "dress"
    open_options(tab)
    tab.locator("#show").select_option("every picture")
    expect(tab.locator(".card .id").nth(1)).to_have_text("item-5-1")

    tab.get_by_role("link", name="More like this: dress, item-5-1").click()
    expect(tab.locator("#query-name")).to_have_text("item-5-1")
    shown(tab)
    assert "item-5-1" not in ids(tab)
    assert tab.url == f"{url}/?item=item-5-1&show=all"
    assert tab.evaluate("document.activeElement.id") == "results"

    tab.go_back()
    expect(tab.locator("#query-name")).to_have_text("item-5-0.jpg")
    tab.go_back()
    expect(tab.locator("#show")).to_have_value("")
    assert ids(tab)[0] == "item-5-0", "as it was, with the picture that is in no address"
    tab.go_back()
    expect(tab.locator("#query")).to_be_hidden()
    assert tab.url == f"{url}/"


def test_the_first_hit_is_seen_within_a_second_of_an_upload(tab: Page, url: str, shop: Shop) -> None:
    tab.goto(url)
    search_with(tab, shop.picture("item-1-0"))
    seconds = []
    for item in ("item-2-0", "item-3-0", "item-4-0"):
        started = time.monotonic()
        tab.set_input_files("#picture", shop.picture(item))
        expect(tab.locator(".card .id").first).to_have_text(item)
        tab.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")
        seconds.append(time.monotonic() - started)
    assert min(seconds) < FIRST_HIT_S, seconds


def test_values_of_one_name_widen_a_filter_and_of_two_names_narrow_it(tab: Page, url: str) -> None:
    tab.goto(f"{url}/?item=item-1-0&k=24&show=all")
    colour = tab.get_by_role("group", name="colour")
    for value in ("red", "blue"):
        colour.get_by_role("button", name=value).click()
        expect(colour.get_by_role("button", name=value)).to_have_attribute("aria-pressed", "true")
        assert tab.evaluate("document.activeElement.dataset.value") == f"colour\n{value}", "the focus stays"
    expect(colour.get_by_role("button", name="green")).to_contain_text("12")
    dress = tab.get_by_role("group", name="category").get_by_role("button", name="dress")
    expect(dress).to_contain_text("12")  # of the red and blue items
    dress.click()
    expect(tab.locator("#n-filters")).to_have_text("3 chosen")
    shown(tab)
    assert set(tab.locator(".card .name b").all_text_contents()) == {"dress"}
    assert len(ids(tab)) == 11

    tab.reload()
    expect(tab.locator("#n-filters")).to_have_text("3 chosen")
    assert "f.colour=red&f.colour=blue&f.category=dress" in tab.url
    tab.go_back()
    expect(tab.locator("#n-filters")).to_have_text("2 chosen")
    tab.get_by_role("button", name="Clear filters").click()
    expect(tab.locator(".chip[aria-pressed=true]")).to_have_count(0)
    expect(tab.locator(".card .name b", has_text="coat").first).to_be_visible()


def test_what_cannot_be_searched_with_is_told_in_a_sentence(tab: Page, url: str, shop: Shop, tmp_path: Path) -> None:
    problem = tab.get_by_role("alert")
    tab.route("**/v1/releases?*", lambda route: (tab.locator("#text").fill("typed meanwhile"), route.continue_()))
    tab.goto(url)
    expect(tab.locator("#beside option").nth(1)).to_be_attached()
    expect(tab.locator("#text")).to_have_value("typed meanwhile")
    tab.locator("#text").fill(f"{url}/picture.jpg")
    tab.get_by_role("button", name="Search", exact=True).click()
    expect(problem).to_contain_text("is not on the public internet")
    (tmp_path / "notes.jpg").write_bytes(b"\x89PNG\r\n\x1a\n no picture \xff\xd8")
    tab.set_input_files("#picture", tmp_path / "notes.jpg")
    expect(problem).to_contain_text(re.compile(r"^[A-Z][\w ,.:;()'-]+\.$"))
    tab.evaluate(PASTE, ["pasted.jpg", list(shop.picture("item-4-0").read_bytes())])
    expect(tab.locator(".card .id").first).to_have_text("item-4-0")
    open_options(tab)
    tab.locator("#where").fill("colur=red")
    tab.locator("#where").press("Enter")
    expect(problem).to_contain_text("did you mean 'colour'")
    tab.locator("#where").fill("category=hat")
    tab.locator("#where").press("Enter")
    expect(tab.locator("#results")).to_contain_text("No item fits the filters.")
    tab.reload()
    expect(tab.locator("#results")).to_contain_text("choose it again")


def test_a_part_of_the_picture_is_searched_with(tab: Page, url: str, shop: Shop, tmp_path: Path) -> None:
    both = [decode(shop.picture(name).read_bytes()) for name in ("item-5-0", "item-2-0")]
    (tmp_path / "both.jpg").write_bytes(thumbnail(np.concatenate(both, axis=1), 1_000, quality=100))
    tab.goto(url)
    search_with(tab, tmp_path / "both.jpg")
    box = tab.locator("#crop").bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] + 30, box["y"] + box["height"] + 30, steps=3)
    tab.mouse.up()
    expect(tab.locator(".card .id").first).to_have_text("item-2-0")
    assert re.search(r"box=0\.\d+%2C0\.\d+%2C1\.000%2C1\.000", tab.url)
    expect(tab.locator("#view img")).to_be_visible()
    tab.get_by_role("button", name="Top left corner").focus()
    before = tab.url
    tab.keyboard.press("ArrowDown")
    tab.wait_for_url(lambda address: address != before)
    expect(tab.locator(".card .id").first).to_have_text("item-2-0")
    tab.get_by_role("button", name="Whole picture").click()
    expect(tab.locator("#view")).to_be_hidden()
    assert "box" not in tab.url


def test_a_picture_is_moved_away_from_and_let_go_and_a_part_of_an_item_is_searched_with(
    tab: Page, url: str, shop: Shop
) -> None:
    tab.goto(f"{url}/?item=item-1-0")
    shown(tab)
    before = ids(tab)
    open_options(tab)
    tab.set_input_files("#unlike-picture", shop.picture("item-2-0"))
    expect(tab.locator("#n-options")).to_have_text("1 set")
    shown(tab)
    assert ids(tab) != before
    tab.locator("#options").get_by_role("button", name="Remove").click()
    expect(tab.locator("#n-options")).to_have_text("")
    shown(tab)
    assert ids(tab) == before
    tab.get_by_role("button", name="Bottom right corner").press("ArrowLeft")
    expect(tab.locator("#query-name")).to_have_text("part of item-1-0")


def test_a_hit_is_seen_larger_and_more_hits_are_loaded(tab: Page, url: str) -> None:
    tab.goto(f"{url}/?item=item-1-0&show=all")
    tab.get_by_role("button", name=re.compile("^Larger: ")).nth(1).click()
    larger = tab.get_by_role("dialog")
    expect(larger.locator("dd").first).to_have_text(ids(tab)[1])
    tab.wait_for_function("() => document.querySelector('dialog img').naturalWidth > 0")
    tab.keyboard.press("ArrowRight")
    expect(larger.locator("dd").first).to_have_text(ids(tab)[2])
    tab.keyboard.press("Escape")
    expect(larger).to_be_hidden()
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')").endswith(ids(tab)[1])
    for n in (24, 35):
        tab.get_by_role("button", name="Show more").click()
        expect(tab.locator(".card")).to_have_count(n)
    assert len(set(ids(tab))) == 35, "every other item, none twice"
    assert tab.evaluate("document.activeElement.closest('.card').dataset.item") == ids(tab)[24]
    tab.get_by_role("link", name=re.compile("^More like this")).first.click()
    tab.go_back()
    expect(tab.locator(".card")).to_have_count(35)


def test_a_link_opens_an_item_in_another_release_beside_production(tab: Page, url: str) -> None:
    tab.goto(f"{url}/?item=item-1-0&release={FIRST}")
    expect(tab.locator("#release")).to_contain_text(FIRST[:8])
    open_options(tab)
    tab.locator("#beside").select_option("production, as it moves")
    expect(tab.locator(".is-beside .answer")).to_have_count(2)
    expect(tab.locator(".answer").last).to_contain_text("only here")
    tab.reload()
    expect(tab.locator(".is-beside .answer")).to_have_count(2)


def test_title_price_and_link_are_shown_and_nothing_that_a_catalogue_says_is_run(
    tab: Page, url: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop, "__class__", HostileShop)
    shop.publish(THIRD, range(3), alias="hostile")
    price = {"amount": 4.5, "currency": "EUR", "text": "4,50 €"}
    fields = [
        {"title": HOSTILE, "price": price, "link": 'https://shop.example/a?b="c"'},
        {"link": "javascript:alert(1)"},
    ]

    def with_fields(route: Route) -> None:
        answer: Any = route.fetch().json()
        for hit, of_hit in zip(answer["hits"], fields, strict=False):
            hit["fields"] = of_hit
        route.fulfill(json=answer)

    tab.route("**/v1/search", with_fields)
    tab.goto(f"{url}/?{urlencode({'item': 'item-1-0', 'release': THIRD, f'f.{HOSTILE}': HOSTILE})}")
    first = tab.locator(".card").first
    expect(first.locator(".name b")).to_have_text(HOSTILE)
    expect(first).to_contain_text("4,50 €")
    links = tab.locator(".card a:not(.more)")
    expect(links).to_have_count(1)
    assert links.get_attribute("href") == 'https://shop.example/a?b="c"'
    expect(tab.locator(".chip[aria-pressed=true]")).to_contain_text(HOSTILE)
    tab.locator(".chip[aria-pressed=true]").click()
    expect(tab.locator(".chip[aria-pressed=true]")).to_have_count(0)
    first.locator(".picture").click()
    expect(tab.get_by_role("dialog")).to_contain_text(HOSTILE)
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("main script, [onerror], [style*=hacked]").count() == 0


def serious(page: Page) -> list[str]:
    """What axe-core finds to keep people from using the page, and targets that are too small."""
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {node['html']}"
        for rule in found
        for node in rule["nodes"]
        if rule["impact"] in ("serious", "critical") or rule["id"] == "target-size"
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_the_page(scheme: Any, tab: Page, url: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    for address in (url, f"{url}/?item=item-1-0&beside={FIRST}&f.colour=red", f"{url}/?item=nobody"):
        tab.goto(address)
        shown(tab)
        expect(tab.locator("#release a")).to_be_visible()
        open_options(tab)
        assert serious(tab) == []
    tab.goto(f"{url}/?item=item-1-0")
    tab.get_by_role("button", name=re.compile("^Larger: ")).first.click()
    assert serious(tab) == []
    names = tab.locator(".card a, .card button").evaluate_all("all => all.map((each) => each.ariaLabel)")
    assert len(set(names)) == len(names), "every name says of which item it is"


def test_on_a_phone_the_first_hit_is_above_the_fold(tab: Page, url: str, shop: Shop) -> None:
    tab.set_viewport_size(PHONE)
    tab.goto(url)
    search_with(tab, shop.picture("item-5-0"))
    card = tab.locator(".card").first.bounding_box()
    assert card is not None
    assert card["y"] + card["width"] <= PHONE["height"], "its picture is seen as a whole"
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tab.get_by_role("button", name="Crop").click()
    expect(tab.get_by_role("button", name="Top left corner")).to_be_visible()
    assert serious(tab) == []


def test_few_keys_lead_to_the_first_hit(tab: Page, url: str) -> None:
    tab.goto(f"{url}/?item=item-1-0")
    shown(tab)
    expect(tab.locator(".chip").first).to_be_visible()
    is_in_card = "Boolean(document.activeElement.closest('.card'))"
    n_tabs = 0
    while not tab.evaluate(is_in_card):
        tab.keyboard.press("Tab")
        n_tabs += 1
        assert n_tabs <= MAX_TABS
    tab.keyboard.press("Shift+Tab")
    names = []
    for key in ("ArrowRight", "ArrowDown", "End", "Home"):
        tab.keyboard.press(key)
        names.append(tab.evaluate("document.activeElement.dataset.value").split("\n")[0])
    assert len({*names}) == 3, "one stop of the Tab key for all values"
    tab.reload()
    shown(tab)
    for key in ("Tab", "Enter", "Tab"):
        tab.keyboard.press(key)
    assert tab.evaluate(is_in_card), "past everything else by the first link"
