"""The small sections of `pipeline.yaml`: encoder, embedding, index, promotion, distributor, cache.

Does not belong here: the large ones (each in a module of its name), what a step does with a value.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from react_pipeline.settings.names import Name
from react_pipeline.settings.section import Fraction, Section, Workers, count_workers
from react_pipeline.settings.training import Precision

if TYPE_CHECKING:
    from react_pipeline.extensions.demo import JoinedNetworks

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
"""Before a model of the Hugging Face Hub, and before a folder, as open_clip names them."""


class EncoderConfig(Section):
    """A CLIP: `encoder` is customized, and retrieves too unless `retrieval_encoder` does."""

    model: Name = "ViT-B-32"
    pretrained: str | None = None
    quick_gelu: bool | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole_models_are_weights(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        fields = dict(raw)
        if str(fields.get("model", "")).startswith((HUB_PREFIX, FOLDER_PREFIX)):
            if fields.get("pretrained") is not None:
                raise ValueError(
                    f"`model: {fields['model']}` has its own weights; remove `pretrained`"
                )
            fields["pretrained"] = fields.pop("model")
        if isinstance(name := fields.get("pretrained"), str):
            fields["pretrained"] = name.removeprefix(FOLDER_PREFIX)
        return fields

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if bool(self.pretrained) == (self.model in encoders()):
            raise ValueError(
                "`pretrained` must name a tag of open_clip or the path of a checkpoint, and is "
                f"left out for {', '.join(encoders())}, made from installed packages"
            )
        fields = ("quick_gelu", "mean", "std", "resize_mode")
        idle = [name for name in fields if getattr(self, name) is not None]
        if idle and self.model in encoders():
            raise ValueError(f"`{idle[0]}` would do nothing for `model: {self.model}`; remove it")
        return self


@cache
def encoders() -> Mapping[str, "JoinedNetworks"]:
    """Return every encoder that is built rather than loaded, by name."""
    from react_pipeline.extensions.demo import JoinedNetworks

    return {JoinedNetworks.name: JoinedNetworks()}


class EmbeddingConfig(Section):
    """How images and texts become vectors. `encode` decides which there are, and `precision`
    changes them; the rest is speed.
    """

    encode: Literal["captions", "both"] | None = None
    precision: Precision = "auto"
    batch_size: int = Field(default=256, gt=0)
    workers: Workers = "auto"

    @property
    def worker_count(self) -> int:
        """The decoding processes."""
        return count_workers(self.workers)


_N, _LINKS, _BITS = "[1-9][0-9]*", "(?:[2-9]|[1-9][0-9]+)", "(?:[4-9]|1[0-2])"
_CODES = rf"Flat|SQ(?:fp16|4|6|8)|PQ{_N}(?:x{_BITS})?"
_KEY = re.compile(
    rf"Flat|SQ(?:fp16|4|6|8)|HNSW{_LINKS}(?:_SQ(?:fp16|8))?|"
    rf"(?:OPQ{_N}(?:_{_N})?,)?IVF{_N}(?:_HNSW{_LINKS})?,(?:{_CODES})"
)


def key_problem(key: str) -> str:
    """Return what is wrong with a key of FAISS' index factory, and the way out; "" if nothing is,
    whatever the vectors' width.

    FAISS refuses few of them: a number of 0 crashes its process, a graph of 1 link asks for all
    memory. Fewer than 4 bits distinguish too little, more than 12 take too long to train.
    """
    if _KEY.fullmatch(key):
        return ""
    return (
        f"{key!r} is not a key that this pipeline builds; write `auto`, or one such as `Flat`, "
        "`HNSW32`, `IVF1024,SQ8` or `OPQ64_512,IVF4096_HNSW32,PQ64x8`, with numbers from 1, graphs "
        "of 2 links or more, and codes of 4 to 12 bits"
    )


class IndexConfig(Section):
    """The FAISS index."""

    key: str = "auto"
    exact_below: int = Field(default=200_000, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    train_on: Literal["faiss-gpu"] | None = None
    target_recall: Fraction = 0.95
    rerank: int | None = Field(default=None, ge=1, le=1_000)
    recall_queries: int = Field(default=200, gt=0)
    min_recall: Fraction = 0.9
    min_recall_100: Fraction = 0.5

    @field_validator("key")
    @classmethod
    def _key_is_built(cls, key: str) -> str:
        if key != "auto" and (problem := key_problem(key)):
            raise ValueError(problem)
        return key


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
            if not name.startswith("spark.") or _SECRET.search(name):
                raise ValueError(
                    f"`{name}`: properties of Spark begin with `spark.`, and none that looks like "
                    "a secret may be in a configuration file"
                )
        return conf

    @model_validator(mode="after")
    def _fields_match_kind(self) -> Self:
        if self.kind == "local" and (self.master or self.conf):
            raise ValueError("`master` and `conf` do nothing for kind `local`; add `kind: spark`")
        if "spark.master" in self.conf:
            raise ValueError("`conf`: use `master` in place of `spark.master`")
        return self


class CacheConfig(Section):
    """What a store on a server keeps on this machine."""

    folder: Path = Path(".react/store")
    gigabytes: float = Field(default=100, gt=0)
