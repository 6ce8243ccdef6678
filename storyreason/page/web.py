"""The gateway's own page: tell a story, read an answer, look through a gallery. One file, as every page here."""

import json

from storyreason.page.html import fill, inert, policy, render, scripts

STYLES = ("base.css", "story.css", "app/app.css")
SCRIPTS = (
    "dom.js", "light.js", "bar.js", "story.js",
    "app/pictures.js", "app/ask.js", "app/keep.js", "app/shown.js", "app/gallery.js", "app/form.js", "app/app.js",
)  # fmt: skip
SOURCES = "default-src 'none'; img-src data: blob:; connect-src 'self'"
"""What the page may load: its pictures, and answers of the gateway that it came from."""


def web() -> str:
    """The page at `/`. It carries an empty story page too, which it fills to save a story while no gateway answers."""
    empty = inert(_json(render([], "")))
    body = (
        '<noscript><p class="empty">This page asks the gateway with JavaScript, which is switched off here.</p></noscript>\n'
        f'<script type="application/json" id="empty">{empty}</script>\n'
        f'<script type="module">{_script()}</script>'
    )
    return fill("storyreason", body, STYLES, _script(), SOURCES)


def headers() -> dict[str, str]:
    """The headers of the page at `/`, beside those of every answer: what it may load, and that no page may frame it."""
    return {
        "content-security-policy": f"{policy(STYLES, _script(), SOURCES)}; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "cache-control": "no-cache",
    }


def _script() -> str:
    return scripts(SCRIPTS)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
