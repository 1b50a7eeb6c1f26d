"""The table of stages in the order of the data: a row holds everything there is to know about a
stage.

Assets, launching, upkeep, status, tracking and the table of docs/architecture.md iterate `STAGES`.
A new step is a row, a function that publishes its artifact, and its page. Does not belong here:
freshness (`lineage`), how a stage is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from react_pipeline.project import Project, identity, outside
from react_pipeline.settings import METHODS, did_you_mean, is_linear_head, pairs_of
from react_pipeline.store import InputError

ALL = "all"  # the key of the artifacts that belong to no domain

BASE, EMBEDDED, TRAINED = ("base_checkpoint",), ("corpus_embeddings",), ("customized_checkpoint",)
RETRIEVAL = "retrieval_checkpoint"


@dataclass(frozen=True)
class Stage:
    """One row.

    Attributes:
        name, about: Of the stage, its asset and its folder; one sentence for Dagster, MLflow and
            the docs.
        scope: What there is one of: the pipeline (`all`), a domain, a domain and method; not all
            methods: `is_for`.
        step: "room:function", called with the project and the parts of the key, so that nothing
            heavy is imported here.
        parents, parents_of_method: Stages that it is made from; those of them that one method
            needs, if methods differ.
        gathers: Stages of which it shows all results there are, so that no table can name its
            parents.
        is_current: "room:function" that raises if a gathered artifact is outdated; unset: if it
            shows other results.
        compares: Whether methods are compared with the base; the base alone has nothing to show.
        identity, thresholds: The part of the configuration that decides it; the part that only its
            checks require.
        outside: The local files outside the store that it reads; None if it reads none.
        version: Raised by hand when the same inputs make another artifact.
        group, kinds, pool, priority: Dagster's; "gpu" where it needs the device; what many wait for
            comes first.
    """

    name: str
    about: str
    scope: Literal["all", "domain", "method", "trained", "encoder"]
    step: str
    parents: tuple[str, ...] = ()
    parents_of_method: Callable[[str], Iterable[str]] | None = None
    gathers: tuple[str, ...] = ()
    is_current: str = ""
    compares: bool = False
    thresholds: Callable[[Project, str], dict[str, Any]] = identity.nothing
    identity: Callable[[Project, str], dict[str, Any]] = identity.nothing
    outside: Callable[[Project, str], outside.Files] | None = None
    version: str = "1"
    group: str = "corpus"
    kinds: tuple[str, ...] = ()
    pool: str | None = None
    priority: int = 0

    def parents_of(self, key: str, two_encoders: bool) -> dict[str, str]:
        """Parent stage -> key, of the artifact of one key; `two_encoders` as in `PipelineConfig`."""
        slug, _, method = key.partition("/")
        names = self.parents if self.parents_of_method is None else self.parents_of_method(method)
        names = as_configured(names, two_encoders)
        return {name: {"all": ALL, "domain": slug}.get(STAGES[name].scope, key) for name in names}

    def is_for(self, method: str) -> bool:
        """Whether there is one for a method: `base` is not `trained`, and a linear head is not an
        image `encoder`.
        """
        return not {"trained": method == "base", "encoder": is_linear_head(method)}.get(
            self.scope, False
        )

    def keys(
        self, slugs: Iterable[str], methods: Collection[str], two_encoders: bool = False
    ) -> list[str]:
        """The keys of this stage for these domains and methods; none if it compares nothing or no
        method needs it.
        """
        if self.compares and not any(
            STAGES[self.gathers[0]].is_for(method) for method in {*methods} - {"base"}
        ):
            return []
        users = [row for row in STAGES.values() if self.name in row.parents]
        needed = (
            self.name in row.parents_of(f"any/{name}", two_encoders)
            for row in users
            for name in methods
            if row.is_for(name)
        )
        if users and not any(needed):
            return []
        if self.scope in ("all", "domain"):
            return [ALL] if self.scope == "all" else list(slugs)
        return [
            method_key(slug, method) for slug in slugs for method in methods if self.is_for(method)
        ]


def method_key(domain: str, method: str) -> str:
    """Key of an artifact that belongs to a domain and a method; an InputError if the method is
    unknown.
    """
    if method not in METHODS:
        meant = did_you_mean(method, METHODS, f"choose from {', '.join(METHODS)}")
        raise InputError(f"unknown method {method!r}; {meant}")
    return f"{domain}/{method}"


def as_configured(names: Iterable[str], two_encoders: bool) -> list[str]:
    """Names of parents; where there is one encoder, the base is `retrieval_checkpoint` too."""
    return [name if two_encoders or name != RETRIEVAL else BASE[0] for name in names]


def encoder_in(parents: Container[str]) -> str:
    """The parent of embeddings or of pairs that encoded the corpus: `retrieval_checkpoint` or
    `base_checkpoint`.
    """
    return RETRIEVAL if RETRIEVAL in parents else BASE[0]


def _measured(method: str) -> tuple[str, ...]:
    # A linear head is used on the base's features; any other checkpoint holds a whole model.
    return (
        *(BASE if method == "base" or is_linear_head(method) else ()),
        *(() if method == "base" else TRAINED),
    )


# fmt: off
_ROWS = (
    Stage("corpus", "the image-text pairs that everything is retrieved "
                    "from", "all", "corpus:publish_corpus",
          identity=identity.corpus, outside=outside.of_corpus, kinds=("webdataset",), priority=90),
    Stage("base_checkpoint", "the CLIP to customize, and what every result is held "
                             "against", "all", "clip:publish_base",
          identity=identity.base_checkpoint, outside=outside.of_checkpoint, kinds=("pytorch",), priority=90),
    Stage(RETRIEVAL, "the CLIP that retrieves; only with `retrieval_encoder`, else it is the "
                     "base", "all",
          "clip:publish_retrieval", identity=identity.retrieval_checkpoint, outside=outside.of_retrieval_checkpoint,
          kinds=("pytorch",), priority=90),
    Stage("corpus_embeddings", "a vector of every image and caption of the "
                               "corpus", "all", "embedding:embed_corpus",
          parents=("corpus", RETRIEVAL), identity=identity.corpus_embeddings,
          kinds=("torch", "numpy"), pool="gpu", priority=85),
    Stage("faiss_index", "the search index over these vectors, with its measured "
                         "recall", "all", "indexing:build_index",
          parents=("corpus_embeddings",), identity=identity.faiss_index, thresholds=identity.recalls,
          kinds=("faiss",), priority=85),
    Stage("evaluation_set", "labelled images, only measured with and never trained on", "domain",
          "labelled:publish_evaluation_set", identity=identity.evaluation_set, outside=outside.of_labelled_images,
          group="evaluation", kinds=("parquet",), priority=80),
    Stage("retrieved_set", "the pairs that the class names found in the "
                           "corpus", "domain", "retrieval:retrieve_pairs",
          parents=("corpus", RETRIEVAL, "corpus_embeddings", "faiss_index", "evaluation_set"), version="2",
          identity=identity.retrieved_set, thresholds=identity.starving, group="retrieval",
          kinds=("parquet", "webdataset"), pool="gpu", priority=75),
    Stage("control_set", "as many random pairs, the control of the "
                         "experiment", "domain", "retrieval:draw_control",
          parents=("corpus", RETRIEVAL, "corpus_embeddings", "retrieved_set", "evaluation_set"), version="3",
          identity=identity.control_set, group="retrieval", kinds=("parquet", "webdataset"), pool="gpu", priority=70),
    Stage("customized_checkpoint", "one training: its losses, and the "
                                   "model", "trained", "training:customize",
          parents=(*BASE, *EMBEDDED, "retrieved_set", "control_set"), version="3",
          parents_of_method=lambda method: (*BASE, *(EMBEDDED if is_linear_head(method) else ()), pairs_of(method)),
          identity=identity.customized_checkpoint, group="customization", kinds=("torch",), pool="gpu", priority=50),
    Stage("domain_results", "zero-shot accuracy on the labelled images, with what the training "
                            "cost", "method",
          "evaluation:evaluate", parents=(*BASE, *TRAINED, "evaluation_set"),
          parents_of_method=lambda method: (*_measured(method), "evaluation_set"), identity=identity.domain_results,
          group="evaluation", kinds=("torch", "parquet"), pool="gpu", priority=60, version="3"),
    Stage("comparison", "all methods of the domain with the base and their controls; see "
                        "dashboard.html", "domain",
          "evaluation:compare", gathers=("domain_results",), is_current="evaluation:comparison_is_current",
          group="evaluation", kinds=("plotly", "parquet"), priority=65),
    Stage("promotion", "which model is champion of the domain, and "
                       "why", "domain", "promotion:decide", priority=65,
          gathers=("comparison",), is_current="promotion:promotion_is_current", identity=identity.promotion,
          group="evaluation", kinds=("parquet", "mlflow")),
    Stage("overview", "all domains side by side, with the mean of each method; see "
                      "dashboard.html", "all",
          "evaluation:overview", gathers=("comparison",), is_current="evaluation:overview_is_current",
          group="evaluation", kinds=("plotly", "parquet"), priority=65),
    Stage("benchmark_features", "the images of ELEVATER's data sets as one checkpoint encodes "
                                "them", "encoder",
          "benchmark:publish_features", parents=(*BASE, *TRAINED), parents_of_method=_measured, pool="gpu", priority=10,
          identity=identity.benchmark_features, outside=outside.unlisted, group="benchmark", kinds=("torch", "numpy")),
    Stage("benchmark_results", "one checkpoint on ELEVATER's data "
                               "sets", "encoder", "benchmark:publish_results",
          parents=("benchmark_features", *BASE, *TRAINED),
          parents_of_method=lambda method: ("benchmark_features", *_measured(method)),
          identity=identity.benchmark_results, group="benchmark", kinds=("torch", "parquet"), pool="gpu", priority=15),
    Stage("benchmark_comparison", "base and methods on ELEVATER's data "
                                  "sets", "domain", "benchmark:compare_benchmarks",
          gathers=("benchmark_results",), compares=True, group="benchmark", kinds=("parquet",), priority=20),
    Stage("dense_results", "detection and segmentation by one "
                           "checkpoint", "encoder", "benchmark:publish_dense",
          parents=(*BASE, *TRAINED), parents_of_method=_measured, identity=identity.dense_results, version="2",
          outside=outside.unlisted, group="dense", kinds=("torch", "parquet"), pool="gpu", priority=10),
    Stage("dense_comparison", "base and methods in detection and segmentation; see "
                              "dashboard.html", "domain",
          "benchmark:compare_dense", gathers=("dense_results",), compares=True, group="dense", kinds=("parquet",),
          priority=20),
)
# fmt: on

STAGES: Mapping[str, Stage] = {row.name: row for row in _ROWS}
