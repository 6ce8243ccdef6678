"""What a judge is asked, and what its reply says."""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from storyreason import runs
from storyreason.authoring.prompting import Message
from storyreason.pictures import data_url

PROMPT = "compare-1"
"""The file of the prompt in `prompts/`. A prompt that says something else is a new file: reports name theirs."""
RUBRICS: Mapping[str, str] = {
    "hallucination": "nothing is told that the images do not show. 5: nothing is made up; 1: most of it is",
    "creativity": "it is a story that holds the interest, not a list of what is seen",
    "description": "people, things and places are described as the images show them, in detail",
    "coherence": "one thing leads to another, and the parts belong together in this order",
    "identity": "whoever is the same in several images has one name and one ID, and nobody else has them",
    "action": "what people do in each image is what the image shows",
}
"""From 1 to 5, more is better. The first four are the StoryReasoning paper's (arXiv 2505.10292); the others are ours."""
LEAST, MOST = 1, 5
LONGEST = 300
"""Characters of what a judge says beside its ratings."""

Ratings = dict[str, int]


@functools.cache
def text() -> str:
    """The prompt, as its file has it."""
    return resources.files("storyreason.judging").joinpath("prompts", f"{PROMPT}.md").read_text(encoding="utf-8")


def identity() -> str:
    """16 hex digits that identify what a judge is asked."""
    return runs.fingerprint(prompt=text(), rubrics=dict(RUBRICS))


def messages(images: Sequence[bytes], a: str, b: str) -> list[Message]:
    """The messages that ask for a comparison of two stories of the same images."""
    asked = text().format(count=len(images), a=a, b=b, **_rubrics())
    pictures = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": asked}]}]


def template() -> str:
    """The prompt with `{{count}}`, `{{a}}` and `{{b}}` for what differs, as MLflow's prompt registry has it."""
    return text().format(**{name: f"{{{{{name}}}}}" for name in ("count", "a", "b")}, **_rubrics())


def _rubrics() -> dict[str, str]:
    listed = "\n".join(f"- {name}: {meaning}" for name, meaning in RUBRICS.items())
    return {"rubrics": listed, "names": ", ".join(RUBRICS)}


def schema() -> dict[str, Any]:
    """The JSON schema of a reply."""
    rating = {"type": "integer", "enum": list(range(LEAST, MOST + 1))}
    ratings = _object(dict.fromkeys(RUBRICS, rating))
    return _object({"why": {"type": "string", "maxLength": LONGEST}, "a": ratings, "b": ratings})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def read(reply: str) -> tuple[Ratings, Ratings] | None:
    """The ratings of both stories; None if the reply is not as `schema` wants it."""
    try:
        found = json.loads(reply)
        a, b = ({name: found[which][name] for name in RUBRICS} for which in ("a", "b"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    right = all(type(one) is int and LEAST <= one <= MOST for rated in (a, b) for one in rated.values())
    return (a, b) if right else None
