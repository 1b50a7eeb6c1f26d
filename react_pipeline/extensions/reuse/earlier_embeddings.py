"""Shards that were embedded before: found in the store, checked, and linked instead of encoded
again.

A shard may be taken over if it has the same SHA-256, was made by the same encoder with the same
configuration and code, and if the same of its samples are duplicates of earlier shards. Then its
rows are what encoding would give.
"""

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.embedding import (
    DUPLICATE,
    GROUPS_FILE,
    LEDGER_FILE,
    EmbeddedShard,
    LedgerRow,
    Records,
    SeenKeys,
    files_of_shard,
    metadata_file,
    recorded_keys,
)
from react_pipeline.stage import encoder_in
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    Inputs,
    MissingArtifact,
    Store,
    link_or_copy,
)

logger = logging.getLogger(__name__)


class EarlierEmbeddings:
    """The shards of the store that were embedded with the encoder and configuration of a build."""

    def __init__(self, store: Store, inputs: Inputs) -> None:
        """Look through the published embeddings. What cannot be read is passed over."""
        self._places: dict[str, list[tuple[_Source, int]]] = {}
        for artifact in _alike(store, inputs):
            source = _Source(artifact)
            for number, record in enumerate(source.records):
                (digest,) = record["shards"]
                self._places.setdefault(digest, []).append((source, number))

    def take_over(
        self, shard: EmbeddedShard, records: Records, seen: SeenKeys
    ) -> dict[str, Any] | None:
        """Link a shard's files into the build, if it was embedded before.

        `shard` gets its ledger and how many samples it has; `seen`, the keys of all shards before,
        gets its keys.

        Returns:
            What the shard's record counted; None if it has to be encoded.
        """
        for source, number in self._places.get(shard.digest, ()):
            try:
                if source.link(number, shard, records, seen):
                    counted = source.records[number]
                    return {
                        name: counted[name] for name in ("rows", "captions_cut", "metadata_ignored")
                    }
            except (CorruptArtifact, OSError, pa.ArrowInvalid) as error:
                # Encoding again is always correct.
                logger.warning("embeddings of earlier shards are not taken over: %s", error)
                shard.ledger = []
                for name in records.files(shard.number):
                    # What was linked is a published file: removed, never written over.
                    (records.staging / name).unlink(missing_ok=True)
        return None


def _alike(store: Store, inputs: Inputs) -> list[Artifact]:
    """Published embeddings of the same encoder, configuration and code, the newest first."""
    encoder = encoder_in(inputs.parents)
    made_by = inputs.parents[encoder].fingerprint
    artifacts = []
    for fingerprint in store.versions(inputs.stage, inputs.key):
        try:
            artifact = store.open(inputs.stage, inputs.key, fingerprint)
            same = (
                artifact.manifest["config"] == dict(inputs.config)
                and artifact.parents.get(encoder) == made_by
            )
            if same and artifact.manifest["code_version"] == inputs.code_version:
                artifact.folder_with([GROUPS_FILE, LEDGER_FILE])
                artifacts.append(artifact)
        except (CorruptArtifact, MissingArtifact, KeyError) as error:
            logger.info("%s: nothing is taken over from it (%s)", fingerprint, error)
    return sorted(artifacts, key=lambda artifact: str(artifact.manifest["created"]), reverse=True)


@dataclass
class _Source:
    """One published artifact."""

    artifact: Artifact

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        with self.artifact.file(GROUPS_FILE).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    @cached_property
    def _ledger(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.artifact.file(LEDGER_FILE))

    def link(self, number: int, shard: EmbeddedShard, records: Records, seen: SeenKeys) -> bool:
        """Take a shard over, if the same of its samples are duplicates.

        Raises:
            CorruptArtifact: If one of its files differs from the manifest; nothing was linked then.
        """
        record = self.records[number]
        count = len(self.records)
        names = zip(files_of_shard(number, count), records.files(shard.number), strict=True)
        files = {name: new for name, new in names if name in self.artifact.manifest["files"]}
        folder = self.artifact.folder_with(files)
        metadata = metadata_file(number, count)
        ledger: list[LedgerRow] = []
        if record["ledger"] is not None:
            table = self._ledger.read_row_group(record["ledger"]).to_pandas()
            table = table.assign(shard=shard.number)
            ledger = list(table.itertuples(index=False, name=None))
        keys = recorded_keys(folder / metadata, ledger)
        repeated = {key for _, key, reason, *_ in ledger if reason == DUPLICATE}
        if seen.duplicates(shard.number, keys) != repeated:
            return False
        for name, new in files.items():
            if name == metadata and record["first_shard"] != shard.number:
                _renumber(folder / name, records.staging / new, shard.number)
            else:
                link_or_copy(folder / name, records.staging / new)
        shard.ledger = ledger
        (shard.total,) = record["found"]
        seen.add(shard.number, keys)
        return True


def _renumber(source: Path, target: Path, shard: int) -> None:
    """Write metadata again with another number of the shard, all else unchanged."""
    table = pq.read_table(source)
    position = table.schema.get_field_index("shard")
    column = table.schema.field(position)
    numbers = pa.repeat(pa.scalar(shard, column.type), len(table))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.set_column(position, column, numbers), target)
