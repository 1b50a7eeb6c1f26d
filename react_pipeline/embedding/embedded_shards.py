"""Shards, the units in which a corpus is embedded, published, taken over and resumed.

Belongs here: the files of an embedded shard, what is recorded of it. Does not belong here: encoding
(`inference`), where a shard may be taken over from (extensions), summing records up (`embed`).
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import Sample, ShardLocation, index_shard
from react_pipeline.embedding.vectors import FOLDERS
from react_pipeline.store import CorpusError, Scratch

SHARD_LEDGER_COLUMNS = ["shard", "key", "reason", "detail", "source"]
LEDGER_SCHEMA = pa.schema(
    [("shard", pa.int32()), *((name, pa.string()) for name in SHARD_LEDGER_COLUMNS[1:])]
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

RECORD_FILE = "record.json"

_EXAMPLES = 3


@dataclass
class EmbeddedShard:
    """A shard that is embedded, and what became of its samples.

    Attributes:
        number: Its place in the corpus.
        digest: SHA-256 (of a remote shard, the digest of its identity).
        samples: What is to be read and encoded.
        total: How many samples it holds, good or bad.
    """

    number: int
    digest: str
    samples: list[Sample] = field(default_factory=list)
    total: int = 0
    ledger: list[LedgerRow] = field(default_factory=list)

    def read_headers(
        self,
        locations: Sequence[ShardLocation],
        duplicates_of: Callable[[int, list[str]], set[str]],
    ) -> None:
        """Read which samples it holds, and sort out duplicates of earlier shards
        (`SeenKeys.enter`).
        """
        index = index_shard(locations[self.number])
        duplicates = duplicates_of(self.number, [sample.key for sample in index.samples])
        self.total = len(index.samples) + len(index.refused)
        self.ledger += [(self.number, name, reason, "", "") for name, reason in index.refused]
        detail = "an earlier shard holds this key"
        self.ledger += [
            (self.number, sample.key, DUPLICATE, detail, "")
            for sample in index.samples
            if sample.key in duplicates
        ]
        self.samples += [sample for sample in index.samples if sample.key not in duplicates]

    def check(self, location: ShardLocation, max_bad_fraction: float) -> None:
        """Refuse the shard if too many samples are bad, or too many keys are of earlier shards.

        Raises:
            CorpusError: Naming the shard, how many there are and what they are.
        """
        reasons = Counter(row[2] for row in self.ledger)
        repeated = reasons.pop(DUPLICATE, 0)
        keys = self.total - sum(reasons[reason] for reason in WITHOUT_KEY)
        if repeated > max_bad_fraction * keys:
            example = min(row[1] for row in self.ledger if row[2] == DUPLICATE)
            raise CorpusError(
                f"{location}: {repeated:,} of {keys:,} keys are held by earlier shards "
                f"({repeated / keys:.0%}, allowed are {max_bad_fraction:.0%}), such as "
                f"{example!r}, and a key identifies one sample. If it is another data set, put it "
                "into a folder of its own and set `corpus.keys: by_folder`, or rename its keys; if "
                "it is a copy, remove it; or raise `corpus.max_bad_fraction`, and its samples of "
                "these keys are left out"
            )
        if reasons.total() > max_bad_fraction * self.total:
            raise CorpusError(self._bad(location, reasons, max_bad_fraction))

    def _bad(self, location: ShardLocation, reasons: Counter[str], allowed: float) -> str:
        reason, times = reasons.most_common(1)[0]
        # A shard that was copied from the user's files is no place to look at, and nothing to
        # remove.
        sources = [row[4] for row in self.ledger if row[4]]
        place, examples, what = str(location), "", "the shard"
        if sources:
            place, what = "corpus", "these files"
            more = ", ..." if len(sources) > _EXAMPLES else ""
            examples = f": {', '.join(sources[:_EXAMPLES])}{more}"
        bad = reasons.total()
        return (
            f"{place}: {bad} of {self.total} samples are bad ({bad / self.total:.0%}, allowed are "
            f"{allowed:.0%}), most often {reason} ({times}){examples}; fix or remove {what}, or "
            "raise `corpus.max_bad_fraction`"
        )

    def record(self, **counts: Any) -> dict[str, Any]:
        """The record of a finished shard, as JSON: enough to reuse it later and to sum over all."""
        # Lists, as a record once was of several shards.
        return {
            "first_shard": self.number,
            "shards": [self.digest],
            "found": [self.total],
            "reasons": dict(Counter(row[2] for row in self.ledger)),
            **counts,
        }


def files_of_shard(number: int, shards: int) -> list[str]:
    """Names of a shard's files of vectors and metadata, as clip-retrieval's writer gives them."""
    padded = _padded(number, shards)
    vectors = [f"{folder}/{folder}_{padded}.npy" for folder in FOLDERS.values()]
    return [*vectors, metadata_file(number, shards)]


def metadata_file(number: int, shards: int) -> str:
    """Name of a shard's metadata; a shard without rows has no such file."""
    return f"metadata/metadata_{_padded(number, shards)}.parquet"


def _padded(number: int, shards: int) -> str:
    return str(number).zfill(int(math.log10(shards)) + 1)


def recorded_keys(metadata: Path, ledger: Iterable[LedgerRow]) -> list[str]:
    """The keys that a finished shard holds, from its files: no header is read again."""
    keys = [key for _, key, reason, *_ in ledger if reason not in WITHOUT_KEY]
    if metadata.exists():
        keys += pq.read_table(metadata, columns=["image_path"])["image_path"].to_pylist()
    return keys


@dataclass(frozen=True)
class Records:
    """The finished shards while a build runs: a kept folder each, with its files and its record.

    Attributes:
        staging: Where shards are encoded.
        locations: All shards.
    """

    staging: Path
    scratch: Scratch
    locations: Sequence[ShardLocation]
    max_bad_fraction: float

    def files(self, number: int) -> list[str]:
        """As of `files_of_shard`."""
        return files_of_shard(number, len(self.locations))

    def folder(self, number: int) -> Path:
        """The files of a shard, once it is finished."""
        return self.scratch.folder / f"shard-{number}"

    def done(self, shard: EmbeddedShard, source: Path, **counts: Any) -> None:
        """Judge a shard's ledger, and keep its files, which are moved from `source`.

        Raises:
            CorpusError: If it has too many bad samples.
        """
        shard.check(self.locations[shard.number], self.max_bad_fraction)
        record = {**shard.record(**counts), "ledger": shard.ledger}

        def write(folder: Path) -> None:
            folder.mkdir()
            for name in self.files(shard.number):
                if (source / name).exists():
                    (folder / name).parent.mkdir()
                    (source / name).rename(folder / name)
            (folder / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")

        self.scratch.keep(self.folder(shard.number).name, write)

    def load(self, number: int) -> dict[str, Any]:
        """Load the record of a finished shard, with the rows of its ledger."""
        content = (self.folder(number) / RECORD_FILE).read_text(encoding="utf-8")
        record: dict[str, Any] = json.loads(content)
        return record

    def keys_of(self, number: int, record: dict[str, Any]) -> list[str]:
        """The keys that a finished shard holds."""
        return recorded_keys(self.folder(number) / self.files(number)[-1], record["ledger"])
