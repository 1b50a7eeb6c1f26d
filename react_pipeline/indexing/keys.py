"""Keys of FAISS' index factory: what they mean, what they cost, and which one fits a corpus and a
machine.

FAISS is not needed for that. Shapes: N rows, D width. How each searches, and its bytes a row:

- `Flat`: all rows, exactly; 4 D
- `SQ8`, `SQfp16`: all rows, in 8 or 16 bits a number; D, 2 D
- `HNSW<M>`, `HNSW<M>_SQfp16`: along a graph of M links a row; (4 or 2) D + 8 M + 16
- `IVF<n>,<codes>`: the rows of the nearest of n cells; codes + 8
- `IVF<n>_HNSW<k>,<codes>`: the same; the nearest cells are found by a graph; codes + 8
- `OPQ<m>,IVF<n>,PQ<m>x<b>`: the same; a row is m codes of b bits; m b / 8 + 8

Codes of an IVF are `Flat` (4 D), `SQfp16` (2 D), `SQ8` (D), `SQ6` (3 D / 4), `SQ4` (D / 2) or `PQ`.
The n cells take another 4 D n bytes, with `_HNSW<k>` also (8 k + 16) n, and a rotation (OPQ) 4 D^2.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from react_pipeline.settings import IndexConfig
from react_pipeline.store import InputError

TRAINING_POINTS_PER_CELL = 39
"""FAISS warns of poor cells below this (its `ClusteringParameters.min_points_per_centroid`)."""

SAMPLE_POINTS_PER_CELL = 64
SMALLEST_SAMPLE = 65_536
"""256 rows for each of a product quantizer's 256 centroids: more than this FAISS itself would not
use.
"""

GRAPH_KEY, GRAPH_ROWS = "HNSW32", 1_000_000
"""What `auto` takes above `exact_below`, and up to how many rows: the fastest to search, the
slowest to build.
"""

_KEY = re.compile(
    r"(?:OPQ(?P<rotation>\d+)(?:_(?P<rotated_width>\d+))?,)?"
    r"(?:IVF(?P<cells>\d+)(?:_HNSW(?P<cell_links>\d+))?,)?"
    r"(?:HNSW(?P<links>\d+)_?)?"
    r"(?P<codes>Flat|SQ(?:fp16|\d)|PQ(?P<parts>\d+)(?:x(?P<bits>\d+))?)?"
)
_SCALAR_BITS = {"Flat": 32, "SQfp16": 16, "SQ8": 8, "SQ6": 6, "SQ4": 4}
_RERANK = {"SQ4": 4, "SQ6": 4, "SQ8": 2}
PQ_RERANK = 512
"""Over the number of codes of a row: the shorter it is, the more hits are ranked again."""


@dataclass(frozen=True)
class Key:
    """A key taken apart; numbers are 0 where the key has no such part."""

    text: str
    codes: str
    cells: int
    cell_links: int
    links: int
    parts: int
    bits: int
    rotation: int
    rotated_width: int

    @classmethod
    def parse(cls, text: str) -> Key:
        """Take apart a key that `settings.key_problem` allows."""
        match = _KEY.fullmatch(text)
        assert match, text  # noqa: S101 - the configuration was read
        fields = match.groupdict()
        codes = fields.pop("codes") or "Flat"
        if fields["parts"]:
            codes, fields["bits"] = "PQ", fields["bits"] or "8"
        return cls(text, codes, **{name: int(fields[name] or 0) for name in fields})

    @property
    def trains(self) -> bool:
        """Whether cells or codes are learned from rows."""
        return bool(self.cells) or self.codes not in ("Flat", "SQfp16")

    @property
    def rows_to_train(self) -> int:
        """The fewest rows from which this key can be trained."""
        return TRAINING_POINTS_PER_CELL * max(self.cells, 2**self.bits if self.parts else 0)

    @property
    def sample_rows(self) -> int:
        """How many rows it is trained on."""
        return max(SAMPLE_POINTS_PER_CELL * self.cells, SMALLEST_SAMPLE)

    @property
    def rerank(self) -> int:
        """How many times the hits wanted are ranked again by the stored vectors; 1: codes are good
        enough.
        """
        return max(PQ_RERANK // self.parts, 2) if self.parts else _RERANK.get(self.codes, 1)

    def bytes(self, rows: int, dimension: int) -> int:
        """Return the size of the index of one side, on disk and in memory."""
        width = self.rotated_width or dimension
        bits = self.parts * self.bits or width * _SCALAR_BITS[self.codes]
        row = math.ceil(bits / 8) + _graph_bytes(self.links) + (8 if self.cells else 0)
        cell = 4 * width + _graph_bytes(self.cell_links)
        rotation = 4 * dimension * width if self.rotation else 0
        return rows * row + self.cells * cell + rotation


def _graph_bytes(links: int) -> int:
    # The lowest layer has twice the links, of 4 bytes; upper layers hold a row in `links`, and a
    # row has an offset.
    return 8 * links + 16 if links else 0


def choose_key(
    config: IndexConfig, rows: int, dimension: int, memory_bytes: int | None = None
) -> tuple[str, str]:
    """Return the key to build, and why it is that one.

    Args:
        dimension: Width of its vectors.
        memory_bytes: What one side's index may take; None: `memory_gib`, or half of the machine's
            memory.

    Raises:
        InputError: If a configured key does not fit the vectors' width.
    """
    if config.key == "auto":
        configured = int((config.memory_gib or 0) * 2**30)
        from react_pipeline.clip import machine_memory_bytes  # loads torch

        budget = memory_bytes or configured or machine_memory_bytes() // 2
        return _fitting_key(config.exact_below, rows, dimension, budget)
    key = Key.parse(config.key)
    width = key.rotated_width or dimension
    uneven = [parts for parts in (key.parts, key.rotation) if parts and width % parts]
    if uneven or width > dimension:
        raise InputError(
            f"index.key: {key.text} does not fit vectors of {dimension} numbers: it needs "
            f"{width} of them" + (f" in {uneven[0]} equal parts" if uneven else "")
        )
    if rows < (fewest := key.rows_to_train):
        return "Flat", f"{key.text} needs {fewest:,} rows to train, there are {rows:,}"
    return key.text, "configured"


def _fitting_key(exact_below: int, rows: int, dimension: int, budget: int) -> tuple[str, str]:
    """Return the first key that can be trained and fits the budget, or else the shortest codes."""
    if rows <= exact_below:
        return "Flat", f"{rows:,} rows are at most exact_below ({exact_below:,})"
    cells = cells_for(rows)
    names = [GRAPH_KEY] if rows <= GRAPH_ROWS else []
    names.append(f"IVF{cells},SQfp16")
    for parts in (64, 48, 32, 16):
        if width := dimension // parts * parts:
            names.append(f"OPQ{parts}_{width},IVF{cells}_HNSW32,PQ{parts}x8")
    keys = [key for key in map(Key.parse, names) if rows >= key.rows_to_train]
    key = next((key for key in keys if key.bytes(rows, dimension) <= budget), keys[-1])
    size, limit = (f"{part / 2**30:,.2f} GiB" for part in (key.bytes(rows, dimension), budget))
    return key.text, f"{rows:,} rows are more than exact_below; it takes {size} of {limit}"


def cells_for(rows: int) -> int:
    """Return the power of two next to 2 sqrt(N), from 64 to 65,536: finding cells and reading them
    then cost about alike.
    """
    return min(max(2 ** round(math.log2(2 * math.sqrt(rows))), 64), 65_536)
