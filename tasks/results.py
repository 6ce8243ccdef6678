"""The results of the steps: manifests of work folders as frozen types, with their fields in the order of the file.

This module imports neither Prefect nor MLflow, so the command line can name the steps without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from storyreason.errors import RunError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from storyreason.scoring import Scorecard

Until = Literal["pull", "train", "improve", "register", "evaluate", "gate", "deploy"]
"""The steps after which a retraining can stop, in order."""
TRAINING = ("train", "improve")
"""The steps that train. Their folders have the same files."""
Stage = Literal["sheets", "stories"]
"""The steps after which a build can stop, in order."""


@dataclass(frozen=True)
class Pulled:
    """One version of the data, or of a base model's folder, fetched and checked."""

    files: tuple[str, ...]
    """Only the folder (absolute)."""
    md5: str
    rev: str | None
    card: str
    """Markdown; empty for a base model."""
    faulty_test_stories: dict[str, str]
    """What is wrong with each test story that cannot be used, by its ID."""

    @property
    def folder(self) -> Path:
        return Path(self.files[0])


@dataclass(frozen=True)
class Fitted:
    """Whether the base can take the data."""

    files: tuple[str, ...]
    faulty_test_stories: dict[str, str]
    """Why the base cannot take a test story, by its ID."""
    sentences: list[str]
    """What does not fit, one sentence for each fault."""


@dataclass(frozen=True)
class Trained:
    """A complete training, or improvement of one."""

    files: tuple[str, ...]
    fingerprint: str
    result: Path
    """The folder of the adapter or of the weights."""
    run_id: str
    data_md5: str

    @property
    def improved(self) -> bool:
        """Whether it is an improvement: its folder is `runs/improve/<fingerprint>/result`."""
        return self.result.parent.parent.name == "improve"


@dataclass(frozen=True)
class Registered:
    """A version in MLflow, and the merged model folder that is evaluated and served."""

    files: tuple[str, ...]
    name: str
    number: str
    folder: Path
    identity: str
    run_id: str
    data_md5: str


@dataclass(frozen=True)
class Evaluated:
    """The scores of one model on the test split."""

    files: tuple[str, ...]
    role: str
    run_id: str
    scorecards: dict[str, str]
    """The file of the scorecard, by decoding."""
    pages: dict[str, str]
    """The page with stories, by decoding."""
    metrics: dict[str, float]

    def scorecard(self, decoding: str) -> "Scorecard":
        """The scorecard of one decoding."""
        from storyreason import scoring

        return scoring.Scorecard.from_json(Path(self.scorecards[decoding]).read_text())

    def answers(self, decoding: str) -> Path:
        """The file of the answers of one decoding."""
        return Path(self.scorecards[decoding]).with_name(f"{decoding}.jsonl")


@dataclass(frozen=True)
class Compared:
    """The tables and charts of a comparison, which are in MLflow."""

    files: tuple[str, ...]
    run_id: str
    compared_with: list[str]


@dataclass(frozen=True)
class Extracted:
    """The frames that are kept of a film."""

    files: tuple[str, ...]
    fingerprint: str
    film: str
    folder: Path
    kept: int
    problem: str
    """What of the film could not be read, as a sentence; empty: nothing."""


@dataclass(frozen=True)
class Detected:
    """What was detected in frames."""

    files: tuple[str, ...]
    detections: Path
    count: int


@dataclass(frozen=True)
class Recognized:
    """Which detections show the same person or thing."""

    files: tuple[str, ...]
    ids: Path
    left_out: list[str]
    """What of the corrections is left out, one sentence for each."""


@dataclass(frozen=True)
class Named:
    """Detections whose landmarks have names."""

    files: tuple[str, ...]
    detections: Path
    named: int
    calls: int
    refused: int
    prompt_tokens: int
    tokens: int
    rejected: int
    """Requests that the endpoint rejected: the next build asks them again."""


@dataclass(frozen=True)
class Sheet:
    """The contact sheet of a film."""

    files: tuple[str, ...]
    film: str
    page: Path


@dataclass(frozen=True)
class Authored:
    """What was written for a film."""

    files: tuple[str, ...]
    fingerprint: str
    film: str
    stories: Path
    told: int
    left_out: int
    prompt_tokens: int
    tokens: int
    rejected: int
    """Requests that the endpoint rejected: the next build asks them again."""


@dataclass(frozen=True)
class Assembled:
    """A data set of films."""

    files: tuple[str, ...]
    folder: Path


RESULTS = {
    "pull": Pulled,
    "fit": Fitted,
    "train": Trained,
    "improve": Trained,
    "register": Registered,
    "evaluate": Evaluated,
    "compare": Compared,
    "extract": Extracted,
    "detect": Detected,
    "landmarks": Named,
    "recognize": Recognized,
    "sheet": Sheet,
    "author": Authored,
    "assemble": Assembled,
}
"""The result type of each step. A step's name is also that of its folder in `runs/`."""
Result = TypeVar("Result", bound="DataclassInstance")


def from_manifest(kind: type[Result], manifest: Mapping[str, Any], place: str) -> Result:
    """The manifest of a step as its type. Raises RunError, which names `place`, when a key is missing."""
    hints = get_type_hints(kind)
    if missing := [name for name in hints if name not in manifest]:
        raise RunError(
            f"The manifest of {place} has no {' and no '.join(missing)}: it was not written by this version of the step. "
            "Delete the folder to run the step again."
        )
    return kind(**{name: _AS_TYPE.get(hint, _as_it_is)(manifest[name]) for name, hint in hints.items()})


def to_manifest(result: "DataclassInstance") -> dict[str, Any]:
    """A result as `from_manifest` reads it, in JSON's types."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: _AS_JSON.get(type(value), _as_it_is)(value) for name, value in values.items()}


def _as_it_is(value: Any) -> Any:
    return value


_AS_TYPE: dict[Any, Any] = {Path: Path, tuple[str, ...]: tuple}
_AS_JSON: dict[Any, Any] = {type(Path()): str, tuple: list}
