"""The bodies of requests for stories."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from storyreason.format import answer as answers
from storyreason.generation.config import Decoding
from storyreason.serving import limits
from storyreason.serving.errors import RefusedError

MAX_CHARACTERS = 500_000
"""Characters of a text to read, at most: many times the length of a model's answer."""
MAX_FIELDS = 20
"""Fields of a body, at most. Each unknown field would be an error of its own."""

Images = Annotated[tuple[str, ...], FailFast(), Field(max_length=10_000)]
"""Fails at the first fault: there may be millions."""


class StoryRequest(BaseModel):
    """The body of `POST /v1/stories`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Images = Field(min_length=1, description="The frames in order, as data URLs or plain Base64.")
    request: str | None = Field(
        default=None,
        max_length=4000,
        description="The user's request; by default the one that the model was scored with.",
    )
    model: str | None = Field(
        default=None, max_length=300, description="One of GET /v1/models; by default the served model."
    )
    decoding: Decoding = Field(
        default="grounded", description="grounded: grammars keep the answer valid; free: no constraint."
    )
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 always takes the likeliest token.")
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed for sampling.")
    max_tokens: int | None = Field(
        default=None, ge=1, description="Longest answer in tokens; by default what the engine's context leaves."
    )


class ReadRequest(BaseModel):
    """The body of `POST /v1/stories/read`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = Field(
        default=None, max_length=MAX_CHARACTERS, description="Analysis and story, from `<think>` to the last `</gdi>`."
    )
    analysis: str | None = Field(
        default=None, max_length=MAX_CHARACTERS, description="Instead of `answer`: the analysis, without `<think>`."
    )
    story: str | None = Field(default=None, max_length=MAX_CHARACTERS, description="Instead of `answer`: the story.")
    images: Images = Field(default=(), description="The frames, to check boxes against and to show.")

    @model_validator(mode="after")
    def _one_or_both(self) -> "ReadRequest":
        if (self.answer is None) == (self.analysis is None or self.story is None):
            raise ValueError("send `answer`, or both `analysis` and `story`")
        return self

    @property
    def whole(self) -> str:
        """The answer, in whichever form it was sent."""
        if self.answer is not None:
            return self.answer
        return answers.join(*(str(part).strip("\r\n") for part in (self.analysis, self.story)))


Body = TypeVar("Body", StoryRequest, ReadRequest)


def parsed(kind: type[Body], body: bytes) -> Body:
    """Parse the body of a request. Raises RefusedError, or ValidationError with few errors."""
    fields = limits.json_object(body)
    if len(fields) > MAX_FIELDS:
        raise RefusedError(400, f"The body has {len(fields)} fields: send only {', '.join(kind.model_fields)}.")
    return kind.model_validate(fields)
