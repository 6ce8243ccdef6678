"""Takes the README's pictures with Debian's Chromium, one mention pointed at.

storyreason page data --story black-bicycle-481-1 --out runs/pages
python docs/screenshot.py runs/pages/black-bicycle-481-1.html docs/story-page.png
python docs/screenshot.py http://127.0.0.1:8400 docs/web-page.png docs/frames/*.jpg
python docs/screenshot.py http://127.0.0.1:8400 docs/web-page.png answer.txt 1.png 2.png   # read, without a model
python docs/screenshot.py runs/sheet/831367fc78ba02fa/sheet.html docs/film-sheet.png   # a contact sheet
"""

import io
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

MENTION = "#image-1 .mention"


def screenshot(shown: str, out: Path, files: list[Path]) -> None:
    """The first screen of a story page's file, or of a gateway's page that tells `files` or reads a text among them.

    In a window of 1280 x 900, at 1.5 times the resolution.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light", device_scale_factor=1.5)
        page.set_default_timeout(900_000)  # a model without a GPU is slow
        if shown.startswith("http"):
            ask(page, shown, files)
        else:
            page.goto(Path(shown).absolute().as_uri())
        page.locator(MENTION).first.hover()
        page.wait_for_selector("#card:not([hidden])")
        page.screenshot(path=out, animations="disabled")
        browser.close()


def contact_sheet(shown: str, out: Path) -> None:
    """The entities and the first frames of a contact sheet, without the bar of corrections, in 256 colours."""
    from PIL import Image

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1120, "height": 1690}, color_scheme="light")
        page.goto(Path(shown).absolute().as_uri())
        page.locator(".tools").evaluate("bar => bar.remove()")
        taken = page.screenshot(animations="disabled")
        browser.close()
    with Image.open(io.BytesIO(taken)) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)


def ask(page: Any, url: str, files: list[Path]) -> None:
    """Tell or read on the gateway's page, and wait for the end."""
    texts = [file for file in files if file.suffix == ".txt"]
    images = [file for file in files if file not in texts]
    page.goto(f"{url}#{'read' if texts else 'tell'}")
    page.set_input_files("#files", images)
    page.wait_for_selector(f".pictures li:nth-child({len(images)})")
    if texts:
        page.set_input_files("#texts", texts)
    page.click(".send:enabled")
    page.wait_for_selector(".status:is(.good, .warning, .error)")


if __name__ == "__main__":
    if sys.argv[1].endswith("sheet.html"):
        contact_sheet(sys.argv[1], Path(sys.argv[2]))
    else:
        screenshot(sys.argv[1], Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
