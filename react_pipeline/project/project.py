"""A pipeline's configuration, domains and store: what every step is given.

Does not belong here: the form of the files (`settings`), what is made from what (`lineage`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.settings import (
    SLUG,
    SLUG_RULE,
    DomainConfig,
    Method,
    PipelineConfig,
    RetrievalConfig,
    TrainingConfig,
    did_you_mean,
    load_domain,
    load_pipeline,
)
from react_pipeline.store import Bucket, ConfigError, InputError, Store

CONFIG_VARIABLE = "REACT_PIPELINE_CONFIG"


@dataclass(frozen=True)
class Project:
    """The configuration and the store of one pipeline; `path` is its `pipeline.yaml`."""

    path: Path
    config: PipelineConfig

    @classmethod
    def load(cls, path: Path | str | None = None) -> Project:
        """Read `path`, else the file that `REACT_PIPELINE_CONFIG` names, else `pipeline.yaml` here.

        Raises:
            InputError: If there is no such file.
            ConfigError: If it is wrong.
        """
        located = Path(path or os.environ.get(CONFIG_VARIABLE) or "pipeline.yaml").resolve()
        if located.is_dir() or not located.exists():
            fault = "is a folder" if located.is_dir() else "no such file"
            raise InputError(
                f"{located}: {fault}; run where your pipeline.yaml is, or give --config "
                f"or {CONFIG_VARIABLE}"
            )
        return cls(located, load_pipeline(located))

    @cached_property
    def store(self) -> Store:
        """The store of artifacts."""
        config = self.config
        if not config.store_url:
            return Store(config.store)
        return Store(Bucket(config.store_url, config.store.resolve()))

    @property
    def known(self) -> dict[tuple[str, ...], Any]:
        """What was found before, by question, stage and key: nothing, outside of a look."""
        return {}

    def domain(self, slug: str) -> DomainConfig:
        """Read one domain's file, afresh at each call so that an edit is seen.

        Raises:
            InputError: If there is no such domain, or its name may not be one.
            ConfigError: If its file is wrong.
        """
        if not self.has_domain(slug):
            files = sorted(file.stem for file in self.config.domains.glob("*.yaml"))
            rule = "" if SLUG.fullmatch(slug) else f"; its name must {SLUG_RULE}: rename the file"
            meant = did_you_mean(slug, files, "write its file")
            raise InputError(
                f"no domain {slug!r} in {self.config.domains} (there: "
                f"{', '.join(files) or 'none'}){rule}; {meant}"
            )
        return load_domain(self.config.domains / f"{slug}.yaml")

    def has_domain(self, slug: str) -> bool:
        """Whether there is a file of a domain of this name, valid or not."""
        return bool(SLUG.fullmatch(slug)) and (self.config.domains / f"{slug}.yaml").is_file()

    def retrieval(self, slug: str) -> RetrievalConfig:
        """Return the retrieval settings of a domain: the pipeline's fields, then the domain's own.

        Raises:
            InputError: If there is no such domain.
            ConfigError: If its file is wrong, or a setting has no effect with those of the other
                file.
        """
        fields = self.config.retrieval.overrides | self.domain(slug).retrieval.overrides
        if self.config.images_wait:
            fields = {"modes": ("t2t",), **fields}
        settings = RetrievalConfig().model_copy(update=fields)
        problem = ""
        if settings.choose == "all" and ("t2t" not in settings.modes or settings.rank != "classes"):
            problem = (
                "`choose: all` goes by captions, in their order: add t2t to `modes`, and leave out "
                "`rank: prompts`"
            )
        elif idle := [
            one for one in settings.min_similarity if one not in (*settings.modes, "filter")
        ]:
            problem = (
                f"`min_similarity.{idle[0]}` does nothing with `modes: "
                f"[{', '.join(settings.modes)}]`; add {idle[0]} to `modes`, or remove it"
            )
        elif self.config.images_wait and settings.searches_images:
            problem = (
                f"`{settings.searches_images}` searches the images of the whole corpus, of which "
                "only captions are embedded; set `embedding.encode: both`, or use `modes: [t2t]`"
            )
        if problem:
            path = self.config.domains / f"{slug}.yaml"
            problem = f"{problem} ({path.name} is joined with {self.path.name})"
            raise ConfigError.of(path, problem, "retrieval")
        return settings

    def seed(self, slug: str) -> int:
        """Return the seed of what is drawn once for all methods of a domain; a method of its own
        seed does not change it. Of `seeds` it is the first.
        """
        if self.config.seeds:
            return self.config.seeds[0]
        return self.config.customization.resolve("base", self.domain(slug).customization).seed

    def method(self, name: str) -> Method:
        """Return a method of this project, by its name or that of a variant or a further seed.

        Raises:
            InputError: If there is none.
        """
        methods = self.config.all_methods
        if name not in methods:
            others = f"choose from {', '.join(methods)}, or install the extension that brings it"
            raise InputError(f"unknown method {name!r}; {did_you_mean(name, methods, others)}")
        return methods[name]

    def training(self, slug: str, method: str) -> TrainingConfig:
        """Return the training settings of a domain with a method; a control trains as its method
        does.
        """
        chosen = self.method(method)
        domain = self.domain(slug).customization
        return self.config.customization.resolve(chosen.name, domain, chosen.overrides)


class Manifests(Project):
    """One look at a project, for whoever only asks what is fresh: artifacts are known by their
    manifests alone, not verified, and each is judged once.

    Not for what reads an artifact's files as input of a step; that must verify them.
    """

    @classmethod
    def of(cls, project: Project) -> Manifests:
        """Begin a look at a project; a look that has begun continues."""
        return project if isinstance(project, Manifests) else cls(project.path, project.config)

    @cached_property
    def known(self) -> dict[tuple[str, ...], Any]:
        """What was found in this look: answers, or errors, by question, stage and key."""
        return {}

    @cached_property
    def store(self) -> Store:
        """The store, whose artifacts are not verified."""
        return Project(self.path, self.config).store.look()

    def domain(self, slug: str) -> DomainConfig:
        """Read a domain's file, once in this look."""
        if ("domain", slug) not in self.known:
            self.known["domain", slug] = super().domain(slug)
        return self.known["domain", slug]
