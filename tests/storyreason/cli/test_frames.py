"""From a made film to entities: `storyreason sample film`, `frames`, `detect`, `identify`."""

from pathlib import Path

from typer.testing import CliRunner

from storyreason.cli import app
from storyreason.perception import frames


def test_a_made_film_becomes_frames_detections_and_entities(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["sample", "film", "--out", str(tmp_path / "films"), "--shots", "3"])
    assert made.exit_code == 0, made.output
    assert f"{tmp_path / 'films' / 'film-7.mp4'}: 3 shots" in made.output
    (tmp_path / "films" / "bad.mp4").write_text("none")
    told = CliRunner().invoke(app, ["frames", str(tmp_path / "films"), "--out", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("1 films, 3 scenes: ")
    assert "bad.mp4 cannot be read as a video" in told.stderr
    assert "left out: " in told.stderr and "near-duplicates" in told.stderr
    assert list(frames.films(tmp_path)) == ["film-7"]
    assert (tmp_path / "films" / "film-7.mp4").is_file()  # also where the films lie in the folder that is written
    told = CliRunner().invoke(
        app,
        ["detect", str(tmp_path), "--out", str(tmp_path / "found.parquet"), "--faces", "none",
         "--detector", f"truth:{tmp_path / 'films'}"],
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("1 films, ") and ", 0 with a face, in " in told.stdout
    told = CliRunner().invoke(
        app, ["identify", str(tmp_path / "found.parquet"), "--out", str(tmp_path / "ids.parquet")]
    )
    assert told.exit_code == 0, told.output
