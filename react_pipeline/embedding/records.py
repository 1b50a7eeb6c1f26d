"""What is kept on record of each finished group while a build runs: its ledger, and a marker that vouches for it.

Does not belong here: the files that are published (`groups`, `group_encoder`), summing them up (`embed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd

from react_pipeline.corpus import ShardLocation
from react_pipeline.embedding.groups import Group, files_of_group, metadata_file, recorded_keys
from react_pipeline.store import seal, sealed


@dataclass(frozen=True)
class Records:
    """The records of one build.

    Attributes:
        scratch: Where the records are; removed before publishing.
        locations: Of all shards, for messages.
    """

    staging: Path
    scratch: Path
    groups: int
    locations: Sequence[ShardLocation]
    max_bad_fraction: float

    def marker(self, number: int) -> Path:
        """Exists once a group is done."""
        return self.scratch / f"{number}.json"

    def ledger(self, number: int) -> Path:
        """The ledger of a group that is done."""
        return self.scratch / f"{number}.parquet"

    def done(self, group: Group, **counts: Any) -> None:
        """Judge a group's ledger and write its marker.

        Raises:
            CorpusError: If one of its shards has too many bad samples.
        """
        group.check(self.locations, self.max_bad_fraction)
        ledger = self.ledger(group.number)
        # Of two tasks that do the same group, none reads half of what the other writes.
        written = ledger.with_name(f"{ledger.name}.{uuid4().hex}")
        group.write_ledger(written)
        written.replace(ledger)
        files = [self.staging / name for name in files_of_group(group.number, self.groups)]
        seal(self.marker(group.number), [*filter(Path.exists, files), ledger], group.record(**counts))

    def finished(self, number: int) -> dict[str, Any] | None:
        """The record of a group that is done and whose files are as they were written."""
        return sealed(self.marker(number))

    def keys_of(self, group: Group) -> dict[int, list[str]]:
        """The keys that each shard of a finished group holds."""
        metadata = self.staging / metadata_file(group.number, self.groups)
        return recorded_keys(metadata, pd.read_parquet(self.ledger(group.number)), group.shards)
