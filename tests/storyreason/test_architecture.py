"""Each family of base models, as a tiny random model of its own class: what a training and its result rest on."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from storyreason import architecture, chat, dataset, model, patches
from storyreason.errors import ModelError
from storyreason.format import grids
from storyreason.generation import command
from storyreason.pictures import open_frames
from storyreason.training import Job, TrainingConfig, features, packing, setup, windows
from storyreason.training.config import Recompute
from storyreason.training.examples import Batches, StoryDataset, collate
from storyreason.training.measure import Cost
from storyreason.training.trainer import token_losses
from tests.storyreason.training.test_setup import trained
from tests.tiny import Bases

FAMILIES = tuple(architecture.FAMILIES)
Mode = Literal["lora", "full", "language"]
REACHING: dict[str, Any] = {
    "mode": "lora",
    "targets": architecture.TARGETS,
    "use_dora": True,
    "use_rslora": True,
}
"""Adapters wherever they can be."""


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest, tiny_bases: Bases) -> str:
    return str(tiny_bases(request.param))


def loaded(base: str, mode: Mode = "language", **config: Any) -> Any:
    """The base as a training loads it; the adapters have an effect."""
    made = TrainingConfig(**{"mode": mode, "rank": 4, "dtype": "float32", "recompute": "none", **config})
    net = setup.load_model(Job(base=base, data=Path(base), work=Path(base), training=made), cuda=False).eval()
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    return net


def stories(base: str, examples: Sequence[dataset.Example]) -> StoryDataset:
    encoder = chat.Encoder(model.load_processor(base), images_first=False)
    return StoryDataset(examples, range(3), encoder, TrainingConfig(mode="language"))


def loss(net: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return token_losses(net, architecture.arguments(inputs, net.config), batch["labels"])


def gradient(net: Any, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The gradient of the sum of these rows' losses with respect to all trained weights, as one vector."""
    net.zero_grad()
    for row in rows:
        loss(net, row).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad and p.grad is not None])


def test_attention_in_all_windows_at_once_gives_the_same_features(
    base: str, tiny_examples: list[dataset.Example]
) -> None:
    net, one = loaded(base), stories(base, tiny_examples)[0, 0]
    holder = architecture.inside(net)

    def seen() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat(list(architecture.see(holder, one.pixel_values, one.image_grid_thw)))

    if not architecture.of(net.config).windows:
        pytest.skip("its tower attends to whole pictures, which are padded")
    wanted = seen()
    windows.join(net)
    assert {layer.attn.config._attn_implementation for layer in holder.visual.blocks} == {windows.ATTENTION}
    assert torch.equal(seen(), wanted)


def test_another_family_is_refused_with_the_list(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import LlavaConfig

    LlavaConfig().save_pretrained(tmp_path)
    sentence = r"other is a 'llava' model, and a run can start from Qwen2\.5-VL, Qwen3-VL, Qwen3\.5 or LFM2\.5-VL only"
    (tmp_path / "other").mkdir()
    (tmp_path / "config.json").rename(tmp_path / "other" / "config.json")
    for load in (model.load, model.load_processor):
        with pytest.raises(ModelError, match=sentence):
            load(str(tmp_path / "other"))


def test_the_parts_of_an_example_are_what_the_processor_makes_of_it(
    base: str, tiny_examples: list[dataset.Example]
) -> None:
    encoder = chat.Encoder(model.load_processor(base))
    example = tiny_examples[0]
    images = open_frames(example.images, example.story_id)
    encoder.check(images, "<think>\nanalysis\n</think>\n\nstory")
    grids = encoder.pictures(images)[1]
    assert encoder.image_tokens([image.size for image in images]) == tuple((grids.prod(dim=1) // 4).tolist())


def test_the_grid_of_resized_pictures_is_the_processors_own(base: str) -> None:
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    processor = model.load_processor(base).image_processor
    own = patches.of(model.load_processor(base)).resized(model.load_processor(base))
    if own is None:
        pytest.skip("has no grid of resized pictures: tested in tests/storyreason/test_patches.py")
    for size in ((196, 112), (575, 240), (33, 900)):  # as it sees them
        seen = processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0].tolist()
        assert grids.grid(own, size) == (seen[2] * processor.patch_size, seen[1] * processor.patch_size)
    # Any size that data may have, with the limits of this processor and of the published ones
    luck = random.Random(1)
    sizes = [
        (512, 400),
        (4000, 3200),
        (8000, 5000),
        *((luck.randint(1, 9000), luck.randint(1, 9000)) for _ in range(3000)),
    ]
    for convention in (own, "resized:28:3136:12845056", "resized:32:65536:16777216"):
        cell, least, most = map(int, convention.split(":")[1:])
        for width, height in sizes:
            if max(width, height) <= 200 * min(width, height):
                high, wide = smart_resize(height, width, cell, least, most)
                assert grids.grid(convention, (width, height)) == (wide, high)


@pytest.mark.server
def test_cached_features_give_the_loss_of_the_pictures_and_the_tower_does_not_run(
    base: str, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    net, made = loaded(base, pack_tokens=8192), stories(base, tiny_examples)
    batches = Batches(made, partial(packing.join, positions=packing.positions_of(net)))
    one_pass = (((0, 0), (0, 2)),)
    # Given the loss and the gradient from the pictures
    from_pictures, wanted = loss(net, batches[one_pass]).item(), gradient(net, [batches[one_pass]])
    # When the features are on the disk and the tower is gone
    kept = features.FeatureCache(tmp_path, architecture.inside(net), made.encoder, torch.device("cpu"), bf16=False)
    kept.compute(made, range(3), lambda done, of: None, lambda: False)
    made.seen = {index: partial(kept.load, made, index) for index in range(3)}
    features.leave_out(architecture.inside(net))
    # Then nothing has changed
    batch = batches[one_pass]
    assert "pixel_values" not in batch
    assert loss(net, batch).item() == pytest.approx(from_pictures, rel=1e-5)
    assert float((gradient(net, [batch]) - wanted).norm() / wanted.norm()) < 1e-4


@pytest.mark.server
@pytest.mark.parametrize("config", [{"mode": "lora"}, {"mode": "full"}, REACHING])
def test_a_row_of_several_stories_has_the_gradient_of_single_ones(
    base: str, config: dict[str, Any], tiny_examples: list[dataset.Example]
) -> None:
    made = stories(base, tiny_examples)
    inputs = [made[0, index] for index in range(2)]
    alone, packed = (loaded(base, **config, pack_tokens=tokens).double() for tokens in (None, 8192))
    wanted = gradient(alone, [collate([one], pad=0) for one in inputs])
    found = gradient(packed, [packing.join(inputs, packing.positions_of(packed))])
    assert float(wanted.norm()) > 1
    exact = 1e-9 if architecture.of(packed.config).recurrent is None else 1e-7  # which computes in float32
    assert float((found - wanted).norm() / wanted.norm()) < exact


@pytest.mark.server
@pytest.mark.parametrize("recompute", ["selective", "all"])
def test_activations_that_are_computed_again_give_the_same_gradient(
    base: str, recompute: Recompute, tiny_examples: list[dataset.Example]
) -> None:
    made = stories(base, tiny_examples)
    inputs = [made[0, index] for index in range(2)]
    wanted, _ = trained(Path(base), "lora", "none", inputs)
    found, _ = trained(Path(base), "lora", recompute, inputs)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4


def neighbour(net: Any, inputs: Sequence[chat.Inputs]) -> float:
    """The loss of the second of two stories in a row."""
    row = packing.join(inputs, packing.positions_of(net))
    row["labels"][:, : len(inputs[0].labels)] = chat.IGNORED
    with torch.no_grad():
        return float(loss(net, row))


def test_a_story_does_not_see_the_one_before_it(
    base: str, tiny_examples: list[dataset.Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stories(base, tiny_examples)
    first, second = made[0, 0], made[0, 1]
    changed = first.input_ids.clone()
    answer = first.labels != chat.IGNORED
    changed[answer] = changed[answer].flip(0)  # an answer of other words, its end first
    other = chat.Inputs(changed, first.labels, first.mm_token_type_ids, first.pixel_values, first.image_grid_thw)

    def moved(net: Any) -> float:
        return abs(neighbour(net, (first, second)) - neighbour(net, (other, second)))

    assert moved(loaded(base, pack_tokens=8192).double()) < 1e-9
    # and it would, were its layers not run one by one
    family = architecture.of(model.load(base).config)
    if family.recurrent is not None:
        monkeypatch.setattr(architecture, "of", lambda *_: replace(family, recurrent=None))
        assert moved(loaded(base, pack_tokens=8192).double()) > 1e-4


def test_adapters_reach_every_layer_of_the_language_model_and_no_other(base: str) -> None:
    net = loaded(base, "lora")
    names = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    layers = net.config.get_text_config().num_hidden_layers
    assert {name.partition(".layers.")[2].partition(".")[0] for name in names} == {str(n) for n in range(layers)}
    assert not any(map(architecture.in_tower, names))


def tell(net: Any, processor: Any, example: dataset.Example) -> str:
    """Greedy text for an example's frames."""
    images = open_frames(example.images, example.story_id)
    turns = chat.messages(len(images), chat.REQUESTS[1])
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=images, return_tensors="pt")
    written = net.generate(**inputs, max_new_tokens=40, do_sample=False)
    return str(processor.decode(written[0, inputs["input_ids"].shape[1] :]))


@pytest.mark.server
@pytest.mark.parametrize("config", [{"mode": "lora"}, {"mode": "full"}, REACHING])
def test_a_result_becomes_a_folder_that_tells_what_the_trained_model_tells(
    base: str, config: dict[str, Any], tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    net, processor = loaded(base, **config), model.load_processor(base)
    if config["mode"] == "full":
        luck = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if ".layers." in name:
                    parameter.add_(torch.randn(parameter.shape, generator=luck), alpha=0.3)
    net.save_pretrained(str(tmp_path / "result"))
    out = model.write_folder(base, tmp_path / "result", tmp_path / "model", "", dtype="float32")
    written, published = AutoModelForImageTextToText.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert published.chat_template == processor.chat_template
    told, batch = tell(net, processor, tiny_examples[0]), collate([stories(base, tiny_examples)[0, 0]], pad=0)
    found = [written.eval()]
    if config["mode"] == "lora":
        found.append(PeftModel.from_pretrained(model.load(base), str(tmp_path / "result")).eval())
    with torch.no_grad():
        wanted = float(loss(net, batch))
        assert abs(float(loss(model.load(base).eval(), batch)) / wanted - 1) > 3e-4
        for one in found:
            assert tell(one, published, tiny_examples[0]) == told
            assert float(loss(one, batch)) == pytest.approx(wanted, rel=1e-5)


def test_an_adapter_that_was_not_trained_is_refused(base: str, tmp_path: Path) -> None:
    config = TrainingConfig(**{**REACHING, "rank": 4, "dtype": "float32"})
    net = setup.load_model(Job(base=base, data=tmp_path, work=tmp_path, training=config), cuda=False)
    net.save_pretrained(str(tmp_path / "result"))
    with pytest.raises(ModelError, match="changes no weight"):
        model.write_folder(base, tmp_path / "result", tmp_path / "model", "")


def test_a_template_that_thinks_by_itself_is_replaced(
    tiny_bases: Bases, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    # Given a template as Qwen3.5's: it begins the thinking, and rewrites an answer that has some
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'].split('</think>')[-1] }}"
        "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}"
    )
    from transformers import AutoProcessor

    own = AutoProcessor.from_pretrained(tiny_bases("qwen3_5"))
    own.chat_template = template
    with pytest.raises(ModelError, match="chat template is not supported"):
        chat.Encoder(own)
    # When the base is loaded, Then prompt and answer are as they are served
    own.save_pretrained(tmp_path)
    shutil.copy(tiny_bases("qwen3_5") / "config.json", tmp_path)
    assert chat.Encoder(model.load_processor(str(tmp_path))).end == "<|im_end|>"
    # by an engine that is given the base itself, too
    assert command.of_family(model.known_family(str(tmp_path))) == ["--chat-template", architecture.PLAIN]
    assert command.of_family(model.known_family(str(tiny_bases("qwen3_vl")))) == []


@pytest.mark.parametrize("targets", [("attention",), ("attention", "merger"), architecture.TARGETS])
@pytest.mark.parametrize("mode", ["full", "language", "lora"])
def test_the_operations_of_a_story_agree_with_torchs_count(
    base: str, mode: Mode, targets: tuple[architecture.Target, ...], tiny_examples: list[dataset.Example]
) -> None:
    if mode != "lora" and len(targets) > 1:
        pytest.skip("no adapters")
    made, net = stories(base, tiny_examples), loaded(base, mode, targets=targets)
    batch = collate([made[0, 0]], pad=0)
    with FlopCounterMode(display=False) as counter:
        loss(net, batch).backward()
    # When torch counts the products with weights, not attention's, nor those of recurrent states (a quarter here, under 1 % in
    # a model of several billion weights). It overestimates the gradient of a convolution: that of patches costs as much again.
    found = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    products = found["aten.mm"] + found.get("aten.addmm", 0) + found["aten.convolution"] * (2 if mode == "full" else 1)
    cost = Cost(net, mode)
    counted = cost.of(made.tokens((0, 0)), made.loss_tokens((0, 0)), made.image_tokens(0))
    attention = cost.per_pair * made.tokens((0, 0)) ** 2
    assert counted - attention == pytest.approx(products, rel=0.05)
    assert cost.per_pair > 0
