"""Groups of shards, the units in which a corpus is embedded, published, taken over and resumed.

Belongs here: how shards are cut into groups, a group's files, what is recorded of it. Does not
belong here: encoding (`inference`), where a group may be taken over from (`earlier_embeddings`),
summing records up (`embed`).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import Sample, ShardLocation, index_shard
from react_pipeline.embedding.seen_keys import Duplicates
from react_pipeline.embedding.vectors import FOLDERS
from react_pipeline.store import CorpusError, seal, sealed

LEDGER_COLUMNS = ["shard", "key", "reason", "detail", "source"]
LEDGER_SCHEMA = pa.schema(
    [("shard", pa.int32()), *((name, pa.string()) for name in LEDGER_COLUMNS[1:])]
)
DUPLICATE = "duplicate_key"
"""Reason of a sample whose key an earlier shard holds. It is not bad; too many of them are judged
by themselves.
"""
WITHOUT_KEY = frozenset({"unsafe_name", "not_a_file"})
"""Reasons of members that belong to no sample: the ledger has their name in place of a key."""

LedgerRow = tuple[int, str, str, str, str]
"""Shard, key, reason, detail of a sample that was skipped, and the user's file that it was copied
from (or "").
"""

_EXAMPLES = 3


@dataclass
class Group:
    """Consecutive shards that are embedded together, and what became of their samples.

    Attributes:
        digests: SHA-256 of each (of a remote shard, the digest of its identity).
        samples: What is to be read and encoded: shard and sample.
        found: How many samples each shard holds, good or bad.
    """

    number: int
    shards: range
    digests: tuple[str, ...]
    samples: list[tuple[int, Sample]] = field(default_factory=list)
    found: Counter[int] = field(default_factory=Counter)
    ledger: list[LedgerRow] = field(default_factory=list)

    def read_headers(
        self,
        locations: Sequence[ShardLocation],
        duplicates_of: Callable[[dict[int, list[str]]], Duplicates],
    ) -> None:
        """Read which samples the shards hold, and sort out duplicates of earlier shards
        (`SeenKeys.enter`).
        """
        indices = {shard: index_shard(locations[shard]) for shard in self.shards}
        keys = {shard: [sample.key for sample in index.samples] for shard, index in indices.items()}
        duplicates = duplicates_of(keys)
        for shard, index in indices.items():
            self.found[shard] = len(index.samples) + len(index.refused)
            self.ledger += [(shard, name, reason, "", "") for name, reason in index.refused]
            for sample in index.samples:
                if (shard, sample.key) in duplicates:
                    self.ledger.append(
                        (shard, sample.key, DUPLICATE, "an earlier shard holds this key", "")
                    )
                else:
                    self.samples.append((shard, sample))

    def check(self, locations: Sequence[ShardLocation], max_bad_fraction: float) -> None:
        """Refuse the group if one of its shards has too many bad samples, or too many keys of
        earlier shards.

        Raises:
            CorpusError: Naming the shard, how many there are and what they are.
        """
        for shard in self.shards:
            reasons = Counter(row[2] for row in self.ledger if row[0] == shard)
            found = self.found[shard]
            repeated = reasons.pop(DUPLICATE, 0)
            keys = found - sum(reasons[reason] for reason in WITHOUT_KEY)
            if repeated > max_bad_fraction * keys:
                raise CorpusError(
                    f"{locations[shard]}: {repeated:,} of {keys:,} keys are held by earlier shards "
                    f"({repeated / keys:.0%}, allowed are {max_bad_fraction:.0%}), such as "
                    f"{self._repeated(shard)!r}, and a key identifies one sample. If it is another "
                    "data set, put it into a folder of its own and set `corpus.keys: by_folder`, "
                    "or rename its keys; if it is a copy, remove it; or raise "
                    "`corpus.max_bad_fraction`, and its samples of these keys are left out"
                )
            bad = reasons.total()
            if bad > max_bad_fraction * found:
                raise CorpusError(
                    self._bad(locations[shard], shard, reasons, found, max_bad_fraction)
                )

    def _bad(
        self, location: ShardLocation, shard: int, reasons: Counter[str], found: int, allowed: float
    ) -> str:
        reason, times = reasons.most_common(1)[0]
        # A shard that was copied from the user's files is no place to look at, and nothing to
        # remove.
        sources = [row[4] for row in self.ledger if row[0] == shard and row[4]]
        such = (
            f": {', '.join(sources[:_EXAMPLES])}{', ...' if len(sources) > _EXAMPLES else ''}"
            if sources
            else ""
        )
        return (
            f"{'corpus' if sources else location}: {reasons.total()} of {found} samples are bad "
            f"({reasons.total() / found:.0%}, allowed are {allowed:.0%}), most often {reason} "
            f"({times}){such}; fix or remove {'these files' if sources else 'the shard'}, or raise "
            "`corpus.max_bad_fraction`"
        )

    def _repeated(self, shard: int) -> str:
        """A key that an earlier shard holds, for a message."""
        return min(row[1] for row in self.ledger if row[0] == shard and row[2] == DUPLICATE)

    def record(self, **counts: Any) -> dict[str, Any]:
        """The record of a finished group, as JSON: enough to reuse it later and to sum over all
        groups.
        """
        return {
            "first_shard": self.shards.start,
            "shards": list(self.digests),
            "found": [self.found[shard] for shard in self.shards],
            "reasons": dict(Counter(row[2] for row in self.ledger)),
            **counts,
        }


def cut_into_groups(
    digests: Sequence[str], shards_per_group: int, longest_match: Callable[[int], int]
) -> list[tuple[int, int]]:
    """Start and stop of the shards of each group.

    Where an earlier corpus had a group of the same shards in the same order, the cut is made as
    there, so that it can be taken over whatever was put before it; all others have
    `shards_per_group` shards, or fewer before such a group. Rows have the order of the shards
    however these are cut.

    Args:
        longest_match: How many shards an earlier group has that begins with the shard of this
            number; 0 if there is none.
    """
    groups: list[tuple[int, int]] = []
    start = 0
    while start < len(digests):
        end = start + longest_match(start)
        if end == start:
            end = start + 1
            while end < min(start + shards_per_group, len(digests)) and not longest_match(end):
                end += 1
        groups.append((start, end))
        start = end
    return groups


def files_of_group(number: int, groups: int) -> list[str]:
    """Names of a group's files of vectors and metadata, as clip-retrieval's writer gives them."""
    padded = str(number).zfill(int(math.log10(groups)) + 1)
    vectors = [f"{folder}/{folder}_{padded}.npy" for folder in FOLDERS.values()]
    return [*vectors, metadata_file(number, groups)]


def metadata_file(number: int, groups: int) -> str:
    """Name of a group's metadata; a group without rows has no such file."""
    return f"metadata/metadata_{str(number).zfill(int(math.log10(groups)) + 1)}.parquet"


def keys_in(locations: Sequence[ShardLocation], shards: Iterable[int]) -> dict[int, list[str]]:
    """The keys that each of these shards holds, from its headers."""
    return {
        shard: [sample.key for sample in index_shard(locations[shard]).samples] for shard in shards
    }


def recorded_keys(
    metadata: Path, ledger: Iterable[LedgerRow], shards: range
) -> dict[int, list[str]]:
    """The keys that each shard of a finished group holds, from its files: no header is read again."""
    keys: dict[int, list[str]] = {shard: [] for shard in shards}
    if metadata.exists():
        rows = pq.read_table(metadata, columns=["shard", "image_path"]).to_pydict()
        for shard, key in zip(rows["shard"], rows["image_path"], strict=True):
            keys[shard].append(key)
    for shard, key, reason, *_ in ledger:
        if reason not in WITHOUT_KEY:
            keys[shard].append(key)
    return keys


@dataclass(frozen=True)
class Records:
    """The markers of finished groups while a build runs; each holds a ledger and vouches for files.

    Attributes:
        scratch: Where the markers are.
        locations: All shards, for messages.
    """

    staging: Path
    scratch: Path
    groups: int
    locations: Sequence[ShardLocation]
    max_bad_fraction: float

    def marker(self, number: int) -> Path:
        """Exists once a group is done."""
        return self.scratch / f"{number}.json"

    def done(self, group: Group, **counts: Any) -> None:
        """Judge a group's ledger and write its marker.

        Raises:
            CorpusError: If one of its shards has too many bad samples.
        """
        group.check(self.locations, self.max_bad_fraction)
        files = [self.staging / name for name in files_of_group(group.number, self.groups)]
        record = {**group.record(**counts), "ledger": group.ledger}
        seal(self.marker(group.number), filter(Path.exists, files), record, self.staging)

    def finished(self, number: int) -> dict[str, Any] | None:
        """The record of a group that is done and whose files are as they were written, with the
        rows of its ledger.
        """
        return sealed(self.marker(number), self.staging)

    def keys_of(self, group: Group, record: dict[str, Any]) -> dict[int, list[str]]:
        """The keys that each shard of a finished group holds."""
        metadata = self.staging / metadata_file(group.number, self.groups)
        return recorded_keys(metadata, record["ledger"], group.shards)
