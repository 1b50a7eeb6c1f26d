"""An index of an earlier, smaller corpus that a new one can be grown from.

Belongs here: finding it in the store and checking whether it fits. Does not belong here: adding the new rows
(`indexing.build`).

An earlier index fits if it was built with the same configuration, of vectors of the same encoder, and its vector files
are the first ones of the new embeddings, byte for byte: compared by the digests in the manifests, so no vector is read.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from react_pipeline.embedding import Side, vector_digests
from react_pipeline.indexing.keys import Key
from react_pipeline.store import MANIFEST, Artifact, CorruptArtifact, Inputs, MissingArtifact, Store, read_manifest

logger = logging.getLogger(__name__)

SIDES: tuple[Side, ...] = ("image", "text")
RETRAIN_FACTOR = 2
"""A corpus that has grown by more since cells and codes were trained is indexed from scratch."""

LOST_RECALL = 0.02
"""Of an index that never reached its target, what growing may cost before it is rebuilt."""


@dataclass(frozen=True)
class Earlier:
    """An index whose rows are the first rows of the new corpus."""

    artifact: Artifact
    rows: int
    key: str
    trained_rows: int
    """Rows of the corpus when its cells and codes were trained."""

    def fits(self, chosen: str, rows: int) -> bool:
        """Whether new rows may be added: same kind of index, and not outgrown what it was trained on."""
        key = Key.parse(self.key)
        if key.family != Key.parse(chosen).family:
            return False
        return not key.trains or rows <= RETRAIN_FACTOR * self.trained_rows

    def recall_floor(self, side: Side, target: float) -> float:
        """Recall@10 below which growing has degraded it: the target, or what it had if it never reached the target."""
        had = float(self.artifact.counts.get("tuned_recall", {}).get(side, 1))
        return target if had >= target else had - LOST_RECALL


def find_earlier(store: Store, inputs: Inputs, embeddings: Artifact) -> Earlier | None:
    """The largest index in the store from which one of these embeddings can be grown."""
    wanted = {side: vector_digests(embeddings, side) for side in SIDES}
    best: Earlier | None = None
    for artifact in _published(store, inputs):
        if artifact.manifest["config"] != inputs.config or artifact.manifest["code_version"] != inputs.code_version:
            continue
        rows = int(artifact.counts["rows"])
        if (best is not None and rows <= best.rows) or rows >= int(embeddings.counts["rows"]):
            continue
        if artifact.counts["encoder"] == embeddings.parents["base_checkpoint"] and _is_prefix(store, artifact, wanted):
            best = Earlier(
                artifact, rows, str(artifact.counts["key"]), int(artifact.counts.get("trained_rows") or rows)
            )
    if best is None:
        return None
    try:
        # Only now is it read: every file is compared with its digest.
        store.open(best.artifact.stage, best.artifact.key, best.artifact.fingerprint)
    except (CorruptArtifact, MissingArtifact) as error:
        logger.warning("%s; the index is built from scratch", error)
        return None
    return best


def _published(store: Store, inputs: Inputs) -> Iterator[Artifact]:
    for path in sorted(store.directory(inputs.stage, inputs.key).glob(f"*/{MANIFEST}")):
        if (artifact := _read(path.parent, inputs.stage)) is not None:
            yield artifact


def _read(path: Path, stage: str) -> Artifact | None:
    try:
        return Artifact(path, read_manifest(path, stage))
    except CorruptArtifact as error:
        logger.warning("%s", error)
        return None


def _is_prefix(store: Store, artifact: Artifact, wanted: dict[Side, list[str]]) -> bool:
    path = store.directory("corpus_embeddings", artifact.key) / artifact.parents["corpus_embeddings"]
    earlier = _read(path, "corpus_embeddings") if path.exists() else None
    if earlier is None:
        return False
    for side in SIDES:
        before, now = vector_digests(earlier, side), wanted[side]
        if now[: len(before)] != before:
            return False
    return True
