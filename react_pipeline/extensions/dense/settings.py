"""Configuration of detection and segmentation, and the table of their data sets.

Belongs here: the fields and their rules, and what is true of a set wherever its files are. Does not
belong here: reading files (`sets`), measuring.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, field_validator, model_validator

from react_pipeline.installation import open_clip_metadata
from react_pipeline.settings import Name, Section

SCENE_TEMPLATES = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)
"""MaskCLIP's, in addition to CLIP's 80."""

IGNORED = 255
"""Class id of pixels that count for nothing."""


@dataclass(frozen=True)
class DenseSet:
    """A set of images with boxes or with label maps; paths are relative to the root.

    Attributes:
        truth: The COCO instances JSON, or the folder of the label maps.
        class_names: In the order of class ids. Of your own set they are read: empty here.
        names_file: Names of your own label maps, one a line, in the order of the values from 0.
        values: Pixel value of each class in a label map.
        groups: Classes that are also averaged by themselves, by name.
        annotated_only: Whether images without a box of these classes are left out.
        templates: Prompts; of your own set those of the domain: empty here.
        expected: Official number of images; 0: unknown.
    """

    name: str
    task: Literal["detection", "segmentation"]
    images: str
    truth: str
    class_names: tuple[str, ...] = ()
    names_file: str | None = None
    values: tuple[int, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    annotated_only: bool = False
    templates: tuple[str, ...] = ()
    expected: int = 0
    homepage: str = ""


@cache
def dense_sets() -> Mapping[str, DenseSet]:
    """Return the table, `sets.json`, by name, without prompts."""
    rows = Path(__file__).with_name("sets.json").read_bytes()
    return {row.name: row for row in TypeAdapter(list[DenseSet]).validate_json(rows)}


def _with_prompts(entry: DenseSet) -> DenseSet:
    """Return a set of the table with CLIP's 80 prompts and a few more."""
    imagenet = [write("{}") for write in open_clip_metadata().OPENAI_IMAGENET_TEMPLATES]
    detection = entry.task == "detection"
    templates = ("{}.", *imagenet) if detection else (*imagenet, *SCENE_TEMPLATES)
    return replace(entry, templates=templates)


class OwnDenseSet(Section):
    """Your own images with boxes or label maps; paths are relative to `dense.root`, and may hold
    `{domain}`.
    """

    name: Annotated[Name, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    images: str
    annotations: str | None = None
    labels: str | None = None
    names: str | None = None

    @model_validator(mode="after")
    def _one_truth(self) -> Self:
        if {self.annotations is None} != {self.labels is not None, self.names is not None}:
            raise ValueError(
                "give either `annotations` (COCO JSON), or `labels` (PNGs) and `names`"
            )
        return self

    def of(self, slug: str) -> DenseSet:
        """Return the set of one domain."""
        images, boxes, maps, names = (
            (text or "").replace("{domain}", slug)
            for text in (self.images, self.annotations, self.labels, self.names)
        )
        task: Literal["detection", "segmentation"] = "detection" if boxes else "segmentation"
        return DenseSet(self.name, task, images, boxes or maps, names_file=names or None)


class DenseConfig(Section):
    """What is measured of detection and segmentation."""

    root: Path | None = None
    datasets: tuple[str, ...] = ()
    own: tuple[OwnDenseSet, ...] = ()
    boxes: tuple[Literal["truth", "file"], ...] = Field(default=("truth",), min_length=1)
    short_side: int = Field(default=0, ge=0)
    prompt_denoising: float = Field(default=0.0, ge=0, le=1)
    key_smoothing: float = Field(default=0.0, ge=0, le=1)
    student_images: str | None = None
    student_model: str = "lraspp_mobilenet_v3_large"
    student_steps: int = Field(default=8_000, gt=0)
    student_learning_rate: float = Field(default=0.01, gt=0)
    student_backbone: Path | None = None

    @field_validator("datasets")
    @classmethod
    def _datasets_are_known(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in datasets if name not in dense_sets()]:
            raise ValueError(
                f"unknown: {', '.join(unknown)}; choose from {', '.join(dense_sets())}, and `own`"
            )
        return datasets

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [*self.datasets, *(own.name for own in self.own)]
        if len(set(names)) < len(names):
            raise ValueError(f"`datasets` and `own` name a set twice: {', '.join(names)}")
        return self

    def boxes_path(self, name: str) -> Path:
        """Return the file with the boxes of a set, in COCO's form of results."""
        return (self.root or Path()) / "boxes" / f"{name}.json"

    def sets(self, slug: str) -> list[DenseSet]:
        """Return the sets to measure one domain's models on."""
        known = [_with_prompts(dense_sets()[name]) for name in self.datasets]
        return [*known, *(own.of(slug) for own in self.own)]
