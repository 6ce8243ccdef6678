"""The requests for an analysis and a story, from the prompts in this package."""

import functools
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from storyreason import chat, runs
from storyreason.authoring.config import AuthoringConfig
from storyreason.authoring.given import Given
from storyreason.format import answer
from storyreason.format.analysis import Analysis
from storyreason.format.problems import Problem
from storyreason.format.tables import SETTING_ELEMENTS
from storyreason.pictures import data_url

NAMES = ("system", "analysis", "story", "fault", "landmarks")
MOST_FAULTS = 12
"""How many faults are sent back at a time."""
Message = dict[str, Any]


@functools.cache
def _prompt(name: str) -> str:
    return resources.files("storyreason.authoring").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")


def identity(asking: str) -> str:
    """What identifies the prompts of a way of asking."""
    texts = [chat.SYSTEM_PROMPT, chat.REQUESTS[1]] if asking == "trained" else [_prompt(name) for name in NAMES]
    return runs.fingerprint(prompts=texts)


def for_analysis(config: AuthoringConfig, given: Given, images: Sequence[bytes]) -> list[Message]:
    """The messages that ask for an analysis."""
    if config.asking == "trained":
        return [*_as_trained(images), {"role": "assistant", "content": f"{answer.OPEN}\n"}]
    text = _prompt("analysis").format(
        elements=", ".join(SETTING_ELEMENTS), count=len(images), skeleton=given.skeleton()
    )
    parts = [part for number, image in enumerate(images, 1) for part in (_text(f"Image {number}:"), _picture(image))]
    return [{"role": "system", "content": _prompt("system")}, {"role": "user", "content": [*parts, _text(text)]}]


def for_story(
    config: AuthoringConfig, asked: Sequence[Message], images: Sequence[bytes], thought: str, told: Analysis
) -> list[Message]:
    """The messages that ask for the story; `asked` are those that asked for the analysis, `thought` is its text."""
    if config.asking == "trained":
        return [*_as_trained(images), {"role": "assistant", "content": answer.join(thought, "")}]
    present = "; ".join(
        f"image{section.image}: {', '.join(row.id for row in section.entities) or 'none'}" for section in told.sections
    )
    text = _prompt("story").format(count=len(images), present=present)
    return [*asked, {"role": "assistant", "content": thought}, {"role": "user", "content": text}]


def for_landmarks(
    image: bytes, boxes: Sequence[tuple[str, tuple[int, int, int, int]]], names: Sequence[str]
) -> list[Message]:
    """The messages that ask which boxes of a frame show a landmark; `boxes` have labels and corners in pixels."""
    listed = [f"{number}. {label}: {','.join(map(str, box))}" for number, (label, box) in enumerate(boxes, 1)]
    text = _prompt("landmarks").format(boxes="\n".join(listed), names=", ".join(names) or "none")
    return [{"role": "user", "content": [_picture(image), _text(text)]}]


def again(asked: Sequence[Message], reply: str, faults: Iterable[Problem]) -> list[Message]:
    """The messages that ask once more, and say which rules the reply breaks, and where."""
    found = list(faults)
    said = [f"- {place(one)}{one.rule}: {one.message}" for one in found[:MOST_FAULTS]]
    if len(found) > MOST_FAULTS:
        said.append(f"- and {len(found) - MOST_FAULTS} more like these")
    text = _prompt("fault").format(faults="\n".join(said))
    return [*asked, {"role": "assistant", "content": reply or "…"}, {"role": "user", "content": text}]


def place(problem: Problem) -> str:
    """`image 3, line 7: `, as far as it is known."""
    parts = [f"image {problem.image}"] if problem.image is not None else []
    parts += [f"line {problem.line}"] if problem.line else []
    return ", ".join(parts) + ": " if parts else ""


def _as_trained(images: Sequence[bytes]) -> list[Message]:
    found, pictures = chat.messages(len(images), chat.REQUESTS[1]), iter(images)
    for message in found:
        if isinstance(message["content"], list):
            message["content"] = [
                _picture(next(pictures)) if part["type"] == "image" else part for part in message["content"]
            ]
    return found


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _picture(image: bytes) -> Message:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}
