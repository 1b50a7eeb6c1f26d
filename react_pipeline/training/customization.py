"""Customization: train a method's part of CLIP on the pairs of a domain and publish the checkpoint.

Does not belong here: the training itself (`methods`), which pairs (`retrieval`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from react_pipeline.clip import arithmetic, choose_device
from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, Method, TrainingConfig
from react_pipeline.stage import BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import Artifact, Inputs, RetrievalError, Scratch
from react_pipeline.training.guards import explained_out_of_memory
from react_pipeline.training.log import TrainingObserver
from react_pipeline.training.world import World


@dataclass(frozen=True)
class Customization:
    """What a method trains with, in each process of a training.

    Attributes:
        scratch: Survives a kill; the same folder in all processes.
        staging: Where the checkpoint is written; None in processes that do not write.
    """

    project: Project
    inputs: Inputs
    world: World
    scratch: Scratch
    observer: TrainingObserver
    staging: Path | None

    @property
    def domain(self) -> DomainConfig:
        """Whose pairs these are."""
        return self.project.domain(self.inputs.key.split("/")[0])

    @property
    def training(self) -> TrainingConfig:
        """The fields of `customization`, joined."""
        return self.project.training(*self.inputs.key.split("/"))

    @property
    def base(self) -> Artifact:
        """The model to customize."""
        return self.inputs.parents[BASE_CHECKPOINT]

    @property
    def method(self) -> Method:
        """What is trained."""
        return self.project.method(self.inputs.key.split("/")[1])

    @cached_property
    def pairs(self) -> CollectedPairs:
        """The retrieved pairs, or the random ones of a control and its seed."""
        return CollectedPairs(self.inputs.parents[self.method.pairs], self.method.draw)


def customize(
    project: Project,
    slug: str,
    method: str,
    observer: TrainingObserver = TrainingObserver(),  # noqa: B008 - has no state
    world: World | None = None,
) -> Artifact:
    """Train `method` on the retrieved pairs of a domain (a control: on its random pairs); publish
    the checkpoint.

    A killed run resumes from its newest state and repeats an uninterrupted run's losses. Every
    process of a `world` calls this alike; process 0 alone writes, and all return the published
    artifact.

    Raises:
        RetrievalError: If too many classes have too few pairs.
        TrainingError: If a guard stops the training, or memory runs out. Nothing is published; the
            newest good state stays in the scratch of the build, and the
            observer is notified.
    """
    world = world or World(device=choose_device(project.config.device))
    inputs = resolve(project, CUSTOMIZED_CHECKPOINT, method_key(slug, method))
    _refuse_starving(project, slug, inputs.parents[project.method(method).pairs])

    def train(scratch: Scratch, observer: TrainingObserver, staging: Path | None) -> dict[str, Any]:
        customization = Customization(project, inputs, world, scratch, observer, staging)
        when = f"on {world.device}, outside the steps of the training"
        advice = "end what else uses its memory, or use a device with more"
        precision = customization.training.precision
        with explained_out_of_memory(when, advice), arithmetic(precision):
            return customization.method.train(customization)

    def write(staging: Path, scratch: Scratch) -> dict[str, Any]:
        try:
            world.broadcast(scratch.folder)
            return train(scratch, observer, staging)
        except BaseException as error:
            observer.failed(error)
            raise

    if not world.is_writer:
        if folder := world.broadcast(None):
            train(Scratch(folder), TrainingObserver(), None)
            world.broadcast(None)
        return project.store.open(inputs.stage, inputs.key, inputs.fingerprint)
    artifact = project.store.build(inputs, write)
    # The others wait until it is published, or, where it was there already, for the scratch.
    world.broadcast(None)
    return artifact


def _refuse_starving(project: Project, slug: str, pairs: Artifact) -> None:
    starving = pairs.counts.get("starving", [])
    limit = project.retrieval(slug).max_starving_fraction
    if len(starving) > limit * len(project.domain(slug).classes):
        raise RetrievalError(
            f"{slug}: {len(starving)} classes have too few pairs ({', '.join(starving[:8])}, ...); "
            "add synonyms, widen retrieval, or raise retrieval.max_starving_fraction"
        )
