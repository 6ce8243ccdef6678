import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storyreason import predictions
from storyreason.errors import DataError

WRITTEN = {"a-1": "<think>\r\n…", "b-1": ""}
TOLD = {"a-1": "<think>\n…", "b-1": ""}


def test_a_folder_a_jsonl_and_a_parquet_file_hold_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    for story_id, text in WRITTEN.items():
        (folder / f"{story_id}.txt").write_bytes(text.encode())
    rows = [{"story_id": story_id, "prediction": text} for story_id, text in WRITTEN.items()]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "answers.parquet")

    assert predictions.load(folder) == TOLD
    assert predictions.load(tmp_path / "answers.jsonl") == TOLD
    assert predictions.load(tmp_path / "answers.parquet") == TOLD


def test_marks_and_line_ends_of_windows_are_not_part_of_an_answer(tmp_path: Path) -> None:
    rows = [{"story_id": story_id, "prediction": f"\ufeff{text}"} for story_id, text in WRITTEN.items()]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "answers.parquet")

    assert predictions.load(tmp_path / "answers.jsonl") == TOLD
    assert predictions.load(tmp_path / "answers.parquet") == TOLD


BAD = {
    "away.jsonl": (None, "There is no"),
    "a.csv": (b"", "neither"),
    "empty.jsonl": (b"\n", "holds no prediction"),
    "latin.jsonl": ('{"story_id": "é", "prediction": ""}'.encode("latin-1"), "not UTF-8 (byte 14)"),
    "broken.jsonl": (b'{"story_id": "a", "prediction": ""}\n{"story', "line 2, is no JSON"),
    "list.jsonl": (b"[1]", "line 1, is no JSON object"),
    "columns.jsonl": (b'{"story_id": "a", "answer": ""}', "has no prediction (it has story_id, answer)"),
    "types.jsonl": (b'{"story_id": 1, "prediction": null}', "has a int as story_id and a NoneType"),
    "twice.jsonl": (b'{"story_id": "a", "prediction": ""}\n' * 2, "line 2, tells story 'a' a second time"),
    "text.parquet": (b"hello", "is no parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        predictions.load(tmp_path / name)
    assert name in str(error.value) and expected in str(error.value) and "\n" not in str(error.value)


def test_other_bad_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.txt file"):
        predictions.load(tmp_path)
    pq.write_table(pa.table({"story_id": ["a"], "text": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has no prediction \(it has story_id, text\)"):
        predictions.load(tmp_path / "a.parquet")
