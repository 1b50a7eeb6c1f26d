"""The same model with another head, for which nothing is measured: of classes that are given at
prediction, or fitted to unlabelled pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from react_pipeline.clip import HEAD_RECORD_FILE, ClassHead, domain_head
from react_pipeline.extensions.predict.transduction import transduce
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import InputError, read_bounded, read_json_bounded
from react_pipeline.use import Classifier, Origin, is_exported


def adapted_to(classifier: Classifier, images: Iterable[Any]) -> Classifier:
    """Return the same model with a head fitted to unlabelled pictures of the domain, for further
    pictures one by one.

    Args:
        images: As `Classifier.predict` takes them.

    Raises:
        InputError: If there is no picture, or one cannot be read.
    """
    vectors = classifier.embed(images)
    if not len(vectors):
        raise InputError("adapted_to: no picture; give some hundred of all classes")
    _, head = transduce(vectors, classifier.head)
    return _with_head(classifier, head, f"adapted to {len(vectors):,} pictures")


def read_templates(source: str, config: Path | None) -> tuple[str, ...] | str:
    """Return the templates of a domain, or of a folder written by `export`."""
    if is_exported(source):
        return tuple(read_json_bounded(Path(source).expanduser() / HEAD_RECORD_FILE)["templates"])
    return Project.load(config).domain(source).templates


def with_classes(
    classifier: Classifier, file: Path, templates: tuple[str, ...] | str
) -> Classifier:
    """Return the same model with the zero-shot head of the classes of a file, one name a line. A
    head that was fitted to pairs is left out.

    Raises:
        InputError: If the file cannot be read, or is no list of different names.
    """
    try:
        lines = read_bounded(file).decode().splitlines()
        names = [line.strip() for line in lines if line.strip()]
        domain = DomainConfig(slug=classifier.origin.domain, classes=names, templates=templates)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: no list of classes, one name a line ({error})") from error
    head = ClassHead(domain_head(classifier.clip, domain))
    adapted = _with_head(classifier, head, f"with the classes of {file.name}, not measured,")
    return replace(adapted, classes=tuple(domain.class_names))


def _with_head(classifier: Classifier, head: ClassHead, what: str) -> Classifier:
    before = classifier.origin
    digest = hashlib.sha256(before.fingerprint.encode() + head.vectors.numpy().tobytes())
    origin = Origin(before.domain, f"{before.method} {what}", digest.hexdigest())
    return replace(uncalibrated(classifier), head=head, origin=origin)


def uncalibrated(classifier: Classifier) -> Classifier:
    """Return the same without a temperature, which was fitted on pictures judged alone."""
    return replace(classifier, temperature=None, calibrated_on="")
