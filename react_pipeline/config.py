"""Configuration: `pipeline.yaml` and one YAML a domain, as frozen pydantic models.

Belongs here: the fields, their defaults and rules. Does not belong here: the fields of a training (`training_config`)
and of evaluation (`evaluation_config`), reading files (`config_files`), what a step does with a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from react_pipeline.evaluation_config import ElevaterConfig as ElevaterConfig
from react_pipeline.evaluation_config import EvaluationSetConfig as EvaluationSetConfig
from react_pipeline.training_config import CustomizationConfig, Fraction, Name, Section, TrainingOverrides, partial

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a domain's name may look like; it becomes a directory, a partition key and part of a model's name."""


RESERVED_SLUGS = frozenset({"all", "corpus", "mean"})


class CorpusConfig(Section):
    """Where the image-text pairs come from.

    Attributes:
        kind: `demo` (made from installed packages) or `webdataset` (tar shards).
        shards: Paths or glob patterns of tar files; only for `webdataset`. URLs and commands are refused.
        max_bad_fraction: A shard with more bad samples than this fails.
        max_pixels: Larger images are skipped before they are decoded.
        max_caption_chars: Longer captions are cut and counted.
    """

    kind: Literal["demo", "webdataset"] = "webdataset"
    shards: tuple[str, ...] = ()
    max_bad_fraction: Fraction = 0.1
    max_pixels: int = Field(default=89_478_485, gt=0)
    max_caption_chars: int = Field(default=2_000, gt=0)

    @field_validator("shards")
    @classmethod
    def _only_local_paths(cls, shards: tuple[str, ...]) -> tuple[str, ...]:
        for shard in shards:
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", shard):
                raise ValueError(f"{shard!r}: only local paths are read; commands (pipe:) and URLs are refused")
        return shards

    @model_validator(mode="after")
    def _shards_match_kind(self) -> Self:
        if self.kind == "webdataset" and not self.shards:
            raise ValueError("kind `webdataset` needs `shards`: a list of tar files or patterns such as data/*.tar")
        if self.kind == "demo" and self.shards:
            raise ValueError("kind `demo` builds its own shards: remove `shards`")
        return self


class EncoderConfig(Section):
    """The CLIP that embeds the corpus and is customized.

    Attributes:
        model: An open_clip architecture (`ViT-B-32`), or `demo`.
        pretrained: A tag of open_clip (`openai`), or the path of a checkpoint (.safetensors, .pt, .bin) or of a folder
            written by `react_pipeline.model.save`.
        quick_gelu: Activation of the checkpoint; weights cannot reveal it. Unset: open_clip's own for that tag.
        mean: Normalisation of the checkpoint, 3 values. Unset: open_clip's own for that tag.
        std: Likewise.
    """

    model: Name = "ViT-B-32"
    pretrained: str | None = None
    quick_gelu: bool | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if self.model != "demo" and not self.pretrained:
            raise ValueError("`pretrained` is missing: a tag of open_clip or the path of a checkpoint")
        return self


class EmbeddingConfig(Section):
    """How the corpus is embedded. Only `precision` changes the vectors; the rest is speed.

    Attributes:
        batch_size: Pairs per forward pass.
        shards_per_group: Shards per resumable group (one output file each of images, texts and metadata).
        workers: Decoding processes; 0 decodes in the main process.
        precision: Arithmetic of the towers.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = Field(default=256, gt=0)
    shards_per_group: int = Field(default=1, gt=0)
    workers: int = Field(default=2, ge=0)


class IndexConfig(Section):
    """The FAISS index.

    Attributes:
        key: `auto` (exact up to `exact_below` rows, then HNSW), or an autofaiss key such as `Flat`, `IVF1024,Flat`,
            `HNSW32`.
        exact_below: Up to this many rows `auto` searches exactly.
        recall_queries: How many held-out queries measure recall@10.
        min_recall: The check fails below this recall@10.
    """

    key: str = Field(default="auto", pattern=r"^(auto|Flat|IVF\d+,Flat|HNSW\d+)$")
    exact_below: int = Field(default=200_000, ge=0)
    recall_queries: int = Field(default=200, gt=0)
    min_recall: Fraction = 0.9


class RetrievalConfig(Section):
    """How pairs are chosen for a domain.

    Attributes:
        modes: `t2t` matches a prompt with captions, `t2i` with images; in this order of preference.
        k_per_prompt: Hits per prompt and mode (REACT counts per prompt, not per class).
        max_per_class: Cap per class after duplicates are gone; the most similar stay.
        min_per_class: A class with fewer pairs is starving.
        max_starving_fraction: Above this fraction of starving classes nothing is trained.
        min_similarity: Cosine floor per mode.
        near_duplicate_similarity: Corpus images at least this similar (cosine) to an evaluation image are removed.
        shard_pairs: Pairs per collected training shard.
    """

    modes: tuple[Literal["t2t", "t2i"], ...] = Field(default=("t2t", "t2i"), min_length=1)
    k_per_prompt: int = Field(default=50, gt=0)
    max_per_class: int = Field(default=200, gt=0)
    min_per_class: int = Field(default=1, ge=0)
    max_starving_fraction: Fraction = 0.25
    min_similarity: Mapping[Literal["t2t", "t2i"], float] = {}
    near_duplicate_similarity: float = Field(default=0.98, gt=0, le=1.01)
    shard_pairs: int = Field(default=1_000, gt=0)


if TYPE_CHECKING:
    RetrievalOverrides = RetrievalConfig
else:
    RetrievalOverrides = partial(RetrievalConfig, "RetrievalOverrides")


class ClassConfig(Section):
    """A class: the name used by the zero-shot head, and synonyms that retrieval also searches."""

    name: Name
    synonyms: tuple[Name, ...] = ()


def _class_from_text(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class DomainConfig(Section):
    """One domain: its class names and what differs from the pipeline's defaults.

    `templates` is a list of prompts with `{}` for the class name, or the name of a set: `imagenet` (open_clip's 80) or
    `simple` ("a photo of a {}.").
    """

    slug: str
    title: str = ""
    description: str = ""
    classes: tuple[Annotated[ClassConfig, BeforeValidator(_class_from_text)], ...] = Field(min_length=1)
    templates: tuple[Name, ...] | Literal["imagenet", "simple"] = "simple"
    retrieval: RetrievalOverrides = RetrievalOverrides()
    customization: TrainingOverrides = TrainingOverrides()
    evaluation: EvaluationSetConfig | None = None

    @field_validator("slug")
    @classmethod
    def _slug_is_safe(cls, slug: str) -> str:
        if not SLUG.fullmatch(slug):
            raise ValueError(f"{slug!r}: use a-z, 0-9 and '-', 63 characters at most, starting with a letter or digit")
        if slug in RESERVED_SLUGS:
            raise ValueError(f"{slug!r} means something else in results and runs; take another name")
        return slug

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[ClassConfig, ...]) -> tuple[ClassConfig, ...]:
        seen: dict[str, str] = {}
        for entry in classes:
            for name in (entry.name, *entry.synonyms):
                if (known := " ".join(name.lower().split())) in seen:
                    raise ValueError(f"{name!r} occurs twice (in {seen[known]!r} and {entry.name!r})")
                seen[known] = entry.name
        return classes

    @field_validator("templates")
    @classmethod
    def _templates_hold_a_name(cls, templates: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not isinstance(templates, str):
            if not templates:
                raise ValueError("the list is empty: write at least one prompt with {}")
            for template in templates:
                if template.count("{}") != 1:
                    raise ValueError(f"{template!r}: needs {{}} exactly once, where the class name goes")
        return templates

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the file; the index is the class id."""
        return [entry.name for entry in self.classes]


class PipelineConfig(Section):
    """`pipeline.yaml`: what holds for every domain.

    Attributes:
        project: Names the MLflow experiment.
        store: Directory of the artifacts.
        tracking_uri: MLflow's; unset: `mlflow.db` (SQLite) beside the store.
        domains: Directory of the domain files.
        device: `auto` takes a GPU where there is one.
    """

    project: str = Field(default="react", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")
    store: Path = Path(".react/store")
    tracking_uri: str | None = None
    domains: Path = Path("domains")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    corpus: CorpusConfig
    encoder: EncoderConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    index: IndexConfig = IndexConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    customization: CustomizationConfig = CustomizationConfig()
    elevater: ElevaterConfig = ElevaterConfig()
