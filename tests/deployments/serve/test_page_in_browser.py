"""The search app as a person meets it: in Debian's Chromium, started from the command line."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.core.conftest import Shop
from tests.deployments.conftest import FIRST, SECOND

CHROMIUM = shutil.which("chromium")
PATIENCE_S = 120
THIRD = "c" * 32
HOSTILE = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>${window.hacked=1}{{hacked}}\"'>"
PASTE = """async ([name, bytes]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: files, bubbles: true}));
}"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path; on Debian: make browser")


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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


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
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert complaints == []


def ids(page: Page) -> list[str]:
    return page.locator("#results .vi-card .vi-id").all_text_contents()


def see(page: Page, selector: str) -> None:
    expect(page.locator(selector).first).to_be_visible(timeout=PATIENCE_S * 1000)


def test_a_picture_is_uploaded_and_its_like_are_found_and_followed(tab: Page, url: str, shop: Shop) -> None:
    tab.goto(url)
    see(tab, "#results .vi-card")
    assert f"release {SECOND[:8]}" in tab.locator("#header").inner_text()
    tab.set_input_files("#picture input[type=file]", shop.picture("item-5-0"))
    see(tab, "#results .vi-searched")
    assert ids(tab)[0] == "item-5-0"
    assert "item-5-1" not in ids(tab), "one hit a product"
    tab.get_by_text("How to search").click()
    tab.locator("#all-items input").check()
    expect(tab.locator("#results .vi-card .vi-id").nth(1)).to_have_text("item-5-1", timeout=PATIENCE_S * 1000)
    first = tab.locator("#results .vi-card").first
    assert float(first.locator(".vi-score").inner_text()) == pytest.approx(1, abs=1e-3)
    assert first.locator(".vi-what b").inner_text() == "dress"
    assert first.locator(".vi-picture img").evaluate("image => image.naturalWidth") > 0

    tab.locator("#results .vi-card", has_text="item-5-1").locator(".vi-more").click()
    expect(tab.locator("#results figcaption").first).to_have_text("item item-5-1", timeout=PATIENCE_S * 1000)
    assert "item-5-1" not in ids(tab)
    assert ids(tab)[0] == "item-5-0"
    assert tab.url.endswith("?item=item-5-1")

    tab.locator("#hints button", has_text="coat").click()
    expect(tab.locator("#where input, #where textarea")).to_have_value("category=coat")
    expect(tab.locator("#results .vi-what b", has_text="dress")).to_have_count(0, timeout=PATIENCE_S * 1000)
    assert set(tab.locator("#results .vi-what b").all_text_contents()) == {"coat"}

    tab.set_input_files("#picture input[type=file]", shop.picture("item-2-0"))
    expect(tab.locator("#results figcaption").first).to_have_text("your picture", timeout=PATIENCE_S * 1000)
    assert ids(tab)[0] == "item-2-0"
    assert tab.url == f"{url}/", "the page's address names the item no more"


def test_a_pasted_picture_is_searched_with_and_problems_are_told_in_words(tab: Page, url: str, shop: Shop) -> None:
    tab.goto(url)
    see(tab, "#results .vi-card")
    tab.evaluate(PASTE, ["pasted.jpg", list(shop.picture("item-4-0").read_bytes())])
    see(tab, "#results .vi-searched")
    assert ids(tab)[0] == "item-4-0"
    field = tab.locator("#where input, #where textarea")
    field.fill("colur=red")
    field.press("Enter")
    see(tab, "#results .vi-problem")
    assert "did you mean 'colour'" in tab.locator(".vi-problem").inner_text()
    tab.locator("#url input, #url textarea").fill(f"{url}/picture.jpg")
    tab.locator("#url input, #url textarea").press("Enter")
    expect(tab.get_by_text("is not on the public internet").first).to_be_visible(timeout=PATIENCE_S * 1000)


def test_a_link_opens_an_item_in_another_release_beside_production(tab: Page, url: str) -> None:
    tab.goto(f"{url}/?item=item-1-0&release={FIRST}")
    see(tab, "#results .vi-searched")
    assert FIRST[:8] in tab.locator("#header").inner_text()
    tab.get_by_text("How to search").click()
    tab.locator("#beside input").click()
    tab.get_by_role("option", name="production").click()
    see(tab, ".vi-beside")
    assert tab.locator(".vi-beside .vi-answer").count() == 2
    assert "only here" in tab.locator(".vi-beside .vi-answer").last.inner_text()


def test_nothing_that_a_catalogue_says_is_run(tab: Page, url: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "__class__", HostileShop)
    shop.publish(THIRD, range(3))
    tab.goto(f"{url}/?item=item-1-0&release={THIRD}")
    see(tab, "#results .vi-searched")
    see(tab, "#hints button")
    assert tab.locator("#results .vi-what b").first.inner_text() == HOSTILE
    tab.locator("#hints button").first.click()
    expect(tab.locator("#where input, #where textarea")).not_to_have_value("")
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("#results script, #results [onerror], #hints [onerror]").count() == 0
