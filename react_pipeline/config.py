"""Configuration: `pipeline.yaml` and one YAML a domain, as frozen pydantic models.

Belongs here: the fields, their defaults and rules, and the one reader of YAML. Does not belong here: what a step does
with a value. Relative paths are resolved against the directory of the file that names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from react_pipeline.errors import ConfigError, Problem

MAX_YAML_BYTES = 2_000_000
"""Larger configuration files are refused unread."""

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a domain's name may look like; it becomes a directory, a partition key and part of a model's name."""

TRAINED_METHODS = ("gated-image", "locked-text", "full")
"""What can be trained; `gated-image` is REACT's headline."""

CONTROL_SUFFIX = "-control"
METHODS = ("base", *(method for name in TRAINED_METHODS for method in (name, name + CONTROL_SUFFIX)))
"""Every method that is evaluated: no training, each training, and each one's control on random pairs."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class CorpusConfig(_Section):
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


class EncoderConfig(_Section):
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


class EmbeddingConfig(_Section):
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


class IndexConfig(_Section):
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


class RetrievalConfig(_Section):
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


class TrainingConfig(_Section):
    """One training, after the defaults of the method and the domain's overrides are joined.

    Attributes:
        last_k_layers: How many vision layers get a gated block in front.
        learning_rate: Peak of the schedule: linear warm-up, then cosine to 0.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: Steps of the linear warm-up.
        steps: Optimizer steps.
        batch_size: Pairs per step; capped at the number of pairs.
        seed: Of the initialisation and of the order of the data.
        loss: `infonce` (the paper), or `infonce-captions`, in which pairs of equal caption are positives of each other.
        views: 0: the image as it is; n: n fixed augmented views of each image are prepared and drawn from.
        class_prompt_fraction: Chance that a caption is replaced by a prompt of the pair's class; 0 is the paper's way.
        gate_scale: Scales tanh(gate) of the finished model: 1 is the trained model, 0 the base (WiSE-FT for gates).
        checkpoint_every: Steps between resumable states.
        precision: Arithmetic of the forward and backward passes.
    """

    last_k_layers: int = Field(default=6, gt=0)
    learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    steps: int = Field(default=1_000, gt=0)
    batch_size: int = Field(default=256, gt=1)
    seed: int = Field(default=0, ge=0)
    loss: Literal["infonce", "infonce-captions"] = "infonce"
    views: int = Field(default=0, ge=0)
    class_prompt_fraction: Fraction = 0.0
    gate_scale: float = Field(default=1.0, ge=0, le=2)
    checkpoint_every: int = Field(default=100, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"


def _partial(model: type[_Section], name: str) -> type[_Section]:
    """Make a model of the same fields and rules, each one optional, so that an override is checked where it stands."""
    fields: dict[str, Any] = {}
    for field, info in model.model_fields.items():
        optional = copy(info)
        optional.default = None
        fields[field] = (info.annotation, optional)
    return create_model(name, __base__=_Section, **fields)


if TYPE_CHECKING:
    TrainingOverrides = TrainingConfig
    RetrievalOverrides = RetrievalConfig
else:
    TrainingOverrides = _partial(TrainingConfig, "TrainingOverrides")
    RetrievalOverrides = _partial(RetrievalConfig, "RetrievalOverrides")

_METHOD_DEFAULTS: dict[str, dict[str, Any]] = {"locked-text": {"learning_rate": 5e-5}, "full": {"learning_rate": 1e-5}}


def _given(overrides: _Section | None) -> dict[str, Any]:
    return {} if overrides is None else overrides.model_dump(exclude_unset=True)


class CustomizationConfig(_Section):
    """Training fields for every method (`defaults`) and for single ones (`methods`)."""

    defaults: TrainingOverrides = TrainingOverrides()
    methods: Mapping[Literal["gated-image", "locked-text", "full"], TrainingOverrides] = {}

    def resolve(self, method: str, overrides: _Section | None = None) -> TrainingConfig:
        """Join the training of one method; a control trains as its method does. Later sources win, a domain's last."""
        name = method.removesuffix(CONTROL_SUFFIX)
        by_name = {str(known): fields for known, fields in self.methods.items()}
        method_fields = {**_METHOD_DEFAULTS.get(name, {}), **_given(self.defaults), **_given(by_name.get(name))}
        return TrainingConfig(**{**method_fields, **_given(overrides)})


class EvaluationSetConfig(_Section):
    """A labelled set of images, used to evaluate and to keep its images out of the retrieved set.

    Attributes:
        name: How results name it.
        kind: `folder` (one subfolder a class), `manifest` (CSV or parquet with columns path, class), or `demo`.
        path: The folder or the manifest; not for `demo`.
    """

    name: Name
    kind: Literal["folder", "manifest", "demo"]
    path: Path | None = None

    @model_validator(mode="after")
    def _path_is_given(self) -> Self:
        if (self.path is None) != (self.kind == "demo"):
            raise ValueError("`path` belongs to the kinds `folder` and `manifest`, and only to them")
        return self


class ClassConfig(_Section):
    """A class: the name used by the zero-shot head, and synonyms that retrieval also searches."""

    name: Name
    synonyms: tuple[Name, ...] = ()


def _class_from_text(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class DomainConfig(_Section):
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


class PipelineConfig(_Section):
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


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; no tags, no aliases, no more than `MAX_YAML_BYTES`.

    Raises:
        ConfigError: If the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError([Problem(path, "", f"larger than {MAX_YAML_BYTES:,} bytes; a configuration is small")])
        text = path.read_text(encoding="utf-8")
        # A few aliases can expand to gigabytes, and no configuration needs one.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ConfigError([Problem(path, "", "YAML aliases (*name) are refused; write the value out")])
        loaded = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(path, "", f"cannot be read: {error}")]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([Problem(path, "", f"is not valid YAML: {' '.join(str(error).split())}")]) from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError([Problem(path, "", "must be a mapping of field names to values")])
    return loaded


def load_pipeline(path: Path) -> PipelineConfig:
    """Read `pipeline.yaml`; its relative paths become absolute.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    config = _validate(PipelineConfig, read_yaml(path), path)
    base = path.resolve().parent
    corpus = config.corpus.model_copy(update={"shards": tuple(str(base / shard) for shard in config.corpus.shards)})
    encoder = config.encoder
    if encoder.pretrained and (base / encoder.pretrained).exists():
        encoder = encoder.model_copy(update={"pretrained": str((base / encoder.pretrained).resolve())})
    store = (base / config.store).resolve()
    update = {
        "store": store,
        "domains": (base / config.domains).resolve(),
        "tracking_uri": config.tracking_uri or f"sqlite:///{store.parent / 'mlflow.db'}",
        "corpus": corpus,
        "encoder": encoder,
    }
    return config.model_copy(update=update)


def load_domain(path: Path) -> DomainConfig:
    """Read one domain file; the file is named `<slug>.yaml`, and `slug` may be left out in it.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    raw = read_yaml(path)
    raw.setdefault("slug", path.stem)
    config = _validate(DomainConfig, raw, path)
    if config.slug != path.stem:
        raise ConfigError([Problem(path, "slug", f"is {config.slug!r}, so the file must be named {config.slug}.yaml")])
    if config.evaluation is not None and config.evaluation.path is not None:
        located = config.evaluation.model_copy(update={"path": (path.resolve().parent / config.evaluation.path)})
        config = config.model_copy(update={"evaluation": located})
    return config


def load_domains(directory: Path) -> tuple[dict[str, DomainConfig], list[Problem]]:
    """Read every `*.yaml` of a directory: the valid domains by slug, and the problems of the others."""
    domains, problems = {}, []
    for path in sorted(directory.glob("*.yaml")):
        try:
            domains[path.stem] = load_domain(path)
        except ConfigError as error:
            problems += error.problems
    return domains, problems


def _validate(model: type[Model], raw: dict[str, Any], path: Path) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [Problem(path, _field_of(entry["loc"]), _message_of(entry)) for entry in error.errors()]
        raise ConfigError(problems) from error


def _field_of(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _message_of(entry: Any) -> str:
    if entry["type"] == "extra_forbidden":
        return "unknown field; remove it or mend its spelling"
    message = str(entry["msg"]).removeprefix("Value error, ")
    shown = entry["input"] if isinstance(entry["input"], (str, int, float, bool, type(None))) else None
    return message if shown is None or entry["type"] == "value_error" else f"{message} (found {shown!r})"
