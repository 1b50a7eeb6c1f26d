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
import os
import re
from dataclasses import dataclass
from pathlib import Path

from react_pipeline.settings import IndexConfig, key_problem
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
_RERANK = {"PQ": 8, "SQ4": 4, "SQ6": 4, "SQ8": 2}
RERANK_LIMIT = 64


@dataclass(frozen=True)
class Key:
    """A key taken apart; numbers are 0 where the key has no such part."""

    text: str
    cells: int
    cell_links: int
    links: int
    codes: str
    parts: int
    bits: int
    rotation: int
    rotated_width: int

    @classmethod
    def parse(cls, text: str) -> Key:
        """Take a key apart.

        Raises:
            InputError: If this pipeline builds no such index (`settings.index.key_problem`).
        """
        match = _KEY.fullmatch(text)
        if (problem := key_problem(text)) or match is None:
            raise InputError(f"index.key: {problem}")
        numbers = {
            name: int(number or 0) for name, number in match.groupdict().items() if name != "codes"
        }
        if not numbers["parts"]:
            return cls(text, codes=match["codes"] or "Flat", **numbers)
        return cls(text, codes="PQ", **{**numbers, "bits": numbers["bits"] or 8})

    @property
    def trains(self) -> bool:
        """Whether cells or codes are learned from rows."""
        parts = self.cells or self.rotation or self.parts
        return bool(parts) or self.codes in ("SQ4", "SQ6", "SQ8")

    @property
    def rows_to_train(self) -> int:
        """The fewest rows from which this key can be trained."""
        return TRAINING_POINTS_PER_CELL * max(self.cells, 2**self.bits if self.parts else 0)

    @property
    def sample_rows(self) -> int:
        """How many rows it is trained on where the configuration names no number."""
        return max(SAMPLE_POINTS_PER_CELL * self.cells, SMALLEST_SAMPLE)

    @property
    def rerank(self) -> int:
        """How many times the hits wanted are ranked again by the stored vectors, at first; 1: codes
        are good enough.
        """
        return _RERANK.get(self.codes, 1)

    def check(self, dimension: int) -> None:
        """Refuse a product quantizer that cannot cut vectors of this width.

        Raises:
            InputError: Naming the numbers that do not fit.
        """
        width = self.rotated_width or dimension
        if self.rotated_width > dimension:
            raise InputError(
                f"index.key: {self.text} rotates to {width} numbers, the vectors have {dimension}"
            )
        if self.parts and width % self.parts:
            raise InputError(
                f"index.key: {self.text} cuts vectors of {width} numbers into {self.parts} "
                "unequal parts"
            )
        if self.rotation and width % self.rotation:
            raise InputError(
                f"index.key: {self.text} rotates for {self.rotation} parts, which do not divide "
                f"{width}"
            )

    def bytes(self, rows: int, dimension: int) -> int:
        """Size of the index of one side, on disk and in memory."""
        width = self.rotated_width or dimension
        bits = self.parts * self.bits if self.parts else width * _SCALAR_BITS[self.codes]
        row = math.ceil(bits / 8) + _graph_bytes(self.links)
        if self.cells:
            row += 8
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
    """The key to build, and why it is that one.

    Args:
        dimension: Width of its vectors.
        memory_bytes: What one side's index may take; None: `memory_gib`, or half of the machine's
            memory.

    Raises:
        InputError: If a configured key does not fit the vectors' width, or not into the machine's
            memory.
    """
    budget = memory_bytes or memory_budget(config)
    if config.key == "auto":
        return _auto(config, rows, dimension, budget)
    key = Key.parse(config.key)
    key.check(dimension)
    if rows < key.rows_to_train:
        trained = "cells" if key.rows_to_train == TRAINING_POINTS_PER_CELL * key.cells else "codes"
        return "Flat", (
            f"{key.text} needs {key.rows_to_train:,} rows to train its {trained}, there are "
            f"{rows:,}: exact instead"
        )
    limit = memory_bytes or (budget if config.memory_gib else machine_memory_bytes())
    if key.bytes(rows, dimension) > limit:
        raise InputError(
            f"index.key: {key.text} over {rows:,} rows needs {_gib(key.bytes(rows, dimension))}, "
            f"more than the {_gib(limit)} of this machine or of index.memory_gib; use `auto`, a "
            "key of shorter codes, or a machine with more memory"
        )
    return key.text, "configured"


def _auto(config: IndexConfig, rows: int, dimension: int, budget: int) -> tuple[str, str]:
    if rows <= config.exact_below:
        return "Flat", f"{rows:,} rows are at most exact_below ({config.exact_below:,})"
    cells = cells_for(rows)
    above = f"{rows:,} rows are more than exact_below ({config.exact_below:,})"
    graph = Key.parse(GRAPH_KEY)
    lists = Key.parse(f"IVF{cells},SQfp16")
    graph_bytes = graph.bytes(rows, dimension)
    lists_bytes = lists.bytes(rows, dimension)
    room = _gib(budget)
    if (rows <= GRAPH_ROWS or rows < lists.rows_to_train) and graph_bytes <= budget:
        return graph.text, f"{above}, and a graph of {_gib(graph_bytes)} fits {room}"
    if rows >= lists.rows_to_train and lists_bytes <= budget:
        why = "a graph of them does not fit"
        if rows > GRAPH_ROWS:
            why = f"too many for a graph ({GRAPH_ROWS:,})"
        return lists.text, f"{above}, {why}, and {_gib(lists_bytes)} fit {room}"
    compressed = [
        Key.parse(f"OPQ{parts}_{dimension // parts * parts},IVF{cells}_HNSW32,PQ{parts}x8")
        for parts in (64, 48, 32, 16)
        if parts <= dimension
    ]
    if not compressed or rows < compressed[-1].rows_to_train:
        few = f"{rows:,} rows are too few to train codes"
        return "Flat", f"{above}, but {few}: exact, in more than {room}"
    fitting = [key for key in compressed if key.bytes(rows, dimension) <= budget]
    chosen = fitting[0] if fitting else compressed[-1]
    size = _gib(chosen.bytes(rows, dimension))
    fits = f"{size} fit {room}" if fitting else f"even {size} are more than {room}"
    return chosen.text, f"{above}, whole vectors ({_gib(lists_bytes)}) do not fit, {fits}"


def cells_for(rows: int) -> int:
    """The power of two next to 2 sqrt(N), from 64 to 65,536: finding cells and reading them then
    cost about alike.
    """
    return int(min(max(2 ** round(math.log2(2 * math.sqrt(max(rows, 1)))), 64), 65_536))


def memory_budget(config: IndexConfig) -> int:
    """Bytes that the index of one side may take while it is built."""
    return int(config.memory_gib * 2**30) if config.memory_gib else machine_memory_bytes() // 2


def machine_memory_bytes() -> int:
    """Memory of this machine, or of the container if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return physical


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
