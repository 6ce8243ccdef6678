"""Where the gateway listens, and how patient it is."""

from pydantic import BaseModel, ConfigDict, Field

from storyreason.generation.config import EngineConfig


class ServingConfig(BaseModel):
    """The gateway and the engines it starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; the default is this machine alone.")
    port: int = Field(8400, ge=1, le=65535, description="The gateway's port. Engines choose free ones behind it.")
    engine: EngineConfig = Field(default_factory=EngineConfig, description="What each vLLM process is given.")
    max_body_mb: int = Field(64, ge=1, le=4096, description="Largest request body, in MiB.")
    wait_timeout: float = Field(
        240.0, ge=0, description="Seconds that a request waits for an engine that is being restarted."
    )
    drain_timeout: float = Field(
        300.0, ge=0, description="Seconds that the requests of a replaced engine get to end, before it is stopped."
    )
    restart_pause: float = Field(
        1.0, ge=0, le=60, description="Seconds before an engine that died is started again; doubled up to 60."
    )
