"""The configuration of a run. One object is the YAML preset, `--set` on the command line, `overrides` in Prefect's forms and
`config.yaml` in MLflow. Each part is defined in the room it configures."""

import contextlib
import difflib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from storyreason import forms, resources
from storyreason.authoring.config import AuthoringConfig
from storyreason.errors import ConfigError
from storyreason.generation import lora
from storyreason.generation.config import Decoding, GenerationConfig
from storyreason.perception.config import FilmsConfig
from storyreason.scoring.config import Asked, GateConfig, JudgeConfig, RewardConfig
from storyreason.serving.config import ServingConfig
from storyreason.training.config import ImproveConfig, TrainingConfig

PRESETS = resources.folder("presets")
ACCELERATE = resources.folder("accelerate")


class DataConfig(BaseModel):
    """The stories a run is trained and evaluated on."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    target: str = Field("data.dvc", description="The DVC file that tracks the folder of parquet shards.")
    rev: str | None = Field(None, description="Git revision of the data (tag, branch, commit); empty: as checked out.")
    source: str | None = Field(
        None,
        description="The data set that a preset is for, such as daniel3303/StoryReasoning: a run with the sample's stories "
        "is refused. Empty: any.",
    )
    train_stories: int | None = Field(None, ge=1, description="Use only the first N stories of train; empty: all.")
    test_stories: int | None = Field(None, ge=1, description="Use only the first N stories of test; empty: all.")


class BaseModelConfig(BaseModel):
    """The model that training starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    name: str = Field("tiny-base", description="A model folder, or a model's name on the Hub.")
    revision: str | None = Field(None, description="The Hub revision; empty: the newest, or a local folder.")


class RegistryConfig(BaseModel):
    """What a registered version is."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    form: Literal["merged", "adapter"] = Field(
        "merged",
        description="merged: whole weights, the adapter merged into its base. adapter: the adapter alone (training.mode=lora, "
        "rank 512 at most): versions of one base share it, and one replaces another in the running engine.",
    )


class EvaluationConfig(BaseModel):
    """How a model answers the test split before it is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    decodings: tuple[Decoding, ...] = Field(
        ("free", "grounded"),
        min_length=1,
        description="free: as the model likes; grounded: under grammars that keep tables, IDs, boxes and tags right.",
    )
    controls: tuple[Asked, ...] = Field(
        (),
        description="Ask the model again with wrong frames, and score what remains: those of another film (other-film), its own "
        "in another order (shuffled), or grey ones (grey). Each takes as long as the evaluation itself.",
    )
    control_stories: int | None = Field(
        None, ge=1, description="Ask again for the first N test stories only; empty: for all of them."
    )


class RunConfig(BaseModel):
    """Everything that decides what a retraining does."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    name: str = Field("sample", description="The preset's name.")
    model: str = Field("storyteller", description="The registered model's name in MLflow.", pattern=r"^[\w.-]+$")
    data: DataConfig = Field(default_factory=DataConfig)
    base: BaseModelConfig = Field(default_factory=BaseModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    improve: ImproveConfig = Field(default_factory=ImproveConfig)
    registry: RegistryConfig = Field(default_factory=RegistryConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    gate: GateConfig = Field(default_factory=GateConfig)
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    reward: RewardConfig = Field(default_factory=RewardConfig)
    serving: ServingConfig = Field(default_factory=ServingConfig)
    films: FilmsConfig = Field(default_factory=FilmsConfig)
    authoring: AuthoringConfig = Field(default_factory=AuthoringConfig)

    @model_validator(mode="after")
    def _primary_is_evaluated(self) -> "RunConfig":
        decoding = self.gate.primary.partition("/")[0]
        if decoding not in self.evaluation.decodings:
            raise ValueError(f"gate.primary is a score of {decoding} decoding, and evaluation.decodings lacks it")
        return self

    @model_validator(mode="after")
    def _accelerate_is_a_file(self) -> "RunConfig":
        """Reject an unknown file when the configuration is loaded rather than when a machine begins to train."""
        name, known = self.training.accelerate, sorted(file.stem for file in ACCELERATE.glob("*.yaml"))
        if name is None or name in known or name.endswith((".yaml", ".yml")):
            return self
        raise ValueError(
            f"training.accelerate = {name!r}:{_nearest(name, known)} name one of {', '.join(known)}, or a YAML file"
        )

    @model_validator(mode="after")
    def _is_asked_as_it_was_trained(self) -> "RunConfig":
        for name in ("images_first", "boxes"):
            if getattr(self.training, name) != getattr(self.generation, name):
                raise ValueError(f"training.{name} and generation.{name} differ: set both to the same value")
        return self

    @model_validator(mode="after")
    def _answers_fit_the_context(self) -> "RunConfig":
        """An engine refuses a request whose answer alone would fill its context."""
        answer, context = self.generation.max_tokens, self.serving.max_model_len
        if answer is not None and answer >= context:
            raise ValueError(
                f"generation.max_tokens={answer} leaves no room for images and request in serving.max_model_len={context}: "
                "lower the one, or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _judge_may_count(self) -> "RunConfig":
        """Replies that the gate would not count would be paid all the same."""
        stories, least = self.judge.stories, self.gate.min_stories
        if self.judge.endpoint and stories is not None and stories < least:
            raise ValueError(
                f"judge.stories={stories} is less than gate.min_stories={least}, so the judge would be asked and not counted: "
                "raise the one, or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _adapter_is_served_as_it_is(self) -> "RunConfig":
        """Reject here what would otherwise fail after the training."""
        if self.registry.form == "adapter":
            training = self.training
            if training.mode != "lora":
                raise ValueError(f"registry.form=adapter needs training.mode=lora, and it is {training.mode}")
            if training.rank > lora.RANKS[-1]:
                raise ValueError(
                    f"registry.form=adapter: vLLM takes rank {lora.RANKS[-1]} at most, and training.rank is {training.rank}"
                )
            if training.use_dora:
                raise ValueError("registry.form=adapter: vLLM does not take DoRA (training.use_dora)")
            if other := [one for one in training.targets if one in ("merger", "tower")]:
                raise ValueError(
                    f"registry.form=adapter: vLLM takes adapters of the language model alone, and training.targets has {other[0]}"
                )
        return self

    def flat(self) -> dict[str, Any]:
        """Parameters by their dotted names, as in `--set` and MLflow: `{"training.learning_rate": 1e-4}`."""
        return _flatten(self.model_dump(mode="json"))

    def changes(self) -> dict[str, Any]:
        """The parameters that differ from the preset of this name; from the defaults when there is no such preset.

        >>> load("sample", ["training.learning_rate=1e-4"]).changes()
        {'training.learning_rate': 0.0001}
        """
        try:
            preset = load(self.name).flat()
        except ConfigError:
            preset = RunConfig(name=self.name).flat()
        return {key: value for key, value in self.flat().items() if value != preset.get(key)}


def presets() -> list[str]:
    """The names of the presets that come with the project."""
    return resources.presets()


def about(preset: str) -> str:
    """What a preset is for: the comment in the first line of its file."""
    return path(preset).read_text().partition("\n")[0].removeprefix("#").strip()


_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What yaml raises; ValueError for a date such as 2026-13-45, and for bytes that are not UTF-8."""


def path(preset: str) -> Path:
    """The file of a preset, which is its name or the file's path."""
    return Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"


def load(preset: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The configuration of a preset (a name, or the path of a YAML file) with `key=value` overrides applied.

    >>> load("sample", ["training.learning_rate=1e-4"]).training.learning_rate
    0.0001

    Raises ConfigError with the key, what was found and what was expected.
    """
    file = path(preset)
    try:
        raw = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        near = _nearest(preset, presets())
        raise ConfigError(f"No preset {preset!r}:{near} name one of {', '.join(presets())}, or a YAML file.") from None
    except (*_NOT_YAML, OSError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} must hold keys and values, found {type(raw).__name__}.")
    for override in overrides:
        _override(raw, override)
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        faults, places = error.errors(), [fault["loc"] for fault in error.errors()]
        # A list without its wrong values may be too short, which is no second fault.
        said = [_sentence(one) for one in faults if not any(one["loc"] == at[: len(one["loc"])] != at for at in places)]
        raise ConfigError("; ".join(said) + f" (in {file.name})") from None


def load_here(preset: str, overrides: Iterable[str] = ()) -> RunConfig:
    """As `load`; the checkout's gateway port, `$STORYREASON_GATEWAY_PORT`, overrides the preset, and overrides win over it.

    It does not override the port of a preset with a gateway of its own, unless that is the checkout's (`$STORYREASON_PRESET`).
    """
    port, overrides = os.environ.get("STORYREASON_GATEWAY_PORT"), list(overrides)
    chosen = load(preset, overrides)
    if not port or (chosen.serving.gateway and preset != os.environ.get("STORYREASON_PRESET")):
        return chosen
    return load(preset, [f"serving.port={port}", *overrides])


ONLY_IN_FILES = {
    "serving.roll": "can run any program",
    "serving.extra_args": "can run any program",
    "authoring.endpoint": "gets your API key",
    "judge.endpoint": "gets your API key",
}
"""Settings that whoever may start a flow must not give by an override, and why: they cannot write files here."""


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, found {override!r}; for example training.learning_rate=1e-4.")
    *groups, leaf = key.split(".")
    for group in groups:
        raw = raw.setdefault(group, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {override}: {group!r} is a value, not a group of parameters.")
    try:
        value = yaml.safe_load(text)
    except _NOT_YAML:
        raise ConfigError(f"--set {override}: the value {text!r} cannot be read as YAML.") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    for name, given in _flatten({key: value}).items():
        if why := next((why for one, why in ONLY_IN_FILES.items() if given and name.startswith(one)), None):
            raise ConfigError(
                f"{name} {why}, so only a preset's file may set it: copy the preset (`storyreason preset show`), "
                "set it there, and name the file instead of the preset."
            )
    raw[leaf] = value


def _sentence(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        flat = RunConfig().flat()
        groups = list(dict.fromkeys(name.partition(".")[0] for name in flat))
        wrong_group = isinstance(fault["input"], dict) and "." not in key
        near = _nearest(key, groups if wrong_group else flat)
        return f"Unknown {'group of parameters' if wrong_group else 'parameter'} {key!r}" + (f":{near}" if near else "")
    said = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return said  # a fault between several parameters names them; its input would be all of them
    if fault["type"] == "tuple_type":
        said = f"a list is expected, such as [{fault['input']}]"
    return f"{key} = {fault['input']!r}: {said[0].lower()}{said[1:]}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """` did you mean 'sample'?`, or nothing when none of the known names is similar."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" did you mean {near[0]!r}?" if near else ""


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
