"""Other classes: a list that is given at prediction, for a model that was not trained for them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from react_pipeline.clip import HEAD_RECORD_FILE, ClassHead, domain_head
from react_pipeline.extensions.predict.transduction import uncalibrated
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import InputError, read_bounded, read_json_bounded
from react_pipeline.use import Classifier, Origin, is_exported


def templates_of(source: str, config: Path | None) -> tuple[str, ...] | str:
    """Return the templates of a domain, or of a folder written by `export`."""
    if is_exported(source):
        return tuple(read_json_bounded(Path(source).expanduser() / HEAD_RECORD_FILE)["templates"])
    return Project.load(config).domain(source).templates


def with_classes(
    classifier: Classifier, file: Path, templates: tuple[str, ...] | str
) -> Classifier:
    """Return the same model with the zero-shot head of the classes of a file, one name a line. A
    head that was fitted to pairs is left out, and nothing is measured.

    Raises:
        InputError: If the file cannot be read, or is no list of different names.
    """
    slug = classifier.origin.domain
    try:
        lines = read_bounded(file).decode().splitlines()
        names = [line.strip() for line in lines if line.strip()]
        domain = DomainConfig(slug=slug, classes=names, templates=templates)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: no list of classes, one name a line ({error})") from error
    head = ClassHead(domain_head(classifier.clip, domain))
    digest = hashlib.sha256(classifier.origin.fingerprint.encode() + head.vectors.numpy().tobytes())
    method = f"{classifier.origin.method} with the classes of {file.name}, not measured,"
    origin = Origin(slug, method, digest.hexdigest())
    return replace(
        uncalibrated(classifier), head=head, classes=tuple(domain.class_names), origin=origin
    )
