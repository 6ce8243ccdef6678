"""Whether a model that just started can tell a story."""

from collections.abc import Sequence
from typing import Literal

from storyreason.chat import picture_size
from storyreason.errors import EngineError
from storyreason.format import answer, rules
from storyreason.generation.config import GenerationConfig
from storyreason.generation.openai import tell


def tell_and_check(
    url: str,
    model: str,
    images: Sequence[bytes],
    config: GenerationConfig,
    wanted: Literal["none", "readable", "valid"],
) -> str:
    """Let the engine at `url` tell one story and give it back; raises EngineError when it is not what is wanted."""
    text = tell(url, model, images, config).text
    read = answer.read(text)
    if wanted != "none" and not read.readable:
        raise EngineError(
            f"It answers, but its story of {len(images)} images has no analysis that can be read: {_start(text)!r}. "
            "Deploy a model that was trained on stories, or set serving.probe to none."
        )
    if wanted == "valid" and not rules.is_valid(
        problems := rules.check(read, [picture_size(image) for image in images])
    ):
        raise EngineError(
            f"It answers, but its story of {len(images)} images breaks rules ({problems[0].message}): deploy a better "
            "model, or set serving.probe to readable."
        )
    return text


def _start(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
