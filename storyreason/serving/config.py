"""Where the gateway listens, what it accepts and how long it waits."""

import re

from pydantic import Field, field_validator

from storyreason.generation.config import EngineConfig

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServingConfig(EngineConfig):
    """The engines and the gateway in front of them. An evaluation starts its engine with the same settings."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; the default accepts connections from this machine only.",
    )
    port: int = Field(default=8400, ge=1, le=65535, description="The gateway's port. Engines use free ports behind it.")
    gateway: str = Field(
        default="",
        pattern=r"^[\w-]*$",
        description="The name of a gateway of its own, with its own port and files beside the checkout's; empty: the checkout's.",
    )
    give_way: bool = Field(
        default=False,
        description="Training on the served model's device may suspend serving: always, or, if training.free_memory_gb is "
        "set, when less memory is free. Serving resumes by itself, even after a training that failed or was killed.",
    )
    gallery: str | None = Field(
        default=None,
        description="A folder of story pages (from `storyreason page`) that the web page shows as a gallery; null: the "
        "evaluations in runs/; empty: none.",
    )
    roll: str = Field(
        default="",
        description="A shell command that makes the engine of serving.external serve a version; in it $STORYREASON_MODEL is the "
        "model's folder here, $STORYREASON_VERSION its name for `storyreason fetch` elsewhere (models:/storyteller/7), and "
        "$STORYREASON_NAMES the names to serve it under.",
    )
    models: str = Field(
        default="",
        description="The folder that must contain a deployment's model; empty: runs/, where every run writes its models.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Origins of other web pages that may use the gateway, such as https://example.org; none by default.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(),
        description="Names under which clients reach the gateway, such as stories.example.org. Addresses (192.0.2.1), "
        "localhost and the hosts of allowed_origins need no entry.",
    )
    open: bool = Field(
        default=False,
        description="Serve other machines without API keys. Otherwise a gateway that listens on another address than "
        "this machine's own needs keys to start.",
    )
    max_requests: int = Field(
        default=64, ge=1, le=1024, description="Requests being answered or waiting for an engine at a time."
    )
    body_timeout: float = Field(default=60.0, gt=0, description="Seconds that a request's body may take to arrive.")
    max_body_mb: int = Field(default=64, ge=1, le=4096, description="Largest request body, in MiB.")
    max_memory_mb: int = Field(
        default=2048, ge=16, description="Memory for the bodies of all requests at a time and their copies, in MiB."
    )
    wait_timeout: float = Field(
        default=240.0, ge=0, description="Seconds that a request waits for an engine that is restarting."
    )
    drain_timeout: float = Field(
        default=300.0,
        ge=0,
        description="Seconds that requests of a replaced engine may take to finish before it is stopped.",
    )
    restart_pause: float = Field(
        default=1.0, ge=0.1, le=60, description="Seconds before an engine that died is restarted; doubles up to 60."
    )

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[\w.\-\[\]:]+", origin):
                raise ValueError(f"{origin!r} is not an origin: write it as https://example.org, without a path.")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"[a-zA-Z0-9_.\-]+", host):
                raise ValueError(f"{host!r} is not a host name: write it as stories.example.org, without a port.")
        return tuple(host.lower() for host in hosts)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK
