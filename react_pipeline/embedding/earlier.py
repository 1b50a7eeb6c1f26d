"""Shards that were embedded before: found in the store, and linked instead of encoded again.

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
from react_pipeline.embedding.part_encoder import metadata_file, vectors_file
from react_pipeline.embedding.vectors import FOLDERS, GROUPS_FILE, LEDGER_FILE
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
    """Find the shards of the store that were embedded by the same encoder, configuration and
    code; an artifact that cannot be read is passed over.
    """
    shards: Earlier = {}
    encoder = encoder_in(inputs.parents)
    wanted = inputs.parents[encoder].fingerprint, dict(inputs.config), inputs.code_version
    for fingerprint in store.versions(inputs.stage, inputs.key):
        try:
            artifact = store.open(inputs.stage, inputs.key, fingerprint)
            manifest = artifact.manifest
            made_by = artifact.parents[encoder], manifest["config"], manifest["code_version"]
            if made_by != wanted:
                continue
            ledger = dict(iter(pd.read_parquet(artifact.file(LEDGER_FILE)).groupby("shard")))
            lines = artifact.file(GROUPS_FILE).read_text(encoding="utf-8").splitlines()
            for number, record in enumerate(map(json.loads, lines)):
                if record["digest"]:
                    rows = ledger.get(number, pd.DataFrame()).itertuples(index=False, name=None)
                    shards[record["digest"]] = artifact, number, {**record, "ledger": list(rows)}
        except (CorruptArtifact, MissingArtifact, KeyError) as error:
            logger.info("%s: nothing is taken over from it (%s)", fingerprint, error)
    return shards


def captions_before(store: Store, inputs: Inputs) -> Artifact | None:
    """Find embeddings of the same corpus with captions alone, whose vectors an artifact with images
    has too.
    """
    if inputs.config.get("encode") != "both":
        return None
    names = ("corpus", encoder_in(inputs.parents))
    parents = {name: inputs.parents[name].fingerprint for name in names}
    config = {name: inputs.config[name] for name in _OF_CAPTIONS} | {"encode": "captions"}
    for fingerprint in store.versions(inputs.stage, inputs.key):
        with suppress(CorruptArtifact, MissingArtifact):
            artifact = store.open(inputs.stage, inputs.key, fingerprint)
            made_by = artifact.manifest["config"], artifact.manifest["code_version"]
            if (
                made_by == (config, inputs.code_version)
                and parents.items() <= artifact.parents.items()
            ):
                return artifact
    return None


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
    names = [vectors_file(side, old) for side in FOLDERS]
    names = [name for name in (*names, metadata_file(old)) if name in artifact.manifest["files"]]
    verified = artifact.folder_with(names)
    for name in names:
        target = folder / name.replace(f"_{old:06d}.", f"_{new:06d}.")
        if name != metadata_file(old) or old == new:
            link_or_copy(verified / name, target)
            continue
        target.parent.mkdir()
        pd.read_parquet(verified / name).assign(shard=new).to_parquet(target, index=False)
