"""Settings of authoring: which model writes the stories of recognized films, how it is asked, and what it may cost."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storyreason import forms

Asking = Literal["instructed", "trained"]


class AuthoringConfig(BaseModel):
    """How the stories of a new data set are written."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="The OpenAI-compatible address of the model that writes; empty: the gateway of this checkout. Its key is "
        "$STORYREASON_API_KEY.",
    )
    model: str = Field("storyteller", description="The model's name there.")
    asking: Asking = Field(
        "instructed",
        description="instructed: what is seen is told, and the format explained, for any model that follows instructions. "
        "trained: as this project's storytellers were trained; needs grammars.",
    )
    grammars: bool = Field(
        True,
        description="Whether the endpoint takes grammars, as vLLM and the gateway do. Otherwise what is wrong is sent back.",
    )
    landmarks: tuple[str, ...] = Field(
        (),
        description="Labels of detections that may be landmarks, such as building: the model names those that are, before "
        "entities are recognized again. Empty: none.",
    )
    attempts: int = Field(
        3, ge=1, le=10, description="How often an analysis, or a story, is asked for before it is left out."
    )
    cell: int = Field(
        200, ge=10, le=200, description="Most characters in a cell of an analysis that is written under a grammar."
    )
    temperature: float = Field(0.7, ge=0, le=2, description="0 always takes the likeliest token.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampling, for endpoints that take one.")
    max_tokens: int = Field(8192, ge=64, description="Longest reply in tokens.")
    test_share: float = Field(
        0.15, ge=0, lt=1, description="How many of the films are for test; all stories of a film are in one."
    )

    concurrency: int = Field(4, ge=1, le=256, description="Requests at a time.")
    requests_per_minute: float | None = Field(None, gt=0, description="Most requests in a minute; empty: no limit.")
    timeout: float = Field(600.0, gt=0, description="Seconds that one reply may take.")
    retries: int = Field(5, ge=0, le=20, description="How often a request that failed in between is sent again.")
    pause: float = Field(
        2.0,
        ge=0,
        le=60,
        description="Seconds before it is sent again; doubles each time, unless the endpoint says how long.",
    )
    price_in: float = Field(0.0, ge=0, description="What a million tokens of a request cost.")
    price_out: float = Field(0.0, ge=0, description="What a million tokens of a reply cost.")
    max_cost: float | None = Field(None, gt=0, description="What a data set may cost in all; empty: no limit.")

    @model_validator(mode="after")
    def _is_possible(self) -> "AuthoringConfig":
        if self.asking == "trained" and not self.grammars:
            raise ValueError("authoring.asking=trained needs authoring.grammars: what is wrong cannot be sent back")
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise ValueError("authoring.max_cost needs authoring.price_in and authoring.price_out, per million tokens")
        return self


HOW = ("endpoint", "concurrency", "requests_per_minute", "timeout", "retries", "pause", "price_in", "price_out", "max_cost",
       "test_share", "landmarks")  # fmt: skip
"""Settings that do not change what is written for a film."""
