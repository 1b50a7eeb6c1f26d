"""A pipeline's configuration, domains and store: what every step is given.

Belongs here: finding and reading them, and a domain's own settings over the pipeline's. Does not belong here: the
form of the files (`config`), what is made from what (`lineage`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from react_pipeline.config import SLUG, DomainConfig, PipelineConfig, RetrievalConfig
from react_pipeline.config_files import load_domain, load_pipeline
from react_pipeline.errors import InputError
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.store import Store

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
            ConfigError: If the file is missing or wrong.
        """
        located = Path(path or os.environ.get(CONFIG_VARIABLE) or "pipeline.yaml").resolve()
        return cls(located, load_pipeline(located))

    @cached_property
    def store(self) -> Store:
        """The store of artifacts."""
        return Store(self.config.store)

    def domain(self, slug: str) -> DomainConfig:
        """Read one domain's file, afresh at each call so that an edit is seen.

        Raises:
            InputError: If there is no such domain.
            ConfigError: If its file is wrong.
        """
        path = self.config.domains / f"{slug}.yaml"
        if not SLUG.fullmatch(slug) or not path.is_file():
            known = ", ".join(sorted(file.stem for file in self.config.domains.glob("*.yaml"))) or "none"
            raise InputError(f"no domain {slug!r} in {self.config.domains} (there: {known}); see `domains add`")
        return load_domain(path)

    def retrieval(self, slug: str) -> RetrievalConfig:
        """Retrieval of a domain: the pipeline's fields, then the domain's own."""
        overrides = self.domain(slug).retrieval.model_dump(exclude_unset=True)
        return self.config.retrieval.model_copy(update=overrides)

    def training(self, slug: str, method: str) -> TrainingConfig:
        """Training of a domain with a method; a control trains as its method does."""
        return self.config.customization.resolve(method, self.domain(slug).customization)
