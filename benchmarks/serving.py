"""What the gateway costs over bare vLLM, and grounded decoding over free.

python benchmarks/serving.py gateway MODEL
python benchmarks/serving.py decoding MODEL

MODEL is a model folder, which gets a vLLM of its own; or name one that runs: --endpoint http://127.0.0.1:8000.
"""

import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(highlight=False)

Model = Annotated[Path | None, typer.Argument(help="A model folder.")]
Endpoint = Annotated[str | None, typer.Option(help="A vLLM that runs, instead.")]


@contextlib.contextmanager
def engine(model: Path | None, endpoint: str | None) -> Iterator[tuple[str, str]]:
    """The address of a vLLM and what its model is called."""
    from storyreason.generation import openai
    from storyreason.generation.vllm import VllmServer
    from storyreason.serving.config import ServingConfig

    if endpoint is not None:
        yield endpoint, openai.models(endpoint)[0]
    elif model is None:
        raise typer.BadParameter("name a model folder, or --endpoint")
    else:
        config = ServingConfig(max_num_seqs=32, startup_timeout=600)
        with (
            tempfile.TemporaryDirectory() as folder,
            VllmServer(model, config, Path(folder) / "vllm.log") as server,
        ):
            yield server.url, server.name


@contextlib.contextmanager
def gateway_before(url: str, name: str, **settings: Any) -> Iterator[tuple[str, Any]]:
    """The address of a gateway before an engine that runs already, and its process (psutil's). `settings`: `serving.*`."""
    import httpx
    import psutil

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"STORYREASON_RUNS": folder}
        chosen = json.dumps({"max_requests": 1024, **settings})
        command = [sys.executable, __file__, "only-gateway", url, name, str(port), chosen]
        process = subprocess.Popen(command, env=environment)
        try:
            deadline = time.monotonic() + 120
            while True:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=60, trust_env=False).raise_for_status()
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the gateway did not start")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


@app.command("only-gateway", hidden=True)
def only_gateway(url: str, name: str, port: int, chosen: str) -> None:
    """The gateway's own application, before an engine that somebody else started."""
    import uvicorn

    from storyreason.serving import protocol
    from storyreason.serving.budget import HEAD_TIMEOUT
    from storyreason.serving.config import ServingConfig
    from storyreason.serving.engines import RunningEngine
    from storyreason.serving.gateway import application

    sys.setswitchinterval(0.001)  # as `gateway.run` does

    class Running:
        def __init__(self) -> None:
            self.url, self.name = url, name

        def alive(self) -> bool:
            return True

    settings = json.loads(chosen)
    head_timeout = settings.pop("head_timeout", HEAD_TIMEOUT)
    gateway, _ = application(ServingConfig(**settings))
    gateway.state.engines._engine = RunningEngine(Running())  # type: ignore[arg-type]
    uvicorn.Server(protocol.settings(gateway, head_timeout, port=port, access_log=False)).run()


@dataclass
class Load:
    """What came of some streams: chunks with text in them, seconds to the first, seconds in all."""

    chunks: int = 0
    first: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Load") -> None:
        self.chunks += other.chunks
        self.first += other.first
        self.seconds += other.seconds

    @property
    def rate(self) -> float:
        return self.chunks / self.seconds if self.seconds else 0.0


def load(url: str, name: str, clients: int, stories: int, tokens: int) -> Load:
    """`stories` streams of `tokens` tokens each, `clients` at a time; a chunk is a token."""
    import httpx

    from storyreason.generation import openai

    body = {
        "model": name, "stream": True, "max_tokens": tokens, "ignore_eos": True, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell a story."}],
    }  # fmt: skip
    result, lock = Load(), threading.Lock()

    def one(_: int) -> None:
        begun, first, chunks = time.perf_counter(), 0.0, 0
        with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            for line in openai.lines(response):
                if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                    first = first or time.perf_counter() - begun
                    chunks += 1
        with lock:
            result.chunks += chunks
            result.first.append(first)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with httpx.Client(timeout=600, trust_env=False, limits=limits) as client, ThreadPoolExecutor(clients) as pool:
        start = time.perf_counter()
        list(pool.map(one, range(stories)))
        result.seconds = time.perf_counter() - start
    return result


@app.command()
def gateway(
    model: Model = None,
    endpoint: Endpoint = None,
    clients: Annotated[list[int] | None, typer.Option(help="Streams at a time; give it several times.")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each of the two; their sums are compared.")] = 5,
) -> None:
    """Tokens/s, seconds to the first token, and the gateway's CPU time per chunk, beside bare vLLM, in turns."""
    table = Table(
        "clients", "vLLM tokens/s", "gateway tokens/s", "of vLLM's", "CPU µs per chunk", "first token ms", "added ms"
    )
    with engine(model, endpoint) as (url, name), gateway_before(url, name) as (ours, process):
        for count in clients or [1, 8, 32]:
            stories = max(4, 2 * count)
            for address in (url, ours):
                load(address, name, count, count, tokens)
            bare, through, used = Load(), Load(), 0.0
            for _ in range(rounds):  # in turns, so that what else the machine does meets both
                bare.add(load(url, name, count, stories, tokens))
                before = sum(process.cpu_times()[:2])
                through.add(load(ours, name, count, stories, tokens))
                used += sum(process.cpu_times()[:2]) - before
            first = [1000 * statistics.median(one.first) for one in (bare, through)]
            table.add_row(
                str(count), f"{bare.rate:.0f}", f"{through.rate:.0f}", f"{through.rate / bare.rate:.1%}",
                f"{1e6 * used / through.chunks:.0f}", f"{first[1]:.1f}", f"{first[1] - first[0]:+.1f}",
            )  # fmt: skip
    console.print(table)


@app.command()
def decoding(
    model: Model = None,
    endpoint: Endpoint = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="The model's folder, for compiling; MODEL if not given.")
    ] = None,
    stories: Annotated[int, typer.Option(min=1, help="Stories of the sample world's test split.")] = 6,
    images: Annotated[int, typer.Option(min=0, help="Images of a story, its own repeated; 0: as many as it has.")] = 0,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
) -> None:
    """Milliseconds per token and seconds per story, free and grounded, one story at a time, whatever time goes to requests,
    prompts and grammars included; compiling the grammars is reported apart, too."""
    from storyreason import sample
    from storyreason.generation import Chunk, GenerationConfig, answering

    chosen = list(sample.examples("test", films=stories))[:stories]
    if images:
        chosen = [replace(one, images=tuple(itertools.islice(itertools.cycle(one.images), images))) for one in chosen]
    table = Table("decoding", "tokens per story", "ms per token", "over free", "s per story", "s to the first token")
    per_token: dict[str, float] = {}
    answers = {}
    with engine(model, endpoint) as (url, name):
        for kind in ("free", "grounded"):
            config = GenerationConfig(decoding=kind, max_tokens=max_tokens)
            times: list[float] = []
            seconds, whole, tokens, first = 0.0, 0.0, 0, []
            for turn, example in enumerate([chosen[0], *chosen]):  # the first twice: once to warm up
                times.clear()
                start = time.perf_counter()

                def hear(piece: Chunk) -> None:
                    times.append(time.perf_counter())  # noqa: B023  # called before the next story begins

                told = answering.answer_to(url, name, example.story_id, example.images, config, on_chunk=hear)
                answers[example.story_id] = told.answer
                if turn:
                    first.append(times[0] - start)
                    seconds += times[-1] - times[0]
                    whole += time.perf_counter() - start
                    tokens += told.tokens
            per_token[kind] = 1000 * seconds / tokens
            table.add_row(
                kind, f"{tokens / len(chosen):.0f}", f"{per_token[kind]:.2f}",
                f"{per_token[kind] / per_token['free'] - 1:+.1%}", f"{whole / len(chosen):.2f}",
                f"{statistics.median(first):.2f}",
            )  # fmt: skip
    console.print(table)
    if (folder := tokenizer or model) is not None:
        analysis, story = compiling(folder, chosen, answers)
        console.print(
            f"compiling: {analysis:.2f} s the grammar of an analysis, {story:.2f} s that of a story (medians, one thread)"
        )


def compiling(folder: Path, examples: list[Any], answers: dict[str, str]) -> tuple[float, float]:
    """Median seconds to compile the grammars of an analysis (all its images) and of a story with the model's tokens.

    On one thread, by a compiler that is new for each story; an engine keeps one, and with it most of the rules.
    """
    import xgrammar
    from transformers import AutoTokenizer

    from storyreason import dataset
    from storyreason.format import answer
    from storyreason.generation import grammar

    info = xgrammar.TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(folder))
    seconds: tuple[list[float], list[float]] = ([], [])
    for example in examples:
        read = answer.read(answers[example.story_id]).analysis
        if read is None:
            continue
        sizes = dataset.sizes(example)
        sections = [grammar.of_section(sizes, read.sections[:number]) for number in range(len(sizes))]
        compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        for texts, into in zip((sections, [grammar.of_story(read)]), seconds, strict=True):
            start = time.perf_counter()
            for text in texts:
                compiler.compile_grammar(text)
            into.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    app()
