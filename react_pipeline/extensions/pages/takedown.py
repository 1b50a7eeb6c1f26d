"""Taking an image down: it is kept out of all future sets, and the sets and models of the past that
have it are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pandas as pd

from react_pipeline.embedding import field_names, read_metadata
from react_pipeline.project import Project, takedown_file, taken_down
from react_pipeline.stage import ALL
from react_pipeline.store import Artifact, InputError, MissingArtifact, write_atomically

_DIGEST = re.compile(r"[0-9a-f]{64}")


def take_down(project: Project, image: str) -> None:
    """Add an image to `takedown.txt`, by SHA-256 or URL.

    Raises:
        InputError: If it is neither.
    """
    if not _DIGEST.fullmatch(image) and "://" not in image:
        raise InputError(
            f"{image!r}: give the SHA-256 (64 hexadecimal digits, in lower case) or URL of an image"
        )
    if image not in taken_down(project):
        path = takedown_file(project)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_atomically(path, "".join(f"{line}\n" for line in [*lines, image]))


def uses_of(project: Project, image: str) -> pd.DataFrame:
    """Return the published sets that have an image, and the checkpoints that were trained on them.

    Returns:
        Columns stage, key, fingerprint, class, current, trained (methods).
    """
    trained: dict[str, set[str]] = {}
    for checkpoint in _published(project, "customized_checkpoint"):
        for parent in checkpoint.parents.values():
            trained.setdefault(parent, set()).add(checkpoint.key.partition("/")[2])
    keys = [image, *_digests_at(project, image)]
    rows = [
        {
            "stage": stage,
            "key": artifact.key,
            "fingerprint": artifact.fingerprint,
            "class": label,
            "current": artifact.fingerprint == project.store.pointer(stage, artifact.key),
            "trained": ", ".join(sorted(trained.get(artifact.fingerprint, ()))),
        }
        for stage in ("retrieved_set", "control_set")
        for artifact in _published(project, stage)
        for label in _classes_with(artifact, keys)
    ]
    columns = ["stage", "key", "fingerprint", "class", "current", "trained"]
    return pd.DataFrame(rows, columns=columns)


def _published(project: Project, stage: str) -> Iterator[Artifact]:
    """Yield every artifact of a stage, current or not."""
    for key in project.store.keys(stage):
        for fingerprint in project.store.versions(stage, key):
            yield project.store.open(stage, key, fingerprint)


def _digests_at(project: Project, url: str) -> list[str]:
    """Return the digests of the images of a URL, where the corpus brings both: sets of tars have
    no URLs.
    """
    try:
        embeddings = project.store.current("corpus_embeddings", ALL)
    except MissingArtifact:
        return []
    if "://" not in url or "url" not in field_names(embeddings):
        return []
    pairs = read_metadata(embeddings, ["url", "image_sha256"])
    return list(filter(None, pairs.loc[pairs["url"] == url, "image_sha256"].dropna()))


def _classes_with(artifact: Artifact, keys: list[str]) -> Iterator[str]:
    """Yield the class of each pair of a set, of all draws of a control, that has one of these
    keys.
    """
    for name in artifact.manifest["files"]:
        if name.rpartition("/")[2] == "pairs.parquet":
            pairs = pd.read_parquet(artifact.file(name))
            columns = pairs.columns.intersection(["image_sha256", "url"])
            yield from pairs.loc[pairs[columns].isin(keys).any(axis=1), "class"]
