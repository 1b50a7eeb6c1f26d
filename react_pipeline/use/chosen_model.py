"""Which model of a project is meant by `champion` or a method, and what it was trained for.

Belongs here: finding the checkpoint, refusing one that was trained for other classes, its
calibration. Does not belong here: what the model does (`classifier`), exporting it
(`extensions.hub`).
"""

from __future__ import annotations

import json
from pathlib import Path

from react_pipeline.clip import (
    HEAD_RECORD_FILE,
    ClassHead,
    Clip,
    choose_device,
    load_classifier,
)
from react_pipeline.evaluation import is_trained
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.promotion import BASE_METHOD, NEVER, find_results, standing
from react_pipeline.settings import CONTROL_SUFFIX, DomainConfig
from react_pipeline.stage import (
    ALL,
    BASE_CHECKPOINT,
    CONTROL_SET,
    CUSTOMIZED_CHECKPOINT,
    RETRIEVED_SET,
    domain_and_method,
    method_key,
)
from react_pipeline.store import Artifact, ConfigError, InputError
from react_pipeline.use.classifier import Classifier, Origin

CHAMPION = "champion"


def load_chosen(
    slug: Path | str,
    model: str,
    config: Path | str | None,
    device: str | None,
    precision: str | None,
) -> Classifier:
    """Load a model of a project as a classifier of today's classes of the domain; arguments as of
    `Classifier.load`.

    Raises:
        InputError: If there is no such model, or it was trained for other classes.
        MissingArtifact: If it was not trained yet.
        StaleArtifact: If a method's model was made from other inputs than today's.
    """
    slug = str(slug)
    try:
        project = Project.load(config)
    except ConfigError:
        raise
    except InputError as error:
        raise InputError(
            f"{slug}: is no folder that `react-pipeline export` wrote, and no domain: {error}"
        ) from None
    domain = project.domain(slug)
    checkpoint, note = chosen_checkpoint(project, slug, model)
    method = BASE_METHOD
    if checkpoint.stage != BASE_CHECKPOINT:
        _, method = domain_and_method(checkpoint.key)
        require_same_classes(project, checkpoint, domain)
    clip, head = load_model(project, checkpoint, domain, device)
    calibration = find_calibration(project, checkpoint, slug, method, domain)
    origin = Origin(slug, method, checkpoint.fingerprint)
    classes = tuple(domain.class_names)
    precision = precision or project.config.embedding.precision
    return Classifier(clip, head, classes, origin, *calibration, precision, note)


def load_model(
    project: Project, checkpoint: Artifact, domain: DomainConfig, device: str | None = None
) -> tuple[Clip, ClassHead]:
    """Load a checkpoint's model and its head for the classes of a domain."""
    base = None
    if checkpoint.stage != BASE_CHECKPOINT:  # a champion may be of another base than today's
        base = project.store.open(BASE_CHECKPOINT, ALL, checkpoint.parents[BASE_CHECKPOINT])
    return load_classifier(checkpoint, base, domain, choose_device(device or project.config.device))


def chosen_checkpoint(project: Project, slug: str, model: str) -> tuple[Artifact, str]:
    """Return the checkpoint that `champion` or a method means today, and a note.

    Raises:
        MissingArtifact: If it was never built.
        StaleArtifact: If a method's was built from other inputs than today's.
    """
    note = ""
    if model == CHAMPION:
        verdict, _ = standing(project, slug)
        model = verdict.champion.method
        if model != BASE_METHOD:
            checkpoint, key = verdict.champion.checkpoint, method_key(slug, model)
            return project.store.open(CUSTOMIZED_CHECKPOINT, key, checkpoint), ""
        why = "no champion was chosen yet" if verdict.reason == NEVER else "the base is champion"
        trained = next(filter(is_trained, project.config.methods), "")
        such_as = trained and f", such as {trained}"
        note = f"{slug}: {why}, so the base is used; name a customized model with --model{such_as}"
    if model == BASE_METHOD:
        return fresh(project, BASE_CHECKPOINT), note
    return fresh(project, CUSTOMIZED_CHECKPOINT, method_key(slug, model)), ""


def trained_for(project: Project, checkpoint: Artifact) -> DomainConfig:
    """Return the classes and prompts of the domain as they were when the checkpoint's pairs were
    retrieved.

    Raises:
        MissingArtifact: If these pairs are gone.
    """
    slug, _ = domain_and_method(checkpoint.key)
    pairs = training_pairs(project, checkpoint)
    if pairs.stage == CONTROL_SET:  # as many as were retrieved by the names
        pairs = project.store.open(RETRIEVED_SET, pairs.key, pairs.parents[RETRIEVED_SET])
    config = pairs.manifest["config"]
    texts = {name: config[name] for name in ("classes", "templates", "prompts") if name in config}
    return DomainConfig(slug=slug, **texts)


def training_pairs(project: Project, checkpoint: Artifact) -> Artifact:
    """Return the pairs that it was trained on."""
    stage = CONTROL_SET if checkpoint.key.endswith(CONTROL_SUFFIX) else RETRIEVED_SET
    slug, _ = domain_and_method(checkpoint.key)
    return project.store.open(stage, slug, checkpoint.parents[stage])


def require_same_classes(project: Project, checkpoint: Artifact, domain: DomainConfig) -> None:
    """Refuse a model that was trained for other class names than the domain has now.

    Raises:
        InputError: Naming the classes in which they differ.
    """
    before = trained_for(project, checkpoint).class_names
    if changed := sorted({*before} ^ {*domain.class_names}):
        more = ", ..." if len(changed) > 5 else ""
        raise InputError(
            f"{checkpoint.path}: trained for other classes than domain {domain.slug!r} has now "
            f"(they differ in {', '.join(map(repr, changed[:5]))}{more}); run: react-pipeline "
            f"materialize --domain {domain.slug}, or use the model as it was trained by exporting "
            "it and naming the folder"
        )


def find_calibration(
    project: Project, checkpoint: Artifact, slug: str, method: str, domain: DomainConfig
) -> tuple[float | None, str]:
    """Return the temperature, and what it was fitted on: labelled images, by the newest result
    with these classes and prompts; else the held-out pairs of a head; or None, "".
    """
    texts = {"prompts": {}, **domain.wording}
    for entry in find_results(project, slug, method, checkpoint.fingerprint):
        result = entry.result
        config = {"prompts": {}, **entry.artifact.manifest["config"]}
        names = [one.get("id", one["name"]) for one in config["classes"]]
        is_alike = names == domain.class_names and texts.items() <= config.items()
        if is_alike and result.temperature is not None:
            return result.temperature, f"{result.n:,} labelled images of {result.dataset}"
    if HEAD_RECORD_FILE not in checkpoint.manifest["files"]:
        return None, ""
    head = json.loads(checkpoint.file(HEAD_RECORD_FILE).read_text(encoding="utf-8"))
    return head.get("temperature"), head.get("calibrated_on", "")
