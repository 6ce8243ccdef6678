"""A preset, and what is laid over it: every parameter by its name, every mistake in one sentence."""

from pathlib import Path

import pytest

from storyreason import architecture, config
from storyreason.errors import ConfigError


@pytest.mark.parametrize("name", config.presets())
def test_every_preset_of_the_project_is_valid(name: str) -> None:
    assert config.load(name).name == name


def test_a_try_of_the_line_replaces_no_champion_of_real_trainings() -> None:
    names = {name: config.load(name).model for name in config.presets()}
    assert names.pop("smoke") == "storyteller-smoke"
    assert set(names.values()) == {"storyteller"}


@pytest.mark.parametrize("name", [name for name in config.presets() if name.startswith("qwen3")])
def test_a_preset_of_a_new_base_learns_and_writes_boxes_as_its_family_does(name: str) -> None:
    chosen = config.load(name)
    family, _, size = chosen.base.name.removesuffix("-Instruct").rpartition("-")
    assert name.startswith(f"{family.removeprefix('Qwen/')}-{size}-".lower())
    (known,) = (one for one in architecture.FAMILIES.values() if f"Qwen/{one.name}" == family)
    assert chosen.training.boxes == chosen.generation.boxes == known.boxes
    assert chosen.serving.max_model_len >= chosen.training.max_tokens


def test_a_judge_of_fewer_stories_than_the_gate_counts_is_refused() -> None:
    def judging(stories: int | None, **of: str) -> config.RunConfig:
        return config.RunConfig.model_validate({"judge": {"stories": stories, **of}, "gate": {"min_stories": 30}})

    there = {"endpoint": "http://127.0.0.1:9/v1", "model": "judge"}
    with pytest.raises(ValueError, match=r"judge\.stories=29 is less than gate\.min_stories=30, .*: raise the one"):
        judging(29, **there)
    assert judging(30, **there) and judging(None, **there)
    assert judging(29)  # there is no judge


def test_an_answer_may_have_all_that_the_context_leaves() -> None:
    assert config.load("sample", ["generation.max_tokens=null", "serving.max_model_len=128"])
    assert config.load("sample", ["serving.max_model_len=2301"])


def test_what_nobody_has_set_goes_together() -> None:
    config.RunConfig()


def test_overrides_are_laid_over_the_preset() -> None:
    chosen = config.load("sample", ["training.learning_rate=1e-4", "data.rev=v1.2", "data.test_stories=null"])
    assert chosen.training.learning_rate == 1e-4
    assert chosen.data.rev == "v1.2"
    assert chosen.flat()["training.learning_rate"] == 1e-4


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.learning_rat=1", "did you mean 'training.learning_rate'"),
        ("nonsense.value=1", "Unknown group of parameters 'nonsense'"),
        ("trainig.learning_rate=1", "Unknown group of parameters 'trainig': did you mean 'training'?"),
        ("gate.primary=fre/strict/grounding/f1", "did you mean 'grounded/strict/grounding/f1'?"),
        ("gate.primary=strict/identity/idf1", "did you mean 'grounded/strict/identity/idf1'?"),
        ("training.accelerate=fsdp-2gpu", "training.accelerate = 'fsdp-2gpu': did you mean 'fsdp2-2gpu'?"),
        ("training.learning_rate=fast", "training.learning_rate = 'fast'"),
        ("serving.roll=rm -r /", "serving.roll can run any program, so only a preset's file may set it"),
        ("serving={extra_args: [--middleware=mine]}", "serving.extra_args can run any program"),
        (
            "authoring.endpoint=http://evil.example",
            "authoring.endpoint gets your API key, so only a preset's file may set it",
        ),
        (
            "judge={endpoint: 'http://evil.example', model: judge}",
            "judge.endpoint gets your API key, so only a preset's file may set it",
        ),
        ("training.learning_rate=-1", "greater than 0"),
        ("training.mode=half", "training.mode = 'half'"),
        ("training.learning_rate", "takes key=value"),
        ("name.x=1", "is a value, not a group"),
        ("data.target=[", "cannot be read"),
        (
            "gate.primary=free/strict/grounding/f2",
            "gate.primary = 'free/strict/grounding/f2': there is no score 'strict/grounding/f2': "
            "did you mean 'free/strict/grounding/f1'?",
        ),
        ("gate.primary=free/paper/ROUGE_L", "did you mean 'free/paper/ROUGE-L'?"),
        ("gate.primary=free/strict/language/words", "higher is not better"),
        ("gate.primary=free/strict/validity/valid", "strict/validity/valid is text-only: it compares no boxes"),
        ("gate.primary=free/paper/METEOR", "take free/strict/grounding/f1"),
        (
            "training.images_first=false",
            "training.images_first and generation.images_first differ: set both to the same value",
        ),
        (
            "serving.max_model_len=2300",
            "generation.max_tokens=2300 leaves no room for images and request in serving.max_model_len=2300: lower the one",
        ),
        (
            "evaluation.decodings=[free]",
            "gate.primary is a score of grounded decoding, and evaluation.decodings lacks it",
        ),
    ],
)
def test_a_wrong_parameter_is_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load("sample", [override])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 220


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["training.mode=lora", "training.tower_learning_rate=1e-5"],
            "training.tower_learning_rate is set, and training.mode=lora does not train the tower: add tower to "
            "training.targets, or leave the rate empty (in sample.yaml)",
        ),
        (
            ["training.merger_learning_rate=1e-5"],
            "training.merger_learning_rate is set, and training.mode=language does not train the merger: set "
            "training.mode=full, or leave the rate empty (in sample.yaml)",
        ),
        (["training.targets=mlp"], "training.targets = 'mlp': a list is expected, such as [mlp] (in sample.yaml)"),
        (
            ["training.targets=[nose]"],
            "training.targets.0 = 'nose': input should be 'attention', 'mlp', 'merger' or 'tower' (in sample.yaml)",
        ),
    ],
)
def test_what_adapters_cannot_reach_is_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load("sample", overrides)
    assert str(raised.value) == sentence


def test_a_missing_preset_names_the_ones_there_are() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sample'"):
        config.load("sampel")


@pytest.mark.parametrize(
    ("text", "sentence"), [("a: [", "as YAML"), ("- a\n- b\n", "keys and values"), ("", "keys and values")]
)
def test_a_broken_preset_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        config.load(str(path))


def test_a_preset_with_a_gateway_of_its_own_keeps_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORYREASON_PRESET", raising=False)
    monkeypatch.setenv("STORYREASON_GATEWAY_PORT", "8555")
    assert config.load_here("sample").serving.port == 8555
    smoke = config.load_here("smoke").serving
    assert smoke.gateway == "smoke" and smoke.port not in (8555, config.load("sample").serving.port)
    assert config.load_here("smoke", ["serving.port=8600"]).serving.port == 8600

    monkeypatch.setenv("STORYREASON_PRESET", "smoke")  # then it is the checkout's, as `storyreason up` starts it
    assert config.load_here("smoke").serving.port == 8555


def test_presets_of_different_models_never_share_a_gateway() -> None:
    gateways: dict[str, set[str]] = {}
    for preset in map(config.load, config.presets()):
        gateways.setdefault(preset.serving.gateway, set()).add(preset.model)
    assert all(len(models) == 1 for models in gateways.values()), gateways
