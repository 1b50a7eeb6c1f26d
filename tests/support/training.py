"""Trainings of a model in memory, on pairs of the test's choice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.clip import Clip
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.store import Inputs, Scratch
from react_pipeline.training import ModelMethod, TrainingObserver, World, train_model


@dataclass
class OwnCustomization:
    """Stands for `training.Customization`, without a project."""

    pairs: Any
    domain: DomainConfig
    training: TrainingConfig
    scratch: Scratch
    staging: Path | None = None
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
