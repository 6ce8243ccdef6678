"""The vLLM process, as evaluation and the gateway use it: start, probe, stop."""

import contextlib
import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from storyreason import adapters, guard, pictures
from storyreason.architecture import Family
from storyreason.errors import EngineError
from storyreason.format import answer, rules
from storyreason.generation import answering, command, lora
from storyreason.generation.config import EngineConfig, GenerationConfig
from storyreason.generation.openai import tell
from storyreason.model import known_family

NAME = "storyteller"
"""The model's name in requests, the same for every version."""

MOST = 400
"""How many characters of vLLM's own words a message quotes."""
GIB = 2**30
PROCESSES_GIB = 2.0
"""Memory of vLLM's processes beside weights and cache: 1.4 GiB measured with a tiny model on a CPU, rounded up."""


class VllmServer:
    """One vLLM process with one model, on a free port of this machine.

    with VllmServer(folder, config, log=Path("vllm.log")) as server:
        tell(server.url, server.name, images, GenerationConfig())
    """

    def __init__(
        self, model: Path | str, config: EngineConfig, log: Path, name: str = NAME, revision: str | None = None
    ) -> None:
        """`model` is a model folder or a model's name on the Hub, there of a `revision`; `name` is what requests call it. vLLM's
        output is appended to `log`."""
        self.model = model
        self.revision = None if Path(model).is_dir() else revision
        self.config = config
        self.log = log
        self.name = name
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def url(self) -> str:
        """Address of the engine, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it has answered a real request.

        Raises EngineError, and leaves nothing running, if it exits or does not answer within `startup_timeout` seconds.
        """
        line = self._command()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = guard.start(line, self.log, self._environment())
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def alive(self) -> bool:
        """Whether the process is running. It may still be starting."""
        return self._process is not None and self._process.poll() is None

    def probe(self, timeout: float = 10.0) -> None:
        """Raise EngineError unless the engine lists its model and generates one token about a grey picture."""
        import httpx

        try:
            listed = httpx.get(f"{self.url}/v1/models", timeout=timeout, trust_env=False).raise_for_status().json()
            names = [model["id"] for model in listed["data"]]
        except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise EngineError(
                f"vLLM on port {self.port} does not list its models ({error!r}); see {self.log}."
            ) from None
        if self.name not in names:
            raise EngineError(f"Port {self.port} does not serve {self.name!r}: another server has taken it.")
        tell(self.url, self.name, [grey_picture()], GenerationConfig(max_tokens=1, timeout=timeout))

    def stop(self) -> None:
        """Stop the process and everything it started; requests in flight are aborted. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.config.stop_timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _command(self) -> list[str]:
        vllm = Path(sys.executable).with_name("vllm")
        if not vllm.exists():
            raise EngineError(
                f"vLLM is not installed in this environment ({vllm} is missing): install it with `make install`."
            )
        _check_model(self.model)
        command.check(self.config, gpus, self.model)
        adapter = adapters.of(self.model)
        served = (adapter.base, lora.BASE) if adapter else (str(self.model), self.name)
        self.port = _free_port()
        begin = [str(vllm), "serve", served[0], "--served-model-name", served[1]]
        begin += ["--host", "127.0.0.1", "--port", str(self.port)]
        begin += lora.arguments(adapter, self.name) if adapter else []
        begin += ["--revision", self.revision] if self.revision else []  # of its tokenizer and processor, too
        family = known_family(str(self.model), self.revision)
        _refuse_untold(family)
        begin += command.of_family(family)
        return [*begin, *command.arguments(self.config, on_cpu())]

    def _environment(self) -> dict[str, str]:
        environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "true"}
        adapter = adapters.of(self.model)
        if adapter:
            environment |= lora.ALLOWED
        if Path(adapter.base if adapter else self.model).is_dir():
            environment["HF_HUB_OFFLINE"] = "1"
        if self.config.devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.config.devices
        if on_cpu():
            environment["VLLM_CPU_KVCACHE_SPACE"] = str(self.config.kv_cache_gb)
            # One process fewer: the model runs in the engine's core instead of a worker. Measured with a tiny model on
            # two cores: 31 instead of 44 s of CPU time to start, 0.4 GiB less, 40 % less time per token. vLLM then does
            # not pin threads to cores, which two engines would share, so the number of threads is set here.
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
            cores = max(1, (os.cpu_count() or 1) - 1)  # one for serving and tokenizing
            environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(cores))
        return environment

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self.config.startup_timeout
        while not _listens(self.port):
            if not self.alive():
                raise EngineError(f"vLLM did not start on {self.model}: {self._cause()} Its output is in {self.log}.")
            if time.monotonic() > deadline:
                raise EngineError(
                    f"vLLM on {self.model} did not answer within {self.config.startup_timeout:.0f} s. Raise "
                    f"serving.startup_timeout if the machine is slow; its output is in {self.log}."
                )
            time.sleep(0.25)
        self.probe(timeout=max(10.0, deadline - time.monotonic()))

    def _cause(self) -> str:
        """The line of the log that names the root cause: the deepest error, not those that it led to."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        lines = [re.sub(r"^(\(\w+ pid=\d+\) )?(\w+ [\d-]+ [\d:]+ \[[^]]*\] )?", "", line).strip() for line in lines]
        exception = r"[\w.]*(Error|Exception)\b[^:]*:"
        errors = [_with_reason(lines[place:]) for place, line in enumerate(lines) if re.match(exception, line)]
        deep = [line for line in errors if not re.search(r"initialization failed|root cause", line)]
        said = (deep or errors or [line for line in lines if line] or ["it printed nothing"])[-1][:MOST]
        return said if said.endswith(".") else said + "."


def _with_reason(lines: list[str]) -> str:
    """The first line, an error; if it only counts what pydantic found, the first thing that it found, which follows.

    `…ValidationError: 1 validation error for ModelConfig`, `Value error, Unknown method: x. [type=value_error, …` becomes
    `Unknown method: x.`, with a field's name before it if there is one.
    """
    found = next((place for place, line in enumerate(lines[:4]) if " [type=" in line), 0)
    if not found or " validation error" not in lines[0]:
        return lines[0]
    reason = lines[found].partition(" [type=")[0].removeprefix("Value error, ")
    return ": ".join([*lines[1:found], reason])


def tell_and_check(
    url: str,
    model: str,
    images: Sequence[bytes],
    config: GenerationConfig,
    wanted: Literal["none", "readable", "valid"],
) -> str:
    """The story of the engine at `url` about `images` (encoded). Raises EngineError if it is not `wanted` or better."""
    text = answering.answer_to(url, model, "probe", images, config.model_copy(update={"decoding": "free"})).answer
    read = answer.read(text)
    if wanted != "none" and not read.readable:
        raise EngineError(
            f"The model answers, but the analysis in its story of {len(images)} images cannot be read: {_beginning(text)!r}. "
            "Deploy a model that was trained on stories, or set serving.probe to none."
        )
    if wanted == "valid" and not rules.is_valid(
        problems := rules.check(read, [pictures.size(image) for image in images])
    ):
        raise EngineError(
            f"The model answers, but its story of {len(images)} images breaks rules ({problems[0].message}): deploy a better "
            "model, or set serving.probe to readable."
        )
    return text


def refuse_untold(model: Path | str) -> None:
    """Raise EngineError for a model folder of a family that the installed vLLM does not tell as transformers does.

    A folder that is not there yet and a name on the Hub are looked at when an engine starts.
    """
    if (Path(model) / "config.json").is_file():
        _refuse_untold(known_family(str(model)))


def _refuse_untold(family: Family | None) -> None:
    if family is not None and not family.told_on_cpu and on_cpu():
        raise EngineError(
            f"vLLM's build for CPUs tells another text of {family.name} than transformers: train it with `--until train`, and "
            "evaluate and serve it on a machine with a GPU."
        )


def on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build. Raises EngineError if none is installed."""
    try:
        return "cpu" in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise EngineError("vLLM is not installed in this environment: install it with `make install`.") from None


def gpus() -> int:
    """How many GPUs an engine may use here; 0 with a CPU build of vLLM."""
    if on_cpu():
        return 0
    import torch

    return torch.cuda.device_count()


def visible_gpus() -> list[str]:
    """The GPUs that an engine may use here, by the names that its environment takes: where `CUDA_VISIBLE_DEVICES` is `2,3`, as
    Slurm sets it, those; otherwise their numbers. Empty with a CPU build of vLLM."""
    count = gpus()
    given = [name for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if (name := one.strip())]
    return given[:count] or [str(number) for number in range(count)]


def memory_needed(model: Path | str, config: EngineConfig) -> int:
    """Bytes of main memory that an engine will use: a rough upper estimate, without a GPU's memory."""
    if not on_cpu():
        return int(2 * PROCESSES_GIB * GIB)
    adapter = adapters.of(model)
    folder = Path(adapter.base if adapter else model)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    stored = _stored_dtype(folder)
    computed = "float32" if config.dtype == "auto" else config.dtype
    growth = _bytes_of(computed) / _bytes_of(stored)
    return int(weights * growth * 1.1 + (config.kv_cache_gb + PROCESSES_GIB) * GIB)


def check_memory(model: Path | str, config: EngineConfig) -> None:
    """Raise EngineError if the machine's free memory is too small for one more engine with this model."""
    import psutil

    needed, free = memory_needed(model, config), psutil.virtual_memory().available
    if needed > free:
        raise EngineError(
            f"An engine for {model} needs about {needed / GIB:.1f} GiB of memory and {free / GIB:.1f} GiB are free: "
            "close other programs, lower serving.kv_cache_gb, or stop the gateway first."
        )


def _beginning(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"


def _check_model(model: Path | str) -> None:
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EngineError(f"{folder} is not a model folder: it has no config.json. Name the folder that has one.")
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise EngineError(f"There is no model folder {model}: name a folder, or a model on the Hub as owner/name.")


def _stored_dtype(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text())
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")
    except (OSError, ValueError, AttributeError):
        return "float32"


def _bytes_of(dtype: str) -> int:
    return 2 if dtype in ("bfloat16", "float16") else 4


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def grey_picture() -> bytes:
    """A small picture to ask an engine about."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (112, 112), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()
