"""What a training peaks at on this machine, beside what `storyreason plan` says: python -m benchmarks.memory --help

A base of 320 million random weights and a few of the sample's stories, two steps of two rows each, in a process of its own
for each mode. Measured is the growth of the process since just before the base is loaded.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from storyreason import dataset, sample
from storyreason.training import Job, TrainingConfig, memory

TEXT = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16,
    "num_key_value_heads": 4, "initializer_range": 0.02, "vocab_size": 32_000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]},
}  # fmt: skip
TOWER = {
    "hidden_size": 640, "intermediate_size": 1720, "num_heads": 10, "out_hidden_size": 1024, "depth": 8,
    "fullatt_block_indexes": [3, 7],
}  # fmt: skip
STEPS = 2


def write_base(folder: Path) -> None:
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from storyreason.sample import tokenizer
    from storyreason.sample.base import vocabulary_texts

    processor = tokenizer.make_processor(vocabulary_texts(), 640)
    special = processor.tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "pad_token_id": 0, "bos_token_id": None},
        vision_config=TOWER,
        image_token_id=special("<|image_pad|>"),
        video_token_id=special("<|video_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(folder: Path, training: TrainingConfig) -> dict[str, Any]:
    """Train in this process, and compare its growth with the plan."""
    from transformers import AutoConfig

    from storyreason import chat, model
    from storyreason.training import process, setup
    from storyreason.training.watch import Watch

    job = Job(base=str(folder / "base"), data=folder / "data", work=folder / "work", training=training)
    load, idle = setup.load_model, 0

    def noted(*args: Any) -> Any:
        nonlocal idle
        idle = psutil.Process().memory_info().rss
        return load(*args)

    setup.load_model = noted  # type: ignore[assignment]
    process.train(job, Watch())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle
    encoder = chat.Encoder(model.load_processor(job.base))
    stories, _, schedule = process.scheduled(dataset.load(job.data, "train"), job, encoder, 1)
    row = memory.largest(stories, schedule, training)[-1]
    planned = memory.of(AutoConfig.from_pretrained(job.base), training, row)
    return {
        "mode": training.mode,
        "recompute": training.recompute,
        "dtype": training.dtype,
        "row": vars(row),
        "planned": {name: round(size / 1e9, 3) for name, size in vars(planned).items()},
        "planned_gb": round(planned.total / 1e9, 3),
        "grown_gb": round(grown / 1e9, 3),
        "planned/grown": round(planned.total / grown, 3),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "settings", nargs="*", help="lora, full, language, each perhaps with :none, :selective or :all"
    )
    options.add_argument("--dtype", default="float32", help="of the products: float32, bfloat16 or auto")
    options.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.here:
        mode, _, recompute = chosen.settings[0].partition(":")
        made = {"mode": mode, "recompute": recompute or "none", "dtype": chosen.dtype}
        base = {
            "accelerate": "cpu",
            "batch_size": 1,
            "accumulation": 2,
            "max_steps": STEPS,
            "save_every": 99,
            "rank": 16,
        }
        sys.stdout.write(json.dumps(measure(chosen.here, TrainingConfig.model_validate({**base, **made}))) + "\n")
        return
    for one in chosen.settings or ("lora", "language", "full"):
        with tempfile.TemporaryDirectory() as folder:
            write_base(Path(folder) / "base")
            dataset.write(list(sample.examples("train", seed=3, films=2)), Path(folder) / "data", "train")
            same = ["--dtype", chosen.dtype, "--here", folder]
            command = [sys.executable, "-m", "benchmarks.memory", one, *same]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            sys.stdout.write(said.splitlines()[-1] + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
