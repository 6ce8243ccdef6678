"""What README and docs promise about themselves: length, links, pictures."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.commands import PAPERS, REPOSITORY

PREFECT_SAYS = "exited due to a SIGKILL signal"
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


def test_the_sentences_that_the_table_of_faults_quotes_are_said() -> None:
    said = "\n".join(_sentences())
    rows = [line.split(" | ") for line in (REPOSITORY / "docs/operations.md").read_text().splitlines() if " | " in line]
    quotes = [quote for row in rows if len(row) == 4 for quote in re.findall(r'"([^"]+)"', row[2])]
    assert len(quotes) > 10
    # Where a value stands in the message, the table has an ellipsis or a capital letter.
    parts = [part.strip(" .:,") for quote in quotes for part in re.split(r"…|\b[NM]\b", quote)]
    assert [part for part in parts if part not in said and part != PREFECT_SAYS] == []


def _sentences() -> Iterator[str]:
    """Every text of the code, f-strings as one text with nothing for their values."""
    for room in ("storyreason", "tasks", "flows"):
        for path in (REPOSITORY / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                yield "…".join(texts)
