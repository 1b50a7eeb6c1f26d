"""Trainings: of a model in memory on pairs of the test's choice, and of a project in a copy of a
store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from conftest import PIPELINE

from react_pipeline.clip import Clip
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Artifact, Inputs, Scratch
from react_pipeline.training import ModelMethod, TrainingObserver, World, train_model

TWO_ENCODERS: Any = Mock(config=Mock(two_encoders=True))
"""A project in which another encoder retrieves."""


@dataclass
class OwnCustomization:
    """Stands for `training.Customization`, of pairs that another encoder retrieved."""

    pairs: Any
    domain: DomainConfig
    training: TrainingConfig
    scratch: Scratch
    staging: Path | None = None
    project: Any = TWO_ENCODERS
    world: World = World()
    observer: TrainingObserver = TrainingObserver()
    inputs: Inputs = Inputs("customized_checkpoint", "shapes/own", {}, {}, "1")


def train_on(
    method: ModelMethod,
    clip: Clip,
    pairs: Any,
    domain: DomainConfig,
    training: TrainingConfig,
    folder: Path,
    **options: Any,
) -> dict[str, Any]:
    """Train `clip`; states are in `folder`. Returns the counts."""
    own: Any = OwnCustomization(pairs, domain, training, Scratch(folder), **options)
    return train_model(method, own, clip)


FIELDS = {**PIPELINE["customization"]["defaults"], "workers": 0}
"""A short training."""


def prepared(make_project: Callable[..., Project], store: Path, **fields: Any) -> Project:
    """A project with these training fields over `FIELDS`, in a fresh copy of a store."""
    project = make_project(customization={"defaults": {**FIELDS, **fields}})
    shutil.rmtree(project.config.store, ignore_errors=True)
    shutil.copytree(store, project.config.store)
    return project


def records(artifact: Artifact) -> list[dict[str, Any]]:
    """The log of a training, by step."""
    return [json.loads(line) for line in artifact.file("metrics.jsonl").read_text().splitlines()]


def losses(artifact: Artifact) -> list[float]:
    """The loss of each step."""
    return [record["loss"] for record in records(artifact)]
