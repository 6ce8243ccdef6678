"""Settings of what is kept of films, and of what is detected in it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from storyreason import forms


class FilmsConfig(BaseModel):
    """What of films is kept, and what finds people and things in it, for a new data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=forms.describe)

    per_scene: int = Field(3, ge=1, description="Frames of a scene, at most.")
    longest_side: int = Field(1280, ge=64, description="Pixels: larger frames are made smaller.")
    cuts: str = Field(
        "scenedetect",
        pattern=r"^(scenedetect|transnetv2:.+)$",
        description="What finds the cuts of videos: scenedetect; or transnetv2:FOLDER, a network that finds dissolves too, as "
        "`make transnet` fetches it.",
    )
    detector: str = Field(
        "faces",
        min_length=1,
        description="What finds people and things: a panoptic model's folder or Hub ID; with names, a Grounding DINO; "
        "nanodet:FOLDER: NanoDet, as `make nanodet` fetches it; faces: people whose face is seen; truth:FOLDER: that of "
        "`storyreason sample film`.",
    )
    names: tuple[str, ...] = Field(
        (), description="What a Grounding DINO looks for, such as person and landmark: clock tower."
    )
    stuff: tuple[str, ...] = Field((), description="Classes of a panoptic model that are stuff, where it does not say.")
    threshold: float | None = Field(None, ge=0, le=1, description="The least score; empty: the detector's default.")
    faces: Literal["dlib", "none"] = Field("dlib", description="What finds and embeds faces.")
    looks: str = Field(
        "histogram",
        min_length=1,
        description="What embeds looks: a model's folder or Hub ID (SigLIP 2, DINOv2), or histogram, which is colours only.",
    )
    batch: int = Field(8, ge=1, description="Frames that the detector is given at a time.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="Where these models run: cpu, or cuda.")
    workers: int = Field(
        0,
        ge=0,
        description="Processes of Ray that look at films side by side; 0: one film after the other in this process.",
    )
