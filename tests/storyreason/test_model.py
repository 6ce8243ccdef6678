import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from storyreason import chat, dataset, model
from storyreason.cli import app
from storyreason.errors import ModelError
from storyreason.pictures import open_frames


def tell(net: Any, processor: Any, example: dataset.Example, tokens: int = 40) -> str:
    """Greedy text for an example's frames, the published way."""
    images = open_frames(example.images, example.story_id)
    text = processor.apply_chat_template(
        chat.messages(images, chat.REQUESTS[1]), tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[text], images=images, padding=True, return_tensors="pt")
    written = net.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    trimmed = [out[len(given) :] for given, out in zip(inputs.input_ids, written, strict=True)]
    return str(processor.batch_decode(trimmed, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0])


@pytest.fixture
def adapter(tiny_base: Path, tmp_path: Path) -> Path:
    """An adapter with weights large enough to be heard."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=r".*language_model.*\.self_attn\.[qkvo]_proj")
    adapted = get_peft_model(model.load(str(tiny_base)), lora)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def test_the_merged_folder_tells_what_base_and_adapter_tell(
    tiny_base: Path, adapter: Path, tmp_path: Path, tiny_examples: list[dataset.Example]
) -> None:
    from peft import PeftModel
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    # Given a base and an adapter
    base = model.load(str(tiny_base)).eval()
    processor = model.load_processor(str(tiny_base))
    plain = tell(base, processor, tiny_examples[0])
    apart = tell(PeftModel.from_pretrained(base, str(adapter)).eval(), processor, tiny_examples[0])
    # When they are written as one folder
    (adapter / model.PROMPT).write_text('{"images_first": false}')
    out = model.write_folder(str(tiny_base), adapter, tmp_path / "model", "# A storyteller\n")
    # Then the published usage runs on it and tells the same
    merged = Qwen2_5_VLForConditionalGeneration.from_pretrained(out, dtype="auto")
    published = AutoProcessor.from_pretrained(out)
    assert tell(merged, published, tiny_examples[0]) == apart != plain
    assert (out / "README.md").read_text() == "# A storyteller\n"
    assert model.prompt(out) == {"images_first": False, "boxes": "original"}
    assert published.chat_template == processor.chat_template
    assert merged.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "model"}


def test_whole_weights_take_the_place_of_the_base_and_of_an_older_folder(tiny_base: Path, tmp_path: Path) -> None:
    import torch

    result = model.load(str(tiny_base))
    with torch.no_grad():
        result.lm_head.weight.mul_(2)
    result.save_pretrained(tmp_path / "result")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("of an older version")
    out = model.write_folder(str(tiny_base), tmp_path / "result", tmp_path / "model", "")
    assert not (out / "old.txt").exists()
    written = model.load(str(out))
    assert torch.equal(written.lm_head.weight, result.lm_head.weight)
    assert written.dtype == torch.float32


def test_a_folder_that_does_not_say_how_to_ask_is_none_and_one_that_says_nonsense_is_refused(tmp_path: Path) -> None:
    assert model.prompt(tmp_path) == model.prompt("Qwen/Qwen2.5-VL-7B-Instruct") == {}
    for text in ("[]", "{}", '{"images_first": true, "boxes": "pixels"}', '{"images_first": true, "boxes": 7}'):
        (tmp_path / model.PROMPT).write_text(text)
        with pytest.raises(ModelError, match=r"storyreason\.json must hold .* fix or delete it"):
            model.prompt(tmp_path)
    # What a training writes; an old folder counts pixels of the original pictures
    for boxes in ("original", "thousandths", "resized:28:784:200704"):
        model.write_prompt(tmp_path, images_first=False, boxes=boxes)
        assert model.prompt(tmp_path) == {"images_first": False, "boxes": boxes}
    model.write_prompt(tmp_path, images_first=True, boxes="original")
    assert (tmp_path / model.PROMPT).read_text() == '{"images_first": true}\n'


def older_names(adapter: Path) -> None:
    """Rename an adapter's weights as transformers before 4.52 named its layers."""
    import json

    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    kept = {key.replace("model.language_model.layers", "model.layers"): one for key, one in load_file(file).items()}
    assert not any("language_model" in key for key in kept)
    save_file(kept, file)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = r"^(?!.*visual).*(?:q_proj|k_proj|v_proj|o_proj).*"
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def test_an_adapter_with_the_names_of_an_older_transformers_has_the_same_effect(
    tiny_base: Path, adapter: Path, tmp_path: Path
) -> None:
    import torch

    said: list[str] = []
    now = model.merged(str(tiny_base), None, adapter, said.append)
    older_names(adapter)

    out = model.write_folder(str(tiny_base), adapter, tmp_path / "model", "", say=said.append)

    written, base = model.load(str(out)), model.load(str(tiny_base))
    changed = [name for name, one in written.named_parameters() if not torch.equal(one, base.get_parameter(name))]
    assert len(changed) == 8  # q, k, v and o of two layers
    assert all(torch.equal(written.get_parameter(name), one) for name, one in now.named_parameters())
    total = len(list(base.parameters()))
    assert said == [f"the adapter changes 8 of {total} weights of {tiny_base}"] * 2


def test_an_adapter_whose_weights_belong_to_no_layer_is_refused(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file({key.replace("layers.1", "layers.7"): one for key, one in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"8 of the 16 weights of the adapter .* belong to no layer of .*layers\.7"):
        model.write_folder(str(tiny_base), adapter, tmp_path / "model", "")
    assert not (tmp_path / "model").exists()


def test_a_result_without_effect_is_refused(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    save_file({key: one * 0 if "lora_B" in key else one for key, one in load_file(file).items()}, file)
    model.load(str(tiny_base)).save_pretrained(tmp_path / "whole")

    with pytest.raises(ModelError, match="changes no weight of"):
        model.write_folder(str(tiny_base), adapter, tmp_path / "model", "")
    with pytest.raises(ModelError, match=r"whole has the weights of the base model .*, unchanged"):
        model.write_folder(str(tiny_base), tmp_path / "whole", tmp_path / "model", "")
    assert not (tmp_path / "model").exists()


def test_an_adapter_of_another_base_is_refused(tiny_base: Path, adapter: Path, tmp_path: Path) -> None:
    import json

    config = json.loads((adapter / "adapter_config.json").read_text()) | {"r": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="does not fit"):
        model.write_folder(str(tiny_base), adapter, tmp_path / "model", "")
    assert not (tmp_path / "model").exists()


def test_a_base_is_named_by_its_content(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    assert model.load_identity(str(copy)) == model.load_identity(str(tiny_base))
    (copy / "README.md").write_text("a word about it")
    assert model.load_identity(str(copy)) == model.load_identity(str(tiny_base))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert model.load_identity(str(copy)) != model.load_identity(str(tiny_base))


def test_a_base_that_cannot_be_loaded_is_refused_with_the_reason(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        model.load_identity(str(tmp_path))
    cut = Path(shutil.copytree(tiny_base, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match=r"The base model .*cut cannot be loaded: SafetensorError"):
        model.load(str(cut))
    (cut / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        model.load_processor(str(cut))


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("merger.ln_q.weight",), r"lacks 1 of its weights, such as model\.visual\.merger\.ln_q\.weight"),
        (("self_attn",), r"lacks 14 of its weights, such as model\.language_model\.layers\.0\.self_attn\.k_proj\.bias"),
    ],
    ids=["one", "many"],
)
def test_a_base_without_some_of_its_weights_is_refused_by_their_name(
    gone: tuple[str, ...], said: str, tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_base, tmp_path / "torn")
    file = tmp_path / "torn" / "model.safetensors"
    kept = {name: weight for name, weight in load_file(file).items() if not any(one in name for one in gone)}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"torn {said}: fetch its files again"):
        model.load(str(tmp_path / "torn"))


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("text_config", {"hidden_size": 48}, "cannot be loaded: RuntimeError: "),
        ("text_config", {"num_attention_heads": 5}, "cannot be loaded: ValueError: hidden_size must be divisible"),
        ("vision_config", "none", "cannot be loaded: StrictDataclassFieldValidationError: "),
        ("vision_config", None, "is a Qwen2.5-VL, and its config.json lacks vision_config: fetch its files again."),
        ("text_config", None, "is a Qwen2.5-VL, and its config.json lacks text_config: fetch its files again."),
    ],
    ids=["sizes", "heads", "no part", "without tower", "without language model"],
)
def test_a_configuration_that_its_family_does_not_have_is_one_sentence(
    part: str, changed: dict[str, int] | str | None, said: str, tiny_base: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copytree(tiny_base, tmp_path / "other")) / "config.json"
    written = json.loads(file.read_text())
    kept = written.pop(part)
    if changed is not None:
        written[part] = kept | changed if isinstance(changed, dict) else changed
    file.write_text(json.dumps(written))
    with pytest.raises(ModelError) as raised:
        model.load(str(file.parent))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_the_first_models_of_a_family_have_the_language_models_sizes_beside_the_towers(
    tiny_base: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copytree(tiny_base, tmp_path / "flat")) / "config.json"
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written.pop("text_config"), **written}))
    assert model.config(str(file.parent)).get_text_config().hidden_size == 32


def test_merge_writes_a_model_folder_and_refuses_to_write_over_other_things(
    tiny_base: Path, adapter: Path, tmp_path: Path
) -> None:
    import torch

    runner, out = CliRunner(), tmp_path / "merged"
    done = runner.invoke(app, ["merge", str(adapter), "--base", str(tiny_base), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert str(out) in done.stdout
    assert model.load(str(out)).config.model_type == "qwen2_5_vl"
    # in the base's dtype, or in another on request
    assert model.load(str(out)).dtype == torch.float32
    again = runner.invoke(
        app, ["merge", str(adapter), "--base", str(tiny_base), "--out", str(out), "--dtype", "bfloat16"]
    )
    assert again.exit_code == 0, again.output
    assert model.load(str(out)).dtype == torch.bfloat16

    with pytest.raises(ModelError, match="is a file, or a folder with other contents: name a new folder"):
        runner.invoke(
            app, ["merge", str(adapter), "--base", str(tiny_base), "--out", str(tmp_path)], catch_exceptions=False
        )


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DAMAGED = {
    "no JSON": (CONFIG, b"{"),
    "no UTF-8": (CONFIG, b"\xff"),
    "a list": (CONFIG, b"[]"),
    "no kind": (CONFIG, b"{}"),
    "an unknown kind": (CONFIG, b'{"peft_type": "WHAT"}'),
    "another kind": (CONFIG, b'{"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}'),
    "no rank": (CONFIG, b'{"peft_type": "LORA", "r": 0, "target_modules": ["q_proj"]}'),
    "a rank that is text": (CONFIG, b'{"peft_type": "LORA", "r": "many", "target_modules": ["q_proj"]}'),
    "another rank": (
        CONFIG,
        b'{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}',
    ),
    "no such layers": (CONFIG, b'{"peft_type": "LORA", "r": 4, "target_modules": ["nothing"]}'),
    "no pattern": (CONFIG, b'{"peft_type": "LORA", "r": 4, "target_modules": "(("}'),
    "no weights": (WEIGHTS, None),
    "empty weights": (WEIGHTS, b""),
    "torn weights": (WEIGHTS, b"\xff" * 100),
    "a pickle": ("adapter_model.bin", b"cos\nsystem\n(S'touch pickled'\ntR."),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_adapter_is_one_sentence_and_the_base_stays(
    name: str, tiny_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, content = DAMAGED[name]
    if content is None or file.endswith(".bin"):
        (adapter / WEIGHTS).unlink()
    if content is not None:
        (adapter / file).write_bytes(content)
    before = model.load_identity(str(tiny_base))

    with pytest.raises(ModelError, match=str(adapter)) as told:
        model.write_folder(str(tiny_base), adapter, tmp_path / "model", "")

    assert "\n" not in str(told.value) and len(str(told.value)) < 700
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}  # neither a half folder nor what a pickle does
    assert model.load_identity(str(tiny_base)) == before


@pytest.mark.parametrize("content", [b"", b"\xff" * 100], ids=["empty", "torn"])
def test_damaged_whole_weights_are_one_sentence(content: bytes, tiny_base: Path, tmp_path: Path) -> None:
    result = Path(shutil.copytree(tiny_base, tmp_path / "result"))
    (result / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=str(result)) as told:
        model.write_folder(str(tiny_base), result, tmp_path / "model", "")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "model").exists()
