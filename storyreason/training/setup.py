"""What the Trainer starts from: the base, with its trained weights marked, and transformers' own settings."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from storyreason import adapters, architecture, model, patches
from storyreason.compat import liger
from storyreason.compat.models import use_one_gpu
from storyreason.errors import ConfigError, ModelError, TrainingError
from storyreason.training import machine, packing, windows
from storyreason.training.config import ImproveConfig, Recompute, TrainingConfig
from storyreason.training.job import Job

PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}
"""Matrix products, each with the position of its left operand among the arguments."""
KERNELS = ("scaled_dot_product", "flash_attn", "varlen_attn")
"""In the names of attention's operations: torch's own kernels, those of `windows`, and FlashAttention's."""

DROPOUT = 0.1
"""Of adapters, in a training that learns to write answers."""


def load_model(job: Job, cuda: bool) -> Any:
    """The base, with its trained weights marked. LoRA keeps the base in the run's dtype; trained weights are float32."""
    from transformers.utils import is_flash_attn_2_available

    config = job.training
    dtype = machine.resolve_dtype(config.dtype)
    attention = "flash_attention_2" if cuda and dtype == "bfloat16" and is_flash_attn_2_available() else None
    whole, adapter = _start(job)
    base = model.load(
        job.base if whole is None else str(whole),
        job.revision if whole is None else None,
        dtype=dtype if config.mode == "lora" else "float32",
        attention=attention,
        quantization=in_four_bits(job, dtype) if config.quantize else None,
    )
    if config.quantize:
        keep_format(base)
    if config.pack_tokens:
        packing.isolate(base)
    if cuda and dtype == "bfloat16" and attention is None and architecture.of(base.config).windows:
        windows.join(base)
    if cuda and config.liger and rotates(base.config, config):
        liger.rotate(base)
    return marked(base, config, adapter, dropout(job.improve))


def dropout(improve: ImproveConfig | None) -> float:
    """The dropout of adapters: none for `improve`, which compares a model with its own answers at the start."""
    return DROPOUT if improve is None else 0.0


def rotates(base: Any, config: TrainingConfig) -> bool:
    """Whether a base with this configuration (transformers') takes Liger's rotary embedding: 5 % faster on an H100, in two
    comparisons of three. Selective checkpointing keeps the products that it would write over, and would rotate them twice."""
    return architecture.of(base).rotary and config.recompute != "selective"


def in_four_bits(job: Job, dtype: str) -> Any:
    """transformers' configuration of a language model in NF4 whose products are in `dtype`. The tower stays as it is: its
    features are computed once, and are few."""
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ConfigError("training.quantize=nf4 needs bitsandbytes: install it, or leave training.quantize empty.")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=architecture.not_quantized(model.config(job.base, job.revision)),
    )


def keep_format(base: Any) -> None:
    """Keep bitsandbytes from repacking the weights in a validation, on CPUs with AVX512-BF16: there is no way back to a
    training from it without the kernels that it would fetch from the Hub."""
    for layer in base.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def marked(base: Any, config: TrainingConfig, adapter: Path | None = None, dropout: float = DROPOUT) -> Any:
    """A base with its trained weights marked, or with adapters: new ones, or those of `adapter`."""
    torch.manual_seed(config.seed)
    if config.mode == "lora":
        return _adapted(base, config, adapter, dropout)
    if config.mode == "language":
        for part in architecture.towers(architecture.inside(base)).values():
            part.requires_grad_(False)
    return base


def _start(job: Job) -> tuple[Path | None, Path | None]:
    """The whole weights that a training goes on from, or the adapter. Raises TrainingError when its mode has the other."""
    if job.start is None:
        return None, None
    is_adapter, wanted = (job.start / adapters.FILE).is_file(), job.training.mode == "lora"
    if is_adapter != wanted:
        found = "an adapter" if is_adapter else "whole weights"
        raise TrainingError(
            f"{job.start} holds {found}, which training.mode={job.training.mode} does not train: set the mode that made it."
        )
    return (None, job.start) if is_adapter else (job.start, None)


def _adapted(base: Any, config: TrainingConfig, adapter: Path | None, dropout: float) -> Any:
    """`adapter`: one to go on with. Without `dropout`, the model starts as it answers: preferences are measured from there."""
    from peft import LoraConfig, PeftModel, get_peft_model

    reached = architecture.layers(base, config.targets)
    if empty := [one for one, names in reached.items() if not names]:
        raise ModelError(
            f"training.targets={','.join(empty)} matches no layer of {type(base).__name__}: name others of "
            f"{', '.join(architecture.TARGETS)}."
        )
    adapted_by_family = architecture.of(base.config).adapted
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=2 * config.rank,
        lora_dropout=dropout,
        target_modules="|".join(adapted_by_family[one] for one in sorted(set(config.targets))),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type="CAUSAL_LM",
    )
    if adapter is None:
        adapted: Any = get_peft_model(base, lora)
    else:
        lora.base_model_name_or_path = base.name_or_path
        adapted = PeftModel.from_pretrained(base, adapter, is_trainable=True, config=lora)
    if machine.Machine.of(config).fsdp is None:  # FSDP2 computes without autocast
        without_copies(adapted)
    if config.recompute != "none":
        adapted.enable_input_require_grads()  # without it, checkpointed layers of frozen weights get no gradient
    return adapted


def without_copies(adapted: Any) -> None:
    """Keep PEFT from copying the inputs of adapters to float32, which autocast casts back at once: 12 % faster on an H100."""
    for layer in adapted.modules():
        if hasattr(layer, "cast_input_dtype_enabled"):
            layer.cast_input_dtype_enabled = False


def check_boxes(job: Job, processor: Any) -> None:
    """Raises ConfigError when the model would learn to count boxes in another way than its base was trained by this project,
    or than its processor resizes pictures. The log says where published weights count otherwise."""
    wanted = job.training.boxes
    known = model.prompt(job.base).get("boxes")
    if known is None and not wanted.startswith((family := model.family(job.base, job.revision)).boxes):
        sys.stderr.write(f"{family.name} was published with boxes in {family.boxes}; this training teaches {wanted}.\n")
    if known not in (None, wanted):
        raise ConfigError(
            f"The base model {job.base} was trained with boxes={known}, and training.boxes={wanted}: set training.boxes and "
            f"generation.boxes to {known}."
        )
    own = patches.of(processor).resized(processor)
    if wanted.startswith("resized:") and own is None:
        raise ConfigError(
            f"training.boxes={wanted} is not for {model.family(job.base, job.revision).name}, whose processor resizes narrow "
            "pictures in another way: set training.boxes and generation.boxes to thousandths."
        )
    if wanted.startswith("resized:") and wanted != own:
        raise ConfigError(
            f"training.boxes={wanted} is not how the processor of {job.base} resizes pictures: set training.boxes and "
            f"generation.boxes to {own}."
        )


def arguments(job: Job, cuda: bool) -> TrainingArguments:
    """Starts the process group too, if there are several processes."""
    config = job.training
    bf16 = machine.resolve_dtype(config.dtype) == "bfloat16"
    os.environ["ACCELERATE_MIXED_PRECISION"] = (
        "bf16" if bf16 else "no"
    )  # the launcher's value would override bf16=False
    made = TrainingArguments(
        output_dir=str(job.work),
        max_steps=1,  # replaced by the plan's
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=1,  # a step's micro-batches are one batch to the Trainer, see `StoryTrainer`
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        warmup_steps=config.warmup_ratio,
        lr_scheduler_type="constant_with_warmup" if config.scheduler == "constant" else config.scheduler,
        bf16=bf16,
        # transformers' own activation checkpointing, under FSDP too: accelerate's renames the layers that it wraps, and
        # then adapters are neither saved nor resumed, without an error.
        gradient_checkpointing=config.recompute != "none",
        gradient_checkpointing_kwargs=checkpointing(config.recompute),
        use_liger_kernel=config.liger and cuda and model.family(job.base, job.revision).liger,
        # Its fused loss is one sum over all answers, and preferences need each answer's.
        liger_kernel_config=None if job.improve is None else {"fused_linear_cross_entropy": False},
        use_cpu=not cuda,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # see `Pace`
        eval_strategy="no",
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    use_one_gpu(made)
    return made


def recompute_if_long(base: Any, config: TrainingConfig, tokens: int) -> None:
    """With `recompute: long`, recompute the layers of a base in the passes to come, over a row of `tokens`, or keep all."""
    if config.recompute == "long":
        for layer in base.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.gradient_checkpointing = tokens > (config.pack_tokens or 0)


def checkpointing(recompute: Recompute) -> dict[str, Any]:
    """The arguments of transformers' `gradient_checkpointing_enable` for the key `recompute`."""
    if recompute == "selective":
        return {"use_reentrant": False, "context_fn": partial(create_selective_checkpoint_contexts, keep_costly)}
    return {"use_reentrant": False}


def keep_costly(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether selective activation checkpointing keeps the result of an operation.

    It keeps what is expensive to compute for its size: attention, whose operations grow with the square of the tokens, and
    products whose result is no wider than their input. In a decoder layer of Qwen2.5-VL 7B those are q, k, v, attention, o
    and the MLP's down projection, 15,360 numbers a token. The MLP's gate and up projections (37,888 numbers a token, 58 %
    of the layer's products), norms and activation functions are computed again.
    """
    if operation in PRODUCTS:
        left, right = args[PRODUCTS[operation] :][:2]
        keep = right.shape[-1] <= left.shape[-1]
    else:
        keep = any(name in str(operation) for name in KERNELS)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
