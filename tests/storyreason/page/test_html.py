"""One self-contained file, in which a story cannot become markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

from storyreason import page
from tests.storyreason.page.conftest import Told

HOSTILE = """</script><script>alert(1)</script> <!-- " ' & \u2028 <img src=x onerror=alert(2)> ${x}"""


def test_a_page_refers_to_nothing_outside_itself(told: Told) -> None:
    text = page.render([page.view("beach-1", told.images, told.prediction, told.reference)], "Stories")
    without_svg_name = text.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in without_svg_name.replace("http-equiv", "")
    assert "@import" not in text
    assert "url(" not in text
    assert set(re.findall(r'(?:src|href)="([^"]{0,10})', text)) <= {"data:,"}


def test_hostile_text_stays_text(told: Told) -> None:
    # given a title, an id and a story with markup in them
    prediction = told.prediction.replace("waited", HOSTILE).replace("A beach", HOSTILE)
    views = [page.view(HOSTILE, told.images, prediction)]

    # when they are rendered
    text = page.render(views, HOSTILE)

    # then the page only has its usual two scripts, and its JSON is unchanged
    scripts = _elements(text, "script")
    assert len(scripts) == 2
    assert json.loads(scripts[0]) == {"title": HOSTILE, "views": views}
    assert not _elements(text, "img")
    assert _elements(text, "title") == [HOSTILE]


def test_the_policy_allows_this_style_and_this_script_only(told: Told) -> None:
    text = page.render([page.view("beach-1", told.images, reference=told.reference)])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for kind, content in (("style", _elements(text, "style")[0]), ("script", _elements(text, "script")[1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]


def _elements(text: str, wanted: str) -> list[str]:
    """The texts of all elements with that name, as a browser would find them."""
    found: list[str] = []

    class Reader(HTMLParser):
        inside = False

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag == wanted:
                self.inside = True
                found.append("")

        def handle_endtag(self, tag: str) -> None:
            self.inside = False

        def handle_data(self, data: str) -> None:
            if self.inside:
                found[-1] += data

    Reader().feed(text)
    return found
