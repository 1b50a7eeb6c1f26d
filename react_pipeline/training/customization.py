"""Customization: train a method's part of CLIP on the pairs of a domain and publish the checkpoint,
in one process, or in several that an extension starts.

Does not belong here: the training itself (`methods`), which pairs (`retrieval`).
Shapes: B pairs of a process's part of a batch, D embedding dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from react_pipeline.clip import arithmetic, choose_device
from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, TrainingConfig
from react_pipeline.stage import BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import Artifact, Inputs, RetrievalError, Scratch
from react_pipeline.training.guards import explained_out_of_memory
from react_pipeline.training.log import TrainingObserver


@dataclass(frozen=True)
class World:
    """The processes of one training. What they exchange is here what this one has.

    Attributes:
        rank: Number of this process; process 0 alone writes.
        one_machine: Whether all of them see the same local disk.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    one_machine: bool = True

    @property
    def device_type(self) -> str:
        """The kind of device, as autocast wants it."""
        return self.device.partition(":")[0]

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and notifies observers."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """Return this process's equal part of a batch; the parts of all ranks in order are the
        batch.
        """
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def share(self, count: int) -> Tensor:
        """Return which of `count` rows this process makes, as many as any other; the last ones may
        make the last row again.
        """
        each = -(-count // self.size)
        return torch.arange(self.rank * each, (self.rank + 1) * each).clamp_(max=count - 1)

    def joined(self, rows: Tensor, count: int) -> Tensor:
        """Return all `count` rows, on the CPU, in every process; `rows` are those of its `share`,
        on any device.
        """
        return self.gather(rows.to(self.device)).cpu()[:count]

    def gather(self, vectors: Tensor) -> Tensor:
        """Return the vectors (B, D) of all processes, in the order of their ranks: (size * B, D),
        without a graph.
        """
        return vectors.detach()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, with its sum over all processes."""

    def broadcast(self, value: Any) -> Any:
        """Return what the writer passes here; the others' own argument is ignored. Also waits until
        all have arrived.
        """
        return value


@dataclass(frozen=True)
class Customization:
    """What a method trains with, in each process of a training.

    Attributes:
        scratch: Survives a kill; the same folder in all processes.
        staging: Where the checkpoint is written; None in processes that do not write.
        training: The fields of `customization`, joined.
        base: The model to customize.
        pairs: The retrieved pairs, or the random ones of a control and its seed.
    """

    project: Project
    inputs: Inputs
    world: World
    scratch: Scratch
    observer: TrainingObserver
    staging: Path | None
    domain: DomainConfig
    training: TrainingConfig
    base: Artifact
    pairs: CollectedPairs


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
            newest good state stays in the scratch of the build.
    """
    world = world or World(device=choose_device(project.config.device))
    inputs = resolve(project, CUSTOMIZED_CHECKPOINT, method_key(slug, method))
    domain, training, trained = (
        project.domain(slug),
        project.training(slug, method),
        project.method(method),
    )
    set_of_pairs = inputs.parents[trained.pairs]
    _refuse_starving(project, domain, set_of_pairs)

    def train(scratch: Scratch, observer: TrainingObserver, staging: Path | None) -> dict[str, Any]:
        base, pairs = inputs.parents[BASE_CHECKPOINT], CollectedPairs(set_of_pairs, trained.draw)
        customization = Customization(
            project, inputs, world, scratch, observer, staging, domain, training, base, pairs
        )
        when = f"on {world.device}, outside the steps of the training"
        advice = "end what else uses its memory, or use a device with more"
        with explained_out_of_memory(when, advice), arithmetic():
            return trained.train(customization)

    def write(staging: Path, scratch: Scratch) -> dict[str, Any]:
        world.broadcast(scratch.folder)
        return train(scratch, observer, staging)

    if not world.is_writer:
        if folder := world.broadcast(None):
            train(Scratch(folder), TrainingObserver(), None)
            world.broadcast(None)
        return project.store.open(inputs.stage, inputs.key, inputs.fingerprint)
    artifact = project.store.build(inputs, write)
    # The others wait until it is published, or, where it was there already, for the scratch.
    world.broadcast(None)
    return artifact


def _refuse_starving(project: Project, domain: DomainConfig, pairs: Artifact) -> None:
    starving = pairs.counts.get("starving", [])
    limit = project.retrieval(domain.slug).max_starving_fraction
    if len(starving) > limit * len(domain.classes):
        raise RetrievalError(
            f"{domain.slug}: {len(starving)} classes have too few pairs ({', '.join(starving[:8])}, "
            "...); add synonyms, widen retrieval, or raise retrieval.max_starving_fraction"
        )
