import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from storyreason import dataset
from storyreason.cli import app
from storyreason.serving import gateway

GOLDEN = Path(__file__).parents[2] / "golden" / "paper_protocol.json"
STORIES = json.loads(GOLDEN.read_text())["stories"][:8]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def picture(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    examples = [
        dataset.Example(
            story["story_id"], tuple(map(picture, story["image_sizes"])), story["chain_of_thought"], story["story"]
        )
        for story in STORIES
    ]
    dataset.write(examples, folder, "test")
    return folder


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    folder = tmp_path / "answers"
    folder.mkdir()
    for story in STORIES:
        (folder / f"{story['story_id']}.txt").write_text(story["prediction"])
    return folder


def test_a_good_data_set_is_checked_with_exit_code_0(data: Path) -> None:
    result = run("check", data)
    assert result.exit_code == 0
    assert "8 answers, 8 valid (100.0%)" in result.stdout
    assert "pronoun-untagged" in result.stdout


def test_a_data_set_is_checked_for_what_training_needs_with_exit_code_1(data: Path, tmp_path: Path) -> None:
    first, *others = dataset.load(data, "test")
    dataset.write([replace(first, images=(b"", *first.images[1:])), *others], tmp_path, "test")

    result, listed = run("check", tmp_path), run("check", tmp_path, "--format", "json")

    assert result.exit_code == listed.exit_code == 1
    assert "1 stories cannot be used" in result.stdout and "image 1: the picture does not decode" in result.stdout
    assert [(one["split"], one["story_id"], one["image"]) for one in json.loads(listed.stdout)["unusable"]] == [
        ("test", first.story_id, 1)
    ]


def test_a_data_set_is_checked_against_a_base(data: Path, tiny_base: Path, tmp_path: Path) -> None:
    first, *others = dataset.load(data, "test")
    dataset.write([replace(first, story=first.story.replace("</gdi>", "<|im_end|></gdi>")), *others], tmp_path, "test")

    result = run("check", tmp_path, "--base", tiny_base)

    assert result.exit_code == 0
    assert f"1 stories contain <|im_end|>, which the base treats as special ({first.story_id} first)" in result.stdout
    assert "--base is for data sets" in str(run("check", GOLDEN, "--base", tiny_base).exception)


def test_answers_are_checked_against_their_images_with_exit_code_1(data: Path, answers: Path) -> None:
    (answers / "7.txt").unlink()
    result = run("check", answers, "--data", data, "--format", "json")

    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["answers"], report["missing"], report["unsized"]) == (8, 1, 0)
    # Story 6 was cut off in image 5, before the end of a row.
    cut = [p for p in report["problems"] if p["story_id"] == "6" and p["rule"] == "answer-truncated"]
    assert [(p["severity"], p["line"]) for p in cut] == [("error", STORIES[6]["prediction"].count("\n") + 1)]
    counted = sum(rule["problems"] for rule in report["rules"].values())
    assert counted == len(report["problems"])


def test_without_the_data_it_says_what_was_not_checked(answers: Path) -> None:
    assert "were not checked against them: name the data set with --data" in run("check", answers).stdout


def test_read_prints_what_was_read(answers: Path) -> None:
    result = run("read", answers / "0.txt")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["readable"]
    assert told["analysis"]["sections"][0]["characters"][0]["box"] == [435, 23, 471, 79]
    assert told["story"]["passages"][0]["parts"][0]["ids"] == ["char1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check", "nowhere"], "There is no nowhere"),
        (["check", "."], "holds no .txt file"),
        (["read", "nowhere"], "nowhere cannot be read: No such file"),
    ],
)
def test_a_fault_is_one_line_and_exit_code_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    code = "from storyreason import cli; cli.main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("storyreason: ") and expected in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout


def test_stories_that_the_data_do_not_have_are_named(data: Path, answers: Path, tmp_path: Path) -> None:
    (answers / "other.txt").write_text("x")
    result = run("check", answers, "--data", data)
    assert "answers 1 stories" in str(result.exception) and "'other'" in str(result.exception)


def test_serve_and_tell_take_the_port_that_this_checkout_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[int] = []
    monkeypatch.setattr(gateway, "run", lambda config, first: served.append(config.port))
    monkeypatch.setenv("STORYREASON_GATEWAY_PORT", "9")  # where nothing answers
    (tmp_path / "1.png").write_bytes(picture((28, 28)))

    run("serve")
    run("serve", "--set", "serving.port=8401")

    assert served == [9, 8401]
    assert "http://127.0.0.1:9/v1/models did not answer" in str(run("tell", tmp_path / "1.png").exception)
