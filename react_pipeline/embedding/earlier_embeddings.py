"""Groups of shards that were embedded before: found in the store, checked, and linked instead of
encoded again.

A group may be taken over if it has the same shards (by SHA-256) in the same order, was made by the
same encoder with the same configuration and code, and if the same of its samples are duplicates of
earlier shards. Then its rows are what encoding would give.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from react_pipeline.embedding.groups import (
    DUPLICATE,
    LEDGER_COLUMNS,
    Group,
    LedgerRow,
    files_of_group,
    metadata_file,
    recorded_keys,
)
from react_pipeline.embedding.seen_keys import SeenKeys
from react_pipeline.embedding.vectors import GROUPS_FILE
from react_pipeline.stage import encoder_in
from react_pipeline.store import (
    Artifact,
    CorruptArtifact,
    Inputs,
    Store,
    link_or_copy,
    read_manifest,
    verify_files,
)

LEDGER_FILE = "ledger.parquet"

logger = logging.getLogger(__name__)


class EarlierEmbeddings:
    """All groups of the store that the encoder and the configuration of a build would give again."""

    def __init__(self, store: Store, inputs: Inputs) -> None:
        """Look through the published embeddings. What cannot be read is passed over."""
        self._places: dict[tuple[str, ...], list[tuple[_Source, int]]] = {}
        for artifact in _alike(store, inputs):
            source = _Source(artifact)
            for number, record in enumerate(source.records):
                self._places.setdefault(tuple(record["shards"]), []).append((source, number))
        self._lengths = sorted({len(digests) for digests in self._places}, reverse=True)

    def longest_match(self, digests: Sequence[str], start: int) -> int:
        """How many shards the longest earlier group has that is found in `digests` at `start`; 0 if
        there is none.
        """
        fitting = (size for size in self._lengths if start + size <= len(digests))
        return next(
            (size for size in fitting if tuple(digests[start : start + size]) in self._places), 0
        )

    def take_over(
        self, group: Group, staging: Path, groups: int, seen: SeenKeys
    ) -> dict[str, Any] | None:
        """Link a group's files into `staging`, if it was embedded before.

        `group` gets its ledger and what was found, with today's numbers of the shards; `seen`, the
        keys of all shards before, gets its keys.

        Args:
            groups: How many groups the build has, for the names of files.

        Returns:
            What the group's record counted; None if it has to be encoded.
        """
        for source, number in self._places.get(group.digests, ()):
            try:
                if source.link(number, group, staging, groups, seen):
                    counted = source.records[number]
                    return {
                        name: counted[name] for name in ("rows", "captions_cut", "metadata_ignored")
                    }
            except (CorruptArtifact, OSError, pa.ArrowInvalid) as error:
                # Encoding again is always correct.
                logger.warning("embeddings of earlier shards are not taken over: %s", error)
                group.ledger = []
                group.found = Counter()
                for name in files_of_group(group.number, groups):
                    # What was linked is a published file: removed, never written over.
                    (staging / name).unlink(missing_ok=True)
        return None


def _alike(store: Store, inputs: Inputs) -> list[Artifact]:
    """Published embeddings of the same encoder, configuration and code, the newest first."""
    encoder = encoder_in(inputs.parents)
    made_by = inputs.parents[encoder].fingerprint
    artifacts = []
    for path in store.directory(inputs.stage, inputs.key).glob("*/"):
        try:
            artifact = Artifact(path, read_manifest(path, inputs.stage))
            same = (
                artifact.manifest["config"] == dict(inputs.config)
                and artifact.parents.get(encoder) == made_by
            )
            if same and artifact.manifest["code_version"] == inputs.code_version:
                verify_files(artifact, [GROUPS_FILE, LEDGER_FILE])
                artifacts.append(artifact)
        except (CorruptArtifact, KeyError) as error:
            logger.info("%s: nothing is taken over from it (%s)", path, error)
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

    def link(self, number: int, group: Group, staging: Path, groups: int, seen: SeenKeys) -> bool:
        """Take a group over, if the same of its samples are duplicates.

        Raises:
            CorruptArtifact: If one of its files differs from the manifest; nothing was linked then.
        """
        record = self.records[number]
        count = len(self.records)
        names = zip(
            files_of_group(number, count), files_of_group(group.number, groups), strict=True
        )
        files = {name: new for name, new in names if name in self.artifact.manifest["files"]}
        verify_files(self.artifact, files)
        first = record["first_shard"]
        metadata = metadata_file(number, count)
        shift = group.shards.start - first
        ledger: list[LedgerRow] = []
        if record["ledger"] is not None:
            table = self._ledger.read_row_group(record["ledger"]).to_pandas()
            # Older ones name no source.
            table = table.reindex(columns=LEDGER_COLUMNS).fillna("")
            ledger = list(table.itertuples(index=False, name=None))
        shards = range(first, first + len(record["shards"]))
        recorded = recorded_keys(self.artifact.path / metadata, ledger, shards)
        keys = {shard + shift: of_shard for shard, of_shard in recorded.items()}
        rows = [(shard + shift, *rest) for shard, *rest in ledger]
        repeated = {(row[0], row[1]) for row in rows if row[2] == DUPLICATE}
        if seen.duplicates(keys) != repeated:
            return False
        for name, new in files.items():
            if name == metadata and shift:
                _renumber(self.artifact.path / name, staging / new, shift)
            else:
                link_or_copy(self.artifact.path / name, staging / new)
        group.ledger = rows
        group.found.update(dict(zip(group.shards, record["found"], strict=True)))
        seen.add(keys)
        return True


def _renumber(source: Path, target: Path, shift: int) -> None:
    """Write metadata again with other shard numbers, all else unchanged."""
    table = pq.read_table(source)
    position = table.schema.get_field_index("shard")
    shards = pc.add(table.column(position), pa.scalar(shift, table.schema.field(position).type))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.set_column(position, table.schema.field(position), shards), target)
