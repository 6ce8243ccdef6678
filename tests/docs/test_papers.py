"""What README and docs promise about themselves: length, links, pictures."""

import re
from pathlib import Path

import pytest

from tests.docs.commands import PAPERS, REPOSITORY

LINK = re.compile(r"\[[^]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")


def test_the_readme_has_at_most_800_words() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= 800


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_to_a_file_and_a_heading(paper: Path) -> None:
    for target, heading in LINK.findall(paper.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        linked = (paper.parent / target).resolve() if target else paper
        assert linked.exists(), f"{paper.name}: {target}"
        if heading:
            assert heading.removeprefix("#") in _headings(linked), f"{paper.name}: {target}{heading}"


def test_every_picture_of_the_docs_is_shown() -> None:
    shown = {Path(target).name for paper in PAPERS for target, _ in LINK.findall(paper.read_text())}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.png")} <= shown


def _headings(paper: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    titles = re.findall(r"^#+ (.*)$", paper.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
