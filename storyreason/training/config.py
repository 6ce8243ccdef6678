"""How a model is trained. The defaults are the paper's LoRA recipe (arXiv 2505.10292), except for `images_first`."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storyreason import forms
from storyreason.architecture import Target
from storyreason.format import grids
from storyreason.training.negatives import KINDS, Kind

Precision = Literal["auto", "bfloat16", "float32"]
Recompute = Literal["none", "long", "selective", "all"]


class TrainingConfig(BaseModel):
    """How a base model is fine-tuned: what is trained, on what, how long, on which processes."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    mode: Literal["lora", "full", "language"] = Field(
        "lora",
        description="What is trained. lora: adapters on the layers that `targets` names; full: all weights; language: all but "
        "the vision tower.",
    )
    rank: int = Field(16, ge=1, le=4096, description="Rank of the adapters; alpha is twice the rank. LoRA only.")
    targets: tuple[Target, ...] = Field(
        ("attention",),
        min_length=1,
        description="What has adapters. attention: the language model's q, k, v and o projections; mlp: its MLPs; merger: what "
        "turns patches into tokens; tower: the vision tower's blocks. With the last two, no vision features are cached. "
        "LoRA only.",
    )
    use_rslora: bool = Field(
        False, description="Scale adapters by alpha / sqrt(rank) instead of alpha / rank (arXiv 2312.03732). LoRA only."
    )
    use_dora: bool = Field(
        False,
        description="Train each adapted weight's magnitude apart from its direction (DoRA, arXiv 2402.09353): slower. LoRA only.",
    )
    quantize: Literal["nf4"] | None = Field(
        None,
        description="The precision of the frozen base. nf4: its language model in four bits (QLoRA, arXiv 2305.14314), which "
        "takes a quarter of the memory for weights and is slower; adapters are merged into the base's own weights all the "
        "same. Empty: that of `dtype`. LoRA only.",
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="The peak learning rate. Paper: LoRA 2e-4, else 2e-5.")
    attention_learning_rate: float | None = Field(
        None, gt=0, le=1, description="That of the language model's attention; empty: `learning_rate`."
    )
    mlp_learning_rate: float | None = Field(
        None, gt=0, le=1, description="That of the language model's MLPs; empty: `learning_rate`."
    )
    merger_learning_rate: float | None = Field(
        None, gt=0, le=1, description="That of what turns patches into tokens; empty: `learning_rate`."
    )
    tower_learning_rate: float | None = Field(
        None, gt=0, le=1, description="That of the vision tower without its merger; empty: `learning_rate`."
    )
    epochs: float = Field(3.0, gt=0, le=1000, description="How many times each story is seen. Paper: LoRA 3, else 4.")
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimizer steps; empty: after `epochs`."
    )
    batch_size: int = Field(1, ge=1, le=1024, description="Stories in one micro-batch of one process.")
    accumulation: int = Field(
        32, ge=1, le=4096, description="Gradient accumulation: micro-batches of each process in one optimizer step."
    )
    pack_tokens: int | None = Field(
        None,
        ge=0,
        description="Pack the stories of a step into rows of up to this many tokens instead of micro-batches of "
        "`batch_size`: no padding, fewer passes, the same result. A longer story gets a row of its own. Empty or 0: off.",
    )
    max_tokens: int = Field(
        32_768,
        ge=64,
        description="Longer stories are left out and counted, never truncated. Of a model's own answers "
        "(improve.method=grpo) what is beyond is not learnt from.",
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Fraction of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradients are clipped to this norm; 0: never.")
    scheduler: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="The learning rate after the warm-up."
    )
    dtype: Precision = Field(
        "bfloat16",
        description="The dtype of the computation. bfloat16 needs a GPU; auto uses it also on a CPU that has instructions "
        "for it, and float32 elsewhere.",
    )
    recompute: Recompute = Field(
        "all",
        description="Activation checkpointing, which saves memory. all: every layer is recomputed in the backward pass; "
        "selective: all but the results that are expensive for their size (attention, and products that do not widen); "
        "long: only rows longer than `pack_tokens`, which hold one long story; none: off.",
    )
    liger: bool = Field(True, description="Liger's fused kernels where there is a GPU.")
    feature_cache_gb: float = Field(
        50.0,
        ge=0,
        description="While the vision tower is frozen (modes lora and language), its features are computed once and cached on "
        "disk, up to this many GB for each tower, other data's included (about 1.2 MB for a 575x240 frame at 7B); the rest is "
        "computed in every step. 0: off.",
    )
    loss: Literal["answer", "all"] = Field(
        "answer",
        description="The tokens that the loss covers. answer: the answer's; all: system and user text too, as in the paper.",
    )
    images_first: bool = Field(
        True,
        description="Images before the request, as in the published example; the paper trains with the request first.",
    )
    boxes: str = Field(
        grids.ORIGINAL,
        pattern=grids.CONVENTION,
        description="What the boxes count that the model learns to write. original: pixels of the original picture, as in "
        "the paper; thousandths: of its sides, as Qwen3-VL and Qwen3.5 were trained; resized:CELL:LEAST:MOST: pixels of the "
        "picture as the base's processor resizes it, as Qwen2.5-VL was trained. Data, scores and pages stay in pixels of "
        "the original.",
    )
    max_images: int | None = Field(
        None, ge=1, description="Only the first N frames of a story, with their analysis and text; empty: all."
    )
    drop_unmentioned_characters: bool = Field(
        False, description="Drop char rows from the analysis that the story never mentions."
    )
    drop_unmentioned_objects: bool = Field(
        False, description="Drop obj and lm rows from the analysis that the story never mentions."
    )
    drop_unmentioned_backgrounds: bool = Field(
        True, description="Drop bg rows from the analysis that the story never mentions."
    )
    shuffled_pictures: float = Field(
        0,
        ge=0,
        lt=1,
        description="Share of the stories, drawn anew for each epoch, whose pictures are shown in another order and of which "
        "only what comes after the analysis is learnt: a story then follows its analysis, not the pictures.",
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="Stop when the loss on the validation films has not fallen for this many epochs; empty: never.",
    )
    processes: int = Field(
        1, ge=1, le=64, description="Data-parallel CPU processes. With `accelerate`, its file decides."
    )
    accelerate: str | None = Field(
        "fsdp2-2gpu", description="The name of a file in deploy/accelerate, or a path; empty: the CPU."
    )
    devices: str | None = Field(
        None,
        pattern=r"^\d+(,\d+)*$",
        coerce_numbers_to_str=True,  # `--set training.devices=0` is a number
        description="Accelerators to train on, such as 0,1. Runs that name the same one wait for each other. Empty: all, "
        "and no run waits.",
    )
    free_memory_gb: float = Field(
        0, ge=0, description="GiB that must be free on each of `devices` before training starts; 0: not checked."
    )
    save_every: int = Field(100, ge=1, description="Optimizer steps between checkpoints; each epoch ends with one too.")
    afresh: bool = Field(
        False,
        description="Start over when the work folder holds checkpoints of another run. Otherwise such a run is refused.",
    )
    keep_checkpoints: bool = Field(
        False,
        description="Keep the checkpoints of a complete training. Otherwise they are removed once its result is registered.",
    )
    seed: int = Field(42, ge=0, lt=2**31, description="Seed of the order of stories, the requests and the adapters.")

    @model_validator(mode="after")
    def _rates_are_of_what_is_trained(self) -> Self:
        for one in self.rates().keys() - self.trained():
            instead = f"add {one} to training.targets" if self.mode == "lora" else "set training.mode=full"
            raise ValueError(
                f"training.{one}_learning_rate is set, and training.mode={self.mode} does not train the {one}: {instead}, or "
                "leave the rate empty"
            )
        return self

    @model_validator(mode="after")
    def _what_is_quantized_is_frozen(self) -> Self:
        if self.quantize and self.mode != "lora":
            raise ValueError(
                f"training.quantize={self.quantize} keeps the base frozen in four bits, and training.mode={self.mode} trains its "
                "weights: set training.mode=lora, or leave training.quantize empty"
            )
        return self

    def trained(self) -> frozenset[Target]:
        """The parts of the model of which this trains weights or adapters."""
        if self.mode == "lora":
            return frozenset(self.targets)
        return frozenset(("attention", "mlp", "merger", "tower") if self.mode == "full" else ("attention", "mlp"))

    def freezes_tower(self) -> bool:
        """Whether the features of pictures stay as they are, so that they can be cached."""
        return not self.trained() & {"merger", "tower"}

    def rates(self) -> dict[Target, float]:
        """The learning rates that differ from `learning_rate`, by what they are for."""
        found: dict[Target, float | None] = {
            "attention": self.attention_learning_rate,
            "mlp": self.mlp_learning_rate,
            "merger": self.merger_learning_rate,
            "tower": self.tower_learning_rate,
        }
        return {one: rate for one, rate in found.items() if rate is not None}


class ImproveConfig(BaseModel):
    """How a trained model is improved before it is registered. What has no key here is as it was in `training`."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    method: Literal["none", "dpo", "grpo"] = Field(
        "none",
        description="none: what the training left is registered as it is. dpo: from there on, the model learns to prefer the "
        "data's answers to wrong ones (arXiv 2305.18290), and both versions are registered. grpo: it learns from the rewards "
        "of its own answers, round by round (arXiv 2402.03300).",
    )
    negatives: tuple[Kind, ...] = Field(
        KINDS,
        min_length=1,
        description="dpo: the wrong answers that are made from the data: each story has a pair with each kind that it can "
        "have. A pair counts as a story in `epochs` and `training.batch_size`, and its two answers are in one row.",
    )
    beta: float = Field(
        0.1, gt=0, le=10, description="How strongly the model is held to what the training left; more is closer."
    )
    sft_weight: float = Field(
        0.0, ge=0, le=100, description="dpo: the weight of the right answers' loss beside that of the preferences."
    )
    rounds: int = Field(8, ge=1, le=10_000, description="grpo: how often the model is asked, each time as it is then.")
    stories: int = Field(64, ge=1, description="grpo: how many stories of the training films are asked for in a round.")
    answers: int = Field(8, ge=2, le=64, description="grpo: answers to each story, which are compared with each other.")
    steps: int = Field(2, ge=1, le=64, description="grpo: optimizer steps on the answers of a round.")
    clip: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="grpo: an answer's token is learnt until its probability has fallen by this share …",
    )
    clip_high: float = Field(
        0.28, gt=0, le=10, description="grpo: … or has risen by this one in a round (arXiv 2503.14476, section 3.1)."
    )
    temperature: float = Field(1.0, gt=0, le=2, description="grpo: the temperature at which the answers are sampled.")
    engine: Literal["vllm", "inprocess"] = Field(
        "vllm",
        description="grpo: what answers. vllm: the engine that evaluates, with the settings in `serving`; inprocess: "
        "transformers, one answer at a time, for a tiny model.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="The peak learning rate; empty: a tenth of `training.learning_rate`. The rates of parts change by the same "
        "factor.",
    )
    epochs: float = Field(1.0, gt=0, le=1000, description="dpo: how many times each pair is seen.")
    max_steps: int | None = Field(
        None, ge=1, description="dpo: stop after this many optimizer steps; empty: after `epochs`."
    )

    @model_validator(mode="after")
    def _each_step_has_answers(self) -> Self:
        if self.steps > self.answers:
            raise ValueError(
                f"improve.steps={self.steps} is more than improve.answers={self.answers}, and a round may keep the answers of "
                "one story only: lower it"
            )
        return self

    def of(self, training: TrainingConfig) -> TrainingConfig:
        """How to train the pairs of a model that was trained in this way."""
        factor = 0.1 if self.learning_rate is None else self.learning_rate / training.learning_rate
        rates = {f"{one}_learning_rate": rate * factor for one, rate in training.rates().items()}
        own = {"learning_rate": training.learning_rate * factor, "epochs": self.epochs, "max_steps": self.max_steps}
        ends = {"early_stopping": None} if self.method == "grpo" else {}  # its rounds are not validated
        return training.model_copy(update=own | rates | ends)
