"""The figures of the README are gathered over days: what is in the file is not made again."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


def test_a_run_that_is_in_the_file_is_not_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sample

    def run(seed: int, validity: float, **other: str) -> dict[str, object]:
        one = {"model": "base", "dtype": "float32", "seed": seed, "of": sample.identity("smoke", "float32", seed)}
        return one | other | {"scores": {"free/strict/validity/valid": validity}}

    # Given a file of two seeds, and of one that other weights were made of
    file = tmp_path / "sample.json"
    file.write_text(json.dumps({"runs": [run(42, 0.25), run(43, 0.75), run(44, 0.0, of="another base")]}))
    # When all that is asked for is there
    sample.sample("smoke", seeds=2, dtype=["float32"], out=file)
    # Then no server starts, and the table has both
    said = capsys.readouterr().out
    assert "2 of 2 runs are in" in said
    assert "0.500 (0.250 to 0.750)" in said
    # and what is not there would be made

    class StartedError(Exception):
        pass

    def platform() -> None:
        raise StartedError

    monkeypatch.setattr(sample.local, "platform", platform)
    with pytest.raises(StartedError):
        sample.sample("smoke", seeds=3, dtype=["float32"], out=file)
    assert "2 of 3 runs are in" in capsys.readouterr().out
