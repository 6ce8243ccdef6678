"""Puts views, styles and scripts into one self-contained file: no network, no server, no build step."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any
from urllib.parse import quote

from storyreason import pictures
from storyreason.format.kinds import KINDS
from storyreason.format.tables import BOX_COLUMN
from storyreason.scoring.catalogue import HEADLINES, VALID

Json = dict[str, Any]

STYLES = ("base.css", "story.css")
SCRIPTS = ("dom.js", "light.js", "bar.js", "story.js", "page.js")

POLICY = "default-src 'none'; img-src data:"
"""What a story page may load: only the pictures embedded in it."""


def render(views: Sequence[Json], title: str = "Stories") -> str:
    """One self-contained HTML page for one or more `view`s. With several, it has a picker."""
    script = scripts(SCRIPTS)
    content = {"title": title, "views": list(views)}
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = (
        '<noscript><p class="empty">This page needs JavaScript, which is disabled.</p></noscript>\n'
        f'<script type="application/json" id="data">{inert(data)}</script>\n'
        f'<script type="module">{script}</script>'
    )
    return fill(title, body, STYLES, script)


def index(cards: Sequence[str], title: str) -> str:
    """A page that links to other pages by their `card`s."""
    body = (
        f'<main class="wide"><section class="head"><h1>{html.escape(title)}</h1>'
        f'<p class="soft">{len(cards)} {"story" if len(cards) == 1 else "stories"}</p></section>'
        f'<ul class="shelf">{"".join(cards)}</ul></main>'
    )
    return fill(title, body, STYLES)


def card(view: Json, link: str) -> str:
    """The entry of a view in an index: first frame, counts, errors, and a link to its page."""
    answer = view["answers"][0]
    errors = sum(problem["severity"] == "error" for problem in answer["problems"])
    state = ("good", "valid") if not errors else ("error", f"{errors} error{'s' if errors > 1 else ''}")
    facts = f"{len(view['images'])} images, {len(answer['entities'])} entities"
    picture = f'<img src="{thumbnail(view["images"][0]["src"])}" alt="" loading="lazy">' if view["images"] else ""
    return (
        f'<li><a href="{html.escape(quote(link))}">{picture}<b>{html.escape(view["id"])}</b>'
        f'<span class="soft">{facts}</span><span class="state {state[0]}">{state[1]}</span></a></li>\n'
    )


def thumbnail(src: str) -> str:
    """The picture of a data URL, reduced to 320 pixels if it is large, so that the index of a film data set stays small."""
    if len(src) < 20_000:
        return src
    return pictures.data_url(pictures.thumbnail(pictures.from_data_url(src), 320))


def fill(title: str, body: str, styles: Sequence[str], script: str = "", sources: str = POLICY) -> str:
    """The page around a body. Its policy only allows these styles, this script and `sources`."""
    css = "\n".join(read(name) for name in styles)
    return Template(read("page.html")).substitute(
        title=html.escape(title),
        policy=html.escape(policy(styles, script, sources), quote=False),
        css=css,
        body=body,
    )


def policy(styles: Sequence[str], script: str, sources: str = POLICY) -> str:
    """The Content-Security-Policy of a page with these styles and this script that may only load from `sources`."""
    css = "\n".join(read(name) for name in styles)
    return f"{sources}; style-src {_digest(css)}; script-src {_digest(script)}; base-uri 'none'; form-action 'none'"


def inert(data: str) -> str:
    """JSON that cannot close its script element: `</script>` becomes the equivalent `\\u003c/script\\u003e`."""
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return data


def read(name: str) -> str:
    """The text of a file next to this module."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def scripts(names: Sequence[str]) -> str:
    """The scripts of a page joined, preceded by the constants that they get from Python."""
    constants = {
        "KINDS": {name: kind.singular for name, kind in KINDS.items()},
        "BOX_COLUMN": BOX_COLUMN,
        # The scores shown first. Validity is shown in words.
        "HEADLINES": [score.name for score in HEADLINES if score.name != VALID],
    }
    known = [f"const {name} = {json.dumps(value)};" for name, value in constants.items()]
    return "\n".join([*known, *(read(name) for name in names)])


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
