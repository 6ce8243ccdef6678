import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storyreason.format import story
from storyreason.format.story import Mention, Passage, Story

GOLDEN = Path(__file__).parents[2] / "golden" / "paper_protocol.json"
TEXTS = [story["story"] for story in json.loads(GOLDEN.read_text())["stories"]]

# Text of any kind but for tags. A carriage return before a line end is that line end's (Windows).
texts = st.one_of(
    st.sampled_from([" ", "\n", "\n\n", "a < b", "<3", "<", ">", "</think>", "<b>bold</b>", " walks.\n"]),
    st.text(st.characters(blacklist_characters="\r<", blacklist_categories=["Cs"]), min_size=1, max_size=12),
).filter(bool)
ids = st.sampled_from(["char1", "char12", "obj3", "lm1", "bg2", "Char-x", "1"])
mentions = st.builds(
    Mention, st.sampled_from(["gdo", "gda", "gdl"]), st.lists(ids, max_size=3).map(tuple), texts | st.just("")
)
# Two texts in a row are one text: a list of mentions with a text or nothing before each.
parts = st.lists(st.tuples(texts | st.none(), mentions), max_size=4).map(
    lambda pairs: [part for pair in pairs for part in pair if part is not None]
)
passages = st.builds(
    lambda image, parts, last: Passage(image, (*parts, *([last] if last else []))),
    st.integers(1, 22), parts, texts | st.none(),
)  # fmt: skip
stories = st.builds(Story, st.lists(passages, max_size=4).map(tuple))


@given(stories)
def test_reading_what_was_rendered_gives_the_same(written: Story) -> None:
    assert story.read(story.render(written)) == (written, [])


@pytest.mark.parametrize("text", TEXTS[:10])
def test_a_golden_story_reads_without_loss(text: str) -> None:
    read, problems = story.read(text)
    assert not problems
    assert story.render(read) == text


def test_offsets_point_at_the_tags() -> None:
    for passage in story.read(TEXTS[0])[0].passages:
        assert TEXTS[0][passage.offset :].startswith(f"<gdi image{passage.image}>")
        for part in passage.parts:
            if isinstance(part, Mention):
                tag = f"<{part.kind} {' '.join(part.ids)}>"
                assert TEXTS[0][part.offset :].startswith(f"{tag}{part.text}</{part.kind}>")


def test_the_papers_spelling_of_images_and_windows_line_ends() -> None:
    read, problems = story.read("<gdi image 3>\r\n<gdo char1>Sarah</gdo> held it.\r\n</gdi>\r\n")
    assert read == Story((Passage(3, (Mention("gdo", ("char1",), "Sarah"), " held it.")),))
    assert not problems


def test_carriage_returns_before_the_end_are_read_as_they_were_written() -> None:
    read, _ = story.read("<gdi image1>\nIt rained.\r\r</gdi>")
    assert story.read(story.render(read))[0] == read


# text -> the rules it breaks and where, and what is read of it all the same
BROKEN = {
    "nested": (
        "<gdi image1>\n<gdo char1>Sa<gda char1>r</gda>ah</gdo>\n</gdi>",
        [("tag-nested", 2, 14)],
        (Mention("gdo", ("char1",), "Sa"), Mention("gda", ("char1",), "r"), "ah"),
    ),
    "unclosed mention": (
        "<gdi image1>\nIt was <gdo char1>Sarah\n</gdi>",
        [("tag-unclosed", 2, 8)],
        ("It was ", Mention("gdo", ("char1",), "Sarah\n")),
    ),
    "closed by another": (
        "<gdi image1><gdo char1>Sarah</gda> ran</gdi>",
        [("tag-unclosed", 1, 13)],
        (Mention("gdo", ("char1",), "Sarah"), " ran"),
    ),
    "closes nothing": ("<gdi image1>\nSarah</gdo> ran\n</gdi>", [("tag-unclosed", 2, 6)], ("Sarah ran",)),
    "text ends": ("<gdi image1>\nSarah ran", [("tag-unclosed", 1, 1)], ("Sarah ran",)),
    "next passage": ("<gdi image1>\na\n<gdi image2>\nb\n</gdi>", [("tag-unclosed", 1, 1)], ("a",)),
    "text outside": ("<gdi image1>\na\n</gdi>\n\nThe end.", [("text-outside-image", 5, 1)], ("a",)),
    "mention outside": ("<gdo char1>I</gdo><gdi image1>a</gdi>", [("text-outside-image", 1, 1)], ("a",)),
    "broken tag": ("<gdi image1>a <gdo char1 b</gdi>", [("tag-malformed", 1, 15)], ("a <gdo char1 b",)),
    "capitals": ("<gdi image1>a <GDO char1>b</gdi>", [("tag-malformed", 1, 15)], ("a <GDO char1>b",)),
    "no image": ("<gdi image1>a<gdi>b</gdi></gdi>", [("tag-malformed", 1, 14)], ("ab",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_bad_tags_are_told_with_their_place(case: str) -> None:
    text, expected, parts = BROKEN[case]
    read, problems = story.read(text)
    assert [(problem.rule, problem.line, problem.column) for problem in problems] == expected
    assert read.passages[0].parts == parts


def test_tags_are_taken_out() -> None:
    text = "<gdi image 1>\n<gdo char1 char2>They</gdo> <gda char1>ran</gda>, a < b.\n</gdi>"
    assert story.without_tags(text) == "\nThey ran, a < b.\n"
