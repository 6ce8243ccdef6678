"""Settings of the gate that decides whether a challenger is promoted, of the judge that may hold it back, and of the reward
that a trainer may learn from."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from storyreason import forms

Asked = Literal["other-film", "shuffled", "grey"]
"""The controls that ask a model again; `storyreason.scoring.control.CONTROLS` says what is wrong in each."""

IMPROVED_TOLERANCE = 0.05
"""How far recall and length of an improved version may change, as a share, where the configuration does not say."""


class GateConfig(BaseModel):
    """The primary score must improve significantly; no guarded score may get worse by more than its tolerance."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    primary: str = Field(
        default="grounded/strict/grounding/f1",
        description="The score that decides (higher is better): decoding, protocol and name, as in MLflow.",
    )
    min_gain: float = Field(
        default=0.0,
        ge=-1.0,
        le=1.0,
        description="The paired interval of the primary score's gain must lie above this value. "
        "A small negative value accepts a newer model that is about as good.",
    )
    min_validity: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="The lowest share of valid answers, in free decoding, with which a model is promoted.",
    )
    validity_tolerance: float = Field(
        default=0.01, ge=0.0, le=1.0, description="How far the share of valid answers may fall."
    )
    idf1_tolerance: float = Field(default=0.02, ge=0.0, le=1.0, description="How far the identity score IDF1 may fall.")
    hallucinations_tolerance: float = Field(
        default=0.5, ge=0.0, le=100.0, description="How far referential hallucinations per 100 mentions may rise."
    )
    recall_tolerance: float | None = Field(
        default=None,
        ge=0.0,
        le=1.0,
        description="How far box recall may fall, as a share of what it was, for an improved version (`improve.method`) before "
        "that; empty: 0.05 for an improved one, else not guarded.",
    )
    length_tolerance: float | None = Field(
        default=None,
        ge=0.0,
        le=100.0,
        description="How far the words per story may rise or fall, as a share of what they were; empty: as above.",
    )
    min_stories: int = Field(default=30, ge=2, description="With fewer test stories the gate refuses to decide.")
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1.0, description="The confidence level of the bootstrap intervals."
    )
    resamples: int = Field(default=2000, ge=100, le=100_000, description="The number of bootstrap resamples.")
    approval: Literal["none", "ask"] = Field(
        default="none",
        description="ask: a version that passes the gate waits for approval in Prefect's UI.",
    )
    approval_timeout: float = Field(
        default=86_400.0,
        gt=0,
        le=2_592_000,
        description="Seconds to wait for approval; after that the version is held.",
    )
    seed: int = Field(default=0, ge=0, description="The seed of the bootstrap: the same answers give the same verdict.")

    def of_improved(self) -> "GateConfig":
        """The same for a version that was improved: what preferences may cost, recall and length, is guarded."""
        empty = [name for name in ("recall_tolerance", "length_tolerance") if getattr(self, name) is None]
        return self.model_copy(update=dict.fromkeys(empty, IMPROVED_TOLERANCE))

    @field_validator("primary")
    @classmethod
    def _is_a_score(cls, primary: str) -> str:
        """Reject an unknown score when the configuration is loaded rather than after training and two evaluations."""
        from storyreason.scoring import catalogue

        decoding, _, name = primary.partition("/")
        if decoding not in ("free", "grounded"):
            near = catalogue.nearest(primary if primary in catalogue.SCORES else name or decoding)
            example = f"grounded/{near or catalogue.BOX_F1}"
            raise ValueError(f"expected a score with its decoding, free or grounded: did you mean {example!r}?")
        if name not in catalogue.SCORES:
            near = catalogue.nearest(name)
            raise ValueError(f"there is no score {name!r}" + (f": did you mean '{decoding}/{near}'?" if near else ""))
        if catalogue.SCORES[name].better != "higher":
            raise ValueError(f"{name} cannot be the primary score: higher is not better")
        if not catalogue.compares_boxes(name):
            raise ValueError(
                f"{name} is text-only: it compares no boxes, so no picture is needed for it; take "
                f"{decoding}/{catalogue.BOX_F1}"
            )
        return primary


class JudgeConfig(BaseModel):
    """A language model that may hold back what passes the gate. It never promotes."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="The OpenAI-compatible address of the model that judges; empty: there is no judge. Its key is "
        "$STORYREASON_API_KEY.",
    )
    model: str = Field("", description="The model's name there.")
    stories: int | None = Field(None, ge=2, description="Judge the first N test stories only; empty: all of them.")
    min_agreement: float = Field(
        0.7,
        ge=0,
        le=1,
        description="A judge that prefers the same story less often when the two change places holds nothing back.",
    )
    temperature: float = Field(0.7, ge=0, le=2, description="0 always takes the likeliest token.")
    max_tokens: int = Field(1024, ge=64, description="Longest reply in tokens.")
    concurrency: int = Field(4, ge=1, le=256, description="Requests at a time.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the sampling, for endpoints that take one.")
    price_in: float = Field(0.0, ge=0, description="What a million tokens of a request cost.")
    price_out: float = Field(0.0, ge=0, description="What a million tokens of a reply cost.")
    max_cost: float | None = Field(None, gt=0, description="What one decision may cost; empty: no limit.")

    @model_validator(mode="after")
    def _is_named(self) -> Self:
        if self.endpoint and not self.model:
            raise ValueError("judge.endpoint needs judge.model, the name of the model there")
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise ValueError("judge.max_cost needs judge.price_in and judge.price_out, per million tokens")
        return self


def _weight(default: float, description: str) -> float:
    weight: float = Field(default=default, ge=0.0, le=100.0, description=f"Weight of the part: {description}")
    return weight


class RewardConfig(BaseModel):
    """The weights of the parts of `scoring.reward`; they need not add up to 1. improve.method=grpo learns from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    readable: float = _weight(0.05, "an analysis can be found.")
    valid: float = _weight(0.05, "no rule of severity error is broken.")
    grounding: float = _weight(0.35, "F1 of boxes at IoU 0.5.")
    identity: float = _weight(0.25, "IDF1.")
    names: float = _weight(0.05, "people keep one name, and mentions use it.")
    references: float = _weight(0.20, "what the story mentions is where it says; hallucinations cost.")
    length: float = _weight(0.05, "about as many words as the reference.")
    length_band: float = Field(
        default=0.25,
        ge=0.0,
        lt=1.0,
        description="How much longer than the reference, or the reference than it, a story may be at full reward.",
    )

    @model_validator(mode="after")
    def _rewards_something(self) -> Self:
        if not any(self.model_dump(exclude={"length_band"}).values()):
            raise ValueError("at least one weight must be above 0")
        return self
