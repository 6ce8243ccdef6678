"""How answers are generated, and what the engine that generates them is given."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class GenerationConfig(BaseModel):
    """One request for a story, and how many of them at a time. The defaults are those of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str = Field(
        "Create a story based on these images.", description="What the user asks for, after the images; may be empty."
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest token: the same answer every time.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens that sum to this probability.")
    max_tokens: int | None = Field(
        None, ge=1, description="An answer's greatest length in tokens; empty: what the engine's max_model_len leaves."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampling; without meaning at temperature 0.")
    concurrency: int = Field(8, ge=1, le=1024, description="Requests at a time.")
    timeout: float = Field(600.0, gt=0, description="Seconds that one answer may take.")
    retries: int = Field(3, ge=0, le=20, description="How often a request that failed is sent again.")
    pause: float = Field(
        1.0, ge=0, le=60, description="Seconds before the first repetition; doubled for each further one."
    )


class EngineConfig(BaseModel):
    """What one vLLM process is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_model_len: int = Field(4096, ge=128, description="Tokens of images, request and answer together.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, the model's own on a GPU."
    )
    max_num_seqs: int = Field(8, ge=1, le=1024, description="Requests computed at a time; more wait.")
    images_per_prompt: int = Field(22, ge=1, le=256, description="Images that one request may have.")
    kv_cache_gb: int = Field(1, ge=1, description="On a CPU: GiB for keys and values.")
    gpu_memory: float = Field(
        0.45, gt=0, le=0.95, description="On a GPU: the part of its memory to take; above 0.5 two engines do not fit."
    )
    startup_timeout: float = Field(240.0, gt=0, description="Seconds from start to the first answered request.")
    stop_timeout: float = Field(15.0, gt=0, description="Seconds from the request to end until the process is killed.")
