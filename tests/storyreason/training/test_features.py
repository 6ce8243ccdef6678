"""Features of a frozen vision tower are computed once, cached, and give the same loss as the pictures."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from storyreason import architecture, chat, dataset, model
from storyreason.training import Job, TrainingConfig, features, packing, setup
from storyreason.training.examples import Batches, StoryDataset
from storyreason.training.trainer import token_losses

LIMITS: dict[str, Any] = dict.fromkeys(("report", "stop"), lambda *_: False)


@pytest.fixture(scope="module")
def encoder(tiny_base: Path) -> chat.Encoder:
    return chat.Encoder(model.load_processor(str(tiny_base)), images_first=False)


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Any:
    config = TrainingConfig(mode="language", dtype="float32", recompute="none", pack_tokens=4096)
    return setup.load_model(Job(base=str(tiny_base), data=tmp_path, work=tmp_path, training=config), cuda=False)


def stories(examples: list[dataset.Example], encoder: chat.Encoder, **config: Any) -> StoryDataset:
    return StoryDataset(examples, range(4), encoder, TrainingConfig(**{"mode": "language", **config}))


def cache(folder: Path, base: Any, encoder: chat.Encoder) -> features.FeatureCache:
    return features.FeatureCache(folder, architecture.inside(base), encoder, torch.device("cpu"), bf16=False)


def loss(base: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "features")}
    if "features" in batch:
        inputs["mm_encoder_outputs"] = architecture.as_seen(batch["features"], base.config)
    return token_losses(base, inputs, batch["labels"])


def test_cached_features_give_the_loss_of_the_pictures_and_the_tower_does_not_run(
    base: Any, encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    made = stories(tiny_examples, encoder)
    batches = Batches(made, lambda inputs: packing.join(inputs, packing.positions_of(base)))
    one_pass = (((0, 0), (0, 2)),)
    # Given the loss and gradient of a row of two stories from their pictures
    from_pictures = loss(base, batches[one_pass])
    from_pictures.backward()
    gradient = base.lm_head.weight.grad.clone()
    # When the features are cached, and the tower must not run again
    kept = cache(tmp_path, base, encoder)
    assert kept.compute(made, [0, 2], **LIMITS) == sum(len(made.story(n).pictures) for n in (0, 2))
    made.seen = {index: partial(kept.load, made, index) for index in (0, 2)}
    batch = batches[one_pass]
    assert "pixel_values" not in batch
    features.leave_out(base.model)
    assert not any("visual" in name for name, _ in base.named_parameters())
    base.zero_grad()
    from_features = loss(base, batch)
    from_features.backward()
    # Then nothing has changed
    assert from_features.item() == pytest.approx(from_pictures.item(), rel=1e-5)
    assert float((base.lm_head.weight.grad - gradient).norm() / gradient.norm()) < 1e-4
    # and a pass with a story whose features are not cached, in whatever process, uses the pictures
    assert "features" not in batches[((0, 0),), ((0, 1),)]


def test_without_the_tower_a_training_has_the_same_losses_and_gradients_bit_for_bit(
    base: Any, encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    made = stories(tiny_examples, encoder)
    kept = cache(tmp_path, base, encoder)
    kept.compute(made, range(4), **LIMITS)
    made.seen = {index: partial(kept.load, made, index) for index in range(4)}
    batches = Batches(made, lambda inputs: packing.join(inputs, packing.positions_of(base)))

    def losses_and_gradients() -> list[torch.Tensor]:
        found = []
        for one_pass in ((((0, 0), (0, 2)),), (((0, 3), (0, 1)),)):
            base.zero_grad()
            found.append(loss(base, batches[one_pass]))
            found[-1].backward()
            found += [p.grad.clone() for p in base.parameters() if p.requires_grad]
        return found

    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with_tower = losses_and_gradients()
    tower = features.leave_out(architecture.inside(base))
    without = losses_and_gradients()
    assert all(torch.equal(one, other) for one, other in zip(with_tower, without, strict=True))
    # and what is saved is complete again
    state = dict(base.state_dict())
    features.put_back(base, tower, state)
    for whole in (state, base.state_dict()):
        assert whole.keys() == weights.keys()
        assert all(torch.equal(whole[name], tensor) for name, tensor in weights.items())


def test_liger_accepts_a_base_without_its_tower(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer applies it to the base when the training begins."""
    patches = pytest.importorskip("liger_kernel.transformers.monkey_patch")
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

    for name in ("apply_multimodal_rotary_pos_emb", "Qwen2_5_VLRMSNorm", "Qwen2MLP"):  # it exchanges them for all
        monkeypatch.setattr(modeling_qwen2_5_vl, name, getattr(modeling_qwen2_5_vl, name, None), raising=False)
    features.leave_out(architecture.inside(base))
    patches.apply_liger_kernel_to_qwen2_5_vl(model=base)
    assert "liger" in base.forward.__func__.__module__


def test_features_are_computed_once_for_a_tower_and_written_again_when_a_file_is_truncated(
    base: Any, encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    made = stories(tiny_examples, encoder)
    kept = cache(tmp_path, base, encoder)
    assert kept.compute(made, [0], **LIMITS) > 0
    assert cache(tmp_path, base, encoder).compute(made, [0], **LIMITS) == 0
    damaged = kept.path(made.story(0).pictures[1])
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert kept.compute(made, [0], **LIMITS) > 0
    assert damaged.stat().st_size == kept.bytes_of(made.story(0).image_tokens[1])
    # Another tower has other features
    next(base.model.visual.parameters()).data += 1
    assert cache(tmp_path, base, encoder).folder != kept.folder


def test_the_cap_limits_the_stories_and_reports_what_all_would_take(
    base: Any, encoder: chat.Encoder, tiny_examples: list[dataset.Example], tmp_path: Path
) -> None:
    made, none = (
        stories(tiny_examples, encoder),
        StoryDataset(tiny_examples, [], encoder, TrainingConfig(mode="language")),
    )
    kept = cache(tmp_path, base, encoder)
    sizes = [sum(map(kept.bytes_of, story.image_tokens)) for story in map(made.story, range(4))]
    missing = kept.missing(made, none)
    assert list(missing.values()) == sizes
    share = kept.share(made, none, missing, sizes[0] + sizes[1])
    assert (set(share.stories), share.bytes, share.wanted_bytes) == ({0, 1}, sizes[0] + sizes[1], sum(sizes))
    assert kept.share(made, none, missing, 10**9).stories == {0, 1, 2, 3}
    # validation comes first
    assert kept.share(none, made, missing, sizes[0]).validation == {0}
    assert kept.room(1e-6) == 1000


def test_features_of_other_data_take_room_and_those_of_these_data_are_had(
    base: Any,
    encoder: chat.Encoder,
    tiny_examples: list[dataset.Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, none = stories(tiny_examples, encoder), StoryDataset(tiny_examples, [], encoder, TrainingConfig())
    kept = cache(tmp_path, base, encoder)
    sizes = [sum(map(kept.bytes_of, story.image_tokens)) for story in map(made.story, range(4))]

    def taken(cap: int, free: int) -> list[int]:
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
        return sorted(kept.share(made, none, kept.missing(made), kept.room(cap / 1e9)).stories)

    # Given room for all, were the tower's folder empty
    cap, free = sum(sizes), 2 * sum(sizes)
    assert taken(cap, free) == [0, 1, 2, 3]
    # When features of other data are in it, Then as many bytes fewer are written
    foreign = kept.path("ff" * 32)
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(bytes(sizes[3]))
    assert taken(cap, free) == [0, 1, 2]
    # and on a disk that is nearly full, no more than there is room for, however many there are
    assert taken(10 * cap, 2 * sizes[0] - 1) == [0]
    # and what is there is used, whatever the cap and the disk, and a resumed training takes what it took
    kept.compute(made, [0, 1, 2], **LIMITS)
    assert taken(cap, free) == taken(cap // 2, 0) == [0, 1, 2]
    kept.path(made.story(1).pictures[0]).unlink()
    assert taken(cap, 0) == [0, 2]


def test_trainings_that_share_a_folder_do_not_interfere(
    base: Any,
    encoder: chat.Encoder,
    tiny_examples: list[dataset.Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = cache(tmp_path, base, encoder)
    features_, grid, rename = torch.ones(4, kept.size), torch.ones(3), Path.rename

    def meanwhile(path: Path, target: Path) -> Path:
        # Given another one, whose process has the same number in its container, with the same picture
        monkeypatch.setattr(Path, "rename", rename)
        kept._write("3fa1", features_, grid)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", meanwhile)
    kept._write("3fa1", features_, grid)
    assert [file.name for file in kept.path("3fa1").parent.iterdir()] == ["3fa1"]
    # and files that are there when the folder is listed, and gone when they are looked at
    for name in (".3fa2.7", "3fa3"):
        kept.path("3fa1").with_name(name).symlink_to("gone")
    assert kept.room(1e-3) == 10**6 - kept.path("3fa1").stat().st_size
