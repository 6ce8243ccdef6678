"""What a vLLM process is given, where the gateway listens, and how patient both are."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from storyreason import forms


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


class ServingConfig(EngineConfig):
    """The engines, and the gateway before them. An evaluation starts its engine with the same settings."""

    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; the default is this machine alone."
    )
    port: int = Field(
        default=8400, ge=1, le=65535, description="The gateway's port. Engines choose free ones behind it."
    )
    give_way: bool = Field(
        default=False,
        description="A training on a device of the served model may take it down for the time: always, or, with "
        "training.free_memory_gb, when less is free. It comes back by itself, also after a training that failed or was killed.",
    )
    gallery: str = Field(
        default="",
        description="A folder of story pages (of `storyreason page`, of evaluations: runs/evaluate) that the web page "
        "shows as a gallery; empty: none.",
    )
    models: str = Field(
        default="",
        description="The folder under which a deployment's model lies; empty: runs/, where every run puts them.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Web pages from elsewhere that may use the gateway, as https://example.org; none by default.",
    )
    max_requests: int = Field(
        default=64, ge=1, le=1024, description="Requests that are answered or wait for an engine at a time."
    )
    body_timeout: float = Field(default=60.0, gt=0, description="Seconds that a request's body may take to arrive.")
    max_body_mb: int = Field(default=64, ge=1, le=4096, description="Largest request body, in MiB.")
    wait_timeout: float = Field(
        default=240.0, ge=0, description="Seconds a request waits for an engine that is restarted."
    )
    drain_timeout: float = Field(
        default=300.0,
        ge=0,
        description="Seconds that the requests of a replaced engine get to end, before it is stopped.",
    )
    restart_pause: float = Field(
        default=1.0, ge=0.1, le=60, description="Seconds before an engine that died is started again; doubled up to 60."
    )

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[\w.\-\[\]:]+", origin):
                raise ValueError(f"{origin!r} is no origin: write it as https://example.org, without a path.")
        return origins
