"""How answers are generated, and what the engine that generates them is started with."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from storyreason import forms, model

Decoding = Literal["free", "grounded"]


class GenerationConfig(BaseModel):
    """One request for a story, and how many of them at a time. The defaults are those of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    request: str = Field(
        default="Create a story based on these images.",
        description="What the user asks for beside the images; may be empty.",
    )
    images_first: bool = Field(default=True, description="The images before the request, as the model was trained.")
    decoding: Decoding = Field(
        default="free",
        description="grounded: under grammars that keep tables, IDs, boxes and tags right; free: as the model likes. "
        "An evaluation does what evaluation.decodings says.",
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="0 takes the likeliest token: the same answer every time."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample from the likeliest tokens that sum to this probability."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="An answer's greatest length in tokens; empty: what the engine's max_model_len leaves.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the sampling; without meaning at temperature 0.")
    concurrency: int = Field(default=8, ge=1, le=1024, description="Requests at a time.")
    timeout: float = Field(default=600.0, gt=0, description="Seconds that one answer may take.")
    retries: int = Field(default=3, ge=0, le=20, description="How often a request that failed is sent again.")
    pause: float = Field(
        default=1.0, ge=0, le=60, description="Seconds before a failed request is sent again; then twice that."
    )

    def as_trained(self, folder: Path | str) -> Self:
        """These settings, but with the prompt's order in which the model of a folder was trained, where the folder says it."""
        return self.model_copy(update=model.prompt(folder))

    def prompt(self) -> dict[str, Any]:
        """The settings that make the prompt: who asks a model in another way than it was scored in asks another model."""
        return self.model_dump(include={"request", "images_first"})


class EngineConfig(BaseModel):
    """What an engine is started with, and what it must do before it serves. A deployment brings its own to the gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    devices: str | None = Field(
        default=None,
        pattern=r"^\d+(,\d+)*$",
        coerce_numbers_to_str=True,  # `--set serving.devices=0` is a number
        description="Accelerators of an engine, such as 0. Evaluations and deployments that name the same one as a "
        "training wait for each other; empty: all, and nobody waits.",
    )
    max_model_len: int = Field(default=4096, ge=128, description="Tokens of images, request and answer together.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: float32 on a CPU, the model's own on a GPU."
    )
    max_num_seqs: int = Field(default=8, ge=1, le=1024, description="Requests computed at a time; more wait.")
    images_per_prompt: int = Field(default=22, ge=1, le=256, description="Images that one request may have.")
    kv_cache_gb: int = Field(default=1, ge=1, description="On a CPU: GiB for keys and values.")
    gpu_memory: float = Field(
        default=0.45,
        gt=0,
        le=0.95,
        description="On a GPU: the part of its memory to take; above 0.5 two engines do not fit.",
    )
    startup_timeout: float = Field(
        default=240.0, gt=0, description="Seconds from an engine's start to its first answer."
    )
    stop_timeout: float = Field(default=15.0, gt=0, description="Seconds an engine gets to end before it is killed.")

    probe: Literal["none", "readable", "valid"] = Field(
        default="readable",
        description="What a new model's first story must be before it serves: nothing; one whose analysis can be read; "
        "one that keeps every rule.",
    )

    def engine(self) -> dict[str, Any]:
        """These settings alone, without those of the gateway."""
        return self.model_dump(include=set(EngineConfig.model_fields))
