"""An index of an earlier, smaller corpus that a new one can be grown from.

Does not belong here: adding the new rows (`indexing.build`). An earlier index fits if it was built
with the same configuration, of vectors of the same encoder, and its vector files are the first ones
of the new embeddings, byte for byte: compared by the digests in the manifests, so no vector is
read.
"""

import logging
from pathlib import Path

from react_pipeline.embedding import Side, vector_digests
from react_pipeline.indexing.keys import Key
from react_pipeline.stage import encoder_in
from react_pipeline.store import (
    MANIFEST,
    Artifact,
    CorruptArtifact,
    Inputs,
    MissingArtifact,
    Store,
    read_manifest,
)

logger = logging.getLogger(__name__)

SIDES: tuple[Side, ...] = ("image", "text")
RETRAIN_FACTOR = 2
"""A corpus that has grown by more since cells and codes were trained is indexed from scratch."""

LOST_RECALL = 0.02
"""Of an index that never reached its target, what growing may cost before it is rebuilt."""


def find_earlier(store: Store, inputs: Inputs, embeddings: Artifact) -> Artifact | None:
    """The largest index in the store from which one of these embeddings can be grown."""
    paths = store.directory(inputs.stage, inputs.key).glob(f"*/{MANIFEST}")
    read = [artifact for path in sorted(paths) if (artifact := _read(path.parent, inputs.stage))]
    now = {side: vector_digests(embeddings, side) for side in SIDES}
    for earlier in sorted(read, key=lambda earlier: earlier.counts["rows"], reverse=True):
        if (
            earlier.manifest["config"] == inputs.config
            and earlier.manifest["code_version"] == inputs.code_version
            and earlier.counts["encoder"] == embeddings.parents[encoder_in(embeddings.parents)]
            and earlier.counts["rows"] < embeddings.counts["rows"]
            and _is_prefix(store, earlier, now)
        ):
            try:
                # Only now is it read: every file is compared with its digest.
                return store.open(inputs.stage, inputs.key, earlier.fingerprint)
            except (CorruptArtifact, MissingArtifact) as error:
                logger.warning("%s; no index is grown from it", error)
    return None


def can_grow(earlier: Artifact, chosen: str, rows: int) -> bool:
    """Whether rows may be added to an earlier index: same kind of key, and not outgrown what it was
    trained on.
    """
    key = Key.parse(earlier.counts["key"])
    if key.family != Key.parse(chosen).family:
        return False
    return not key.trains or rows <= RETRAIN_FACTOR * int(earlier.counts["trained_rows"])


def recall_floor(earlier: Artifact, side: Side, target: float) -> float:
    """Recall@10 below which growing has degraded it: the target, or what it had if it never reached
    the target.
    """
    had = float(earlier.counts["tuned_recall"][side])
    return target if had >= target else had - LOST_RECALL


def _read(path: Path, stage: str) -> Artifact | None:
    try:
        return Artifact(path, read_manifest(path, stage))
    except CorruptArtifact as error:
        logger.warning("%s", error)
        return None


def _is_prefix(store: Store, artifact: Artifact, now: dict[Side, list[str]]) -> bool:
    path = (
        store.directory("corpus_embeddings", artifact.key) / artifact.parents["corpus_embeddings"]
    )
    embeddings = _read(path, "corpus_embeddings") if path.exists() else None
    if embeddings is None:
        return False
    before = {side: vector_digests(embeddings, side) for side in SIDES}
    return all(now[side][: len(before[side])] == before[side] for side in SIDES)
