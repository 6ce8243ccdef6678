"""Answers to a whole split, and a killed run that resumes."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from storyreason import dataset, predictions
from storyreason.errors import EngineError
from storyreason.generation import GenerationConfig, predict
from storyreason.generation.answering import read
from storyreason.generation.vllm import VllmServer
from tests.storyreason.generation.endpoint import Reply, answer, endpoint, refusal
from tests.storyreason.odd import saved, text

CONFIG = GenerationConfig(concurrency=3, retries=2, pause=0)
PICTURES = [saved(Image.new("RGB", (8, 8), (number, 0, 0)), "PNG") for number in range(7)]
STORIES = [dataset.Example(f"film-{number}", (picture,), "", "") for number, picture in enumerate(PICTURES)]
FIRST, SECOND = text(PICTURES[0]), text(PICTURES[1])


class Teller:
    """Answers with the request it received, and counts requests."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.refuse: dict[str, list[Reply]] = {}
        self._lock = threading.Lock()

    def __call__(self, body: dict[str, Any]) -> Reply:
        story = body["messages"][1]["content"][0]["image_url"]["url"].split(",")[1]
        with self._lock:
            self.asked[story] += 1
            replies = self.refuse.get(story)
            if replies:
                return replies.pop(0)
        return answer(f"told from {story}", finish="length" if story == FIRST else "stop")


def test_every_story_is_generated_once_and_in_the_order_of_the_data(tmp_path: Path) -> None:
    teller, progress, out = Teller(), [], tmp_path / "work" / "predictions.jsonl"

    with endpoint(teller) as url:
        told = predict(url, "teller", STORIES, CONFIG, out, lambda done, total: progress.append((done, total)))

    assert [prediction.story_id for prediction in told] == [story.story_id for story in STORIES]
    assert [prediction.cut for prediction in told] == [True] + 6 * [False]
    assert progress == [(done, 7) for done in range(8)]
    assert set(teller.asked.values()) == {1} and len(teller.asked) == 7
    assert read(out) == told
    assert predictions.load(out) == {prediction.story_id: prediction.answer for prediction in told}
    assert [path.name for path in out.parent.iterdir()] == ["predictions.jsonl"]


def test_a_killed_run_resumes_with_the_missing_answers(tmp_path: Path) -> None:
    teller, out = Teller(), tmp_path / "predictions.jsonl"
    partial = tmp_path / "predictions.jsonl.partial"

    def interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with endpoint(teller) as url:
        with pytest.raises(KeyboardInterrupt):
            predict(url, "teller", STORIES, CONFIG, out, interrupt)
        finished = [json.loads(line)["story_id"] for line in partial.read_text().splitlines()]
        assert len(finished) == 4 and not out.exists()
    with partial.open("a") as file:
        file.write('{"story_id": "film-')  # killed in the middle of a line

    teller = Teller()
    with endpoint(teller) as url:
        told = predict(url, "teller", STORIES, CONFIG, out)

    assert sum(teller.asked.values()) == 3
    assert [prediction.story_id for prediction in told] == [story.story_id for story in STORIES]
    assert not partial.exists()


def test_a_complete_file_is_not_generated_again(tmp_path: Path) -> None:
    out = tmp_path / "predictions.jsonl"
    with endpoint(Teller()) as url:
        told = predict(url, "teller", STORIES, CONFIG, out)

    assert predict(url, "teller", STORIES, CONFIG, out) == told  # nobody listens there any more


def test_temporary_failures_are_retried(tmp_path: Path) -> None:
    teller = Teller()
    teller.refuse = {SECOND: [refusal(503, "busy"), refusal(500, "fell over")]}

    with endpoint(teller) as url:
        told = predict(url, "teller", STORIES, CONFIG, tmp_path / "predictions.jsonl")

    assert teller.asked[SECOND] == 3 and len(told) == 7


@pytest.mark.parametrize(
    ("replies", "sentence"),
    [
        ([refusal(503, "busy")] * 9, r"Story film-1: no answer after 3 attempts\. .*503: busy"),
        ([refusal(400, "too long")], r"Story film-1: .*400: too long"),
    ],
)
def test_a_permanent_failure_names_the_story_and_keeps_the_others(
    tmp_path: Path, replies: list[Reply], sentence: str
) -> None:
    teller, out = Teller(), tmp_path / "predictions.jsonl"
    teller.refuse = {SECOND: replies}

    with endpoint(teller) as url:
        with pytest.raises(EngineError, match=sentence):
            predict(url, "teller", STORIES, CONFIG, out)
        teller.refuse.clear()
        told = predict(url, "teller", STORIES, CONFIG, out)

    assert len(told) == 7


@pytest.mark.server
def test_vllm_gives_the_same_answers_to_a_split_twice(
    vllm_server: VllmServer, examples: list[dataset.Example], tmp_path: Path
) -> None:
    config = GenerationConfig(max_tokens=24, concurrency=4)

    first = predict(vllm_server.url, vllm_server.name, examples, config, tmp_path / "first.jsonl")
    again = predict(vllm_server.url, vllm_server.name, examples[:2], config, tmp_path / "again.jsonl")

    assert [prediction.story_id for prediction in first] == [example.story_id for example in examples]
    assert all(prediction.tokens == 24 and prediction.cut for prediction in first)
    assert again == first[:2]


def test_two_endpoints_share_the_stories_and_a_slow_one_gets_fewer(tmp_path: Path) -> None:
    asked: dict[str, int] = {"quick": 0, "slow": 0}
    waiting = threading.Event()

    def quick(_: dict[str, Any]) -> Reply:
        asked["quick"] += 1
        if asked["quick"] == len(STORIES) - 1:
            waiting.set()  # all others are told
        return answer("a story")

    def slow(_: dict[str, Any]) -> Reply:
        asked["slow"] += 1
        assert waiting.wait(60)
        return answer("a story")

    config = CONFIG.model_copy(update={"concurrency": 1})
    with endpoint(slow) as one, endpoint(quick) as other:
        told = predict([one, other], "teller", STORIES, config, tmp_path / "predictions.jsonl")
    assert asked == {"quick": len(STORIES) - 1, "slow": 1}
    assert [prediction.story_id for prediction in told] == [story.story_id for story in STORIES]
