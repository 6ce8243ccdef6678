"""How long a training with many stories takes until its first step, and how much memory.

python benchmarks/start.py                     100,000 prepared stories of the sample world, three epochs, packed

Some stories are made, prepared and written once; the rest are copies of them with IDs of their own, in more shards. Then this
process does what a training process does until its first step: it reads the prepared stories, splits and plans them,
computes their identity, counts the features of the frozen tower, and looks for each picture's file. It reports wall-clock
seconds, and CPU seconds, which other programs do not affect.
"""

import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from training import RESULTS, hardware

MADE = 100
"""How many stories are made; the rest are copies."""


def start(stories: Annotated[int, typer.Option(help="Prepared stories.")] = 100_000) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        child = os.fork()
        if child == 0:  # the memory of making them is not measured
            (folder / "job.json").write_text(world(folder, stories, "language").model_dump_json())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        found = {"stories": stories, **measured(folder), "machine": hardware()}
    finally:
        shutil.rmtree(folder)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "start.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    typer.echo(f"{json.dumps(found, indent=1)}\n{path}")


def measured(folder: Path) -> dict[str, Any]:
    """The seconds of each stage before the first step, and the peak memory after it, in GiB."""
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    memory: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - sum(seconds.values()) - began[0]
        cpu[name] = time.process_time() - sum(cpu.values()) - began[1]
        memory[name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    began = time.perf_counter(), time.process_time()
    import torch

    from storyreason import architecture, chat, dataset, model
    from storyreason.training import checkpoints, features, job, process

    loaded = job.read(folder / "job.json")
    encoder = chat.Encoder(model.load_processor(loaded.base), loaded.training.images_first)
    base = model.load(loaded.base)
    lap("imports and base")
    stories, validation, planned = process.scheduled(dataset.load(loaded.data, "train"), loaded, encoder, processes=1)
    lap("stories and plan")
    checkpoints.identity(loaded, stories, base, len(planned.step(0)), sharded=False)
    lap("identity")
    cache = features.FeatureCache(
        folder / "features", architecture.inside(base), encoder, torch.device("cpu"), bf16=False
    )
    share = cache.share(stories, validation, cache.missing(stories, validation), 10**15)
    lap("features wanted")
    # As if all were cached: each file is checked for completeness.
    cache._is_whole = lambda *one: features.FeatureCache._is_whole(cache, *one) or True  # type: ignore[method-assign]
    for part in (stories, validation):
        cache.compute(part, range(len(part)), lambda done, of: None, lambda: False)
    lap("features looked for")
    return {
        "steps_planned": planned.steps, "pictures": share.pictures, "seconds": seconds, "cpu_seconds": cpu,
        "seconds_together": sum(seconds.values()), "cpu_seconds_together": sum(cpu.values()), "peak_memory_gib": memory,
    }  # fmt: skip


def world(folder: Path, stories: int, mode: str) -> Any:
    """A job with this many prepared stories."""
    import numpy as np

    from storyreason import chat, dataset, model, runs, sample, training
    from storyreason.sample.base import new_model, vocabulary_texts
    from storyreason.sample.tokenizer import make_processor
    from storyreason.training import prepared

    examples = list(sample.examples("train", films=MADE // 2))[:MADE]
    (shard,) = dataset.write(examples, folder / "made", "train", shard_rows=len(examples))
    copies = -(-stories // len(examples))
    (folder / "data").mkdir()
    for number in range(copies):
        os.link(shard, folder / "data" / f"train-{number:05d}-of-{copies:05d}.parquet")
    processor = make_processor(vocabulary_texts())
    new_model(processor).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    config = training.TrainingConfig(
        mode=mode, dtype="float32", accelerate="cpu", batch_size=1, accumulation=8, pack_tokens=4096, epochs=3,
        recompute="none", liger=False, save_every=10**6,
    )  # fmt: skip
    encoder = chat.Encoder(model.load_processor(str(folder / "base")), config.images_first)
    made = prepared.prepare(folder / "prepared", examples, encoder, config, data="made", stories=None)
    small = folder / "prepared" / prepared.fingerprint(encoder, config, data="made", stories=None)
    named = prepared.fingerprint(encoder, config, data="copies", stories=None)
    large = folder / "prepared" / named
    large.mkdir()
    for name, kind in prepared.FLAT.items():
        content = np.fromfile(small / name, kind)
        with (large / name).open("wb") as file:
            for _ in range(copies):
                content.tofile(file)
    with np.load(small / "index.npz") as one:
        index = {name: np.concatenate([one[name]] * copies) for name in one.files}
    for name, size in (("answer_ends", index["answer_ends"][-1]), ("image_ends", index["image_ends"][-1]),
                       ("places", len(made))):  # fmt: skip
        index[name] += np.repeat(np.arange(copies), len(made)) * size
    np.savez(large / "index.npz", **index)
    ids = [f"copy{number}-{story_id}" for number in range(copies) for story_id in made.ids]
    (large / "stories.json").write_text(json.dumps({"ids": ids, "bad": []}))
    runs.write_manifest(large, files=(*prepared.FLAT, "index.npz", "stories.json"), fingerprint=named)
    return training.Job(
        base=str(folder / "base"), data=folder / "data", work=folder / "work", features=folder / "features",
        prepared=folder / "prepared", data_md5="copies", training=config,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(start)
