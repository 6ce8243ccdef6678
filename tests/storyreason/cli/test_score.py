"""`storyreason score` on files as users have them, good and bad. The stories are golden ones, the frames are blank."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from storyreason import dataset, sample
from storyreason.cli import main
from storyreason.dataset import Example
from storyreason.format import answer

STORIES = json.loads((Path(__file__).parents[2] / "golden" / "paper_protocol.json").read_text())["stories"][:6]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    examples = []
    for told in STORIES:
        images = []
        for size in told["image_sizes"]:
            file = io.BytesIO()
            Image.new("L", tuple(size)).save(file, "PNG")
            images.append(file.getvalue())
        examples.append(Example(told["story_id"], tuple(images), told["chain_of_thought"], told["story"]))
    dataset.write(examples, folder, "test")
    return folder


@pytest.fixture
def told(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "told.jsonl", STORIES)


def jsonl(path: Path, stories: list[dict[str, Any]]) -> Path:
    rows = [{"story_id": told["story_id"], "prediction": told["prediction"]} for told in stories]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `storyreason score` with these words."""
    monkeypatch.setattr(sys, "argv", ["storyreason", "score", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_a_table_of_scores_with_intervals(monkeypatch, capsys, data: Path, told: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = call(monkeypatch, capsys, told, "--data", data)

    assert code == 0
    assert "strict/grounding/f1" in out
    assert "strict/validity/rule_pass_rate/" in out  # one golden answer is cut off
    assert "6 stories." in out


def test_predictions_as_folder_and_as_jsonl_give_the_same_json(monkeypatch, capsys, tmp_path, data, told) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "told"
    folder.mkdir()
    for story in STORIES:
        (folder / f"{story['story_id']}.txt").write_text(story["prediction"])
    out_file = tmp_path / "scores" / "out.json"

    _, from_file, _ = call(monkeypatch, capsys, told, "--data", data, "--format", "json", "--out", out_file)
    _, from_folder, _ = call(monkeypatch, capsys, folder, "--data", data, "--format", "json")

    result = json.loads(from_file)
    assert result == json.loads(from_folder)
    f1 = result["scores"]["strict/grounding/f1"]
    assert 0 < f1["low"] <= f1["value"] <= f1["high"] < 1
    written = json.loads(out_file.read_text())
    assert [row["story_id"] for row in written["stories"]] == [story["story_id"] for story in STORIES]
    assert written["scores"] == result["scores"]


def test_against_another_model_it_says_what_is_real(monkeypatch, capsys, tmp_path, data: Path, told: Path) -> None:  # type: ignore[no-untyped-def]
    perfect = [
        {**story, "prediction": f"<think>\n{story['chain_of_thought']}\n</think>\n{story['story']}"}
        for story in STORIES
    ]
    better = jsonl(tmp_path / "better.jsonl", perfect)
    words = (better, "--data", data, "--against", told)
    _, out, _ = call(monkeypatch, capsys, *words, "--format", "json")
    change = json.loads(out)["against"]["strict/grounding/f1"]

    assert change["real"]
    assert change["gain"] > 0
    _, out, _ = call(monkeypatch, capsys, *words)
    row = next(line for line in out.splitlines() if "strict/grounding/f1 " in line)
    assert "1.000" in row
    assert "yes" in row


def test_the_papers_protocol_without_meteor(monkeypatch, capsys, data: Path, told: Path) -> None:  # type: ignore[no-untyped-def]
    words = (told, "--data", data, "--protocol", "paper", "--no-meteor", "--format", "json")
    _, out, _ = call(monkeypatch, capsys, *words)
    scores = json.loads(out)["scores"]

    assert {"paper/F1", "paper/mAP", "paper/BLEU-4", "paper/ROUGE-L", "paper/CIDEr"} <= scores.keys()
    assert "paper/METEOR" not in scores
    assert not any(name.startswith("strict/") for name in scores)
    assert "control" not in json.loads(out)


def test_every_score_says_what_other_films_keep_of_it(monkeypatch, capsys, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    examples = list(sample.examples("test", films=4))
    dataset.write(examples, tmp_path, "test")
    told = [{"story_id": one.story_id, "prediction": answer.join(one.chain_of_thought, one.story)} for one in examples]
    file = jsonl(tmp_path / "told.jsonl", told)

    _, out, _ = call(monkeypatch, capsys, file, "--data", tmp_path, "--format", "json")
    found = json.loads(out)
    scores, control = found["scores"], found["control"]
    assert (control["stories"], control["left_out"]) == (5, 3)
    assert "black-bicycle-481-1" in control["pairs"]
    f1 = scores["strict/grounding/f1"]
    assert f1["label"] == "image-dependent"
    assert 0 < f1["control"]["low"] < f1["control"]["value"] < f1["control"]["high"] < 1 / 3
    assert f1["control"]["above"] == 1
    assert scores["strict/validity/valid"]["label"] == "text-only"
    assert "control" not in scores["strict/validity/valid"]

    _, out, _ = call(monkeypatch, capsys, file, "--data", tmp_path)
    row = next(line for line in out.splitlines() if "strict/grounding/f1 " in line)
    assert f"{f1['control']['value']:.3f} (to {f1['control']['high']:.3f})" in row
    assert "5 stories have one, 3 do not" in " ".join(out.split())


def test_missing_predictions_are_counted_and_score_as_empty(monkeypatch, capsys, tmp_path, data: Path) -> None:  # type: ignore[no-untyped-def]
    some = jsonl(tmp_path / "some.jsonl", STORIES[:4])
    _, out, _ = call(monkeypatch, capsys, some, "--data", data)

    assert "2 predictions are missing and count as empty answers." in out
    _, out, _ = call(monkeypatch, capsys, some, "--data", data, "--format", "json")
    result = json.loads(out)
    assert (result["missing"], result["story_count"]) == (2, 6)
    assert result["scores"]["strict/validity/missing"]["value"] == pytest.approx(1 / 3)


def test_bad_input_is_one_sentence_and_exit_code_2(monkeypatch, capsys, tmp_path, data: Path, told: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "columns.jsonl").write_text('{"id": "0", "text": "a story"}\n')
    (tmp_path / "latin.jsonl").write_bytes('{"story_id": "0", "prediction": "café"}\n'.encode("latin-1"))
    (tmp_path / "alien.jsonl").write_text('{"story_id": "999-1", "prediction": ""}\n')
    jsonl(tmp_path / "double.jsonl", [*STORIES, STORIES[0]])
    cases = {
        "empty": "holds no .txt file",
        "empty.jsonl": "holds no prediction",
        "columns.jsonl": "has no story_id and no prediction",
        "latin.jsonl": "is not UTF-8",
        "alien.jsonl": "1 predictions are for stories that the data do not hold (for example '999-1'",
        "double.jsonl": "a second time",
        "nothing.jsonl": "There is no",
    }
    for name, message in cases.items():
        code, out, err = call(monkeypatch, capsys, tmp_path / name, "--data", data)
        assert code == 2, name
        assert out == ""
        assert message in err, name
        assert err.count("\n") == 1, err
    code, _, err = call(monkeypatch, capsys, told, "--data", tmp_path / "empty")
    assert (code, "has no test-*.parquet" in err) == (2, True)
