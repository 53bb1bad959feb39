"""Make the five nights of docs/report.md and photograph the first screens of their reports.

    python -m benchmarks.report_nights --to docs             # needs Chromium on the path

A desk is 1280 pixels wide, a phone 390, print is A4. Prints what each night's terminal shows, and the
number of its printed pages.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.report_nights.nights import NIGHTS, make

if TYPE_CHECKING:
    from playwright.sync_api import Browser

A4_PX = (794, 1123)
PDF_PAGE = re.compile(rb"/Type\s*/Page[^s]")


class View(NamedTuple):
    """How a page is looked at: the size of the window in pixels, and the scheme and medium of its style."""

    name: str
    size_px: tuple[int, int]
    scheme: str = "light"
    medium: str = "screen"


LIGHT = View("light", (1280, 720))
VIEWS = {  # of each night
    "first": (LIGHT,),
    "published": (
        LIGHT,
        View("dark", (1280, 720), "dark"),
        View("phone", (390, 844)),
        View("print", A4_PX, medium="print"),
    ),
    "loss": (LIGHT,),
    "shrunk": (LIGHT,),
    "unreadable": (LIGHT,),
}


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--work", type=Path, help="keep shop, stores and pages in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for night in NIGHTS:
            made = make(night, arguments.work or Path(temporary))
            print(f"== {night.name}\n{made.terminal}")
            photograph(browser, night.name, made.page, arguments.to)
        browser.close()


def photograph(browser: Browser, name: str, page: Path, to: Path) -> None:
    """Write `report-NAME-VIEW.png` for each view of a night's page."""
    for view in VIEWS[name]:
        width, height = view.size_px
        opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=view.scheme)  # type: ignore[arg-type]
        opened.emulate_media(media=view.medium)  # type: ignore[arg-type]
        opened.goto(page.as_uri())
        opened.screenshot(path=to / f"report-{name}-{view.name}.png")
        if view is LIGHT:
            opened.emulate_media(media="print")
            print(f"{len(PDF_PAGE.findall(opened.pdf(format='A4')))} pages printed")
        opened.close()


if __name__ == "__main__":
    main()
