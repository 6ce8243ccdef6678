"""A step computes once what its fingerprint names; its manifest is read as it was written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storyreason import runs
from storyreason.errors import RunError
from tasks.results import RESULTS, Evaluated, Pulled, Trained, from_manifest, to_manifest
from tasks.steps import Step, Work, step


@dataclass(frozen=True)
class Counted:
    files: tuple[str, ...]
    letters: int


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Step[..., Counted]:
    """A step that counts letters, and fails when it does so twice."""
    monkeypatch.setenv("STORYREASON_RUNS", str(tmp_path))
    monkeypatch.setitem(RESULTS, "count", Counted)

    @step(lambda word: runs.fingerprint(step="count", word=word), retries=1)
    def count(work: Work, word: str) -> Counted:
        assert (work.folder / ".lock").exists()
        (work.folder / word).touch(exist_ok=False)
        return Counted((word,), len(word))

    return count


def test_what_is_complete_is_not_computed_again(count: Step[..., Counted], tmp_path: Path) -> None:
    first = count.compute("four")

    assert count.compute("four") == first == Counted(("four",), 4)
    manifest = count.work("four").folder / runs.MANIFEST
    assert manifest.read_text() == '{\n  "files": [\n    "four"\n  ],\n  "letters": 4\n}\n'
    assert manifest.parent.parent == tmp_path / "count"


def test_without_its_files_a_manifest_does_not_count(count: Step[..., Counted]) -> None:
    count.compute("four")
    (count.work("four").folder / "four").unlink()

    assert count.task(count.work("four")).refresh_cache is True
    assert count.compute("four").letters == 4
    assert count.task(count.work("four")).refresh_cache is False


def test_prefect_knows_it_by_name_and_fingerprint(count: Step[..., Counted]) -> None:
    work = count.work("four")
    task = count.task(work)

    assert (task.name, task.retries) == ("count", 1)
    assert task.cache_key_fn is not None
    assert task.cache_key_fn(None, {}) == f"count-{work.fingerprint}"  # type: ignore[arg-type]


MANIFESTS: list[tuple[type[Any], dict[str, Any]]] = [
    (Pulled, {"files": ["/data"], "md5": "d41d", "rev": None, "card": "# Data", "faulty_test_stories": {"a-1": "why"}}),
    (
        Trained,
        {"files": ["result"], "fingerprint": "f" * 16, "result": "/runs/result", "run_id": "1", "data_md5": "d41d"},
    ),
    (
        Evaluated,
        {
            **{"files": ["free.jsonl"], "role": "base", "run_id": "1", "scorecards": {"free": "/runs/free.json"}},
            **{"pages": {"free": "/runs/free.html"}, "metrics": {"stories": 4, "free/strict/grounding/f1": 0.5}},
        },
    ),
]


@pytest.mark.parametrize(("kind", "manifest"), MANIFESTS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_manifest_is_written_as_it_was_read(kind: type[Any], manifest: dict[str, Any]) -> None:
    read = from_manifest(kind, manifest, "the folder")

    assert json.dumps(to_manifest(read)) == json.dumps(manifest)
    assert isinstance(read.files, tuple)


def test_a_manifest_without_a_key_is_refused_with_its_place() -> None:
    with pytest.raises(RunError, match=r"/runs/train/1 has no result and no run_id: .* Delete the folder"):
        from_manifest(Trained, {"files": [], "fingerprint": "1", "data_md5": "d41d", "more": 1}, "/runs/train/1")
