"""The contact sheet of a film: its frames with boxes, entities as colours; corrections are chosen on the page."""

import json
from typing import Any

from storyreason.page.html import fill, inert, read

STYLES = ("base.css", "sheet.css")
SCRIPTS = ("dom.js", "sheet.js")
SIDE = 320
"""Pixels: the longest side of a picture on the page. Boxes are drawn in the original's pixels."""


def sheet(film: str, frames: list[dict[str, Any]]) -> str:
    """One self-contained page.

    A frame has `scene`, `frame`, `seconds` (or null), `width` and `height` in pixels, `src` (a data URL), and `seen`: the
    `entity`, `label`, `box` (x1, y1, x2, y2 in pixels) and `probability` (or null) of each detection.
    """
    data = json.dumps({"film": film, "frames": frames}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    script = "\n".join(read(name) for name in SCRIPTS)
    body = (
        '<noscript><p class="empty">This page needs JavaScript, which is disabled.</p></noscript>\n'
        f'<script type="application/json" id="data">{inert(data)}</script>\n'
        f'<script type="module">{script}</script>'
    )
    return fill(film, body, STYLES, script)
