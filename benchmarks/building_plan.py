"""What a data set of films takes at scale, on paper: bytes, hours and cost of each stage, and which one is the bottleneck.

Each figure says what it rests on: measured here, published by others, or assumed. Nothing of it was run at this scale.
"""

import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """What there is to work with, and what an hour of a GPU, with its share of cores, costs."""

    name: str
    gpus: int
    cores: int
    price: float = 3.0


@dataclass(frozen=True)
class Stage:
    """A stage: how much of its unit a kept frame means, how much a device does in a second, and what that rests on."""

    name: str
    unit: str
    per_frame: float
    rate: float
    device: str
    rests_on: str


READ = 38
"""Frames that are read for a kept one: 2 h of 24 frames a second, 1,500 shots, 3 frames of each."""
BOXES = 15
"""Boxes of a frame, assumed; there are at most 40."""
STORY = 6
"""Frames of a story: 34 in 6 stories of two made films of 8 shots."""
PROMPT, REPLY = 10_000, 3_600
"""Tokens of a story in its two requests: 6 pictures of 1,200 and 1,400 of text each time, of which the second finds its
pictures in the prefix cache; an analysis of 3,000 and a story of 600. Assumed, from the published data's lengths."""
FILM = 4_500
"""Kept frames of a film of 2 h, as above."""
STAGES = (
    Stage("read, cut, choose", "frames read", READ, 60, "core",
          "assumed: 1080p; 221 a second were measured at 392 x 224 on a busy core, of which decoding took a quarter"),
    Stage("detect (EoMT, 1280 px)", "frames", 1, 130, "GPU", "published: 137 a second on an H100, without reading and writing"),
    Stage("masks to boxes", "frames", 1, 20, "core", "assumed: connected parts of about 20 masks of 1280 px"),
    Stage("faces (dlib)", "frames", 1, 1.3, "core", "measured: 13 a second at 392 x 224 on a busy core; a tenth, for 10 times "
          "the pixels"),
    Stage("looks (SigLIP 2 so400m, 384 px)", "boxes", BOXES, 590, "GPU",
          "computed: 0.67 TFLOP a box at 40% of an H100's 989 TFLOP/s; the 40% are assumed"),
    Stage("identity", "boxes", BOXES, 1_546, "core", "measured on made films; 20,000 boxes of one film in about 24 s"),
    Stage("authoring: prompts (32B)", "tokens", PROMPT / STORY, 7_700, "GPU",
          "computed: 64 GFLOP a token at 50% of an H100's 989 TFLOP/s; the 50% are assumed"),
    Stage("authoring: replies (32B)", "tokens", REPLY / STORY, 1_500, "GPU", "assumed: a full batch of vLLM on an H100"),
)  # fmt: skip
BYTES = {
    "frames (JPEG, 1280 px)": 250_000,
    "boxes, faces (128 numbers), looks (1,152 numbers)": BOXES * (4 * 1152 + 100) + 3 * 4 * 128,
    "stories and analyses": 4 * REPLY / STORY,
    "shards (pictures once more)": 250_000,
}
"""Bytes per kept frame. Picture sizes are assumed; the rest follows from the tables' columns."""


def plan(frames: int, machine: Machine) -> dict[str, object]:
    """Hours, devices and bytes for so many kept frames."""
    rows, hours = [], {"GPU": 0.0, "core": 0.0}
    for one in STAGES:
        count = machine.gpus if one.device == "GPU" else machine.cores
        took = frames * one.per_frame / one.rate / 3600
        hours[one.device] += took
        rows.append({"stage": one.name, "unit": one.unit, "amount": round(frames * one.per_frame), "a second": one.rate,
                     "device": one.device, "device hours": round(took, 1), "hours": round(took / count, 2),
                     "rests on": one.rests_on})  # fmt: skip
    wall = max(hours["GPU"] / machine.gpus, hours["core"] / machine.cores)
    return {
        "machine": machine.name,
        "frames": frames,
        "stages": rows,
        "bottleneck": max(rows, key=lambda row: float(str(row["hours"])))["stage"],
        "GPU hours": round(hours["GPU"], 1),
        "core hours": round(hours["core"], 1),
        "hours, all devices busy": round(wall, 1),
        "hours, a film to a worker": round(wall * spread(frames, machine.gpus), 1),
        "hours, today's flow": round(_one_process(rows, machine), 1),
        "cost": round(wall * machine.gpus * machine.price),
        "GB": {name: round(frames * size / 1e9, 1) for name, size in BYTES.items()},
    }


def _one_process(rows: list[dict[str, object]], machine: Machine) -> float:
    """Hours of the flow as it is: one process, one core and one GPU; only the endpoint of the authoring model has all GPUs."""
    which = {True: "hours", False: "device hours"}
    return sum(float(str(row[which[str(row["stage"]).startswith("authoring")]])) for row in rows)


def spread(frames: int, workers: int, seed: int = 0) -> float:
    """How much longer it takes that a film is one worker's, by simulation: films of 1 to 3 h, the longest first.

    A worker that is killed once in a hundred films does its film again.
    """
    luck = random.Random(seed)
    films = sorted((luck.uniform(0.5, 1.5) * FILM for _ in range(max(1, round(frames / FILM)))), reverse=True)
    work = [one * (2 if luck.random() < 0.01 else 1) for one in films]
    free = [0.0] * min(workers, len(work))
    for one in work:
        heapq.heappush(free, heapq.heappop(free) + one)
    return max(free) * workers / sum(films)
