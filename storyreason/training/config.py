"""What decides how a model is trained. The defaults are the paper's LoRA recipe (arXiv 2505.10292), but for `images_first`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from storyreason import forms

Precision = Literal["auto", "bfloat16", "float32"]
Recompute = Literal["none", "selective", "all"]


class TrainingConfig(BaseModel):
    """How a base model is fine-tuned: what is trained, on what, how long, on which processes."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    mode: Literal["lora", "full", "language"] = Field(
        "lora",
        description="What is trained: adapters on the language model's q, k, v, o; all; all but the vision tower.",
    )
    rank: int = Field(16, ge=1, le=4096, description="Rank of the adapters; their alpha is twice as much. LoRA only.")
    learning_rate: float = Field(
        2e-4, gt=0, le=1, description="The highest learning rate. Paper: LoRA 2e-4, else 2e-5."
    )
    epochs: float = Field(3.0, gt=0, le=1000, description="How many times each story is seen. Paper: LoRA 3, else 4.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many optimizer steps; empty: after `epochs`.")
    batch_size: int = Field(1, ge=1, le=1024, description="Stories in one forward pass of one process.")
    accumulation: int = Field(32, ge=1, le=4096, description="Forward passes of each process in one optimizer step.")
    pack_tokens: int | None = Field(
        None,
        ge=0,
        description="Pack the stories of a step into rows of up to so many tokens instead of passes of `batch_size`: no "
        "padding, fewer passes, the same result. A longer story has a row of its own. Empty or 0: off.",
    )
    max_tokens: int = Field(32_768, ge=64, description="A longer story is left out and counted, never cut.")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are scaled down to this norm; 0: never.")
    scheduler: Literal["linear", "cosine", "constant"] = Field("linear", description="The learning rate after warm-up.")
    dtype: Precision = Field(
        "bfloat16",
        description="What to compute in. bfloat16 needs a GPU; auto takes it on a CPU that multiplies it fast too.",
    )
    recompute: Recompute = Field(
        "all",
        description="Activations computed again in the backward pass, to save memory: none; all; or all but those that cost "
        "most to compute for their size, which are kept (attention, and products that do not widen).",
    )
    liger: bool = Field(True, description="Liger's fused kernels where there is a GPU.")
    feature_cache_gb: float = Field(
        50.0,
        ge=0,
        description="Modes lora and language: what the frozen vision tower sees is computed once and kept on disk, up to "
        "so many GB (about 1.2 MB a 575x240 frame at 7B); what is beyond is computed in every step. 0: off.",
    )
    loss: Literal["answer", "all"] = Field(
        "answer", description="Tokens the loss is taken over: the answer, or system and user text too (the paper's)."
    )
    images_first: bool = Field(
        True,
        description="Images before the request, as the published example asks; the paper trains with the request first.",
    )
    max_images: int | None = Field(
        None, ge=1, description="Only the first N frames of a story, and what is thought and told of them; empty: all."
    )
    drop_unmentioned_characters: bool = Field(
        False, description="Leave char rows that the story never mentions out of the analysis."
    )
    drop_unmentioned_objects: bool = Field(
        False, description="Leave obj and lm rows that the story never mentions out of the analysis."
    )
    drop_unmentioned_backgrounds: bool = Field(
        True, description="Leave bg rows that the story never mentions out of the analysis."
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="Stop when the loss on the validation films has not fallen for so many epochs; empty: never.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="CPU processes, data parallel; with `accelerate` its file decides."
    )
    accelerate: str | None = Field(
        "fsdp2-2gpu", description="A file of deploy/accelerate by its name, or a path; empty: the CPU."
    )
    devices: str | None = Field(
        None,
        pattern=r"^\d+(,\d+)*$",
        coerce_numbers_to_str=True,  # `--set training.devices=0` is a number
        description="Accelerators to train on, such as 0,1. Runs that name the same one wait for each other; empty: all, "
        "and nobody waits.",
    )
    free_memory_gb: float = Field(
        0, ge=0, description="GiB that must be free on each of `devices` before training starts; 0: not looked at."
    )
    save_every: int = Field(100, ge=1, description="Optimizer steps between checkpoints; each epoch's end has one too.")
    afresh: bool = Field(
        False, description="Start afresh where the work folder has checkpoints of another run; else such are refused."
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of the order, the requests and the adapters.")
