"""TRL's own trainer takes the reward as it is: two steps of GRPO with the untrained model."""

from pathlib import Path
from typing import Any

import pytest

from storyreason import dataset, pictures
from storyreason.scoring import rewards

pytestmark = [
    pytest.mark.server,
    # It says so of a vLLM that it does not use here; its own and torch's deprecations are not ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_grpo_trains_with_the_reward(untrained: Path, examples: list[dataset.Example], tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": "Create a story based on these images."}],
            "images": pictures.open_frames(one.images[:2], one.story_id),
            "chain_of_thought": one.chain_of_thought,
            "story": one.story,
            "sizes": [list(size) for size in dataset.sizes(one)],
        }
        for one in examples[:2]
    ]
    asked: list[list[Any]] = []

    def reward(completions: list[Any], **columns: Any) -> list[float | None]:
        asked.append(completions)
        return [*rewards(completions, **columns)]

    trainer = GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(untrained),
        processing_class=AutoProcessor.from_pretrained(untrained),
        reward_funcs=reward,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=16,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
        ),
    )
    trainer.train()

    logged = [line for line in trainer.state.log_history if "reward" in line]
    assert len(asked) == len(logged) == 2
    assert all(len(completions) == 2 for completions in asked)
    assert [line["reward"] for line in logged] == [0, 0]  # it writes nothing readable
    assert [line["reward/grounding"] for line in logged] == [0, 0]
