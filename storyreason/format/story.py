"""The grounded story: tagged text parsed into objects and rendered back."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast

from storyreason.format.problems import Problem, Tally, quote

TagKind = Literal["gdo", "gda", "gdl"]


@dataclass(frozen=True, slots=True)
class Mention:
    """A tagged span. `offset` is the position of its opening tag in the story text, in characters (0 if made by hand)."""

    kind: TagKind
    ids: tuple[str, ...]
    text: str
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Passage:
    """One `<gdi imageN>` … `</gdi>`: plain text and mentions in order, without the line ends next to these tags."""

    image: int
    parts: tuple[str | Mention, ...] = ()
    offset: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Story:
    """Passages in the order of the text. Text outside of them is not kept; it is reported as a problem."""

    passages: tuple[Passage, ...] = ()


def render(story: Story) -> str:
    """The tagged text, with a blank line between passages and no final line end. Inverse of `read`."""
    return "\n\n".join(
        f"<gdi image{passage.image}>\n{''.join(map(_render_part, passage.parts))}\n</gdi>" for passage in story.passages
    )


def _render_part(part: str | Mention) -> str:
    if isinstance(part, str):
        return part
    return f"<{part.kind} {' '.join(part.ids)}>{part.text}</{part.kind}>"


def read(text: str) -> tuple[Story, list[Problem]]:
    """Parses as much of a story as possible; the rest becomes problems with their positions.

    Never raises. Takes time linear in the length of the text.
    """
    parser = StoryParser()
    parser.feed(text)
    parser.close()
    return parser.story(), placed(parser.findings, text)


def without_tags(text: str) -> str:
    """A story's text with every tag removed and everything else unchanged."""
    return _TAG.sub("", text)


# At most 1000 characters between "<gdo" and ">": "<gdo" followed by a megabyte of anything is not a tag.
_TAG = re.compile(r"<(/?)(gd[ioal])(?![a-zA-Z0-9])([^<>]{0,1000})>")
_LONGEST_TAG = 1006
# A complete mention (nearly all of them are) or a single tag.
_TOKEN = re.compile(r"<(gd[oal])(?![a-zA-Z0-9])([^<>]{0,1000})>([^<>]*)</\1>|" + _TAG.pattern)
_IMAGE = re.compile(r"\s*image\s*([0-9]{1,6})\s*", re.IGNORECASE)
# Possessive (`*+`): otherwise "<" and many spaces take time quadratic in the number of spaces.
_ALMOST_TAG = re.compile(r"<\s*+/?\s*+gd", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem whose position is an offset, in characters, from the start of the story's text."""

    rule: str
    message: str
    offset: int
    image: int | None


def placed(findings: Iterable[Finding], text: str, start: int = 0) -> list[Problem]:
    """Turns findings into problems with line and column. The story begins at offset `start` of `text`."""
    findings = list(findings)
    if not findings:
        return []
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    problems = []
    for finding in findings:
        offset = start + finding.offset
        line = bisect_right(lines, offset)
        problems.append(Problem(finding.rule, finding.message, line, offset - lines[line - 1] + 1, finding.image))
    return problems


class StoryParser:
    """Parses a story chunk by chunk, so that it can be parsed while it is being generated.

    `findings` grows as chunks arrive. A tag may be split anywhere between two chunks.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._tally = Tally()
        self._passages: list[tuple[int, int, list[str | Mention]]] = []  # image, offset, parts
        self._offset = 0  # of the text that is not parsed yet
        self._held = ""  # the start of what may become a tag
        self._text: list[str] = []  # plain text since the last valid tag
        self._text_offset = 0
        self._parts: list[str | Mention] | None = None  # of the open passage
        self._mention: tuple[TagKind, tuple[str, ...], int] | None = None  # the open one: kind, IDs, offset
        self._interrupted: Counter[str] = Counter()  # closing tags still expected for tags that were discarded
        self._outside_reported = False  # one problem for all text between two passages
        self._new: list[Passage | Mention | str] = []

    def feed(self, text: str) -> list[Passage | Mention | str]:
        """Parses the next chunk. Returns what it completed: mentions, text between tags, and passages it opened (empty)."""
        if "<" not in text and ">" not in text and len(self._held) + len(text) < _LONGEST_TAG:
            if self._held:
                self._held += text
            else:
                self._plain(text)
            return []
        text = self._held + text
        position = 0
        for match in _TOKEN.finditer(text):
            self._plain(text[position : match.start()])
            kind, ids, words, closing, tag, attributes = match.groups()
            if tag is None:
                self._whole_mention(cast(TagKind, kind), ids, words)
            elif closing:
                self._close(tag)
            else:
                self._open(tag, attributes, match[0])
            position = match.end()
            self._offset += position - match.start()
        # "… holding <gdo cha" keeps "<gdo cha" for the next chunk.
        cut = text.rfind("<", position)
        if cut < 0 or ">" in text[cut:] or len(text) - cut >= _LONGEST_TAG:
            cut = len(text)
        self._plain(text[position:cut])
        self._held = text[cut:]
        return self._take_new()

    def _whole_mention(self, kind: TagKind, ids: str, words: str) -> None:
        if self._parts is not None and self._mention is None:
            if self._text:
                self._end_text()
            mention = Mention(kind, tuple(ids.split()), words, self._offset)
            self._parts.append(mention)
            self._new.append(mention)
            return
        start = self._offset
        tag = f"<{kind}{ids}>"
        self._open(kind, ids, tag)
        self._offset += len(tag)
        self._plain(words)
        self._close(kind)
        self._offset = start

    def close(self) -> list[Passage | Mention | str]:
        """Ends the text. Anything still open is a problem; its content so far is kept."""
        self._plain(self._held)
        self._held = ""
        if self._mention:
            self._end_mention("is not closed before the text ends")
        if self._parts is None:
            self._end_text()
        else:
            self._end_passage("is not closed before the text ends")
        return self._take_new()

    def story(self) -> Story:
        """Everything that is complete so far."""
        return Story(tuple(Passage(image, tuple(parts), offset) for image, offset, parts in self._passages))

    def _take_new(self) -> list[Passage | Mention | str]:
        new, self._new = self._new, []
        return new

    def _find(self, rule: str, message: str, offset: int) -> None:
        image = self._passages[-1][0] if self._parts is not None else None
        if self._tally.allows(rule):
            self.findings.append(Finding(rule, message, offset, image))

    def _plain(self, text: str) -> None:
        if text:
            if not self._text:
                self._text_offset = self._offset
            self._text.append(text)
            self._offset += len(text)

    def _open(self, kind: str, attributes: str, tag: str) -> None:
        if kind == "gdi":
            image = _IMAGE.fullmatch(attributes)
            if image:
                self._open_passage(int(image[1]), tag)
            else:
                self._find("tag-malformed", f"{quote(tag)} does not name an image: write <gdi image1>.", self._offset)
                self._interrupted["gdi"] += 1
            return
        if self._mention:
            self._find("tag-nested", f"{quote(tag)} is inside {self._tag()}: close that first.", self._offset)
            self._interrupted[self._mention[0]] += 1
            self._end_mention()
        else:
            self._end_text()
        if self._parts is None:
            self._outside(self._offset)
        self._mention = (kind, tuple(attributes.split()), self._offset)  # type: ignore[assignment]

    def _close(self, kind: str) -> None:
        if kind != "gdi" and self._mention:
            self._end_mention("" if kind == self._mention[0] else f"is closed by </{kind}>")
        elif self._interrupted[kind]:
            self._interrupted[kind] -= 1
        elif kind == "gdi" and self._parts is not None:
            if self._mention:
                self._end_mention("is not closed before </gdi>")
            self._end_passage()
        else:
            self._find("tag-unclosed", f"</{kind}> has no opening tag.", self._offset)

    def _open_passage(self, image: int, tag: str) -> None:
        if self._mention:
            self._end_mention(f"is not closed before {tag}")
        if self._parts is None:
            self._end_text()
        else:
            self._end_passage(f"is not closed before {tag}")
        self._parts, self._outside_reported = [], False
        self._interrupted.clear()
        self._passages.append((image, self._offset, self._parts))
        self._new.append(Passage(image, offset=self._offset))

    def _end_passage(self, fault: str = "") -> None:
        image, offset, _ = self._passages[-1]
        self._end_text(last=True)
        if fault:
            self._find("tag-unclosed", f"<gdi image{image}> {fault}.", offset)
        self._parts = None

    def _end_mention(self, fault: str = "") -> None:
        assert self._mention
        kind, ids, offset = self._mention
        if fault:
            self._find("tag-unclosed", f"{self._tag()} {fault}.", offset)
        mention = Mention(kind, ids, self._take_text(), offset)
        if self._parts is not None:
            self._parts.append(mention)
            self._new.append(mention)
        self._mention = None

    def _tag(self) -> str:
        assert self._mention
        return quote(f"<{' '.join((self._mention[0], *self._mention[1]))}>")

    def _end_text(self, last: bool = False) -> None:
        """The plain text since the last tag becomes a part of the open passage; outside of a passage it is a problem."""
        text = self._take_text()
        if self._parts is None:
            if not text.isspace() and text:
                self._outside(self._text_offset + len(text) - len(text.lstrip()))
            return
        # In "<gdi image1>⏎Sarah …⏎</gdi>" the line ends belong to the tags.
        if not self._parts:
            text = text.removeprefix("\r").removeprefix("\n")
        if last:
            # Every "\r": one left over would join the line end that `render` writes.
            text = text.removesuffix("\n").rstrip("\r")
        if text:
            self._parts.append(text)
            self._new.append(text)

    def _take_text(self) -> str:
        text = "".join(self._text)
        self._text.clear()
        almost = _ALMOST_TAG.search(text) if "<" in text else None
        if almost:
            found = quote(text[almost.start() : almost.start() + 40])
            self._find(
                "tag-malformed", f"{found} looks like a tag, but is not one.", self._text_offset + almost.start()
            )
        return text

    def _outside(self, offset: int) -> None:
        if not self._outside_reported:
            self._find("text-outside-image", "This text is outside of every <gdi imageN> … </gdi>.", offset)
        self._outside_reported = True
