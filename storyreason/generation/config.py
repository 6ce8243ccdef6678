"""Settings of generation, and of the engine that generates."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from storyreason import forms, model
from storyreason.format import grids

Decoding = Literal["free", "grounded"]


class GenerationConfig(BaseModel):
    """A request for a story, and how many run at a time. The defaults are those of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    request: str = Field(
        default="Create a story based on these images.",
        description="The user's request beside the images; may be empty.",
    )
    images_first: bool = Field(
        default=True, description="Images before the request; must match how the model was trained."
    )
    boxes: str = Field(
        default=grids.ORIGINAL,
        pattern=grids.CONVENTION,
        description="What the model's boxes count; must match how the model was trained (`training.boxes`). Answers are "
        "converted to pixels of the original pictures.",
    )
    decoding: Decoding = Field(
        default="free",
        description="grounded: grammars keep tables, IDs, boxes and tags valid; free: no constraint. "
        "Evaluations use evaluation.decodings instead.",
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="0 always takes the likeliest token: the same answer every time."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample from the likeliest tokens whose probabilities add up to this."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest answer in tokens; empty: what max_model_len leaves. A grounded answer may take more to end whole.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the sampling; without meaning at temperature 0.")
    concurrency: int = Field(default=8, ge=1, le=1024, description="Requests at a time.")
    timeout: float = Field(default=600.0, gt=0, description="Seconds that one answer may take.")
    retries: int = Field(default=3, ge=0, le=20, description="How often a failed request is sent again.")
    pause: float = Field(
        default=1.0, ge=0, le=60, description="Seconds before a failed request is sent again; doubles each time."
    )

    def as_trained(self, folder: Path | str) -> Self:
        """These settings as the model of a folder was trained, if the folder records it: the prompt's order, its boxes."""
        return self.model_copy(update=model.prompt(folder))

    def prompt(self) -> dict[str, Any]:
        """How the model is asked, and what its boxes count: asked or read in another way it behaves like another model."""
        return self.model_dump(include={"request", "images_first", "boxes"})


OWN_OPTIONS = {
    "--max-model-len": "max_model_len",
    "--max-num-seqs": "max_num_seqs",
    "--limit-mm-per-prompt": "images_per_prompt",
    "--dtype": "dtype",
    "--gpu-memory-utilization": "gpu_memory",
    "--tensor-parallel-size": "tensor_parallel",
    "--data-parallel-size": "data_parallel",
    "--quantization": "quantization",
    "--kv-cache-dtype": "kv_cache_dtype",
}
"""The options of `vllm serve` that a setting stands for."""
_SHORT = {"-tp": "--tensor-parallel-size", "-dp": "--data-parallel-size", "-q": "--quantization"}
_FIXED = ("--model", "--served-model-name", "--host", "--port", "--enforce-eager", "--disable-uvicorn-access-log",
          "--generation-config", "--api-key", "--ssl-keyfile", "--ssl-certfile", "--root-path", "--config", "--uds")  # fmt: skip
"""Those that the gateway and the evaluation rely on."""


class EngineConfig(BaseModel):
    """Settings of an engine, and what it must do before it serves. Each deployment brings its own to the gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    devices: str | None = Field(
        default=None,
        pattern=r"^\d+(,\d+)*$",
        coerce_numbers_to_str=True,  # `--set serving.devices=0` is a number
        description="Accelerators of an engine, such as 0 or 0,1. Trainings, evaluations and deployments that name the "
        "same one wait for each other; empty: all of them, and nothing waits.",
    )
    max_model_len: int = Field(
        default=4096, ge=128, description="Longest context in tokens: images, request and answer."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: float32 on a CPU, the weights' own on a GPU."
    )
    max_num_seqs: int = Field(default=8, ge=1, le=1024, description="Requests in a batch; others wait.")
    images_per_prompt: int = Field(default=22, ge=1, le=256, description="Most images in a request.")
    kv_cache_gb: int = Field(default=1, ge=1, description="On a CPU: GiB for the key-value cache.")
    gpu_memory: float = Field(
        default=0.45,
        gt=0,
        le=0.95,
        description="On a GPU: fraction of its memory to use; above 0.5 two engines do not fit.",
    )
    tensor_parallel: int = Field(default=1, ge=1, le=64, description="GPUs that share the weights of one model.")
    data_parallel: int = Field(
        default=1, ge=1, le=64, description="Copies of the model in an engine, each on tensor_parallel GPUs of its own."
    )
    quantization: str | None = Field(
        default=None,
        pattern=r"^[\w-]+$",
        description="How vLLM stores the weights, such as fp8; empty: as they are in the model's folder.",
    )
    kv_cache_dtype: str = Field(
        default="auto", pattern=r"^\w+$", description="Type of the key-value cache, such as fp8; auto: the model's."
    )
    extra_args: list[str] = Field(
        default=[],
        description='More options of `vllm serve`, handed on as they are: ["--max-num-batched-tokens=8192"].',
    )
    external: str = Field(
        default="",
        pattern=r"^(https?://[\w.\-\[\]:]+)?$",
        description="Serve from an engine that runs already, such as http://engine:8000; empty: start vLLM. Evaluations start "
        "their own.",
    )
    startup_timeout: float = Field(
        default=240.0, gt=0, description="Seconds that an engine may take from its start to its first answer."
    )
    stop_timeout: float = Field(
        default=15.0, gt=0, description="Seconds that an engine may take to stop before it is killed."
    )

    probe: Literal["none", "readable", "valid"] = Field(
        default="readable",
        description="What is required of a new model's first story before it serves: nothing; an analysis that can be "
        "read; no broken rule.",
    )

    @field_validator("extra_args")
    @classmethod
    def _leave_ours_alone(cls, given: list[str]) -> list[str]:
        """Reject options that we set: vLLM would take the last of two without a word."""
        for argument in given:
            if not argument.startswith("-"):
                continue
            name = argument.partition("=")[0]
            name = _SHORT.get(name, "--" + name.lstrip("-").replace("_", "-"))
            if name in OWN_OPTIONS:
                raise ValueError(f"{argument} has a setting of its own: use serving.{OWN_OPTIONS[name]}")
            if name in _FIXED:
                raise ValueError(f"{argument} is set by storyreason and cannot be changed: leave it out")
        return given

    def engine(self) -> dict[str, Any]:
        """Only the engine's settings, without those of the gateway, as JSON values: so they compare equal to a stored answer."""
        return self.model_dump(mode="json", include=set(EngineConfig.model_fields))
