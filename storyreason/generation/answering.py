"""One answer for each example of a data set, as a file that a killed run goes on with."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from storyreason import runs
from storyreason.errors import EngineAwayError, EngineError
from storyreason.generation import grounded
from storyreason.generation.config import GenerationConfig
from storyreason.generation.engine import Engine
from storyreason.generation.openai import Endpoint, OnChunk, Stop


class Illustrated(Protocol):
    """What of an example is asked about: its encoded images, in order."""

    @property
    def story_id(self) -> str: ...
    @property
    def images(self) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer to one example. `cut`: the limit of tokens ended it.

    Of grounded decoding: how many boxes were mended, and the answer before that.
    """

    story_id: str
    answer: str
    cut: bool
    prompt_tokens: int
    tokens: int
    mended: int = 0
    unmended: str | None = None


def predict(
    base_url: str,
    model: str,
    examples: Sequence[Illustrated],
    config: GenerationConfig,
    out: Path,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Prediction]:
    """Ask for every example, `config.concurrency` at a time, and write `out` (JSON lines, in the order of `examples`).

    Each finished answer is appended to `<out>.partial` at once; what stands there is not asked again. `out` appears by
    rename when all are there. `on_progress(done, of)` is called in this thread, at the start too. Raises EngineError
    that names the story.
    """
    order = [example.story_id for example in examples]
    partial = out.with_name(out.name + ".partial")
    done = {prediction.story_id: prediction for path in (out, partial) for prediction in read(path)}
    missing = (example for example in examples if example.story_id not in done)

    def report() -> None:
        if on_progress is not None:
            on_progress(sum(story_id in done for story_id in order), len(order))

    report()
    if not all(story_id in done for story_id in order):
        out.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(partial)
        with partial.open("a", encoding="utf-8") as file:
            for prediction in _answers(base_url, model, missing, config):
                file.write(_line(prediction))
                file.flush()
                done[prediction.story_id] = prediction
                report()

    predictions = [done[story_id] for story_id in order]
    runs.write_text(out, "".join(map(_line, predictions)))
    partial.unlink(missing_ok=True)
    return predictions


def read(path: Path) -> list[Prediction]:
    """The predictions of a file, none when it is not there; without a last line that a killed run left unfinished."""
    with contextlib.suppress(FileNotFoundError):
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        return [_prediction(**json.loads(line)) for line in lines]
    return []


def _answers(
    base_url: str, model: str, examples: Iterator[Illustrated], config: GenerationConfig
) -> Iterator[Prediction]:
    """Predictions as they come in. Holds no more examples at a time than are being asked about."""
    import httpx  # noqa: F401  # here, before several threads import it at a time

    abandoned = threading.Event()
    pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="predict")
    pending: set[Future[Prediction]] = set()
    try:
        while True:
            for example in examples:
                pending.add(pool.submit(_answer, base_url, model, example, config, abandoned))
                if len(pending) == config.concurrency:
                    break
            if not pending:
                return
            # With a timeout, so that a cancellation, raised in this thread from outside, comes through.
            finished, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        abandoned.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(
    base_url: str, model: str, example: Illustrated, config: GenerationConfig, abandoned: threading.Event
) -> Prediction:
    pause = config.pause
    for left in range(config.retries, -1, -1):
        try:
            return answer_to(base_url, model, example.story_id, example.images, config)
        except EngineAwayError as error:
            if left == 0 or abandoned.wait(pause):
                raise EngineError(
                    f"Story {example.story_id}: no answer after {config.retries + 1} tries. {error}"
                ) from error
            pause *= 2
        except EngineError as error:
            raise EngineError(f"Story {example.story_id}: {error}") from error
    raise AssertionError("unreachable")


def answer_to(
    base_url: str,
    model: str,
    story_id: str,
    images: Sequence[bytes],
    config: GenerationConfig,
    api_key: str | None = None,
    on_chunk: OnChunk | None = None,
    stop: Stop | None = None,
) -> Prediction:
    """Ask once, with the decoding that `config` names; with `on_chunk` it streams, and `stop` ends it.

    Raises EngineAwayError or EngineError.
    """
    engine = Endpoint(base_url, model, api_key)
    return answer_by(engine, story_id, images, config, on_chunk=on_chunk, stop=stop)


def answer_by(
    engine: Engine,
    story_id: str,
    images: Sequence[bytes],
    config: GenerationConfig,
    on_chunk: OnChunk | None = None,
    stop: Stop | None = None,
) -> Prediction:
    """As `answer_to`, of any engine."""
    if config.decoding == "free":
        free = engine.session(images, config).tell(on_chunk=on_chunk, stop=stop)
        return Prediction(story_id, free.text, free.cut, free.prompt_tokens, free.tokens)
    told = grounded.tell(engine, images, config, on_chunk=on_chunk, stop=stop)
    return Prediction(
        story_id,
        told.text,
        told.cut,
        told.prompt_tokens,
        told.tokens,
        told.mended,
        told.unmended,
    )


def _drop_partial_line(partial: Path) -> None:
    """Cut off what a killed run left after the last whole line, so that the next line starts a new one."""
    if partial.exists():
        content = partial.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with partial.open("r+b") as file:
                file.truncate(whole)


def _line(prediction: Prediction) -> str:
    row = asdict(prediction)
    row = {"story_id": row.pop("story_id"), "prediction": row.pop("answer"), **row}
    return json.dumps({key: value for key, value in row.items() if value is not None}, ensure_ascii=False) + "\n"


def _prediction(prediction: str, **more: Any) -> Prediction:
    return Prediction(answer=prediction, **more)
