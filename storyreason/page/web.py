"""The web page of the gateway: tell a story, check an answer, browse the gallery. A single file, like every page here."""

import json

from storyreason.page.html import fill, inert, policy, render, scripts

STYLES = ("base.css", "story.css", "app/app.css")
SCRIPTS = (
    "dom.js", "light.js", "bar.js", "story.js",
    "app/pictures.js", "app/ask.js", "app/keep.js", "app/shown.js", "app/gallery.js", "app/form.js", "app/app.js",
)  # fmt: skip
SOURCES = "default-src 'none'; img-src data: blob:; connect-src 'self'"
"""What the page may load: its pictures, and responses of the gateway that served it."""


def web() -> str:
    """The page at `/`. It embeds an empty story page, which it fills in to save a story without asking the gateway."""
    empty = inert(_json(render([], "")))
    body = (
        '<noscript><p class="empty">This page needs JavaScript, which is disabled.</p></noscript>\n'
        f'<script type="application/json" id="empty">{empty}</script>\n'
        f'<script type="module">{_script()}</script>'
    )
    return fill("storyreason", body, STYLES, _script(), SOURCES)


def headers() -> dict[str, str]:
    """Additional headers of the page at `/`: what it may load, and that other pages must not embed it in a frame."""
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
