"""Taking an image down: it is kept out of all future sets, and the sets and models of the past that
have it are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pandas as pd
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from react_pipeline.project import Project, takedown_file, taken_down
from react_pipeline.store import Artifact, InputError, write_atomically

_DIGEST = re.compile(r"[0-9a-f]{64}")
SETS = ("retrieved_set", "control_set")


def take_down(project: Project, image: str) -> None:
    """Add an image to `takedown.txt`, by SHA-256 or URL.

    Raises:
        InputError: If it is neither.
    """
    image = image.strip()
    if not _DIGEST.fullmatch(image) and "://" not in image:
        raise InputError(f"{image!r}: give the SHA-256 (64 hexadecimal digits) or URL of an image")
    if image in taken_down(project):
        return
    path = takedown_file(project)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        text += "\n"
    write_atomically(path, f"{text}{image}\n")


def uses_of(project: Project, image: str) -> pd.DataFrame:
    """The published sets that have an image, and the checkpoints that were trained on them.

    Returns:
        Columns stage, key, fingerprint, class, current, trained (methods).
    """
    trained: dict[str, list[str]] = {}
    for checkpoint in _published(project, "customized_checkpoint"):
        for parent in checkpoint.parents.values():
            trained.setdefault(parent, []).append(checkpoint.key.partition("/")[2])
    rows = []
    for stage in SETS:
        for artifact in _published(project, stage):
            current = project.store.current(stage, artifact.key).fingerprint
            labels = _classes_with(artifact, image)
            rows += [
                (
                    stage,
                    artifact.key,
                    artifact.fingerprint,
                    label,
                    artifact.fingerprint == current,
                    ", ".join(sorted(trained.get(artifact.fingerprint, ()))),
                )
                for label in labels
            ]
    columns = ["stage", "key", "fingerprint", "class", "current", "trained"]
    return pd.DataFrame(rows, columns=columns)


def _published(project: Project, stage: str) -> Iterator[Artifact]:
    """Every artifact of a stage, current or not."""
    for key in project.store.keys(stage):
        for fingerprint in project.store.versions(stage, key):
            yield project.store.unverified(stage, key, fingerprint)


def _classes_with(artifact: Artifact, image: str) -> list[str]:
    path = artifact.file("pairs.parquet")
    columns = [name for name in ("image_sha256", "url") if name in pq.read_schema(path).names]
    condition = pc.scalar(False)
    for name in columns:
        condition = condition | (ds.field(name) == image)
    table = ds.dataset(path).to_table(columns=["class"], filter=condition)
    labels: list[str] = table["class"].to_pylist()
    return labels
