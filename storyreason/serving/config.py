"""Where the gateway listens and how patient it is."""

import re

from pydantic import Field, field_validator

from storyreason.generation.config import EngineConfig


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
