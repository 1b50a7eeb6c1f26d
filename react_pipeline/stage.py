"""Stage: one row of the table of stages, and what follows from the rows.

Assets, launching, upkeep, status, tracking and the table of docs/architecture.md iterate `STAGES`:
the rows of the core (`pipeline`), then those of extensions. Does not belong here: any row, whether
an artifact is fresh (`lineage`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Literal

from react_pipeline.extension import LazyTable, joined
from react_pipeline.project import Project, identity, outside
from react_pipeline.settings import METHODS, Method, PipelineConfig
from react_pipeline.store import Artifact, InputError

ALL = "all"
"""The key of the artifacts that belong to no domain."""

CORPUS = "corpus"
BASE_CHECKPOINT = "base_checkpoint"
RETRIEVAL_CHECKPOINT = "retrieval_checkpoint"
CORPUS_EMBEDDINGS = "corpus_embeddings"
FAISS_INDEX = "faiss_index"
EVALUATION_SET = "evaluation_set"
RETRIEVED_SET = "retrieved_set"
CONTROL_SET = "control_set"
FEW_SHOT_SET = "few_shot_set"
CUSTOMIZED_CHECKPOINT = "customized_checkpoint"
DOMAIN_RESULTS = "domain_results"
COMPARISON = "comparison"
PROMOTION = "promotion"
"""Names of the stages of the core."""


DOMAIN_FILE = "domain_file"
"""The asset of a domain's file, which a person writes."""

Place = tuple[str, str]
"""A stage and a key: where an artifact belongs."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class OwnData:
    """Data that a stage works on beside the corpus and the domains.

    Attributes:
        field: The field of pipeline.yaml that names them.
        are_there: Whether a configuration has them; else the stage is left out.
        is_benchmark: Whether automation leaves the stage out unless `automation.extensions` names
            the section of the field.
    """

    field: str
    are_there: Callable[[PipelineConfig], bool]
    is_benchmark: bool = True

    @property
    def section(self) -> str:
        """The section of pipeline.yaml that the field is in."""
        return self.field.partition(".")[0]


@dataclass(frozen=True)
class Stage:
    """One row.

    Attributes:
        name: Of the stage, its asset and its folder.
        about: One sentence for Dagster, MLflow and the docs.
        scope: What there is one of: the pipeline (`all`), a domain, a domain and method; not all
            methods (`trained`, `encoder`): `is_for`.
        step: Publishes the artifact; called with the project and the parts of the key.
        parents: Stages that it is made from.
        parents_of_method: Those of them that one method needs, if methods differ.
        gathers: Stages of which it shows all results there are, so that no table can name its
            parents.
        reads_domain: Whether its result depends on what the domain's file says.
        is_current: Raises if a gathered artifact is outdated; unset: if it shows other results.
        identity: The part of the configuration that decides it.
        thresholds: The part of the configuration that only its checks require.
        outside: Looks at the files outside the store that it reads; None if it reads none.
        data: The data of its own that it works on; None if it has none.
        version: Raised by hand when the same inputs make another artifact.
        group, kinds, pool, priority: Dagster's; "gpu" where it needs the device; what many wait
            for comes first.
    """

    name: str
    about: str
    scope: Literal["all", "domain", "method", "trained", "encoder"]
    step: Callable[..., Artifact]
    parents: tuple[str, ...] = ()
    parents_of_method: Callable[[Method], Iterable[str]] | None = None
    gathers: tuple[str, ...] = ()
    reads_domain: bool = False
    is_current: Callable[..., Artifact] | None = None
    thresholds: Callable[[Project, str], dict[str, Any]] = identity.nothing
    identity: Callable[[Project, str], dict[str, Any]] = identity.nothing
    outside: Callable[[Project, str], outside.Look] | None = None
    data: OwnData | None = None
    version: str = "1"
    group: str = "extensions"
    kinds: tuple[str, ...] = ()
    pool: str | None = None
    priority: int = 0

    @property
    def compares(self) -> bool:
        """Whether it compares customized models with the base, which alone has nothing to show."""
        return bool(self.gathers) and STAGES[self.gathers[0]].scope == "encoder"

    def parents_for(self, method: Method | None) -> Iterable[str]:
        """Return the stages that the artifact of a method is made from; None: of no method."""
        if method is None or self.parents_of_method is None:
            return self.parents
        return self.parents_of_method(method)

    def is_for(self, method: Method) -> bool:
        """Whether there is one for a method: `base` is not `trained`, a head is no `encoder`."""
        if self.scope == "trained":
            return method.name != "base"
        return self.scope != "encoder" or method.has_model

    def keys(self, slugs: Iterable[str], methods: Mapping[str, Method]) -> list[str]:
        """Return the keys of this stage for these domains and methods; none if it compares nothing
        or no method needs it.
        """
        if self.compares and not any(
            STAGES[self.gathers[0]].is_for(method)
            for method in methods.values()
            if method.name != "base"
        ):
            return []
        children = [row for row in STAGES.values() if self.name in row.parents]
        # What no other stage is made from is needed for itself.
        if children and not any(
            self.name in child.parents_for(method)
            for child in children
            for method in filter(child.is_for, methods.values())
        ):
            return []
        if self.scope in ("all", "domain"):
            return [ALL] if self.scope == "all" else list(slugs)
        names = [name for name, method in methods.items() if self.is_for(method)]
        return [method_key(slug, name) for slug in slugs for name in names]


def left_out_stages(config: PipelineConfig) -> set[str]:
    """Return the stages that work on data of their own which are not there, and a second encoder
    that is not configured.
    """
    left_out = {name for name, row in STAGES.items() if row.data and not row.data.are_there(config)}
    return left_out if config.two_encoders else {*left_out, RETRIEVAL_CHECKPOINT}


def method_key(domain: str, method: str) -> str:
    """Return the key of an artifact of a domain and a method; its extension may be gone."""
    return f"{domain}/{method}"


def domain_and_method(key: str) -> tuple[str, str]:
    """Return the two parts of a key; "" for what it has not: `all` has neither."""
    domain, _, method = ("" if key == ALL else key).partition("/")
    return domain, method


def configured_parents(names: Iterable[str], two_encoders: bool) -> list[str]:
    """Return names of parents; with one encoder the base is `retrieval_checkpoint` too."""
    return [
        name if two_encoders or name != RETRIEVAL_CHECKPOINT else BASE_CHECKPOINT for name in names
    ]


def encoder_in(parents: Container[str]) -> str:
    """Return the parent of embeddings or of pairs that encoded the corpus: `retrieval_checkpoint`
    or `base_checkpoint`.
    """
    return RETRIEVAL_CHECKPOINT if RETRIEVAL_CHECKPOINT in parents else BASE_CHECKPOINT


def model_parents(method: Method) -> tuple[str, ...]:
    """Return the checkpoints that the model of a method is made from: a head is used on the base's
    features, any other checkpoint holds a whole model.
    """
    if method.name == "base":
        return (BASE_CHECKPOINT,)
    return (
        (CUSTOMIZED_CHECKPOINT,) if method.has_model else (BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT)
    )


@cache
def _rows() -> dict[str, Stage]:
    """Return the rows of all extensions, each after all that it is made from."""
    waiting = [*joined(lambda extension: {row.name: row for row in extension.stages()}).values()]
    rows: dict[str, Stage] = {}
    while waiting:
        row = next((row for row in waiting if _made_from(row) <= rows.keys()), None)
        if row is None:
            missing = min(_made_from(waiting[0]) - rows.keys())
            raise InputError(f"{waiting[0].name}: no stage before it is called {missing}")
        # Dagster would refuse it, with all others.
        if not _NAME.fullmatch(row.name) or row.name == DOMAIN_FILE:
            raise InputError(f"{row.name!r} cannot name a stage: use a-z, 0-9 and _")
        waiting.remove(row)
        rows[row.name] = row
    return rows


def _made_from(row: Stage) -> set[str]:
    parents = chain.from_iterable(map(row.parents_for, filter(row.is_for, METHODS.values())))
    return {*row.parents, *row.gathers, *parents}


STAGES = LazyTable(lambda: _rows())
