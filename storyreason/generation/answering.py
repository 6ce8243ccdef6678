"""Generate an answer for each example of a data set, into a file that an interrupted run resumes."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from storyreason import pictures, runs
from storyreason.errors import DataError, EngineAwayError, EngineError
from storyreason.format import grids
from storyreason.generation import grounded
from storyreason.generation.config import GenerationConfig
from storyreason.generation.converting import ConvertedChunks
from storyreason.generation.engine import Engine
from storyreason.generation.openai import Endpoint, OnChunk, Stop


class Illustrated(Protocol):
    """What an example must have to be asked about: an ID, and its encoded images in order."""

    @property
    def story_id(self) -> str: ...
    @property
    def images(self) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer to one example. `cut`: it ended at the token limit.

    With grounded decoding, `mended` is the number of repaired boxes and `unmended` the answer before the repair, if any;
    `ended`: it is valid, and shorter than the model had it, for the token limit.
    """

    story_id: str
    answer: str
    cut: bool
    prompt_tokens: int
    tokens: int
    mended: int = 0
    unmended: str | None = None
    ended: bool = False


def predict(
    base_url: str | Sequence[str | Engine],
    model: str,
    examples: Sequence[Illustrated],
    config: GenerationConfig,
    out: Path,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Prediction]:
    """Answer every example, and write `out` (JSON lines, in the order of `examples`).

    Several addresses, or engines of this process, share the examples, each of them `config.concurrency` at a time.

    Each finished answer is appended to `<out>.partial` immediately; answers found there are not generated again. `out`
    appears by rename once it is complete. `on_progress(done, total)` is called in this thread, also at the start. Raises
    EngineError that names the story.
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
            urls = [base_url] if isinstance(base_url, str) else base_url
            for prediction in _answers(urls, model, missing, config):
                file.write(_line(prediction))
                file.flush()
                done[prediction.story_id] = prediction
                report()

    predictions = [done[story_id] for story_id in order]
    runs.write_text(out, "".join(map(_line, predictions)))
    partial.unlink(missing_ok=True)
    return predictions


def read(path: Path) -> list[Prediction]:
    """The predictions in a file; none if it does not exist. Skips a last line that a killed run left incomplete.

    Raises DataError for a damaged file.
    """
    with contextlib.suppress(FileNotFoundError):
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            return [_prediction(**json.loads(line)) for line in lines]
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}): delete it, and its answers are generated again.") from error
    return []


def _answers(
    urls: Sequence[str | Engine], model: str, examples: Iterator[Illustrated], config: GenerationConfig
) -> Iterator[Prediction]:
    """Predictions in the order in which they finish. Holds only the examples whose answers are being generated.

    Whichever address has finished an answer gets the next example, so that long stories leave none of them idle.
    """
    import httpx  # noqa: F401  # here, before several threads import it at once

    abandoned = threading.Event()
    free = [url for _ in range(config.concurrency) for url in reversed(urls)]
    pool = ThreadPoolExecutor(len(free), thread_name_prefix="predict")
    asked: dict[Future[Prediction], str | Engine] = {}
    try:
        while True:
            while free and (example := next(examples, None)) is not None:
                url = free.pop()
                asked[pool.submit(_answer, url, model, example, config, abandoned)] = url
            if not asked:
                return
            # The timeout lets a cancellation, which is raised in this thread from outside, come through.
            finished, _ = wait(asked, timeout=1, return_when=FIRST_COMPLETED)
            for future in finished:
                free.append(asked.pop(future))
                yield future.result()
    finally:
        abandoned.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(
    base_url: str | Engine, model: str, example: Illustrated, config: GenerationConfig, abandoned: threading.Event
) -> Prediction:
    engine = Endpoint(base_url, model) if isinstance(base_url, str) else base_url
    pause = config.pause
    for left in range(config.retries, -1, -1):
        try:
            return answer_by(engine, example.story_id, example.images, config)
        except EngineAwayError as error:
            if left == 0 or abandoned.wait(pause):
                raise EngineError(
                    f"Story {example.story_id}: no answer after {config.retries + 1} attempts. {error}"
                ) from error
            pause *= 2
        except (EngineError, DataError) as error:
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
    """Ask an endpoint once, with the decoding in `config`; streamed if there is `on_chunk`; `stop` cancels.

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
    """The same as `answer_to` with any engine. Boxes are in pixels of the images, whatever the model's convention."""
    if config.boxes == grids.ORIGINAL:
        return _answer_as_written(engine, story_id, images, config, on_chunk, stop)
    sizes = [pictures.size(image) for image in images]
    changes = [(grids.grid(config.boxes, size), size) for size in sizes]
    chunks = None if on_chunk is None else ConvertedChunks(on_chunk, changes)
    told = _answer_as_written(engine, story_id, images, config, chunks, stop)
    if chunks is not None:
        chunks.end()
    unmended = None if told.unmended is None else grids.converted(told.unmended, changes)
    return replace(told, answer=grids.converted(told.answer, changes), unmended=unmended)


def _answer_as_written(
    engine: Engine,
    story_id: str,
    images: Sequence[bytes],
    config: GenerationConfig,
    on_chunk: OnChunk | None,
    stop: Stop | None,
) -> Prediction:
    if config.decoding == "free":
        told = engine.session(images, config).tell(on_chunk=on_chunk, stop=stop)
        return Prediction(story_id, told.text, told.cut, told.prompt_tokens, told.tokens)
    held = grounded.tell(engine, images, config, on_chunk=on_chunk, stop=stop)
    return Prediction(
        story_id, held.text, held.cut, held.prompt_tokens, held.tokens, held.mended, held.unmended, held.ended
    )


def _drop_partial_line(partial: Path) -> None:
    """Cut off an incomplete last line, left by a killed run, so that the next one starts on a new line."""
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
