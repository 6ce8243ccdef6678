"""GroundCap's layout, from a small made copy of its schema: in a folder, and on a Hub."""

import io
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storyreason.errors import DataError
from storyreason.perception import filming, frames, groundcap, sources
from tests.storyreason.dataset import hub
from tests.storyreason.perception import videos

IDS = ("tt2_scene_10_1", "tt2_scene_9_2", "tt2_scene_9_10", "tt1_3_1", "tt1_4_1", "tt1_shot_0005_img_0")


def write(folder: Path, ids: Iterable[str] = IDS, rows: int = 3) -> Path:
    """Files of parquet with the columns and types that GroundCap's card declares, of so many rows each."""
    from datasets import Dataset, Features, Image, Value

    place = {name: Value("float32") for name in "xywh"}
    found = {"id": Value("int32"), "label": Value("string"), "score": Value("float32"), "box": place}
    features = Features({"id": Value("string"), "image": Image(), "detections": [found], "caption": Value("string"),
                         "human_annotated": Value("bool")})  # fmt: skip
    told = []
    for number, identity in enumerate(ids):
        one = {"id": 0, "label": "person", "score": 0.9, "box": {"x": 1.0, "y": 2.0, "w": 30.0, "h": 40.0}}
        picture = {"bytes": videos.png(videos.scene(number)), "path": None}
        told.append({"id": identity, "image": picture, "detections": [one], "caption": "…", "human_annotated": False})
    (folder / "data").mkdir(parents=True)
    for split, start in (("train", 0), ("test", rows)):
        part = Dataset.from_list(told[start : start + rows] if split == "train" else told[start:], features)
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_ids_tell_film_and_scene_and_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path / "groundcap", [*IDS, IDS[0]])
    reports, left_out = filming.extract([folder], tmp_path / "out")
    assert left_out == [] and [(one.film, one.seen, one.scenes) for one in reports] == [("tt1", 3, 3), ("tt2", 3, 2)]
    found = [(one.film, one.scene, one.source) for one in frames.read(tmp_path / "out")]
    assert found == [
        ("tt1", 0, "3/tt1_3_1.jpg"),
        ("tt1", 1, "4/tt1_4_1.jpg"),
        ("tt1", 2, "0005/tt1_shot_0005_img_0.jpg"),
        ("tt2", 0, "9/tt2_scene_9_2.jpg"),
        ("tt2", 0, "9/tt2_scene_9_10.jpg"),
        ("tt2", 1, "10/tt2_scene_10_1.jpg"),
    ]
    (made,) = (tmp_path / "runs" / "groundcap").iterdir()
    (made / "films" / "tt1" / "3" / "tt1_3_1.jpg").unlink()
    assert list(sources.find([folder])) == ["tt1", "tt2"]  # complete: not read again
    assert not (made / "films" / "tt1" / "3" / "tt1_3_1.jpg").exists()


def test_what_is_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "groundcap")
    real = groundcap._bytes
    monkeypatch.setattr(
        groundcap, "_bytes", lambda image: 1 / 0 if image["bytes"] == videos.png(videos.scene(4)) else real(image)
    )
    with pytest.raises(ZeroDivisionError):
        sources.find([folder])
    monkeypatch.undo()
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path / "runs"))
    assert sum(len(sources._pictures(path)) for path in sources.find([folder]).values()) == len(IDS)


def test_bad_rows_and_names_are_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has a frame whose id is '\.\./tt1_1_1': a name without / is expected"):
        sources.find([write(tmp_path / "bad", ["../tt1_1_1", *IDS])])
    other = tmp_path / "other"
    other.mkdir()
    pq.write_table(pa.table({"story_id": ["a-1"]}), other / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"No film is in .*other"):
        sources.find([other])
    for path in ("none.mp4", str(tmp_path / "none"), f"{tmp_path.name}/a/b"):
        assert not groundcap.names_one(Path(path))
    assert groundcap.names_one(Path("daniel3303/GroundCap@v1.0"))


ON_THE_HUB = """
import sys
from pathlib import Path
from storyreason.errors import DataError
from storyreason.perception import sources

for name in sys.argv[1:]:
    print(*sources.find([Path(name)]))
try:
    sources.find([Path("someone/none")])
except DataError as error:
    print(error)
"""


@pytest.mark.server
def test_it_is_fetched_from_a_hub_by_name_and_revision(tmp_path: Path) -> None:
    def files(folder: Path) -> dict[str, Any]:
        return {f"data/{path.name}": path.read_bytes() for path in (folder / "data").iterdir()}

    with hub.serve() as there:
        repository = there.repositories["daniel3303/GroundCap"] = hub.Repository()
        first = repository.commit(files(write(tmp_path / "first")))
        repository.commit(files(write(tmp_path / "second", [f"tt9_{number}_1" for number in range(6)])))
        done = subprocess.run(
            [sys.executable, "-c", ON_THE_HUB, "daniel3303/GroundCap", f"daniel3303/GroundCap@{first}"],
            env={**os.environ, "HF_ENDPOINT": there.address, "HF_HUB_DISABLE_XET": "1"}, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    newest, older, none = io.StringIO(done.stdout)
    assert (newest.split(), older.split()) == (["tt9"], ["tt1", "tt2"])
    assert none.startswith("There is no someone/none here, and no data set of this name can be fetched from the Hub: ")
