"""Takes the README's picture of a story page with Debian's Chromium, one mention pointed at.

storyreason page data --story black-bicycle-481-1 --out runs/pages
python docs/screenshot.py runs/pages/black-bicycle-481-1.html docs/story-page.png
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


def screenshot(page: Path, out: Path, mention: str = "#image-1 .mention") -> None:
    """The first screen of a page in a window of 1280 x 900, at 1.5 times the resolution."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light", device_scale_factor=1.5)
        shown.goto(page.absolute().as_uri())
        shown.locator(mention).first.hover()
        shown.wait_for_selector("#card:not([hidden])")
        shown.screenshot(path=out, animations="disabled")
        browser.close()


if __name__ == "__main__":
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
