"""Configuration: `pipeline.yaml` and one YAML a domain, as frozen pydantic models.

Belongs here: the two files as a whole, what a domain is, and sections of a few fields. Does not
belong here: larger sections (modules of their names), reading files (`files`), what a step does
with a value.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PrivateAttr,
    SerializeAsAny,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from react_pipeline.extension import Extension, joined
from react_pipeline.settings.addresses import has_secret
from react_pipeline.settings.corpus import CorpusConfig
from react_pipeline.settings.encoder import EmbeddingConfig, EncoderConfig
from react_pipeline.settings.evaluation import EvaluationSetConfig
from react_pipeline.settings.methods import (
    CONTROL_SUFFIX,
    METHODS,
    Method,
    first_seed,
    project_methods,
    require_free,
    require_known,
    trained_methods,
)
from react_pipeline.settings.retrieval import IndexConfig, RetrievalConfig
from react_pipeline.settings.section import (
    ClassName,
    Fraction,
    Name,
    Section,
    did_you_mean,
    each_once,
    folded,
)
from react_pipeline.settings.training import CustomizationConfig, TrainingConfig, VariantConfig

SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
"""What a domain's name may look like; it becomes a directory, a partition key and part of a model's
name.
"""

SLUG_RULE = "use a-z, 0-9 and '-', 63 characters at most, starting with a letter or digit"
"""`SLUG` in words."""

RESERVED_SLUGS = frozenset({"all", "corpus", "current", "mean", "overview"})
"""What belongs to no domain in the store, in MLflow, in tables, and in the folder of a report."""


def _require_slug(slug: str) -> str:
    if not SLUG.fullmatch(slug):
        raise ValueError(f"{slug!r}: {SLUG_RULE}")
    if slug in RESERVED_SLUGS:
        raise ValueError(f"{slug!r} is reserved in results and runs; choose another name")
    return slug


class ClassConfig(Section):
    """A class: the name used by the zero-shot head, and synonyms and seed images that retrieval
    also searches.

    Classes of one name have an `id` each. Paths of `seeds` are relative to the folder of the domain
    file; evaluation images are refused.
    """

    name: ClassName
    id: ClassName | None = None
    synonyms: tuple[ClassName, ...] = ()
    seeds: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        """What the class is called in all that is made of it; no other class has it."""
        return self.id or self.name


def _require_one_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"{template!r}: needs {{}} exactly once, where the class name goes")
    return template


Template = Annotated[Name, AfterValidator(_require_one_place)]
Sentence = Annotated[str, Field(min_length=1, max_length=1_000)]


def _class_from_text(value: Any) -> Any:
    return value if isinstance(value, (dict, list, ClassConfig)) else {"name": value}


class DomainConfig(Section):
    """One domain: its class names and what differs from the pipeline's defaults.

    `templates` is a list of prompts with `{}` for the class name, or the name of a set: `imagenet`
    (open_clip's 80) or `simple` ("a photo of a {}."). `prompts` are further ones of single classes,
    by label, as they are: the form of CuPL's files (arXiv 2209.03320).
    """

    slug: Annotated[str, AfterValidator(_require_slug)]
    title: str = ""
    description: str = ""
    classes: tuple[Annotated[ClassConfig, BeforeValidator(_class_from_text)], ...] = Field(
        min_length=1
    )
    templates: (
        Annotated[tuple[Template, ...], Field(min_length=1)] | Literal["imagenet", "simple"]
    ) = "simple"
    prompts: Mapping[Name, Annotated[tuple[Sentence, ...], Field(min_length=1)]] = {}
    retrieval: RetrievalConfig = RetrievalConfig()
    customization: TrainingConfig = TrainingConfig()
    evaluation: SerializeAsAny[EvaluationSetConfig] | None = None
    shots: SerializeAsAny[EvaluationSetConfig] | None = None

    @field_validator("classes")
    @classmethod
    def _names_differ(cls, classes: tuple[ClassConfig, ...]) -> tuple[ClassConfig, ...]:
        names = Counter(folded(name) for entry in classes for name in (entry.name, *entry.synonyms))
        for entry in classes:
            for name in (*(() if entry.id else (entry.name,)), *entry.synonyms):
                if names[folded(name)] > 1:
                    raise ValueError(
                        f"{name!r} occurs twice; two classes may share a `name` if each has an `id`"
                    )
        label, times = Counter(folded(entry.label) for entry in classes).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"`id` {label!r} occurs twice, as an id or as the name of a class without one"
            )
        return classes

    @model_validator(mode="after")
    def _prompts_are_of_classes(self) -> Self:
        for label in self.prompts:
            if label not in self.class_names:
                meant = did_you_mean(label, self.class_names, "write the `id` or name of a class")
                raise ValueError(f"`prompts`: {label!r} is no class; {meant}")
        return self

    @property
    def wording(self) -> dict[str, Any]:
        """What texts are made of besides names, as JSON: the templates, and `prompts` if any."""
        fields = self.model_dump(mode="json", include={"templates", "prompts"})
        return fields if self.prompts else {"templates": fields["templates"]}

    @property
    def with_shots(self) -> Self:
        """Return a copy with `shots` as its labelled images."""
        return self.model_copy(update={"evaluation": self.shots})

    @property
    def class_names(self) -> list[str]:
        """What each class is called, all different, in the order of the file; the index is the
        class id.
        """
        return [entry.label for entry in self.classes]

    @property
    def prompt_names(self) -> list[str]:
        """The name of each class that prompts are filled with; two classes may have the same."""
        return [entry.name for entry in self.classes]


class PromotionConfig(Section):
    """Which model of a domain is offered as its champion, and when it becomes that."""

    enabled: bool = True
    methods: tuple[str, ...] | None = Field(default=None, min_length=1)
    min_gain: Fraction = 0.0
    confidence: float = Field(default=0.95, ge=0.5, le=0.99)
    over_control: bool = True
    max_drop: Fraction | None = None


_SECRET = re.compile(r"secret|token|password|access\.?key|credential", re.IGNORECASE)


class DistributorConfig(Section):
    """Where embedding, index building and downloads run. It changes no result, so it is part of no
    fingerprint.
    """

    kind: Literal["local", "spark"] = "local"
    master: str | None = Field(
        default=None, pattern=r"^(local(-cluster)?(\[[0-9*, ]+\])?|yarn|(spark|k8s|mesos)://\S+)$"
    )
    conf: Mapping[str, str] = {}

    @field_validator("conf")
    @classmethod
    def _names_are_sparks(cls, conf: Mapping[str, str]) -> Mapping[str, str]:
        for name in conf:
            is_spark = name.startswith("spark.") and name != "spark.master"
            if not is_spark or _SECRET.search(name):
                raise ValueError(
                    f"`{name}`: properties of Spark begin with `spark.`, its master is `master`, "
                    "and none that looks like a secret may be in a configuration file"
                )
        return conf

    @model_validator(mode="after")
    def _fields_match_kind(self) -> Self:
        if self.kind == "local" and (self.master or self.conf):
            raise ValueError("`master` and `conf` do nothing for kind `local`; add `kind: spark`")
        return self


class CacheConfig(Section):
    """The local copies of a store on a server."""

    folder: Path = Path(".react/store")


def _require_no_secret(address: str) -> str:
    if has_secret(address):
        raise ValueError(
            "contains a user or a password, which do not belong in a file; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or "
            "REACT_TRACKING_URI for a database, in the environment"
        )
    return address


Address = Annotated[str, AfterValidator(_require_no_secret)]
WebAddress = Annotated[Address, Field(pattern=r"^https?://")]

Owner = Annotated[str, Field(pattern=r"^(team:\S+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]
"""An owner of assets, as Dagster takes it: an email address or `team:<name>`."""

ExtensionSection = TypeVar("ExtensionSection", bound=Section)


class PipelineConfig(Section):
    """`pipeline.yaml`: what holds for every domain."""

    project: str = Field(default="react", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$")
    store: Path = Path(".react/store")
    cache: CacheConfig = Field(default_factory=dict)  # type: ignore[assignment] # a path is in it
    tracking_uri: Address | None = None
    dagster_url: WebAddress | None = None
    mlflow_url: WebAddress | None = None
    domains: Path = Path("domains")
    owners: tuple[Owner, ...] = ("team:react",)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    variants: Mapping[str, VariantConfig] = {}
    seeds: Annotated[tuple[NonNegativeInt, ...], AfterValidator(each_once)] = ()
    methods: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(each_once)] = (
        "base",
        "gated-image",
        "gated-image-control",
    )
    corpus: SerializeAsAny[CorpusConfig]
    encoder: EncoderConfig
    retrieval_encoder: EncoderConfig | None = None
    embedding: EmbeddingConfig = EmbeddingConfig()
    index: IndexConfig = IndexConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    customization: CustomizationConfig = CustomizationConfig()
    promotion: PromotionConfig = PromotionConfig()
    distributor: DistributorConfig = DistributorConfig()
    _store_url: str = PrivateAttr("")

    def section(self, model: type[ExtensionSection]) -> ExtensionSection:
        """Return the section of an extension, by its model; the defaults if there is none."""
        return next((value for _, value in self if isinstance(value, model)), None) or model()

    @model_validator(mode="after")
    def _images_can_wait(self) -> Self:
        if self.embedding.encode == "captions" and not self.corpus.is_listed:
            raise ValueError(
                f"`embedding.encode: captions`: a corpus of kind {self.corpus.kind!r} comes with "
                "its images or their vectors; remove the field"
            )
        return self

    @property
    def images_wait(self) -> bool:
        """Whether only captions are embedded, and images are fetched when they are retrieved."""
        return self.corpus.is_listed and self.embedding.encode != "both"

    @property
    def store_url(self) -> str:
        """URL of the artifacts if a server has them; `store` is then the folder of this machine's
        part. Else "".
        """
        return self._store_url

    @cached_property
    def all_methods(self) -> Mapping[str, Method]:
        """Every method that this project may measure, by name: `METHODS`, variants, further
        seeds.
        """
        has_own = self.variants or self.seeds
        return project_methods(self.variants, self.seeds) if has_own else METHODS

    @property
    def measured(self) -> Mapping[str, Method]:
        """Those of `methods`."""
        return {name: self.all_methods[name] for name in self.methods}

    @property
    def candidates(self) -> tuple[str, ...]:
        """The methods that may become champion, with the first seed of each."""
        chosen = self.promotion.methods
        return tuple(
            name
            for name in trained_methods(self.all_methods)
            if first_seed(name) == name and (chosen is None or name in chosen)
        )

    @property
    def two_encoders(self) -> bool:
        """Whether the encoder that retrieves is configured apart from the one that is
        customized.
        """
        return self.retrieval_encoder is not None

    @property
    def retrieves_with(self) -> EncoderConfig:
        """The encoder that embeds corpus, prompts and seeds."""
        return self.retrieval_encoder or self.encoder

    @field_validator("variants")
    @classmethod
    def _variants_have_names(cls, variants: Mapping[str, VariantConfig]) -> Any:
        for name in variants:
            require_free(name, METHODS)
        return variants

    @field_validator("methods")
    @classmethod
    def _methods_exist(cls, methods: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Add the variants that are not listed, and every further seed."""
        variants, seeds = info.data.get("variants"), info.data.get("seeds")
        if variants is None or seeds is None:  # they are wrong themselves
            return methods
        table = project_methods(variants, seeds)
        for method in methods:
            require_known(method, table)
        named = {first_seed(method).removesuffix(CONTROL_SUFFIX) for method in methods}
        others = [name for name in variants if name not in named]
        measured = [*methods, *others, *(name + CONTROL_SUFFIX for name in others)]
        chosen = [*measured, *(name for name in table if first_seed(name) in measured)]
        return tuple(dict.fromkeys(chosen))

    @field_validator("promotion")
    @classmethod
    def _champions_are_trained(
        cls, promotion: PromotionConfig, info: ValidationInfo
    ) -> PromotionConfig:
        trained = trained_methods(project_methods(info.data.get("variants") or {}, ()))
        for method in promotion.methods or ():
            require_known(method, trained)
        return promotion


@cache
def sections_of_extensions() -> dict[str, type[Section]]:
    """Return the model of each section of `pipeline.yaml` that an extension brings, by name."""

    def sections(extension: Extension) -> Mapping[str, type[Section]]:
        models = extension.sections()
        if taken := models.keys() & PipelineConfig.model_fields.keys():
            raise ValueError(f"`{min(taken)}` is a field of pipeline.yaml already")
        return models

    return joined(sections)


@cache
def pipeline_model() -> type[PipelineConfig]:
    """Return `PipelineConfig` with the sections of extensions."""
    sections: Any = {name: (model, model()) for name, model in sections_of_extensions().items()}
    return create_model(_WHOLE, __base__=PipelineConfig, __module__=__name__, **sections)


_WHOLE = "WholeConfig"


def __getattr__(name: str) -> Any:
    """Return the class of a configuration that is unpickled, as in a task of a cluster."""
    if name == _WHOLE:
        return pipeline_model()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
