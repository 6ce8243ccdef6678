"""Adapters for tests: as a training leaves them, and as model folders."""

from pathlib import Path

from storyreason import adapters, model


def write_result(base: Path, folder: Path, seed: int = 1, rank: int = 4) -> Path:
    """The result of a training: an adapter with weights large enough to be heard."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=r".*language_model.*\.self_attn\.[qkvo]_proj")
    adapted = get_peft_model(model.load(str(base)), lora)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(folder))
    model.write_prompt(folder, images_first=True, boxes="original")
    return folder


def write_folder(base: Path, folder: Path, seed: int = 1, rank: int = 4) -> Path:
    """The model folder of an adapter; its training's result is beside it."""
    result = write_result(base, folder.with_name(f"{folder.name}-result"), seed, rank)
    return model.write_adapter(
        str(base), model.load_identity(str(base)), result, folder, "# An adapter\n", "a base", say=lambda _: None
    )


def rewrite_identity(folder: Path, identity: str) -> None:
    """Make an adapter's folder say that its base is another."""
    file = folder / adapters.BASE
    file.write_text(file.read_text().replace(str(adapters.of(folder).identity), identity))  # type: ignore[union-attr]
