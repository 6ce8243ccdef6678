"""What other libraries raise for damaged files and odd answers reaches the user as one sentence.

Nothing is faked: each case is a file or an answer for which the library has an exception of its own.
"""

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from storyreason import config, dataset, predictions, runs
from storyreason.errors import ConfigError, DataError, EngineError, GatewayError, ModelError
from storyreason.generation import Chunk, GenerationConfig, answering, openai, tell, vllm
from storyreason.generation.config import EngineConfig
from storyreason.page.gallery import Gallery
from storyreason.serving import state

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"\xff",
        b"a: \x00",
        b"a: !!python/object:os.system x",
        b"a: *b",
        DEEP.encode()[:3000],
        b"a: 2026-13-45",
        b"- 1",
        b"",
    ],
    ids=["scanner", "no UTF-8", "reader", "constructor", "composer", "recursion", "no date", "a list", "empty"],
)
def test_a_preset_that_yaml_cannot_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml") as caught:
        config.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["[", "2026-13-45", "!!python/name:os", "*b", "[" * 3000])
def test_a_value_that_yaml_cannot_read(value: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        config.load("sample", [f"base.name={value}"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"{"), ("a.jsonl", b"\xff"), ("a.jsonl", DEEP.encode()), ("a.jsonl", b"9" * 5000), ("a.jsonl", b"[1]"),
        ("a.parquet", b"PAR1 nothing PAR1"), ("a.parquet", b""),
    ],
)  # fmt: skip
def test_predictions_that_json_and_pyarrow_cannot_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}"):
        list(predictions.load(tmp_path / name))


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1 nothing PAR1", b"PAR1" + bytes(1000) + b"\xff\xff\xff\x7fPAR1"]
)
def test_a_shard_that_pyarrow_cannot_read(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"is not a parquet file .*: pull or create the data again"):
        dataset.load(tmp_path, "train")


@pytest.mark.parametrize("content", [b"{\n", b"\xff\n", b"[1]\n", b'{"a": 1}\n', DEEP.encode() + b"\n"])
def test_answers_of_a_run_that_were_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "free.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"free\.jsonl is damaged .*: delete it, and its answers are generated again"):
        answering.read(tmp_path / "free.jsonl")


@pytest.mark.parametrize("content", [b"{", b"\xff", b""])
def test_a_damaged_manifest_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / runs.MANIFEST).write_bytes(content)
    assert runs.read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b'{"pid": 1, "more": 2}', DEEP.encode()])
@pytest.mark.parametrize("read", [state.served, state.address])
def test_a_damaged_state_of_the_gateway(
    content: bytes, read: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    for name in ("state.json", "address.json"):
        (state.folder() / name).write_bytes(content)
    with pytest.raises(GatewayError, match=r"cannot be read .*: delete it, then deploy again"):
        read()


def test_a_page_nested_too_deeply_is_left_out_of_the_gallery(tmp_path: Path) -> None:
    (tmp_path / "deep.html").write_text(f'<script type="application/json" id="data">{DEEP}</script>')
    assert Gallery(tmp_path).index() == {"collections": []}


Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[str, list[Answer]]]:
    """An endpoint that answers everything with the last entry of a list."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, headers, content = answers[-1]
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()
        thread.join()


def whole(**message: Any) -> bytes:
    choice = {"message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()


ODD: dict[str, Answer] = {
    "not compressed": (200, {"content-encoding": "gzip"}, b"nothing"),
    "cut": (200, {"content-encoding": "gzip"}, gzip.compress(b"{}" * 1000)[:20]),
    "a page": (200, {}, b"<html>"),
    "no UTF-8": (200, {}, b"\xff"),
    "too deep": (200, {}, DEEP.encode()),
    "a list": (200, {}, b"[1]"),
    "no choice": (200, {}, b'{"choices": [], "usage": null}'),
    "no text": (200, {}, whole(content=5)),
    "no message": (200, {}, b'{"choices": [{"message": null, "finish_reason": "stop"}], "usage": {}}'),
    "elsewhere": (302, {"location": "/"}, b""),
    "an error in another form": (400, {}, b"[1]"),
    "an error too deep": (500, {}, DEEP.encode()),
    "event: no object": (200, {}, b"data: [1]\n\n"),
    "event: no delta": (200, {}, b'data: {"choices": [{"delta": null, "finish_reason": null}]}\n\n'),
    "event: no text": (200, {}, b'data: {"choices": [{"delta": {"content": 5}, "finish_reason": null}]}\n\n'),
    "event: no JSON": (200, {}, b"data: {\n\n"),
    "event: too deep": (200, {}, f"data: {DEEP}\n\n".encode()),
    "event: no UTF-8": (200, {}, b'data: "\xff"\n\n'),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("live", [False, True])
def test_an_endpoint_that_answers_in_another_form(odd: tuple[str, list[Answer]], name: str, live: bool) -> None:
    url, answers = odd
    answers.append(ODD[name])

    def hear(_: Chunk) -> None:
        pass

    with pytest.raises(EngineError, match=url):
        try:
            tell(url, "m", [], GenerationConfig(), on_chunk=hear if live else None)
        except EngineError as error:
            if live and "closed the connection" in str(error):  # a stream without an event
                raise EngineError(url) from error
            raise


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_known_of_an_odd_endpoint_is_left_open(odd: tuple[str, list[Answer]], name: str) -> None:
    url, answers = odd
    answers.append(ODD[name])
    openai.count_tokens.cache_clear()
    for call, unknown in (
        (lambda: openai.models(url), []),
        (lambda: openai.max_model_len(url, "m"), None),
        (lambda: openai.count_tokens(url, "m", "text"), 4),
        (lambda: openai.prompt(url), {}),
    ):
        try:
            assert call() == unknown
        except EngineError as error:
            assert url in str(error)


@pytest.mark.parametrize("name", [name for name in ODD if not name.startswith("event")])
def test_an_engine_that_lists_its_models_otherwise_is_not_taken_for_one(
    odd: tuple[str, list[Answer]], name: str, tmp_path: Path
) -> None:
    url, answers = odd
    answers.append(ODD[name])
    engine = vllm.VllmServer("model", EngineConfig(), tmp_path / "log")
    engine.port = int(url.rpartition(":")[2])
    with pytest.raises(EngineError, match=str(engine.port)):
        engine.probe(timeout=5)


VLLM = {
    "an exception": ("echo 'ValueError: no such dtype' >&2; exit 1", "ValueError: no such dtype."),
    "the deepest exception": (
        "echo 'torch.OutOfMemoryError: 3 GiB'; echo 'RuntimeError: Engine core initialization failed. See root cause above.'",
        "torch.OutOfMemoryError: 3 GiB.",
    ),
    "what pydantic found": (
        "echo 'pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig';"
        "echo '  Value error, Unknown quantization method: x. [type=value_error, input_value=ArgsKwargs(()), input_type=A]';"
        "echo '    For further information visit https://errors.pydantic.dev/2.14/v/value_error'; exit 1",
        "Unknown quantization method: x.",
    ),
    "what pydantic found in a field": (
        "echo 'pydantic_core._pydantic_core.ValidationError: 1 validation error for CacheConfig'; echo cache_dtype;"
        "echo '  Input should be fp8 [type=literal_error, input_value=1, input_type=int]'; exit 1",
        "cache_dtype: Input should be fp8.",
    ),
    "nothing": ("exit 1", "it printed nothing."),
    "no UTF-8": (r"printf 'OSError: \377\n'; exit 1", "OSError: \ufffd."),
    "a long line": ("head -c 300000 /dev/zero | tr '\\0' x", "x" * 400),
    "a signal": ("kill -9 $$", "it printed nothing."),
}


@pytest.mark.parametrize("name", VLLM)
def test_a_vllm_that_ends_at_its_start_is_told_by_its_own_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, said = VLLM[name]
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "vllm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "vllm").chmod(0o755)
    (tmp_path / "config.json").write_text("[]")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    engine = vllm.VllmServer(tmp_path, EngineConfig(), tmp_path / "log")

    vllm.check_memory(tmp_path, EngineConfig())
    with pytest.raises(EngineError) as told:
        engine.start()

    start = f"vLLM did not start on {tmp_path}: {said}"
    assert str(told.value).startswith(start) and len(str(told.value)) < len(start) + 200
    assert not engine.alive()


@pytest.mark.parametrize(
    "address", ["http://[", "nowhere", "ftp://x", "http://127.0.0.1:99999", "http://\u2603.invalid", "http://x\0"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(EngineError):
        tell(address, "m", [], GenerationConfig())
    with pytest.raises(EngineError):
        openai.models(address)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"), ("config.json", b'{"model_type": "nothing"}'), ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 100), ("tokenizer.json", b"{"),
    ],
)  # fmt: skip
def test_a_model_that_transformers_and_safetensors_cannot_read(
    name: str, content: bytes, untrained: Path, tmp_path: Path
) -> None:
    import shutil

    from storyreason import model

    folder = Path(shutil.copytree(untrained, tmp_path / "model"))
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=str(folder)) as caught:
        model.load_processor(str(folder))
        model.load(str(folder))
    assert "Traceback" not in str(caught.value)
