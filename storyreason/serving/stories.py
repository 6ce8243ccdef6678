"""`/v1/stories`: images in, a grounded story out, read and checked; `/v1/stories/read`: the same of a text that is there."""

import asyncio
import base64
import binascii
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storyreason import answer as answers
from storyreason.chat import picture_size
from storyreason.errors import EngineAwayError, EngineError, GatewayError
from storyreason.generation import predictions
from storyreason.generation.config import Decoding, GenerationConfig
from storyreason.serving.config import ServingConfig
from storyreason.serving.engines import Engines

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import JSONResponse

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MOST_PIXELS = 40_000_000
"""Of one image: no film frame has more, and a bomb of a few kilobytes has thousands of millions."""


class Asked(BaseModel):
    """The body of `POST /v1/stories`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: tuple[str, ...] = Field(min_length=1, description="The frames in order: data URLs, or Base64 alone.")
    request: str | None = Field(default=None, max_length=4000, description="What to ask for beside the images.")
    decoding: Decoding = Field(default="grounded", description="grounded: the answer cannot break a rule.")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 takes the likeliest token.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the sampling.")
    max_tokens: int | None = Field(default=None, ge=1, description="An answer's greatest length in tokens.")


class Text(BaseModel):
    """The body of `POST /v1/stories/read`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = Field(default=None, description="Analysis and story, `<think>` to `</gdi>`.")
    analysis: str | None = Field(default=None, description="Instead of `answer`: the analysis without `<think>`,")
    story: str | None = Field(default=None, description="and the story.")
    images: tuple[str, ...] = Field(default=(), description="Its frames, to check the boxes and to show them.")

    @model_validator(mode="after")
    def _one_or_both(self) -> "Text":
        if (self.answer is None) == (self.analysis is None or self.story is None):
            raise ValueError("send `answer`, or both `analysis` and `story`")
        return self

    @property
    def whole(self) -> str:
        """The answer, whichever way it was sent."""
        if self.answer is not None:
            return self.answer
        return answers.join(*(str(part).strip("\r\n") for part in (self.analysis, self.story)))


class RefusedError(Exception):
    """A request that is not served, with the status and the sentence for it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Stories:
    """The two handlers. Nothing of a request is fetched from the network or touches the disk."""

    def __init__(self, engines: Engines, config: ServingConfig) -> None:
        self.engines = engines
        self.config = config

    async def tell(self, request: "Request") -> "JSONResponse":
        return await self._guarded(request, self._tell)

    async def read(self, request: "Request") -> "JSONResponse":
        return await self._guarded(request, self._read)

    async def _guarded(self, request: "Request", handler: Any) -> "JSONResponse":
        from starlette.responses import JSONResponse

        try:
            return JSONResponse(await handler(await self._body(request)))
        except RefusedError as refusal:
            status, sentence = refusal.status, str(refusal)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"])) or "the body"
            status, sentence = 400, f"{where}: {fault['msg']}."
        except (EngineAwayError, GatewayError) as error:
            status, sentence = 503, str(error)
        except EngineError as error:
            status, sentence = 422, str(error)
        return JSONResponse({"error": {"message": sentence, "code": status}}, status)

    async def _body(self, request: "Request") -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > self.config.max_body_mb * 2**20:
                raise RefusedError(
                    413, f"The request is larger than {self.config.max_body_mb} MiB (serving.max_body_mb)."
                )
        return b"".join(parts)

    async def _tell(self, body: bytes) -> dict[str, Any]:
        asked = Asked.model_validate_json(body)
        images = await asyncio.to_thread(self._pictures, asked.images)
        wanted = asked.model_dump(include={"decoding", "temperature", "seed", "max_tokens"})
        config = GenerationConfig(**wanted, **({} if asked.request is None else {"request": asked.request}))
        async with self.engines.engine() as engine:  # one engine for both stages, whatever takes over meanwhile
            version = self.engines.served.version if self.engines.served else None
            told = await asyncio.to_thread(
                predictions.answer_to, engine.server.url, engine.server.name, "story", images, config
            )
        read = await asyncio.to_thread(_reading, told.answer, images)
        return {"answer": told.answer, "version": version, "cut": told.cut, "mended": told.mended, **read}

    async def _read(self, body: bytes) -> dict[str, Any]:
        text = Text.model_validate_json(body)
        images = await asyncio.to_thread(self._pictures, text.images)
        return {"answer": text.whole, **await asyncio.to_thread(_reading, text.whole, images)}

    def _pictures(self, images: tuple[str, ...]) -> list[bytes]:
        """Encoded pictures, each looked at as far as its header. Raises RefusedError that names the image, from 1."""
        from PIL import Image

        if len(images) > self.config.images_per_prompt:
            most = self.config.images_per_prompt
            raise RefusedError(
                400, f"{len(images)} images are too many: send {most} at most (serving.images_per_prompt)."
            )
        pictures = []
        for number, text in enumerate(images, 1):
            try:
                encoded = base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text, validate=True)
                with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
                    width, height = picture.size
            except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                raise RefusedError(
                    400, f"Image {number} is no picture in Base64: send {', '.join(FORMATS)}, as a data URL or plain."
                ) from None
            if width * height > MOST_PIXELS:
                raise RefusedError(400, f"Image {number} has {width} x {height} pixels: send {MOST_PIXELS:,} at most.")
            pictures.append(encoded)
        return pictures


def _reading(text: str, images: list[bytes]) -> dict[str, Any]:
    """What the page shows of an answer (`page.view`), and what breaks a rule in it."""
    from storyreason import answer, page, rules

    sizes = [picture_size(image) for image in images] or None
    problems = rules.check(answer.read(text), sizes)
    return {
        "valid": rules.is_valid(problems),
        "problems": [{"severity": rules.RULES[one.rule].severity, **asdict(one)} for one in problems],
        "view": page.view("story", images, text),
    }
