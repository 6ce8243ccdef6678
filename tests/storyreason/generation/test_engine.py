"""What every engine promises: a story's requests share its encoded pictures."""

import json
from typing import Any

import pytest

from storyreason import dataset
from storyreason.format import answer
from storyreason.generation import GenerationConfig, answering, openai
from storyreason.pictures import data_url
from tests.storyreason.generation.endpoint import Reply, endpoint, next_part, refusal


def test_a_grounded_story_encodes_each_picture_once(
    examples: list[dataset.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = examples[0]
    encoded: list[bytes] = []
    asked: list[list[str]] = []

    def counted(image: bytes) -> str:
        encoded.append(image)
        return data_url(image)

    def reply(body: dict[str, Any]) -> Reply:
        if "prompt" in body:
            return refusal(404, "no tokenizer here")
        asked.append([part["image_url"]["url"] for part in body["messages"][1]["content"] if "image_url" in part])
        written = body["messages"][-1]["content"]
        told = next_part(example.chain_of_thought, example.story, written)
        choice = {"message": {"content": told}, "finish_reason": "stop"}
        return 200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})

    monkeypatch.setattr(openai, "data_url", counted)
    config = GenerationConfig(decoding="grounded", max_tokens=20_000)
    with endpoint(reply) as url:
        told = answering.answer_to(url, "teller", example.story_id, example.images, config)

    assert told.answer == answer.join(example.chain_of_thought, example.story)
    # the analysis of each image, then the story
    assert asked == [[data_url(image) for image in example.images]] * (len(example.images) + 1)
    assert encoded == list(example.images)
