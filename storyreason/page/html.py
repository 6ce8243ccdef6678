"""Puts views, style and script into one file that needs nothing else: no network, no server, no build step."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

STYLES = ("base.css", "story.css")
SCRIPTS = ("dom.js", "light.js", "page.js")


def render(views: Sequence[dict[str, Any]], title: str = "Stories") -> str:
    """One self-contained HTML page of `view`s; with several, a picker chooses among them."""
    data = json.dumps(
        {"title": title, "views": list(views)}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return fill(title, [read(name) for name in STYLES], [read(name) for name in SCRIPTS], data)


def fill(title: str, styles: Sequence[str], scripts: Sequence[str], data: str) -> str:
    """The page around JSON text. Its policy lets a browser run this style and this script only, and fetch nothing."""
    css, js = "\n".join(styles), "\n".join(scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src {_digest(css)}; script-src {_digest(js)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(read("page.html")).substitute(
        title=html.escape(title), policy=html.escape(policy, quote=False), css=css, js=js, data=inert(data)
    )


def inert(data: str) -> str:
    """JSON that cannot end its script element: `</script>` becomes `\\u003c/script\\u003e`, which reads the same."""
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return data


def read(name: str) -> str:
    """A file that lies beside this module."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
