"""Shards that were embedded before: found in the current embeddings, and linked instead of encoded
again.

A shard is taken over if it has the same SHA-256, and was embedded by the same encoder with the same
configuration and code. Then its files are what encoding would give. Where images are asked for
after captions, the vectors of captions are those of before.
"""

import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from react_pipeline.corpus import Part
from react_pipeline.embedding.vectors import (
    FOLDERS,
    GROUPS_FILE,
    LEDGER_FILE,
    METADATA,
    part_file,
)
from react_pipeline.stage import encoder_in
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    Inputs,
    MissingArtifact,
    Store,
    link_or_copy,
    remove,
)

Earlier = dict[str, tuple[Artifact, int, dict[str, Any]]]
"""Artifact, number and record of a shard that was embedded before, by its digest."""

_OF_CAPTIONS = ("precision", "max_pixels", "max_caption_chars")

logger = logging.getLogger(__name__)


def embedded_before(store: Store, inputs: Inputs) -> Earlier:
    """Find the shards that the current embeddings have by the same encoder, configuration and
    code.
    """
    shards: Earlier = {}
    with suppress(CorruptArtifact, MissingArtifact):
        artifact = store.current(inputs.stage, inputs.key)
        if _is_made_alike(artifact, inputs, dict(inputs.config)):
            ledger = dict(iter(pd.read_parquet(artifact.file(LEDGER_FILE)).groupby("shard")))
            lines = artifact.file(GROUPS_FILE).read_text(encoding="utf-8").splitlines()
            for number, record in enumerate(map(json.loads, lines)):
                if record["digest"]:
                    rows = ledger.get(number, pd.DataFrame()).itertuples(index=False, name=None)
                    shards[record["digest"]] = artifact, number, {**record, "ledger": list(rows)}
    return shards


def captions_before(store: Store, inputs: Inputs) -> Artifact | None:
    """Find the current embeddings if they are of the same corpus with captions alone, whose vectors
    an artifact with images has too.
    """
    if inputs.config.get("encode") != "both":
        return None
    config = {name: inputs.config[name] for name in _OF_CAPTIONS} | {"encode": "captions"}
    with suppress(CorruptArtifact, MissingArtifact):
        artifact = store.current(inputs.stage, inputs.key)
        is_of_corpus = artifact.parents.get("corpus") == inputs.parents["corpus"].fingerprint
        if is_of_corpus and _is_made_alike(artifact, inputs, config):
            return artifact
    return None


def _is_made_alike(artifact: Artifact, inputs: Inputs, config: dict[str, Any]) -> bool:
    """Return whether embeddings were made by the same encoder and code with a configuration."""
    encoder = encoder_in(inputs.parents)
    made = artifact.manifest["config"], artifact.manifest["code_version"]
    alike = made == (config, inputs.code_version)
    return alike and artifact.parents.get(encoder) == inputs.parents[encoder].fingerprint


def take_over(earlier: Earlier, part: Part, folder: Path) -> dict[str, Any] | None:
    """Link the files of a shard that was embedded before, and return its record; None if it has to
    be encoded.
    """
    if part.digest not in earlier:
        return None
    artifact, number, record = earlier[part.digest]
    try:
        _link(artifact, number, part.number, folder)
    except (CorruptArtifact, OSError, pa.ArrowInvalid) as error:
        logger.warning("embeddings of an earlier shard are not taken over: %s", error)
        for path in folder.iterdir():
            remove(path)
        return None
    ledger = [(part.number, *row[1:]) for row in record["ledger"]]
    return {**record, "ledger": ledger, "reused_rows": record["rows"], "seconds": 0}


def _link(artifact: Artifact, old: int, new: int, folder: Path) -> None:
    """Give the files of a part other names; its metadata says the number of the shard.

    Raises:
        CorruptArtifact: If one of its files differs from the manifest.
    """
    names = {one: part_file(one, old) for one in (*FOLDERS.values(), METADATA)}
    there = {one: name for one, name in names.items() if name in artifact.manifest["files"]}
    verified = artifact.folder_with(there.values())
    for one, name in there.items():
        target = folder / part_file(one, new)
        if one != METADATA or old == new:
            link_or_copy(verified / name, target)
        else:
            target.parent.mkdir()
            pd.read_parquet(verified / name).assign(shard=new).to_parquet(target, index=False)
