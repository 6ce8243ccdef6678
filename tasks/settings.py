"""The settings of a checkout, and where Prefect, MLflow and DVC keep their state, without telemetry.

They are environment variables, set before these libraries are first imported; what the caller or `.env` sets wins.
"""

import io
import logging
import os
import tarfile
import urllib.error
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import available_timezones

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from storyreason import home, runs
from storyreason.errors import ConfigError, RunError, StoryReasonError, without_password

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Settings(BaseSettings):
    """What a checkout sets in `.env` or the environment, with the prefix `STORYREASON_`; `.env.example` lists all."""

    model_config = SettingsConfigDict(env_prefix="STORYREASON_", frozen=True, env_ignore_empty=True)

    prefect_port: int = Field(
        4200, ge=1, le=65535, description="The port of Prefect's server, which `storyreason up` starts."
    )
    mlflow_port: int = Field(5000, ge=1, le=65535, description="The port of MLflow's server.")
    gateway_port: int = Field(8400, ge=1, le=65535, description="The port of the gateway.")
    preset: str = Field("sample", description="The preset of runs that start automatically.")
    cron: str = Field("0 4 * * 1", description="When a retraining starts automatically.")
    timezone: str = Field("UTC", description="The time zone in which `cron` is read.")
    clean: str = Field("", description="When to clean automatically, as a cron expression; empty: never.")
    heartbeat: int = Field(30, ge=30, le=3600, description="Seconds between two heartbeats of a flow run.")
    notify: str = Field(
        "",
        repr=False,
        description="Where to report runs that failed, crashed, are late or not promoted: an Apprise URL.",
    )
    main_address: str = Field("", description="The address:port of the first machine of a distributed training.")
    mlflow_store: str = Field("", repr=False, description="MLflow's database; empty: SQLite under `runs/`.")
    mlflow_artifacts: str = Field("", description="Where MLflow's server puts artifacts; empty: under `runs/`.")

    artifacts: str = Field(
        "",
        repr=False,
        description="Where versions' bytes are kept for other machines, such as s3://bucket/models; empty: here only.",
    )
    cache_gb: float = Field(100.0, gt=0, description="Most GB of versions from other machines that are kept here.")

    follow: bool = Field(
        False, description="Deploy the version that somebody makes the champion in MLflow, on its page or by its API."
    )

    @field_validator("timezone")
    @classmethod
    def _is_a_timezone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("expected the name of a time zone, such as Europe/Berlin")
        return value

    @field_validator("notify")
    @classmethod
    def _reaches_somebody(cls, value: str) -> str:
        # Prefect takes any address, and notifies nobody when Apprise does not know it.
        if value:
            from apprise import Apprise

            logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it logs the address, a secret
            if not Apprise().add(value):
                raise ValueError(
                    "expected an Apprise URL, such as mailto://user:password@example.org or json://host/path"
                )
        return value

    @field_validator("mlflow_store")
    @classmethod
    def _has_a_driver(cls, value: str) -> str:
        # MLflow's default driver is under the LGPL and not in the lock.
        if value.startswith("postgresql:") and find_spec("psycopg2") is None:
            raise ValueError("expected the driver that is installed: postgresql+pg8000://user:password@host/mlflow")
        return value

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def environment(self) -> dict[str, str]:
        """Every setting as its environment variable."""
        return {f"STORYREASON_{name.upper()}": str(value) for name, value in self.model_dump().items()}


def read_dotenv() -> None:
    """Set the variables of the checkout's `.env` that the environment does not set."""
    if (path := home.folder() / ".env").is_file():
        from dotenv import load_dotenv

        load_dotenv(path)


def read_dotenv_of(backup: Path) -> None:
    """Set the variables of the `.env` that a backup brings, if this checkout has none: they may say where `runs/` is."""
    if (home.folder() / ".env").exists():
        return
    from dotenv import load_dotenv

    with suppress(OSError, tarfile.TarError, KeyError), tarfile.open(backup) as tar:  # a restore says what is wrong
        if (brought := tar.extractfile("checkout/.env")) is not None:
            load_dotenv(stream=io.StringIO(brought.read().decode()))


def in_dotenv() -> list[str]:
    """The names of the variables in the checkout's `.env`."""
    if not (path := home.folder() / ".env").is_file():
        return []
    from dotenv import dotenv_values

    return sorted(dotenv_values(path))


def read() -> Settings:
    """The settings of this checkout. Raises ConfigError, which names the variable, its value and what was expected."""
    try:
        return Settings()
    except ValidationError as error:
        said = "; ".join(
            f"STORYREASON_{str(fault['loc'][0]).upper()}={_shown(str(fault['loc'][0]), str(fault['input']))}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ConfigError(f"{said}. Change it in .env or in the environment.") from None


def _shown(name: str, value: str) -> str:
    """A setting's value as messages show it: each part of an address to notify may be a secret."""
    return "***" if name == "notify" else without_password(value)


def prepare() -> None:
    """Point Prefect, MLflow and DVC to `runs/` of this checkout, unless the environment says otherwise.

    Raises RunError for a place that the address of an SQLite database cannot name.
    """
    read_dotenv()
    root = runs.place()
    if "?" in str(root):
        raise RunError(
            f"Prefect and MLflow cannot keep their databases in {root}: what follows the ? would be lost. Move the checkout, or "
            "set STORYREASON_RUNS to a folder without a question mark in its path."
        )
    root = runs.root()
    (root / "mlflow").mkdir(exist_ok=True)
    store = os.environ.get("STORYREASON_MLFLOW_STORE") or f"sqlite:///{root / 'mlflow' / 'mlflow.db'}"
    for name, value in {
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # A slot that a run holds must survive a restart of the server.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DVC_NO_ANALYTICS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    _keep_loopback_off_proxies()
    # By default Prefect keeps results in the user's home, which other checkouts share, whatever PREFECT_HOME says.
    os.environ.setdefault("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(Path(os.environ["PREFECT_HOME"]) / "storage"))
    os.environ.setdefault("PREFECT_SERVER_MEMO_STORE_PATH", str(Path(os.environ["PREFECT_HOME"]) / "memo_store.toml"))


def _keep_loopback_off_proxies() -> None:
    """Prefect's client, MLflow's and urllib would send requests to this machine's servers through `http_proxy`."""
    names = ("no_proxy", "NO_PROXY")  # libraries differ in which one they read
    listed = [host.strip() for name in names for host in os.environ.get(name, "").split(",")]
    excepted = ",".join(dict.fromkeys(host for host in [*listed, *LOOPBACK] if host))
    os.environ.update(dict.fromkeys(names, excepted))


class PlainFailures(logging.Filter):
    """Log a StoryReasonError as its message alone; keep the stack trace of every other failure."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, StoryReasonError):
            record.exc_info = record.exc_text = None
            record.msg, record.args = str(error), ()
        return True


def answers(url: str) -> bool:
    """Whether an HTTP server answers there within five seconds, with any status."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
