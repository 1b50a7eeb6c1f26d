"""Results on guard sets: each checkpoint is measured as `domain_results` measures it.

Does not belong here: what follows from a loss (`drops`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.evaluation import write_evaluation
from react_pipeline.extensions.guards.extension import GUARD_RESULTS, GuardSet, guard_sets
from react_pipeline.labelled import images_by_folder, publish_labelled_set
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, identity
from react_pipeline.settings import DomainConfig
from react_pipeline.stage import BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import Artifact, InputError, Inputs, Scratch

GUARD_SET = "guard_set"
"""Stage of the artifact of one set, by its name; each result publishes what it is measured on."""


def _domain(guard: GuardSet) -> DomainConfig:
    """Return the set as a domain; folders name the classes if nothing else does."""
    names = list(guard.classes)
    root = guard.evaluation.root()
    if not names and root is not None and root.is_dir():
        folders, _, _ = images_by_folder(root, IMAGE_SUFFIXES)
        names = [name.replace("_", " ") for name in folders]
    # A set that is not there is published as unavailable, whatever its classes are.
    fields: dict[str, Any] = {"classes": names or [guard.name], "templates": guard.templates}
    try:
        return DomainConfig(slug=guard.name, evaluation=guard.evaluation, **fields)
    except ValidationError as error:
        raise InputError(f"guards.sets: {guard.name}: {error.errors()[0]['msg']}") from error


def publish_guard_results(project: Project, slug: str, method: str) -> Artifact:
    """Measure the checkpoint of a method on every guard set.

    Files: `<set>/result.json` and more, as of `domain_results`. A set that is not there has a
    reason in place of values.

    Raises:
        InputError: If a set is wrong, as `publish_evaluation_set` says.
        CorruptArtifact: If the checkpoint gives features that are not finite.
    """
    domains = {guard.name: _domain(guard) for guard in guard_sets(project)}
    sets = {name: _published(project, domain) for name, domain in domains.items()}
    content = {name: images.fingerprint for name, images in sets.items()}
    inputs = resolve(project, GUARD_RESULTS, method_key(slug, method), content=content)
    checkpoint = inputs.parents.get(CUSTOMIZED_CHECKPOINT) or inputs.parents[BASE_CHECKPOINT]

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        counts = {}
        for name, domain in domains.items():
            (directory / name).mkdir()
            images = {"evaluation_set": sets[name]}
            counts[name] = write_evaluation(
                project, domain, method, checkpoint, images, directory / name
            )
        return counts

    return project.store.build(inputs, write)


def _published(project: Project, domain: DomainConfig) -> Artifact:
    config = identity.labelled_set(domain)
    return publish_labelled_set(
        project, domain, lambda content: Inputs(GUARD_SET, domain.slug, config, {}, "1", content)
    )
