"""Customization: train a method's part of CLIP on the pairs of a domain and publish the checkpoint.

Does not belong here: the training itself (`trainer`, `linear_head`), which pairs (`retrieval`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from react_pipeline.clip import WEIGHTS_FILE, choose_device, load, loaded_base, save
from react_pipeline.corpus import CollectedPairs
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX, is_linear_head, pairs_of
from react_pipeline.stage import method_key
from react_pipeline.store import Artifact, Inputs, RetrievalError, scratch_of
from react_pipeline.training.distributed import World
from react_pipeline.training.guards import explained_out_of_memory
from react_pipeline.training.head_samples import PairVectors
from react_pipeline.training.labelled_accuracy import labelled_accuracy
from react_pipeline.training.linear_head import train_linear_head
from react_pipeline.training.log import METRICS_FILE
from react_pipeline.training.observer import TrainingObserver
from react_pipeline.training.trainer import Trainer

STAGE = "customized_checkpoint"


def customize(
    project: Project,
    slug: str,
    method: str,
    observer: TrainingObserver = TrainingObserver(),  # noqa: B008 - has no state
) -> Artifact:
    """Train `method` on the retrieved pairs of a domain (a control: on its random pairs); publish
    the checkpoint.

    A killed run resumes from its newest state and repeats an uninterrupted run's losses. Under
    torchrun every process calls this alike; process 0 alone writes, and all return the published
    artifact.

    Raises:
        RetrievalError: If too many classes have too few pairs.
        TrainingError: If a guard stops the training, or memory runs out. Nothing is published; the
            newest good state stays in the scratch folder of the build (`store.scratch_of`), and the
            observer is notified.
    """
    world = World.join(choose_device(project.config.device))
    inputs = resolve(project, STAGE, method_key(slug, method))
    pairs = inputs.parents[pairs_of(method)]
    _refuse_starving(project, slug, pairs)
    if not world.is_writer:
        if scratch_of_writer := world.broadcast(None):
            _train(project, inputs, pairs, world, Path(scratch_of_writer), TrainingObserver())
            world.broadcast(None)
        return project.store.open(inputs.stage, inputs.key, inputs.fingerprint)

    def write(staging: Path) -> dict[str, Any]:
        try:
            scratch = scratch_of(staging)
            scratch.mkdir(exist_ok=True)
            world.broadcast(str(scratch))
            counts = _train(project, inputs, pairs, world, scratch, observer, staging)
        except BaseException as error:
            observer.failed(error)
            raise
        _plot_losses(staging / METRICS_FILE, staging / "loss.png")
        return counts

    artifact = project.store.build(inputs, write)
    # Where the artifact was there already, the other processes still wait for the scratch
    # directory.
    world.broadcast("" if artifact.reused else None)
    return artifact


def _train(
    project: Project,
    inputs: Inputs,
    pairs: Artifact,
    world: World,
    scratch: Path,
    observer: TrainingObserver,
    staging: Path | None = None,
) -> dict[str, Any]:
    slug, method = inputs.key.split("/")
    training = project.training(slug, method)
    when = f"on {world.device}, outside the steps of the training"
    with explained_out_of_memory(when, "end what else uses its memory, or use a device with more"):
        base = inputs.parents["base_checkpoint"].path
        if is_linear_head(method):
            if staging is None:
                return {}
            clip = loaded_base(base, world.device)
            found = CollectedPairs(pairs)
            if project.config.two_encoders:
                vectors = PairVectors.encode(found, clip, project.config.embedding)
            else:
                vectors = PairVectors.read(found, inputs.parents["corpus_embeddings"])
            return train_linear_head(
                clip, found, vectors, project.domain(slug), training, staging, observer, inputs
            )
        loaded_base.cache_clear()
        clip = load(base, world.device)
        trainer = Trainer(
            clip,
            CollectedPairs(pairs),
            project.domain(slug),
            method.removesuffix(CONTROL_SUFFIX),
            training,
            world,
            scratch,
            inputs.parents["base_checkpoint"].file(WEIGHTS_FILE),
            labelled_accuracy(project, slug, clip) if training.evaluate_every else None,
        )
        counts = trainer.run(observer, inputs)
        if staging is not None:
            shutil.copyfile(scratch / METRICS_FILE, staging / METRICS_FILE)
            save(trainer.clip, staging)
        return counts


def _refuse_starving(project: Project, slug: str, pairs: Artifact) -> None:
    starving = pairs.counts.get("starving", [])
    limit = project.retrieval(slug).max_starving_fraction
    if len(starving) > limit * len(project.domain(slug).classes):
        raise RetrievalError(
            f"{slug}: {len(starving)} classes have too few pairs ({', '.join(starving[:8])}, ...); "
            "add synonyms, widen retrieval, or raise retrieval.max_starving_fraction"
        )


def _plot_losses(metrics: Path, target: Path) -> None:
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([record["step"] for record in records], [record["loss"] for record in records])
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=100)
