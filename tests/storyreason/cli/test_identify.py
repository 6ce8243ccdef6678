"""`storyreason identify`, from table to table."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from benchmarks import films
from storyreason.cli import app
from storyreason.errors import ConfigError, DataError
from tests.storyreason.perception import tables
from tests.storyreason.perception.tables import Row


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["identify", *map(str, arguments)])


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Two films of sixty detections."""
    return [row for seed, name in enumerate("ab") for row in tables.rows(films.film(seed, 1.0, 60, name)[0])]


@pytest.fixture(scope="module")
def table(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write(tmp_path_factory.mktemp("tables") / "detections.parquet", rows)


def test_each_detection_gets_an_entity(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "ids.parquet"
    result = run(table, "--out", out)
    assert result.exit_code == 0
    schema = pq.read_schema(out)
    assert schema.names == ["film", "detection", "entity", "probability"]
    assert schema.types == [pa.string(), pa.int64(), pa.string(), pa.float32()]
    found = tables.read(out)
    assert list(found) == [(film, detection) for film in "ab" for detection in range(60)]
    people = {(film, entity) for (film, _), (entity, _) in found.items() if entity.startswith("char")}
    others = {(film, entity) for (film, _), (entity, _) in found.items()} - people
    assert result.stdout == (
        f"2 films, 120 detections: {len(people)} people and {len(others)} other entities in {out}\n"
    )
    told = [probability for _, probability in found.values() if probability is not None]
    assert len(told) >= 120 - len(people | others) and all(0.5 < one <= 1 for one in told)
    assert [path.name for path in out.parent.iterdir()] == ["ids.parquet"]


def test_shuffled_rows_give_the_same_file(rows: list[Row], table: Path, tmp_path: Path) -> None:
    shuffled = [rows[at] for at in np.random.default_rng(0).permutation(len(rows))]
    run(table, "--out", tmp_path / "one.parquet")
    run(tables.write(tmp_path / "shuffled.parquet", shuffled), "--out", tmp_path / "other.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_corrections_are_applied_and_what_is_left_out_is_said(rows: list[Row], table: Path, tmp_path: Path) -> None:
    run(table, "--out", tmp_path / "before.parquet")
    before = tables.read(tmp_path / "before.parquet")
    people = [row for row in rows if row["film"] == "a" and row["label"] == "person"]
    one, other = next(
        (one, other)
        for one in people
        for other in people
        if before["a", one["detection"]][0] != before["a", other["detection"]][0] and one["frame"] != other["frame"]
    )

    def place(row: Row, **changed: object) -> dict[str, object]:
        return {
            "film": "a",
            "frame": row["frame"],
            "box": [row[corner] for corner in ("x1", "y1", "x2", "y2")],
            **changed,
        }

    lines = [
        {"merge": [place(one), place(other)]},
        {"split": [place(one), place(other, box=[9000, 0, 9010, 10])]},
        {"merge": [place(one, film="c"), place(other, film="c")]},
    ]
    (tmp_path / "corrections.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    result = run(table, "--out", tmp_path / "after.parquet", "--corrections", tmp_path / "corrections.jsonl")

    after = tables.read(tmp_path / "after.parquet")
    assert after["a", one["detection"]][0] == after["a", other["detection"]][0]
    assert "No detection is at frame" in result.stderr
    assert f"1 of 3 corrections are of films that {table} does not have." in result.stderr


def test_the_published_rule_ends_at_each_story(table: Path, tmp_path: Path) -> None:
    counts = {}
    for method in ("calibrated", "published"):
        assert run(table, "--out", tmp_path / f"{method}.parquet", "--method", method).exit_code == 0
        found = tables.read(tmp_path / f"{method}.parquet")
        counts[method] = len({(film, entity) for (film, _), (entity, _) in found.items()})
    assert counts["published"] > counts["calibrated"]


def test_what_cannot_be_done_is_said_before_work(table: Path, tmp_path: Path) -> None:
    def refused(*arguments: str | Path) -> BaseException | None:
        return run(table, *arguments).exception

    folder = refused("--out", tmp_path)
    assert isinstance(folder, DataError) and "is a folder: name a new file" in str(folder)
    itself = refused("--out", table)
    assert isinstance(itself, DataError) and "is the input: name a new file" in str(itself)
    both = refused("--out", tmp_path / "a.parquet", "--method", "published", "--corrections", table)
    assert isinstance(both, ConfigError) and "takes no corrections" in str(both)
    (tmp_path / "file").write_text("")
    nowhere = run(tmp_path / "none.parquet", "--out", tmp_path / "file" / "a.parquet").exception
    assert isinstance(nowhere, DataError) and "cannot be written" in str(nowhere)


def test_a_run_that_fails_leaves_the_old_result(rows: list[Row], table: Path, tmp_path: Path) -> None:
    out = tmp_path / "ids.parquet"
    run(table, "--out", out)
    before = out.read_bytes()
    faulty = tables.write(tmp_path / "faulty.parquet", [*rows[:-1], {**rows[-1], "look": [0.0] * 192}])
    assert isinstance(run(faulty, "--out", out).exception, DataError)
    assert out.read_bytes() == before
